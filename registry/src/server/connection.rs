//! [`Server`]: sockets, from accepting a connection to stopping without cutting anyone off.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};

use super::{Memory, ServeEvent, ServeOptions, chain, routed};

/// How much of a request's body is read from a socket at once, if there are few connections: with the usual 400 KiB,
/// uploads are a third slower.
const READ_BUFFER: usize = 2 * 1024 * 1024;
/// How often old uploads are looked for.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// Why a server could not begin.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum ServeError {
    #[error("cannot listen on `{addr}`")]
    Listen { addr: SocketAddr, source: io::Error },
}

/// A registry that listens.
#[derive(Debug)]
pub struct Server {
    options: ServeOptions,
    listener: TcpListener,
    addr: SocketAddr,
}

impl Server {
    /// Listens. Connections wait until [`run`](Self::run).
    pub async fn bind(options: ServeOptions) -> Result<Self, ServeError> {
        let failed = |source| ServeError::Listen { addr: options.addr, source };
        let listener = TcpListener::bind(options.addr).await.map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        Ok(Self { options, listener, addr })
    }

    /// Returns where it listens, with the port that the system chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves until `shutdown` is ready; then lets requests under way end, within the grace of the limits.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let Self { options, listener, .. } = self;
        let limits = options.limits;
        let memory = Memory::default();
        let router = routed(options.clone(), memory.clone());
        let expiry = tokio::spawn(expire_uploads(options));
        let graceful = GracefulShutdown::new();
        let permits = Arc::new(Semaphore::new(limits.connections));
        let mut connections = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        loop {
            let accepted = async {
                let permit = permits.clone().acquire_owned().await.expect("the semaphore is never closed");
                (permit, listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                accepted = accepted => accepted,
                () = &mut shutdown => break,
            };
            let Ok((stream, _)) = accepted else {
                // The connection is gone, or there is no descriptor for it; others will end and free theirs.
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            let sharer = memory.enter();
            let connection = connect(stream, &router, limits.inactivity, memory.share(READ_BUFFER));
            let watched = graceful.watch(connection);
            while connections.try_join_next().is_some() {}
            connections.spawn(async move {
                // How a connection ended is between it and its peer.
                let _ = watched.await;
                drop((permit, sharer));
            });
        }
        drop(listener);
        expiry.abort();
        // What is cut off after this can be gone on with: uploads keep what they have.
        let _ = tokio::time::timeout(limits.grace, graceful.shutdown()).await;
        connections.shutdown().await;
    }
}

fn connect(
    stream: TcpStream,
    router: &Router,
    inactivity: Duration,
    read_buffer: usize,
) -> auto::Connection<'static, TokioIo<Patient>, TowerToHyperService<Router>, TokioExecutor> {
    // Small answers must not wait for the acknowledgment of their headers. That it cannot be set says that the
    // connection is gone, which reading will notice.
    let _ = stream.set_nodelay(true);
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(inactivity)
        .max_buf_size(read_buffer)
        // A client that sends and then closes its side still gets its answer.
        .half_close(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(inactivity)
        .max_concurrent_streams(16)
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(2 * 1024 * 1024);
    let stream = TokioIo::new(Patient::new(stream, inactivity));
    builder.serve_connection(stream, TowerToHyperService::new(router.clone())).into_owned()
}

/// Throws away old uploads, now and every hour.
async fn expire_uploads(options: ServeOptions) {
    loop {
        let repositories = options.store.repositories();
        let age = options.limits.upload_age;
        match store::blocking::run(move || repositories.expire_uploads(age)).await {
            Ok(0) => {}
            Ok(count) => options.events.tell(ServeEvent::UploadsExpired { count }),
            Err(error) => options.events.tell(ServeEvent::ExpiryFailed { error: chain(&error) }),
        }
        tokio::time::sleep(EXPIRY_INTERVAL).await;
    }
}

/// A socket whose patience ends: with peers that say nothing at all, and with peers that take nothing.
///
/// Silence later on is watched where its meaning is known: between requests and in headers by hyper, in bodies by
/// `body`. While we work on a request, the peer may be silent for as long as that takes.
struct Patient {
    stream: TcpStream,
    inactivity: Duration,
    deadline: Pin<Box<Sleep>>,
    /// Whether the peer has said anything yet.
    greeted: bool,
    /// Whether the peer has to take something before we go on; `deadline` runs while it has.
    stalled: bool,
}

impl Patient {
    fn new(stream: TcpStream, inactivity: Duration) -> Self {
        let deadline = Box::pin(tokio::time::sleep(inactivity));
        Self { stream, inactivity, deadline, greeted: false, stalled: false }
    }

    /// Watches a write: progress ends a stall, and a stall ends at its deadline.
    fn watch<T>(&mut self, written: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = false;
            return written;
        }
        if !self.stalled {
            self.stalled = true;
            self.deadline.as_mut().reset(Instant::now() + self.inactivity);
        }
        ready!(self.deadline.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if self.greeted || read.is_ready() {
            self.greeted = true;
            return read;
        }
        ready!(self.deadline.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watch(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

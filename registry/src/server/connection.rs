//! [`Server`]: sockets, from accepting a connection to stopping without cutting anyone off.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::pulse::{Answer, Pulse};
use super::tls::{Tls, TlsError};
use super::{App, Memory, ServeEvent, ServeOptions, answer, chain, upkeep};
use crate::storage::StorageError;

/// How much of a request's body is read from a socket at once, if there are few connections: with the usual 400 KiB,
/// uploads are a third slower.
const READ_BUFFER: usize = 2 * 1024 * 1024;
/// How much of the bodies of HTTP/2 may be on its way at once, on one connection with few beside it.
const WINDOW: u32 = 2 * 1024 * 1024;
/// What every client of HTTP/2 counts on before it is told otherwise.
const LEAST_WINDOW: u32 = 65_535;
/// How often old uploads are looked for.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// How often the files of the certificate are looked at.
const TLS_INTERVAL: Duration = Duration::from_secs(2);
/// How long a connection that is told to end may do nothing before it is cut.
const PARTING: Duration = Duration::from_secs(1);
/// The first byte of a client that speaks TLS.
const HANDSHAKE: u8 = 22;
/// What a client hears that speaks plain HTTP where TLS is spoken.
const PLAIN_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 48\r\nconnection: close\r\n\r\nThis registry is reached by https, not by http.\n";

/// Why a server could not begin.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum ServeError {
    #[error("cannot listen on `{addr}`")]
    Listen { addr: SocketAddr, source: io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("cannot write down which tags are immutable")]
    Note(#[from] StorageError),
}

/// A registry that listens.
#[derive(Debug)]
pub struct Server {
    options: ServeOptions,
    tls: Option<Arc<Tls>>,
    listener: TcpListener,
    addr: SocketAddr,
}

impl Server {
    /// Listens. Connections wait until [`run`](Self::run).
    pub async fn bind(options: ServeOptions) -> Result<Self, ServeError> {
        let files = options.tls.clone();
        let tls = match files {
            Some(files) => Some(Arc::new(store::blocking::run(move || Tls::load(files)).await?)),
            None => None,
        };
        let failed = |source| ServeError::Listen { addr: options.addr, source };
        let listener = TcpListener::bind(options.addr).await.map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        Ok(Self { options, tls, listener, addr })
    }

    /// Returns where it listens, with the port that the system chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves until `shutdown` is ready; then lets requests under way end, within the grace of the limits.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let Self { options, tls, listener, .. } = self;
        let limits = options.limits;
        let mut beside = JoinSet::new();
        beside.spawn(expire_uploads(options.clone()));
        upkeep::spawn(&mut beside, &options);
        if let Some(tls) = tls.clone() {
            beside.spawn(reload_tls(tls, options.clone()));
        }
        let app = App::new(options);
        let working = app.clone();
        let (stop, stopping) = watch::channel(false);
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
            let Ok((stream, peer)) = accepted else {
                // The connection is gone, or there is no descriptor for it; others will end and free theirs.
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            while connections.try_join_next().is_some() {}
            let (app, tls, stopping) = (app.clone(), tls.clone(), stopping.clone());
            connections.spawn(async move {
                // How a connection ended is between it and its peer.
                let _: io::Result<()> = connect(app, stream, peer, tls, stopping).await;
                drop(permit);
            });
        }
        drop(listener);
        beside.abort_all();
        // What is cut off after this can be gone on with: uploads keep what they have.
        stop.send_replace(true);
        let all_ended = async { while connections.join_next().await.is_some() {} };
        let _ = timeout(limits.grace, all_ended).await;
        connections.shutdown().await;
        // Those that were cut off note what they have.
        let _ = timeout(limits.grace, working.all_worked()).await;
    }
}

/// Serves one connection to its end.
async fn connect(
    app: App,
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<Arc<Tls>>,
    stopping: watch::Receiver<bool>,
) -> io::Result<()> {
    // Small answers must not wait for the acknowledgment of their headers. That it cannot be set says that the
    // connection is gone, which reading will notice.
    let _ = stream.set_nodelay(true);
    let inactivity = app.limits().inactivity;
    let pulse = Pulse::new();
    let Some(tls) = tls else {
        let stream = Socket::new(stream, pulse.clone(), app.memory().clone());
        return speak(app, stream, pulse, peer.ip(), stopping).await;
    };
    let mut first = [0];
    let seen = timeout(inactivity, stream.peek(&mut first)).await??;
    let mut stream = Socket::new(stream, pulse.clone(), app.memory().clone());
    if seen == 1 && first[0] != HANDSHAKE {
        return timeout(inactivity, tell_plain(&mut stream)).await?;
    }
    let stream = timeout(inactivity, tls.acceptor().accept(stream)).await??;
    speak(app, stream, pulse, peer.ip(), stopping).await
}

/// Tells a client that speaks plain HTTP that TLS is spoken here.
async fn tell_plain(stream: &mut Socket<TcpStream>) -> io::Result<()> {
    stream.write_all(PLAIN_HTTP).await?;
    stream.shutdown().await?;
    // Closing before all was read would take the answer back.
    let mut rest = vec![0; 16 * 1024];
    let all_read = async { while stream.read(&mut rest).await.is_ok_and(|count| count > 0) {} };
    let _ = timeout(Duration::from_secs(1), all_read).await;
    Ok(())
}

/// Answers what is asked over a connection, in whichever version of HTTP, as long as it has a pulse.
async fn speak<T>(
    app: App,
    stream: T,
    pulse: Pulse,
    peer: IpAddr,
    mut stopping: watch::Receiver<bool>,
) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let _sharer = app.memory().enter();
    let inactivity = app.limits().inactivity;
    let window = u32::try_from(app.memory().share(WINDOW as usize)).unwrap_or(WINDOW);
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(inactivity)
        // What is read is limited by `Socket`: hyper's buffers follow what reads bring, this stays as it is.
        .max_buf_size(READ_BUFFER)
        // A client that sends and then closes its side still gets its answer.
        .half_close(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(16)
        .initial_stream_window_size((window / 2).max(LEAST_WINDOW))
        .initial_connection_window_size(window.max(LEAST_WINDOW));
    let beating = pulse.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (app, pulse, working) = (app.clone(), beating.clone(), beating.work());
        async move {
            let answer = answer(&app, peer, request.map(Body::new)).await;
            drop(working);
            Ok::<_, Infallible>(answer.map(|body| Answer::new(body, pulse)))
        }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let patience = tokio::select! {
        ended = connection.as_mut() => return ended.map_err(io::Error::other),
        () = pulse.still(inactivity) => PARTING,
        _ = stopping.wait_for(|stopping| *stopping) => inactivity,
    };
    // HTTP/2 tells the peer, and ends when it has answered what was on its way meanwhile.
    connection.as_mut().graceful_shutdown();
    pulse.beat();
    tokio::select! {
        ended = connection => ended.map_err(io::Error::other),
        () = pulse.still(patience) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Throws away old uploads, now and every hour.
async fn expire_uploads(options: ServeOptions) {
    loop {
        match options.storage.expire_uploads(options.limits.upload_age).await {
            Ok(0) => {}
            Ok(count) => options.events.tell(ServeEvent::UploadsExpired { count }),
            Err(error) => options.events.tell(ServeEvent::ExpiryFailed { error: chain(&error) }),
        }
        tokio::time::sleep(EXPIRY_INTERVAL).await;
    }
}

/// Reads the certificate again when its files change, or when we are told to.
async fn reload_tls(tls: Arc<Tls>, options: ServeOptions) {
    loop {
        let told = timeout(TLS_INTERVAL, options.reload.notified()).await.is_ok();
        let again = tls.clone();
        match store::blocking::run(move || again.reload(told)).await {
            Ok(true) => options.events.tell(ServeEvent::TlsReloaded),
            Ok(false) => {}
            Err(error) => options.events.tell(ServeEvent::TlsKept { error: chain(&error) }),
        }
    }
}

/// A socket that gives no more at once than its share of the memory, which gets smaller when others come, and whose
/// pulse tells what the peer takes.
///
/// That the peer sends something does not count: requests have to be whole, headers and bodies in time.
struct Socket<T> {
    stream: T,
    pulse: Pulse,
    memory: Memory,
}

impl<T> Socket<T> {
    fn new(stream: T, pulse: Pulse, memory: Memory) -> Self {
        Self { stream, pulse, memory }
    }

    fn watch(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = written {
            self.pulse.written(count);
        }
        written
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Socket<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let share = self.memory.share(READ_BUFFER);
        if buffer.remaining() <= share {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(share));
        let read = Pin::new(&mut self.stream).poll_read(context, &mut part);
        let filled = part.filled().len();
        buffer.advance(filled);
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Socket<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watch(written)
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

#[cfg(test)]
mod tests;

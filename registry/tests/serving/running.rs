//! A server in the test's own process, to be started, asked and stopped.

use std::time::{Duration, Instant};

use registry::server::{ServeOptions, Server};
use tokio::sync::oneshot;

use crate::http::{Answer, request};
use crate::kept;

/// A server in a thread of its own.
pub(crate) struct Running {
    pub(crate) addr: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    home: tempfile::TempDir,
}

impl Running {
    pub(crate) fn start(change: impl FnOnce(&mut ServeOptions) + Send + 'static) -> Self {
        Self::start_in(tempfile::tempdir().expect("tempdir"), change)
    }

    pub(crate) fn start_in(home: tempfile::TempDir, change: impl FnOnce(&mut ServeOptions) + Send + 'static) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let root = home.path().to_owned();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let mut options = ServeOptions::new(kept::open(&root), ([127, 0, 0, 1], 0).into());
                change(&mut options);
                let server = Server::bind(options).await.expect("listening");
                tell.send(server.local_addr().to_string()).expect("heard");
                let stopped = async {
                    let _ = stopped.await;
                };
                server.run(stopped).await;
            });
        });
        let addr = told.recv().expect("an address");
        Self { addr, stop: Some(stop), thread: Some(thread), home }
    }

    pub(crate) fn send(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        let length = body.len().to_string();
        request(&self.addr, method, path, &[("content-length", &length)], body).expect("an answer")
    }

    /// Tells the server to stop, and returns how long it took.
    pub(crate) fn stop(mut self) -> (Duration, tempfile::TempDir) {
        let began = Instant::now();
        drop(self.stop.take());
        self.thread.take().expect("running").join().expect("stopped");
        (began.elapsed(), self.home)
    }
}

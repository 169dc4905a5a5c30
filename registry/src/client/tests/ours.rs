//! The client against our own server.

use std::net::SocketAddr;

use oci::Digest;
use tokio::sync::oneshot;

use super::fixtures::*;
use super::scripted::breaking_wire;
use crate::client::{self, NoEvents, Wanted};
use crate::server::{ServeOptions, Server};
use crate::storage::objects::memory::Memory;
use crate::storage::{Storage, StorageOptions};

/// Our server on a port of its own; ends with the test.
struct Ours {
    host: String,
    _stop: oneshot::Sender<()>,
}

async fn start() -> Ours {
    let storage = Storage::new(Memory::default().backend(), StorageOptions::default());
    let options = ServeOptions::new(storage, SocketAddr::from(([127, 0, 0, 1], 0)));
    let server = Server::bind(options).await.unwrap();
    let host = server.local_addr().to_string();
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(server.run(async {
        // Stops when the test drops its end.
        let _ = stopped.await;
    }));
    Ours { host, _stop: stop }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_goes_there_and_back() {
    let (server, from, to, client, platform) = (start().await, store(), store(), client(), amd64());
    let parts = Parts::new(&platform, vec![bytes(1, 5 << 20), Vec::new(), bytes(3, (1 << 20) + 1)]);
    let descriptor = parts.keep(&from.store);
    let name = reference(&format!("{}/some/app:one", server.host));
    client::push(&client, &from.store, &name, &descriptor, &NoEvents).await.unwrap();
    let other = reference(&format!("{}/other", server.host));
    let log = Log::default();
    client::push(&client, &from.store, &other, &descriptor, &log).await.unwrap();
    assert_eq!(log.of(&parts.layers[0]), ["Preparing", "Mounted from some/app"]);
    let pulled = client::pull(&client, &to.store, &other, Wanted::Best(&platform), &NoEvents, NOW).await.unwrap();
    assert_eq!(pulled.descriptor, descriptor);
    for blob in parts.layers.iter().chain([&parts.config, &parts.manifest]) {
        assert_eq!(to.store.blobs().read(&Digest::sha256(blob), 1 << 30).unwrap(), *blob);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_push_is_carried_on() {
    let (server, from, client) = (start().await, store(), client());
    let parts = Parts::new(&amd64(), vec![bytes(1, 20 << 20)]);
    let descriptor = parts.keep(&from.store);
    let wire = breaking_wire(&server.host, vec![9 << 20, 5 << 20, 3 << 20]).await;
    let name = reference(&format!("{wire}/app"));
    let log = Log::default();
    client::push(&client, &from.store, &name, &descriptor, &log).await.unwrap();
    let states = log.of(&parts.layers[0]);
    let retries = states.iter().filter(|state| state.starts_with("retry")).count();
    // The server may still be reading from a wire that broke, and then asks to wait.
    assert!(retries >= 2, "{states:?}");
    assert_eq!(states.last().unwrap(), "Pushed");
    let to = store();
    client::pull(&client, &to.store, &name, Wanted::All, &NoEvents, NOW).await.unwrap();
    assert_eq!(to.store.blobs().read(&Digest::sha256(&parts.layers[0]), 1 << 30).unwrap(), parts.layers[0]);
}

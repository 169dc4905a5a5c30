//! The client against our own server.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use oci::Digest;
use reqwest::StatusCode;
use tokio::sync::oneshot;

use super::fixtures::*;
use super::scripted::breaking_wire;
use crate::client::{self, Client, ClientOptions, NoEvents, Wanted};
use crate::home::{Claim, Home};
use crate::server::{Events, ServeEvent, ServeOptions, Server};
use crate::storage::objects::disk::{Disk, DiskOptions};
use crate::storage::objects::memory::Memory;
use crate::storage::{Storage, StorageOptions};

/// Our server on a port of its own; ends with the test.
struct Ours {
    host: String,
    _stop: oneshot::Sender<()>,
}

async fn start() -> Ours {
    let storage = Storage::new(Memory::default().backend(), StorageOptions::default());
    start_with(ServeOptions::new(storage, SocketAddr::from(([127, 0, 0, 1], 0)))).await
}

async fn start_with(options: ServeOptions) -> Ours {
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

/// The methods and paths of the requests that brought a body.
type Brought = Arc<Mutex<Vec<String>>>;

/// Serves the registry of a store's home.
async fn start_in(kept: &Kept) -> (Ours, Brought) {
    let layout = kept.store.layout();
    let disk = Disk::open(&layout.registry(), DiskOptions::new(Timestamp::now)).unwrap();
    let storage = Storage::new(disk.backend(), StorageOptions::default());
    let mut options = ServeOptions::new(storage, SocketAddr::from(([127, 0, 0, 1], 0)));
    options.home = Some(Home::served(layout).unwrap());
    let brought = Brought::default();
    let heard = brought.clone();
    options.events = Events::to(move |event| {
        if let ServeEvent::Answered { method, path, .. } = event
            && (matches!(&*method, "PUT" | "PATCH") || path.contains("?digest="))
        {
            heard.lock().unwrap().push(format!("{method} {path}"));
        }
    });
    (start_with(options).await, brought)
}

fn client_with_clock() -> Client {
    Client::new(ClientOptions { clock: Some(Timestamp::now), ..options() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_to_a_registry_of_the_same_home_sends_no_blob() {
    let (from, to, client, platform) = (store(), store(), client_with_clock(), amd64());
    let (server, brought) = start_in(&from).await;
    let parts = Parts::new(&platform, vec![bytes(1, 5 << 20), Vec::new(), bytes(3, 70_000)]);
    let descriptor = parts.keep(&from.store);
    let name = reference(&format!("{}/some/app:one", server.host));
    let log = Log::default();
    client::push(&client, &from.store, &name, &descriptor, &log).await.unwrap();
    for blob in parts.layers.iter().chain([&parts.config]) {
        assert_eq!(log.of(blob), ["Preparing", "Mounted"]);
    }
    assert_eq!(*brought.lock().unwrap(), ["PUT /v2/some/app/manifests/one"]);

    // They are the same files, small ones aside, which are in their records.
    let layout = from.store.layout();
    let number = |path: std::path::PathBuf| std::fs::metadata(path).unwrap().ino();
    let data = std::fs::read_dir(layout.registry().join("data")).unwrap();
    let mut theirs: Vec<u64> = data.map(|entry| number(entry.unwrap().path())).collect();
    let mut ours = [0, 2].map(|at| number(layout.blob(&Digest::sha256(&parts.layers[at]))));
    theirs.sort_unstable();
    ours.sort_unstable();
    assert_eq!(theirs, ours);

    // What the store removes then, the registry keeps.
    for digest in from.store.blobs().list().unwrap() {
        from.store.blobs().remove(&digest).unwrap();
    }
    client::pull(&client, &to.store, &name, Wanted::Best(&platform), &NoEvents, NOW).await.unwrap();
    for blob in parts.layers.iter().chain([&parts.config, &parts.manifest]) {
        assert_eq!(to.store.blobs().read(&Digest::sha256(blob), 1 << 30).unwrap(), *blob);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_out_of_another_home_sends_all() {
    let (served, from) = (store(), store());
    let (server, _) = start_in(&served).await;
    Home::served(from.store.layout()).unwrap();
    let parts = Parts::new(&amd64(), vec![bytes(1, 1 << 20)]);
    parts.keep(&served.store);
    let descriptor = parts.keep(&from.store);
    let name = reference(&format!("{}/app", server.host));
    let log = Log::default();
    client::push(&client_with_clock(), &from.store, &name, &descriptor, &log).await.unwrap();
    assert_eq!(log.of(&parts.layers[0]).last().unwrap(), "Pushed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_the_disk_damaged_is_not_taken_over() {
    let from = store();
    let (server, _) = start_in(&from).await;
    for layer in [bytes(1, 1 << 20), b"few".to_vec()] {
        let (digest, parts) = (Digest::sha256(&layer), Parts::new(&amd64(), vec![layer]));
        let descriptor = parts.keep(&from.store);
        write(from.store.layout().blob(&digest), vec![0; parts.layers[0].len()]);
        let name = reference(&format!("{}/app", server.host));
        let error = client::push(&client_with_clock(), &from.store, &name, &descriptor, &NoEvents).await.unwrap_err();
        assert!(chain(&error).contains(&format!("blob {digest} was damaged on disk")), "{}", chain(&error));
    }
    assert_eq!(std::fs::read_dir(from.store.layout().registry().join("data")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_proves_nothing_learns_nothing_of_the_home() {
    let (served, elsewhere) = (store(), store());
    let (server, _) = start_in(&served).await;
    let secret = served.store.blobs().put(&bytes(1, 100_000)).unwrap();
    let home = Home::served(served.store.layout()).unwrap();
    let other = Home::served(elsewhere.store.layout()).unwrap();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let ask = async |digest: &Digest, said: Option<String>| {
        let url = format!("http://{}/v2/app/blobs/uploads/?mount={digest}", server.host);
        let request = said.into_iter().fold(http.post(url), |request, said| request.header("Slipway-Home", said));
        let answer = request.send().await.unwrap();
        let mut names: Vec<_> = answer.headers().keys().map(|name| name.as_str().to_owned()).collect();
        names.sort();
        (answer.status(), names)
    };
    let (app, team) = ("app".parse().unwrap(), "team".parse().unwrap());
    let (nothing, now) = (Digest::sha256(b"not here"), Timestamp::now());
    let claim = Claim { host: &server.host, repository: &app, digest: &secret };
    let old = now - jiff::SignedDuration::from_secs(120);
    let plain = ask(&nothing, None).await;
    assert_eq!(plain.0, StatusCode::ACCEPTED);
    for said in [
        None,
        Some("nonsense".to_owned()),
        Some(other.prove(claim, now)),
        Some(home.prove(claim, old)),
        Some(home.prove(Claim { digest: &nothing, ..claim }, now)),
        Some(home.prove(Claim { repository: &team, ..claim }, now)),
        Some(home.prove(Claim { host: "example.com", ..claim }, now)),
    ] {
        assert_eq!(ask(&secret, said.clone()).await, plain, "{said:?}");
    }
    // Not even the owner gets what is not there.
    assert_eq!(ask(&nothing, Some(home.prove(Claim { digest: &nothing, ..claim }, now))).await, plain);
    let head = http.head(format!("http://{}/v2/app/blobs/{secret}", server.host)).send().await.unwrap();
    assert_eq!(head.status(), StatusCode::NOT_FOUND);
    assert_eq!(ask(&secret, Some(home.prove(claim, now))).await.0, StatusCode::CREATED);
}

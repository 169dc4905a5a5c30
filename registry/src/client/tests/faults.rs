//! Pulls from registries, and pushes to registries, that misbehave.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use oci::{Descriptor, Digest, Index, media_type};
use store::Store;

use super::fixtures::*;
use super::scripted::*;
use crate::client::{
    self, Client, ClientOptions, NoEvents, PullError, Pulled, PushError, RequestError, TransferEvents, Wanted,
};

async fn pull(host: &str, store: &Store, events: &dyn TransferEvents) -> Result<Pulled, PullError> {
    let platform = amd64();
    client::pull(&client(), store, &reference(&format!("{host}/app")), Wanted::Best(&platform), events, NOW).await
}

fn image() -> Arc<Parts> {
    Arc::new(Parts::new(&amd64(), vec![bytes(7, 100_000)]))
}

fn is_layer(parts: &Parts, asked: &Asked) -> bool {
    asked.target.contains("/blobs/") && asked.target.ends_with(Digest::sha256(&parts.layers[0]).hex())
}

/// A registry that is honest but about its layer, for which `layer` answers; that is given how often it was asked.
async fn with_layer(parts: &Arc<Parts>, layer: impl Fn(usize, &Asked) -> Reply + Send + Sync + 'static) -> Scripted {
    let (parts, count) = (parts.clone(), AtomicUsize::new(0));
    Scripted::start(move |asked| {
        if is_layer(&parts, asked) { layer(count.fetch_add(1, Ordering::SeqCst), asked) } else { honest(&parts, asked) }
    })
    .await
}

fn whole(store: &Store, parts: &Parts) -> bool {
    store.blobs().read(&Digest::sha256(&parts.layers[0]), 1 << 30).is_ok_and(|bytes| bytes == parts.layers[0])
}

fn untouched(store: &Store, host: &str) -> bool {
    store.images().resolve(&reference(&format!("{host}/app"))).unwrap().is_none()
}

#[tokio::test]
async fn a_layer_is_carried_on_from_where_it_broke() {
    let (kept, parts, log) = (store(), image(), Log::default());
    let copy = parts.clone();
    let server = with_layer(&parts, move |count, asked| match count {
        0 => Reply::cut(200, &[], &copy.layers[0], 60_000),
        _ => part(&copy.layers[0], asked),
    })
    .await;
    pull(&server.host, &kept.store, &log).await.unwrap();
    assert!(whole(&kept.store, &parts));
    let asked: Vec<_> = server.asked().into_iter().filter(|asked| is_layer(&parts, asked)).collect();
    assert_eq!(asked.iter().map(start_of).collect::<Vec<_>>(), [None, Some(60_000)]);
    let states = log.of(&parts.layers[0]);
    assert!(states[2].starts_with("retry: "), "{states:?}");
}

#[tokio::test]
async fn without_ranges_the_known_bytes_are_skipped() {
    let (kept, parts) = (store(), image());
    let copy = parts.clone();
    let server = with_layer(&parts, move |count, _| match count {
        0 => Reply::cut(200, &[], &copy.layers[0], 60_000),
        1 => Reply::cut(200, &[], &copy.layers[0], 30_000),
        _ => Reply::new(200, &[], &copy.layers[0]),
    })
    .await;
    pull(&server.host, &kept.store, &NoEvents).await.unwrap();
    assert!(whole(&kept.store, &parts));
}

#[tokio::test]
async fn what_a_failed_pull_brought_serves_the_next() {
    let (kept, parts) = (store(), image());
    let copy = parts.clone();
    let server = with_layer(&parts, move |count, asked| match (count, start_of(asked)) {
        (0, _) => Reply::cut(200, &[], &copy.layers[0], 40_000),
        (1..=3, Some(start)) => {
            let range = format!("bytes {start}-99999/100000");
            Reply::cut(206, &[("content-range", range.as_str())], &copy.layers[0][start..], 0)
        }
        _ => part(&copy.layers[0], asked),
    })
    .await;
    let error = pull(&server.host, &kept.store, &NoEvents).await.unwrap_err();
    assert!(matches!(error, PullError::Request(RequestError::Broken { .. })), "{error:?}");
    assert!(untouched(&kept.store, &server.host));
    pull(&server.host, &kept.store, &NoEvents).await.unwrap();
    assert!(whole(&kept.store, &parts));
    let last = server.asked().into_iter().rfind(|asked| is_layer(&parts, asked)).unwrap();
    assert_eq!(start_of(&last), Some(40_000));
}

#[tokio::test]
async fn wrong_bytes_are_fetched_twice_and_never_kept() {
    let (kept, parts) = (store(), image());
    let wrong = bytes(8, 100_000);
    let server = with_layer(&parts, move |_, asked| part(&wrong, asked)).await;
    let error = pull(&server.host, &kept.store, &NoEvents).await.unwrap_err();
    let expected = Digest::sha256(&parts.layers[0]);
    let actual = Digest::sha256(&bytes(8, 100_000));
    assert_eq!(
        chain(&error),
        format!("registry `{}` sent blob {expected} with bytes that hash to {actual}", server.host)
    );
    assert_eq!(server.asked().iter().filter(|asked| is_layer(&parts, asked)).count(), 2);
    assert!(!kept.store.blobs().contains(&expected).unwrap());
    assert!(!kept.store.blobs().contains(&actual).unwrap());
    assert!(!kept.store.blobs().contains(&parts.descriptor().digest).unwrap());
    assert!(untouched(&kept.store, &server.host));
}

#[tokio::test]
async fn wrong_bytes_in_what_was_carried_on_are_fetched_anew() {
    let (kept, parts) = (store(), image());
    let copy = parts.clone();
    let server = with_layer(&parts, move |count, asked| match count {
        0 => Reply::cut(200, &[], &bytes(8, 100_000), 60_000),
        _ => part(&copy.layers[0], asked),
    })
    .await;
    pull(&server.host, &kept.store, &NoEvents).await.unwrap();
    assert!(whole(&kept.store, &parts));
}

#[tokio::test]
async fn a_blob_is_as_long_as_its_descriptor_says() {
    let parts = image();
    let mut long = parts.layers[0].clone();
    long.push(0);
    let endless = bytes(7, 5_000_000);
    let cases: Vec<Box<dyn Fn() -> Reply + Send + Sync>> = vec![
        Box::new({
            let long = long.clone();
            move || Reply::new(200, &[], &long)
        }),
        Box::new(move || Reply::chunked(&long)),
        Box::new(move || Reply::chunked(&endless)),
        Box::new({
            let parts = parts.clone();
            move || Reply::new(200, &[], &parts.layers[0][1..])
        }),
    ];
    for case in cases {
        let kept = store();
        let server = with_layer(&parts, move |_, _| case()).await;
        let error = pull(&server.host, &kept.store, &NoEvents).await.unwrap_err();
        assert!(matches!(error, PullError::BlobSize { expected: 100_000, .. }), "{error:?}");
        assert!(untouched(&kept.store, &server.host));
    }
}

#[tokio::test]
async fn a_length_need_not_be_announced() {
    let (kept, parts) = (store(), image());
    let copy = parts.clone();
    let server = with_layer(&parts, move |_, _| Reply::chunked(&copy.layers[0])).await;
    pull(&server.host, &kept.store, &NoEvents).await.unwrap();
    assert!(whole(&kept.store, &parts));

    let (kept, copy) = (store(), parts.clone());
    let server = with_layer(&parts, move |_, _| Reply::chunked(&copy.layers[0][..50_000])).await;
    let error = pull(&server.host, &kept.store, &NoEvents).await.unwrap_err();
    assert!(
        matches!(error, PullError::Request(RequestError::HungUp { done: 50_000, total: 100_000, .. })),
        "{error:?}"
    );
}

#[tokio::test]
async fn standstill_is_noticed() {
    let (kept, parts) = (store(), image());
    let copy = parts.clone();
    let server = with_layer(&parts, move |count, asked| match count {
        0 => Reply::stalled(&copy.layers[0], 10_000),
        _ => part(&copy.layers[0], asked),
    })
    .await;
    let inactivity = Duration::from_millis(1500);
    let client = Client::new(ClientOptions { inactivity, ..options() });
    let name = reference(&format!("{}/app", server.host));
    let start = Instant::now();
    client::pull(&client, &kept.store, &name, Wanted::All, &NoEvents, NOW).await.unwrap();
    assert!(whole(&kept.store, &parts));
    assert!(start.elapsed() >= inactivity);
}

#[tokio::test]
async fn a_server_error_passes_or_is_told() {
    let (kept, parts) = (store(), image());
    let copy = parts.clone();
    let server = with_layer(&parts, move |count, asked| match count {
        0 => Reply::new(503, &[], "<html>"),
        1 => Reply::new(500, &[], ""),
        _ => part(&copy.layers[0], asked),
    })
    .await;
    pull(&server.host, &kept.store, &NoEvents).await.unwrap();

    let server = with_layer(&parts, move |_, _| {
        Reply::new(502, &[], r#"{"errors":[{"code":"UNAVAILABLE","message":"no\u001b[31m disk"},{"message":"sorry"}]}"#)
    })
    .await;
    let error = pull(&server.host, &store().store, &NoEvents).await.unwrap_err();
    let path = format!("/v2/app/blobs/{}", Digest::sha256(&parts.layers[0]));
    let expected = format!("registry `{}` answered 502 to GET {path}: no [31m disk; sorry (UNAVAILABLE)", server.host);
    assert_eq!(error.to_string(), expected);
    assert_eq!(server.asked_for("GET", &path).len(), 4);
}

#[tokio::test]
async fn a_registry_may_ask_to_wait_but_not_for_long() {
    let parts = image();
    let copy = parts.clone();
    let server = with_layer(&parts, move |count, asked| match count {
        0 => Reply::new(429, &[("retry-after", "1")], ""),
        _ => part(&copy.layers[0], asked),
    })
    .await;
    let start = Instant::now();
    pull(&server.host, &store().store, &NoEvents).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));

    let server =
        with_layer(&parts, |_, _| Reply::new(429, &[("retry-after", "3600")], r#"{"message":"slow down"}"#)).await;
    let error = pull(&server.host, &store().store, &NoEvents).await.unwrap_err();
    assert!(
        matches!(&error, PullError::Request(RequestError::TooManyRequests { retry_after: Some(after), said, .. })
            if after.as_secs() == 3600 && said.message == "slow down"),
        "{error:?}"
    );
}

#[tokio::test]
async fn authorization_stays_with_its_host() {
    let (kept, parts) = (store(), image());
    let copy = parts.clone();
    let elsewhere = Scripted::start(move |asked| part(&copy.layers[0], asked)).await;
    let location = format!("http://{}/bucket/layer?signature=x", elsewhere.host);
    let copy = parts.clone();
    let server = Scripted::start(move |asked| match asked.header("authorization") {
        None => Reply::new(401, &[("www-authenticate", "Basic realm=x")], ""),
        Some(_) if is_layer(&copy, asked) => Reply::new(307, &[("location", &location)], ""),
        Some(_) => honest(&copy, asked),
    })
    .await;
    let folder = tempfile::TempDir::new().unwrap();
    let config = folder.path().join("config.json");
    write(&config, format!(r#"{{"auths":{{"{}":{{"auth":"dTpw"}}}}}}"#, server.host));
    let credentials = client::CredentialStore::file(config);
    let client = Client::new(ClientOptions { credentials, ..options() });
    let name = reference(&format!("{}/app", server.host));
    client::pull(&client, &kept.store, &name, Wanted::All, &NoEvents, NOW).await.unwrap();
    assert!(whole(&kept.store, &parts));
    let asked = elsewhere.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].header("authorization"), None);
    assert!(server.asked().iter().any(|asked| asked.header("authorization") == Some("Basic dTpw")));
}

#[tokio::test]
async fn a_missing_layer_is_told_by_its_digest() {
    let parts = image();
    let gone = r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown"}]}"#;
    let server = with_layer(&parts, move |_, _| Reply::new(404, &[], gone)).await;
    let error = pull(&server.host, &store().store, &NoEvents).await.unwrap_err();
    let digest = Digest::sha256(&parts.layers[0]);
    let expected =
        format!("registry `{}` does not have `app/blobs/{digest}`: blob unknown (BLOB_UNKNOWN)", server.host);
    assert_eq!(chain(&error), expected);
}

#[tokio::test]
async fn redirects_end() {
    let parts = image();
    let copy = parts.clone();
    let server = with_layer(&parts, move |_, _| {
        let here = format!("/v2/app/blobs/{}", Digest::sha256(&copy.layers[0]));
        Reply::new(302, &[("location", &here)], "")
    })
    .await;
    let error = pull(&server.host, &store().store, &NoEvents).await.unwrap_err();
    assert!(error.to_string().ends_with("redirects more than 10 times"), "{error}");
    let server = with_layer(&parts, |_, _| Reply::new(302, &[("location", "file:///etc/passwd")], "")).await;
    let error = pull(&server.host, &store().store, &NoEvents).await.unwrap_err();
    assert!(error.to_string().ends_with("redirects to what is not HTTP"), "{error}");
}

#[tokio::test]
async fn foreign_layers_come_from_their_urls_without_credentials() {
    let layer = bytes(3, 1000);
    let copy = layer.clone();
    let elsewhere = Scripted::start(move |asked| match asked.target.as_str() {
        "/gone" => Reply::new(404, &[], ""),
        _ => part(&copy, asked),
    })
    .await;
    let mut parts = Parts::new(&amd64(), vec![layer.clone()]);
    let mut manifest: oci::Manifest = serde_json::from_slice(&parts.manifest).unwrap();
    manifest.layers[0].media_type = media_type::DOCKER_FOREIGN_LAYER_GZIP.into();
    manifest.layers[0].urls =
        ["ftp://x/", "http://HOST/gone", "http://HOST/layer"].map(|url| url.replace("HOST", &elsewhere.host)).into();
    parts.manifest = serde_json::to_vec(&manifest).unwrap();
    parts.layers.clear();
    let server = Scripted::start(move |asked| honest(&parts, asked)).await;
    let kept = store();
    pull(&server.host, &kept.store, &NoEvents).await.unwrap();
    assert_eq!(kept.store.blobs().read(&Digest::sha256(&layer), 1000).unwrap(), layer);
    assert_eq!(elsewhere.asked().len(), 2);
}

#[tokio::test]
async fn a_manifest_is_what_was_asked_for() {
    let parts = image();
    let other = Digest::sha256(b"other");
    let good = parts.manifest.clone();
    let manifest = |content_type: &'static str, digest: Option<&Digest>, body: Vec<u8>| {
        let digest = digest.map(Digest::to_string);
        move || {
            let mut headers = vec![("content-type", content_type)];
            headers.extend(digest.as_deref().map(|digest| ("docker-content-digest", digest)));
            Reply::new(200, &headers, &body)
        }
    };
    type Case = (&'static str, Box<dyn Fn() -> Reply + Send + Sync>);
    let cases: Vec<Case> = vec![
        ("sent a manifest that hashes to", Box::new(manifest(media_type::OCI_MANIFEST, Some(&other), good.clone()))),
        ("is larger than 8388608 bytes", Box::new(manifest(media_type::OCI_MANIFEST, None, vec![b' '; 9 << 20]))),
        ("but it was sent as", Box::new(manifest(media_type::OCI_INDEX, None, good.clone()))),
        ("schemaVersion 1", Box::new(manifest("application/json", None, br#"{"schemaVersion":1}"#.to_vec()))),
        ("not valid JSON", Box::new(manifest("text/html", None, b"<html>".to_vec()))),
        ("the connection to registry", Box::new(move || Reply::cut(200, &[], &good, 20))),
        ("the connection to registry", Box::new(|| Reply::raw(b"SSH-2.0-OpenSSH_9.2\r\n"))),
    ];
    for (expected, reply) in cases {
        let server =
            Scripted::start(move |asked| if asked.target == "/v2/" { Reply::new(200, &[], "") } else { reply() }).await;
        let kept = store();
        let error = pull(&server.host, &kept.store, &NoEvents).await.unwrap_err();
        assert!(chain(&error).contains(expected), "{expected}: {}", chain(&error));
        assert!(untouched(&kept.store, &server.host));
        assert_eq!(kept.store.blobs().list().unwrap(), []);
    }
}

#[tokio::test]
async fn indexes_do_not_nest_for_ever() {
    let server = Scripted::start(|asked| {
        if asked.target == "/v2/" {
            return Reply::new(200, &[], "");
        }
        // Each index names the next, of which there are many.
        let mut body = Vec::new();
        let mut name = String::from("/v2/app/manifests/latest");
        for depth in (0..10).rev() {
            let child = Descriptor { platform: Some(amd64()), ..Descriptor::of(media_type::OCI_INDEX, &body) };
            let mut index = Index::new(vec![child]);
            index.annotations.insert("depth".into(), depth.to_string());
            body = serde_json::to_vec(&index).unwrap();
            if asked.target.ends_with(Digest::sha256(&body).hex()) {
                name.clone_from(&asked.target);
                break;
            }
        }
        assert_eq!(asked.target, name);
        Reply::new(200, &[("content-type", media_type::OCI_INDEX)], &body)
    })
    .await;
    for wanted in [Wanted::All, Wanted::Best(&amd64())] {
        let name = reference(&format!("{}/app", server.host));
        let error = client::pull(&client(), &store().store, &name, wanted, &NoEvents, NOW).await.unwrap_err();
        assert!(matches!(error, PullError::TooDeep { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_config_fits_its_manifest() {
    let mut one = Parts::new(&amd64(), vec![bytes(1, 10)]);
    let two = Parts::new(&amd64(), vec![bytes(1, 10), bytes(2, 10)]);
    one = Parts::with_config(two.config, one.layers);
    let garbage = Parts::with_config(b"[]".to_vec(), vec![]);
    for (parts, expected) in [(one, "names 2 layers, but the manifest has 1"), (garbage, "is not an image config")] {
        let kept = store();
        let server = Scripted::start(move |asked| honest(&parts, asked)).await;
        let error = pull(&server.host, &kept.store, &NoEvents).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(untouched(&kept.store, &server.host));
    }
}

#[tokio::test]
async fn plain_http_where_https_was_expected_is_told() {
    let parts = image();
    let server = Scripted::start(move |asked| honest(&parts, asked)).await;
    // An address that leads here, but is not known to.
    let host = server.host.replace("127.0.0.1", "0.0.0.0");
    let error = pull(&host, &store().store, &NoEvents).await.unwrap_err();
    assert!(
        matches!(&error, PullError::Request(RequestError::PlainHttp { registry, .. }) if *registry == host),
        "{error:?}"
    );

    let insecure = Client::new(ClientOptions { insecure: vec![host.clone()], ..options() });
    let name = reference(&format!("{host}/app"));
    client::pull(&insecure, &store().store, &name, Wanted::All, &NoEvents, NOW).await.unwrap();
}

#[tokio::test]
async fn a_pull_that_is_given_up_leaves_what_it_has() {
    let (kept, parts) = (store(), image());
    let copy = parts.clone();
    let server = with_layer(&parts, move |count, asked| match count {
        0 => Reply::stalled(&copy.layers[0], 50_000),
        _ => part(&copy.layers[0], asked),
    })
    .await;
    // Dropped as by Ctrl-C, while the layer is on the way.
    let log = Log::default();
    tokio::select! {
        pulled = pull(&server.host, &kept.store, &log) => panic!("{pulled:?}"),
        () = async {
            while log.farthest() < 50_000 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        } => {}
    }
    // Whoever writes has it locked until all is written that came.
    let partial = kept.store.layout().partial(&Digest::sha256(&parts.layers[0]));
    let patience = Instant::now() + Duration::from_secs(120);
    let left = || std::fs::File::open(&partial).is_ok_and(|file| file.try_lock().is_ok());
    while !left() || std::fs::metadata(&partial).unwrap().len() < 50_000 {
        assert!(Instant::now() < patience, "nothing was kept");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    pull(&server.host, &kept.store, &NoEvents).await.unwrap();
    let last = server.asked().into_iter().rfind(|asked| is_layer(&parts, asked)).unwrap();
    assert_eq!(start_of(&last), Some(50_000));
    assert!(!partial.exists());
}

#[tokio::test]
async fn nobody_there_is_told_at_once() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = pull(&free.to_string(), &store().store, &NoEvents).await.unwrap_err();
    let expected = format!("cannot connect to registry `{free}`: tcp connect error: Connection refused (os error 111)");
    assert_eq!(chain(&error), expected);
}

#[tokio::test]
async fn a_push_tells_what_the_registry_minds() {
    let kept = store();
    let parts = Parts::new(&amd64(), vec![bytes(1, 100)]);
    let descriptor = parts.keep(&kept.store);
    let server = Scripted::start(|asked| match asked.method.as_str() {
        "GET" => Reply::new(200, &[], ""),
        "HEAD" => Reply::new(404, &[], ""),
        _ => Reply::new(403, &[], r#"{"errors":[{"code":"DENIED","message":"quota exceeded"}]}"#),
    })
    .await;
    let name = reference(&format!("{}/app", server.host));
    let error = client::push(&client(), &kept.store, &name, &descriptor, &NoEvents).await.unwrap_err();
    let expected = format!("registry `{}` denies access to repository `app`: quota exceeded (DENIED)", server.host);
    assert_eq!(chain(&error), expected);
    assert!(server.asked_for("PUT", "/v2/app/manifests/").is_empty());
}

#[tokio::test]
async fn a_damaged_layer_is_not_blamed_on_the_registry() {
    let kept = store();
    let parts = Parts::new(&amd64(), vec![bytes(1, 100)]);
    let descriptor = parts.keep(&kept.store);
    let digest = Digest::sha256(&parts.layers[0]);
    write(kept.store.blobs().path(&digest), bytes(2, 100));
    let server = Scripted::start(|asked| match asked.method.as_str() {
        "GET" => Reply::new(200, &[], ""),
        "HEAD" => Reply::new(404, &[], ""),
        "POST" => Reply::new(202, &[("location", "/upload?state=x")], ""),
        _ if asked.target.contains("digest=") && !asked.target.ends_with(Digest::sha256(&asked.body).hex()) => {
            Reply::new(400, &[], r#"{"errors":[{"code":"DIGEST_INVALID","message":"provided digest did not match"}]}"#)
        }
        _ => Reply::new(201, &[], ""),
    })
    .await;
    let name = reference(&format!("{}/app", server.host));
    let error = client::push(&client(), &kept.store, &name, &descriptor, &NoEvents).await.unwrap_err();
    let damaged = matches!(&error, PushError::Store { source: store::BlobError::Damaged { digest: other }, .. } if *other == digest);
    assert!(damaged, "{error:?}");
}

#[tokio::test]
async fn a_lost_acknowledgement_is_no_failure() {
    let kept = store();
    let parts = Parts::new(&amd64(), vec![]);
    let descriptor = parts.keep(&kept.store);
    let taken = AtomicUsize::new(0);
    let server = Scripted::start(move |asked| match asked.method.as_str() {
        "GET" => Reply::new(200, &[], ""),
        "HEAD" => Reply::new(if taken.load(Ordering::SeqCst) > 0 { 200 } else { 404 }, &[], ""),
        "POST" => Reply::new(202, &[("location", "upload/1")], ""),
        "PUT" if asked.target.contains("digest=") => {
            taken.fetch_add(1, Ordering::SeqCst);
            Reply::raw(b"")
        }
        _ => Reply::new(201, &[], ""),
    })
    .await;
    let name = reference(&format!("{}/app", server.host));
    client::push(&client(), &kept.store, &name, &descriptor, &NoEvents).await.unwrap();
    assert_eq!(server.asked_for("PUT", "/v2/app/blobs/uploads/upload/1?digest=").len(), 1);
}

#[tokio::test]
async fn an_upload_on_another_host_gets_no_authorization() {
    let kept = store();
    let descriptor = Parts::new(&amd64(), vec![bytes(1, 2 << 20)]).keep(&kept.store);
    let elsewhere = Scripted::start(|_| Reply::new(201, &[], "")).await;
    let location = format!("http://{}/bucket?upload=1", elsewhere.host);
    let server = Scripted::start(move |asked| match (asked.method.as_str(), asked.header("authorization")) {
        (_, None) => Reply::new(401, &[("www-authenticate", "Basic realm=x")], ""),
        ("HEAD", _) => Reply::new(404, &[], ""),
        ("POST", _) => Reply::new(202, &[("location", &location)], ""),
        _ => Reply::new(201, &[], ""),
    })
    .await;
    let folder = tempfile::TempDir::new().unwrap();
    let credentials = client::CredentialStore::file(folder.path().join("config.json"));
    let password = client::Credential::Password { username: "u".into(), password: "p".into() };
    credentials.store(&server.host, &password).unwrap();
    let client = Client::new(ClientOptions { credentials, ..options() });
    let name = reference(&format!("{}/app", server.host));
    client::push(&client, &kept.store, &name, &descriptor, &NoEvents).await.unwrap();
    assert_eq!(elsewhere.asked_for("PATCH", "/bucket?upload=1").len(), 1);
    assert_eq!(elsewhere.asked_for("PUT", "/bucket?upload=1&digest=sha256%3A").len(), 2);
    assert!(elsewhere.asked().iter().all(|asked| asked.header("authorization").is_none()));
}

#[tokio::test]
async fn a_refusal_before_the_end_of_an_upload_is_heard() {
    let kept = store();
    let descriptor = Parts::new(&amd64(), vec![bytes(1, 30 << 20)]).keep(&kept.store);
    let refusal = r#"{"errors":[{"code":"SIZE_INVALID","message":"layers end at 1 MB here"}]}"#;
    let server = Scripted::start(move |asked| match asked.method.as_str() {
        "GET" if asked.target == "/v2/" => Reply::new(200, &[], ""),
        "POST" => Reply::new(202, &[("location", "/unread")], ""),
        "PATCH" => Reply::cut(413, &[], refusal.as_bytes(), refusal.len()),
        "PUT" => Reply::new(201, &[], ""),
        _ => Reply::new(404, &[], ""),
    })
    .await;
    let name = reference(&format!("{}/app", server.host));
    let error = client::push(&client(), &kept.store, &name, &descriptor, &NoEvents).await.unwrap_err();
    let expected =
        format!("registry `{}` answered 413 to PATCH /unread: layers end at 1 MB here (SIZE_INVALID)", server.host);
    assert_eq!(chain(&error), expected);
}

#[tokio::test]
async fn proxies_are_used_but_not_for_this_machine() {
    let parts = image();
    let copy = parts.clone();
    let proxy = Scripted::start(move |asked| {
        let target = asked.target.strip_prefix("http://0.0.0.0:1").expect("only what is not here").to_owned();
        honest(&copy, &Asked { target, ..asked.clone() })
    })
    .await;
    let proxies = client::ProxySettings { http: Some(format!("http://{}", proxy.host)), ..Default::default() };
    let insecure = vec!["0.0.0.0".to_owned()];
    let client = Client::new(ClientOptions { proxies, insecure, ..options() });
    let name = reference("0.0.0.0:1/app");
    client::pull(&client, &store().store, &name, Wanted::All, &NoEvents, NOW).await.unwrap();
    let seen = proxy.asked().len();

    let here = Scripted::start(move |asked| honest(&parts, asked)).await;
    let name = reference(&format!("{}/app", here.host));
    client::pull(&client, &store().store, &name, Wanted::All, &NoEvents, NOW).await.unwrap();
    assert_eq!(proxy.asked().len(), seen);
}

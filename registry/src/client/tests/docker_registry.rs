//! The client against Debian's docker-registry.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::fixtures::*;
use super::scripted::breaking_wire;
use crate::client::{
    self, Client, ClientOptions, CredentialStore, LoginError, PullError, RequestError, StoredIn, Wanted,
};

/// A docker-registry on a port of its own; ends with the test.
struct DockerRegistry {
    process: Child,
    host: String,
    folder: TempDir,
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[expect(clippy::disallowed_methods, reason = "the registry to test against is a program")]
fn start(more: &str) -> Option<DockerRegistry> {
    let folder = TempDir::new().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let host = format!("127.0.0.1:{port}");
    let root = folder.path().display();
    // user:secret
    let user = "user:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";
    write(folder.path().join("htpasswd"), user);
    let config = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {root}/data}}}}\nhttp:\n  addr: {host}\n{}",
        more.replace("ROOT", &root.to_string())
    );
    let path = folder.path().join("config.yml");
    write(&path, config);
    let started =
        Command::new("docker-registry").arg("serve").arg(&path).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let process = match started {
        Ok(process) => process,
        Err(error) if std::env::var_os("CI").is_some() => panic!("docker-registry: {error}"),
        Err(error) => {
            println!("skipped, because docker-registry cannot be started: {error}");
            return None;
        }
    };
    let registry = DockerRegistry { process, host, folder };
    let patience = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(&registry.host).is_err() {
        assert!(Instant::now() < patience, "docker-registry does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(registry)
}

const BASIC: &str = "auth: {htpasswd: {realm: test, path: ROOT/htpasswd}}\n";

#[tokio::test]
async fn what_is_pushed_can_be_pulled() {
    let Some(registry) = start("") else { return };
    let (from, to, client) = (store(), store(), client());
    let parts = Parts::new(&amd64(), vec![bytes(1, 5 << 20), bytes(2, 1000), Vec::new(), bytes(3, (1 << 20) + 1)]);
    let descriptor = parts.keep(&from.store);
    let name = reference(&format!("{}/some/app:one", registry.host));

    let log = Log::default();
    let pushed = client::push(&client, &from.store, &name, &descriptor, &log).await.unwrap();
    assert_eq!((pushed.digest, pushed.size), (descriptor.digest.clone(), descriptor.size));
    assert_eq!(log.of(&parts.layers[0]), ["Preparing", "Pushing", "Pushed"]);

    let log = Log::default();
    client::push(&client, &from.store, &name, &descriptor, &log).await.unwrap();
    assert_eq!(log.of(&parts.layers[0]), ["Preparing", "Layer already exists"]);

    let other = reference(&format!("{}/other:two", registry.host));
    let log = Log::default();
    client::push(&client, &from.store, &other, &descriptor, &log).await.unwrap();
    assert_eq!(log.of(&parts.layers[0]), ["Preparing", "Mounted from some/app"]);

    let log = Log::default();
    let platform = amd64();
    let pulled = client::pull(&client, &to.store, &other, Wanted::Best(&platform), &log, NOW).await.unwrap();
    assert_eq!(pulled.descriptor, descriptor);
    assert!(!pulled.already);
    assert_eq!(
        log.of(&parts.layers[0]),
        ["Pulling fs layer", "Downloading", "Verifying Checksum", "Download complete"]
    );
    for blob in parts.layers.iter().chain([&parts.config, &parts.manifest]) {
        assert_eq!(to.store.blobs().read(&oci::Digest::sha256(blob), 1 << 30).unwrap(), *blob);
    }
    assert_eq!(to.store.images().resolve(&other).unwrap(), Some(descriptor.clone()));
    assert_eq!(client::resolve(&client, &other).await.unwrap(), descriptor);

    let again = client::pull(&client, &to.store, &other, Wanted::Best(&platform), &log, NOW).await.unwrap();
    assert!(again.already);
}

#[tokio::test]
async fn of_an_index_the_wanted_image_comes() {
    let Some(registry) = start("") else { return };
    let (from, one, all, client) = (store(), store(), store(), client());
    let amd = Parts::new(&amd64(), vec![bytes(1, 100)]);
    let arm = Parts::new(&arm64(), vec![bytes(2, 100)]);
    amd.keep(&from.store);
    arm.keep(&from.store);
    let (descriptor, index_bytes) = index(&[(&amd, amd64()), (&arm, arm64())]);
    from.store.blobs().put(&index_bytes).unwrap();
    let name = reference(&format!("{}/multi", registry.host));
    client::push(&client, &from.store, &name, &descriptor, &client::NoEvents).await.unwrap();

    let platform = arm64();
    let pulled =
        client::pull(&client, &one.store, &name, Wanted::Best(&platform), &client::NoEvents, NOW).await.unwrap();
    assert_eq!(pulled.descriptor, descriptor);
    assert_eq!(pulled.manifests[0].digest, arm.descriptor().digest);
    assert!(one.store.blobs().has(&arm.descriptor()).unwrap());
    assert!(!one.store.blobs().has(&amd.descriptor()).unwrap());
    assert_eq!(one.store.images().image(&descriptor, &platform).unwrap().descriptor.digest, arm.descriptor().digest);

    let pulled = client::pull(&client, &all.store, &name, Wanted::All, &client::NoEvents, NOW).await.unwrap();
    assert_eq!(pulled.manifests.len(), 2);
    assert!(all.store.blobs().has(&amd.descriptor()).unwrap());

    // Of the index that came with one image, the other is on the registry already.
    client::push(&client, &one.store, &name, &descriptor, &client::NoEvents).await.unwrap();
    let elsewhere = reference(&format!("{}/elsewhere", registry.host));
    let error = client::push(&client, &one.store, &elsewhere, &descriptor, &client::NoEvents).await.unwrap_err();
    assert!(
        matches!(&error, client::PushError::Missing { digest, .. } if *digest == amd.descriptor().digest),
        "{error}"
    );

    let riscv = oci::Platform::linux("riscv64");
    let error =
        client::pull(&client, &one.store, &name, Wanted::Best(&riscv), &client::NoEvents, NOW).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("`{}/multi:latest` has no image for linux/riscv64, only for linux/amd64, linux/arm64", registry.host)
    );
}

#[tokio::test]
async fn a_password_opens_the_registry_once_it_was_accepted() {
    let Some(registry) = start(BASIC) else { return };
    let config = registry.folder.path().join("home/.docker/config.json");
    let with = || Client::new(ClientOptions { credentials: CredentialStore::file(&config), ..options() });
    let (kept, platform) = (store(), amd64());
    let descriptor = Parts::new(&platform, vec![bytes(1, 2 << 20)]).keep(&kept.store);
    let name = reference(&format!("{}/private", registry.host));

    let error = client::push(&with(), &kept.store, &name, &descriptor, &client::NoEvents).await.unwrap_err();
    let unauthorized = matches!(
        &error,
        client::PushError::Request(RequestError::Unauthorized { repository: Some(name), had_credentials: false, .. })
            if name == "private"
    );
    assert!(unauthorized, "{error:?}");

    let error = client::login(&with(), &registry.host, "user", "wrong").await.unwrap_err();
    assert!(matches!(error, LoginError::Refused { .. }), "{error:?}");
    assert!(!config.exists());

    let logged_in = client::login(&with(), &registry.host, "user", "secret").await.unwrap();
    assert_eq!(logged_in.stored_in, StoredIn::File(config.clone()));
    client::push(&with(), &kept.store, &name, &descriptor, &client::NoEvents).await.unwrap();
    client::pull(&with(), &store().store, &name, Wanted::Best(&platform), &client::NoEvents, NOW).await.unwrap();

    assert!(client::logout(&with(), &registry.host).await.unwrap());
    assert!(!client::logout(&with(), &registry.host).await.unwrap());
    let error = client::pull(&with(), &store().store, &name, Wanted::Best(&platform), &client::NoEvents, NOW).await;
    assert!(matches!(error, Err(PullError::Request(RequestError::Unauthorized { .. }))));
}

#[tokio::test]
async fn what_is_not_there_is_said_by_name() {
    let Some(registry) = start("") else { return };
    let name = reference(&format!("{}/nobody/nothing:never", registry.host));
    let error = client::pull(&client(), &store().store, &name, Wanted::All, &client::NoEvents, NOW).await.unwrap_err();
    assert!(matches!(error, PullError::NotFound { .. }), "{error:?}");
    let expected = format!(
        "`{0}/nobody/nothing:never` was not found on registry `{0}`: manifest unknown (MANIFEST_UNKNOWN)",
        registry.host
    );
    assert_eq!(chain(&error), expected);
}

#[tokio::test]
async fn a_broken_push_is_carried_on() {
    let Some(registry) = start("") else { return };
    let (from, client) = (store(), client());
    let parts = Parts::new(&amd64(), vec![bytes(1, 20 << 20)]);
    let descriptor = parts.keep(&from.store);
    let wire = breaking_wire(&registry.host, vec![9 << 20, 5 << 20]).await;
    let name = reference(&format!("{wire}/app"));
    let log = Log::default();
    client::push(&client, &from.store, &name, &descriptor, &log).await.unwrap();
    let states = log.of(&parts.layers[0]);
    assert!(states.iter().any(|state| state.starts_with("retry")), "{states:?}");
    let to = store();
    client::pull(&client, &to.store, &name, Wanted::All, &client::NoEvents, NOW).await.unwrap();
    assert_eq!(to.store.blobs().read(&oci::Digest::sha256(&parts.layers[0]), 1 << 30).unwrap(), parts.layers[0]);
}

/// Makes a certificate for the address 0.0.0.0, which leads here and which the client does not take for a loopback.
#[expect(clippy::disallowed_methods, reason = "a tool of the test's machine")]
fn certificate(folder: &std::path::Path) -> Vec<u8> {
    let config = "[req]\ndistinguished_name=name\nprompt=no\nx509_extensions=extensions\n[name]\nCN=test\n[extensions]\nsubjectAltName=IP:0.0.0.0\nbasicConstraints=CA:FALSE\n";
    write(folder.join("openssl.cnf"), config);
    let arguments = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key -out cert -days 2 -config openssl.cnf";
    let made = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).stderr(Stdio::null()).status();
    assert!(made.unwrap().success());
    std::fs::read(folder.join("cert")).unwrap()
}

#[tokio::test]
async fn a_certificate_must_be_trusted_unless_the_registry_is_insecure() {
    let folder = TempDir::new().unwrap();
    let certificate = certificate(folder.path());
    let files = folder.path().display();
    let Some(registry) = start(&format!("  tls: {{certificate: {files}/cert, key: {files}/key}}\n")) else { return };
    let kept = store();
    let descriptor = Parts::new(&amd64(), vec![bytes(1, 3 << 20)]).keep(&kept.store);

    // A loopback address is tried in plain HTTP, then in TLS with any certificate.
    let name = reference(&format!("{}/app", registry.host));
    client::push(&client(), &kept.store, &name, &descriptor, &client::NoEvents).await.unwrap();

    let host = registry.host.replace("127.0.0.1", "0.0.0.0");
    let name = reference(&format!("{host}/app"));
    let error = client::push(&client(), &kept.store, &name, &descriptor, &client::NoEvents).await.unwrap_err();
    assert!(matches!(error, client::PushError::Request(RequestError::Certificate { .. })), "{error:?}");

    let insecure = Client::new(ClientOptions { insecure: vec![host.clone()], ..options() });
    client::push(&insecure, &kept.store, &name, &descriptor, &client::NoEvents).await.unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, &certificate).unwrap();
    let root_files = vec![file.path().to_owned(), "/nowhere".into()];
    for trust in [ClientOptions { roots: vec![certificate], ..options() }, ClientOptions { root_files, ..options() }] {
        client::pull(&Client::new(trust), &store().store, &name, Wanted::All, &client::NoEvents, NOW).await.unwrap();
    }
}

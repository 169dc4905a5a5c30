//! Real clients: skopeo between our registry, folders, and Debian's docker-registry.
//!
//! Without skopeo or docker-registry these tests are left out, except where `CI` is set.

#![expect(clippy::print_stderr, reason = "a test that is left out says so")]
#![expect(clippy::disallowed_methods, reason = "other people's programs are the point")]

#[path = "kept/mod.rs"]
mod kept;

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use oci::{Descriptor, Index, Manifest, media_type};
use registry::server::{ServeOptions, Server};

/// Tells whether a program is there.
fn has(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok();
    if !there {
        assert!(std::env::var_os("CI").is_none(), "`{program}` is needed: apt-get install skopeo docker-registry");
        eprintln!("skipped: `{program}` is not installed");
    }
    there
}

fn start_ours(root: &Path) -> String {
    let (tell, told) = std::sync::mpsc::channel();
    let root = root.to_owned();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let options = ServeOptions::new(kept::open(&root), ([127, 0, 0, 1], 0).into());
            let server = Server::bind(options).await.expect("listening");
            tell.send(server.local_addr().to_string()).expect("heard");
            server.run(std::future::pending()).await;
        });
    });
    told.recv().expect("an address")
}

/// Debian's docker-registry, for as long as this lives.
struct Theirs {
    process: Child,
    addr: String,
}

impl Theirs {
    fn start(root: &Path) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = free.local_addr().expect("an address").to_string();
        drop(free);
        let config = root.join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {addr}}}\n",
            root.display()
        );
        store::atomic_file::write(&config, text.as_bytes()).expect("written");
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("started");
        for _ in 0..500 {
            if TcpStream::connect(&addr).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { process, addr }
    }
}

impl Drop for Theirs {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Writes an OCI layout with an index of two images, of which one has two layers.
fn layout(folder: &Path) -> String {
    let put = |media_type: &str, bytes: &[u8]| {
        let descriptor = Descriptor::of(media_type, bytes);
        let path = folder.join("blobs/sha256").join(descriptor.digest.hex());
        store::atomic_file::write(&path, bytes).expect("written");
        descriptor
    };
    let image = |architecture: &str, layers: &[&str]| {
        let layers: Vec<Vec<u8>> = layers.iter().map(|name| tar(name)).collect();
        let diff_ids: Vec<String> = layers.iter().map(|layer| oci::Digest::sha256(layer).to_string()).collect();
        let config = serde_json::json!({
            "architecture": architecture, "os": "linux", "config": {},
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = put(media_type::OCI_CONFIG, config.to_string().as_bytes());
        let layers = layers.iter().map(|layer| put(media_type::OCI_LAYER, layer)).collect();
        let bytes = serde_json::to_vec(&Manifest::new(config, layers)).expect("JSON");
        let mut descriptor = put(media_type::OCI_MANIFEST, &bytes);
        descriptor.platform = Some(
            serde_json::from_value(serde_json::json!({"architecture": architecture, "os": "linux"}))
                .expect("a platform"),
        );
        descriptor
    };
    let images = vec![image("amd64", &["shared", "own"]), image("arm64", &["shared"])];
    let index = serde_json::to_vec(&Index::new(images)).expect("JSON");
    let mut descriptor = put(media_type::OCI_INDEX, &index);
    let digest = descriptor.digest.to_string();
    descriptor.annotations.insert("org.opencontainers.image.ref.name".into(), "v1".into());
    let top = serde_json::to_vec(&Index::new(vec![descriptor])).expect("JSON");
    store::atomic_file::write(&folder.join("index.json"), &top).expect("written");
    store::atomic_file::write(&folder.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#).expect("written");
    digest
}

/// Makes a tar of one file: a header, the bytes, and two empty blocks.
fn tar(name: &str) -> Vec<u8> {
    let content = name.repeat(50_000);
    let mut header = [0u8; 512];
    let mut field = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    field(0, name);
    field(100, "0000644\0");
    field(108, "0000000\0");
    field(116, "0000000\0");
    field(124, &format!("{:011o}\0", content.len()));
    field(136, "00000000000\0");
    field(148, "        ");
    field(156, "0");
    field(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut tar = header.to_vec();
    tar.write_all(content.as_bytes()).expect("in memory");
    tar.resize(tar.len().next_multiple_of(512) + 1024, 0);
    tar
}

#[track_caller]
fn skopeo(arguments: &[&str]) -> String {
    let output = Command::new("skopeo").arg("--insecure-policy").args(arguments).output().expect("started");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn copy(from: &str, to: &str) {
    skopeo(&["copy", "--all", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false", from, to]);
}

fn digest_of(image: &str) -> String {
    let raw = skopeo(&["inspect", "--tls-verify=false", "--raw", image]);
    oci::Digest::sha256(raw.as_bytes()).to_string()
}

#[test]
fn skopeo_copies_an_index_there_and_back() {
    if !has("skopeo") {
        return;
    }
    let home = tempfile::tempdir().expect("tempdir");
    let digest = layout(&home.path().join("layout"));
    let ours = start_ours(&home.path().join("root"));
    let source = format!("oci:{}:v1", home.path().join("layout").display());
    copy(&source, &format!("docker://{ours}/team/app:v1"));
    assert_eq!(digest_of(&format!("docker://{ours}/team/app:v1")), digest);
    // Again, into another repository: everything is mounted or skipped.
    copy(&format!("docker://{ours}/team/app:v1"), &format!("docker://{ours}/other/app:v2"));
    let back = home.path().join("back");
    copy(&format!("docker://{ours}/other/app:v2"), &format!("dir:{}", back.display()));
    let manifest = std::fs::read(back.join("manifest.json")).expect("readable");
    assert_eq!(oci::Digest::sha256(&manifest).to_string(), digest);
    let tags = skopeo(&["list-tags", "--tls-verify=false", &format!("docker://{ours}/team/app")]);
    assert!(tags.contains("\"v1\""), "{tags}");
    skopeo(&["delete", "--tls-verify=false", &format!("docker://{ours}/team/app:v1")]);
}

#[test]
fn skopeo_copies_between_our_registry_and_docker_registry() {
    if !has("skopeo") || !has("docker-registry") {
        return;
    }
    let home = tempfile::tempdir().expect("tempdir");
    let digest = layout(&home.path().join("layout"));
    let ours = start_ours(&home.path().join("root"));
    let theirs = Theirs::start(&home.path().join("theirs"));
    let theirs = &theirs.addr;
    let source = format!("oci:{}:v1", home.path().join("layout").display());
    copy(&source, &format!("docker://{theirs}/a/b:v1"));
    copy(&format!("docker://{theirs}/a/b:v1"), &format!("docker://{ours}/a/b/c:v1"));
    copy(&format!("docker://{ours}/a/b/c:v1"), &format!("docker://{theirs}/back:v1"));
    for image in [format!("{ours}/a/b/c:v1"), format!("{theirs}/back:v1")] {
        assert_eq!(digest_of(&format!("docker://{image}")), digest, "{image}");
    }
}

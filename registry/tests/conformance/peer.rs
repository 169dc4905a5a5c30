//! The same suite on Debian's docker-registry, as far as that goes: so it tests the specification, and not us.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::http::connect;

/// What docker-registry 2.8 does not do as the specification says, and why it fails.
const LACKS: &[(&str, &str)] = &[
    ("content_discovery::listing_referrers", "it has no referrers API; two tests"),
    ("content_discovery::referrers_noted_under_the_fallback_tag_are_listed_too", "it has no referrers API"),
    ("content_discovery::listing_tags", "it knows neither `n` nor `last`; two tests"),
    ("content_management::deleting_tags", "it takes tags for malformed digests"),
    ("pull::pulling_blobs_in_ranges", "it closes the connection after an inverted range"),
    ("pull::pulling_manifests_that_are_not_there", "a malformed digest is its own fault, it says"),
    ("push_blobs::chunks_out_of_order_are_refused_and_the_upload_lives_on", "it takes them"),
    ("push_blobs::pushing_blobs_by_sha512", "it knows SHA-256 only"),
    ("push_manifests::a_layer_that_must_not_be_distributed_need_not_be_there", "it fails on them"),
    ("push_manifests::a_manifest_that_does_not_hash_to_its_name_is_refused", "with another status"),
    ("push_manifests::pushing_a_manifest_with_many_tags", "it does not know the parameter"),
    ("push_manifests::pushing_manifests_by_sha512", "it knows SHA-256 only"),
];

/// Ends with the test.
struct Registry(Child);

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "somebody else's program is the point")]
fn docker_registry_passes_what_it_supports() {
    if std::env::var_os("REGISTRY_CONFORMANCE").is_some() {
        return; // This is what is started below.
    }
    let home = tempfile::tempdir().expect("tempdir");
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = free.local_addr().expect("an address").to_string();
    drop(free);
    let config = home.path().join("config.yml");
    let text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\nhttp: {{addr: {addr}}}\n",
        home.path().display()
    );
    store::atomic_file::write(&config, text.as_bytes()).expect("written");
    let mut command = Command::new("docker-registry");
    let started = command.arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let Ok(started) = started else {
        assert!(std::env::var_os("CI").is_none(), "docker-registry is needed: scripts/setup test");
        eprintln!("skipped: docker-registry is not installed");
        return;
    };
    let _registry = Registry(started);
    for _ in 0..500 {
        if connect(&addr).is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let skipped = LACKS.iter().flat_map(|(name, _)| ["--skip", name]);
    let suite = std::env::current_exe().expect("a path");
    let output = Command::new(suite).args(skipped).env("REGISTRY_CONFORMANCE", addr).output().expect("started");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}");
    let passed = told.lines().filter(|line| line.ends_with("... ok")).count();
    assert!(passed >= 40, "{told}");
}

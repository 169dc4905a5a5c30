//! Processes that are killed in the middle of everything, and what the next one finds.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use jiff::Timestamp;
use oci::{Descriptor, DiffId, Digest, Reference, media_type};

use crate::blobs::names;
use crate::{Keeps, Snapshot, Store};

/// Where a child works; it is not set in a parent.
const HOME: &str = "SLIPWAY_TEST_CRASH_HOME";

/// Works until it is killed, and says what it has acknowledged.
#[test]
#[ignore = "is run by its siblings, which kill it"]
fn child() {
    let Some(home) = std::env::var_os(HOME) else { return };
    let store = Store::open(Path::new(&home)).expect("opened");
    let mut out = std::io::stdout().lock();
    let pid = std::process::id();
    for round in 0_u32..10_000 {
        // Every process makes some blobs that the others make too.
        let owner = if round % 2 == 0 { 0 } else { pid };
        let bytes = format!("{owner} {round} ").repeat(if round % 7 == 3 { 600_000 } else { 1000 });
        let digest = store.blobs().put(bytes.as_bytes()).expect("put");
        writeln!(out, "blob {digest}").expect("told");
        let descriptor = Descriptor::new(media_type::OCI_LAYER, digest.clone(), bytes.len() as u64);
        let reference = format!("r{}:{pid}", round % 5);
        let name: Reference = reference.parse().expect("valid");
        store.images().tag(&name, &descriptor, Timestamp::UNIX_EPOCH).expect("tagged");
        writeln!(out, "tag {reference}").expect("told");
        let diff_id = DiffId(digest.clone());
        store.layers().record(&diff_id, &descriptor).expect("recorded");
        let keeps = Keeps { layers: vec![diff_id.clone()], ..Keeps::default() };
        store.build_cache().put(&digest, b"record", &keeps).expect("put");
        let active = store.snapshots().begin(&Snapshot::empty()).expect("begun");
        for file in 0..10 {
            let mut file = std::fs::File::create(active.upper().join(file.to_string())).expect("created");
            file.write_all(digest.hex().as_bytes()).expect("written");
        }
        active.commit(&diff_id, false).expect("committed");
        writeln!(out, "snapshot {digest}").expect("told");
        let mut partial = store.blobs().begin_resumable(&Digest::sha256(b"endless")).expect("begun");
        partial.write_all(b"more").expect("written");
        if round % 3 == 0 {
            store.images().untag(&name).expect("untagged");
            writeln!(out, "untag {reference}").expect("told");
        }
    }
}

fn start(home: &Path) -> Child {
    #[expect(clippy::disallowed_methods, reason = "only another process can be killed, and it is this program")]
    let mut command = Command::new(std::env::current_exe().expect("known"));
    command.args(["--exact", "crash_tests::child", "--ignored", "--nocapture", "--quiet"]);
    command.env(HOME, home).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("started")
}

/// Waits for some acknowledgements, lets the child get to some random point after them, and kills it.
fn kill_in_the_middle(mut child: Child, lines: usize) -> Vec<String> {
    let out = BufReader::new(child.stdout.take().expect("piped"));
    let mut told = Vec::new();
    let mut killed = false;
    for line in out.split(b'\n').map_while(Result::ok) {
        told.push(String::from_utf8_lossy(&line).into_owned());
        if told.len() >= lines && !killed {
            let random = RandomState::new().build_hasher().finish();
            std::thread::sleep(Duration::from_micros(random % 5000));
            child.kill().expect("killed");
            killed = true;
        }
    }
    child.wait().expect("waited");
    // The last line may be torn.
    told.pop();
    told
}

fn check(store: &Store, told: &[String]) {
    for digest in store.blobs().list().expect("listed") {
        store.blobs().verify(&digest).expect("whole");
    }
    for line in told {
        match line.split_once(' ') {
            Some(("blob", digest)) => {
                assert!(store.blobs().contains(&digest.parse().expect("valid")).expect("looked"), "{digest}");
            }
            Some(("snapshot", digest)) => {
                let digest: Digest = digest.parse().expect("valid");
                let chain = oci::ChainId::base(&DiffId(digest.clone()));
                let snapshot = store.snapshots().get(&chain).expect("looked").expect("there");
                assert_eq!(names(&snapshot.dirs[0]).expect("listed").len(), 10);
            }
            _ => {}
        }
    }
    for snapshot in names(&store.layout().snapshots()).expect("listed") {
        let files = store.layout().snapshots().join(snapshot).join("fs");
        assert_eq!(names(&files).expect("listed").len(), 10);
    }
    for image in store.images().list().expect("listed") {
        assert!(store.blobs().has(&image.descriptor).expect("looked"), "{image:?}");
    }
}

#[test]
fn killed_processes_leave_nothing_broken_and_nothing_behind() {
    let folder = tempfile::tempdir().expect("tempdir");
    let home = folder.path().join("home");
    let mut told = Vec::new();
    for round in 0..8 {
        told.extend(kill_in_the_middle(start(&home), 4 + round * 5));
    }
    assert!(told.iter().any(|line| line.starts_with("snapshot ")), "the children did work");
    let store = Store::open(&home).expect("opened");
    assert_eq!(names(&store.layout().staging()).expect("listed").len(), 1, "only our own session");
    check(&store, &told);
    drop(store);
    assert_eq!(names(&home.join("staging")).expect("listed").len(), 0);
}

#[test]
fn many_processes_at_once_do_not_disturb_each_other() {
    let folder = tempfile::tempdir().expect("tempdir");
    let home = folder.path().join("home");
    let told: Vec<String> = std::thread::scope(|scope| {
        let homes = [&home; 4].into_iter().enumerate();
        let workers: Vec<_> =
            homes.map(|(number, home)| scope.spawn(move || kill_in_the_middle(start(home), 50 + number))).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("no panic")).collect()
    });
    let store = Store::open(&home).expect("opened");
    check(&store, &told);
    assert_eq!(told.iter().filter(|line| line.starts_with("test result: FAILED")).count(), 0);
    store.images().list().expect("listed").iter().for_each(|image| {
        store.images().untag(&image.reference).expect("untagged");
    });
    store.build_cache().clear().expect("cleared");
    let kept: Vec<_> = store.images().list_untagged().expect("listed");
    kept.iter().for_each(|image| {
        store.images().forget(&image.descriptor.digest).expect("forgotten");
    });
    store.collect().expect("nobody else is there");
    assert_eq!(store.blobs().list().expect("listed"), []);
    for folder in ["snapshots", "partial", "untagged"] {
        assert_eq!(names(&home.join(folder)).expect("listed").len(), 0, "{folder}");
    }
}

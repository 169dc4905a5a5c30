//! Whole builds on a store in a temporary folder, with a base image and an executor that need neither network nor mounts.
//!
//! A test is a Dockerfile, a context and what comes of them. Names begin with the row of the specification that they hold
//! us to, where there is one.

mod cache;
mod cache_keys;
mod config;
mod damage;
mod errors;
mod files;
mod lint;
mod patches;
mod remote;
mod reproducible;
mod rows;
mod run;

use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use layer::{Entry, EntryKind, NodeKind, Tree, tar};
use oci::users::ProcessUser;
use oci::{Descriptor, DiffId, Digest, ImageConfig, Manifest, Platform, Reference, media_type};
use store::Store;

use crate::{
    BuildError, BuildEvent, BuildEvents, BuildRequest, Built, Cancel, Context, DockerfileSource, ExecStep,
    ExecuteError, Executor, ExitStatus, ImageSource, ImageSourceError, MountKind, Outcome, PullPolicy, StepMount,
    Stream,
};

/// A store, a context, and what was seen of the builds.
pub(crate) struct World {
    folder: tempfile::TempDir,
    pub(crate) store: Store,
    pub(crate) executor: FakeExecutor,
    pub(crate) images: FakeImages,
    pub(crate) remote: remote::FakeRemote,
    pub(crate) cancel: Cancel,
}

/// The time that all builds of the tests are made at.
pub(crate) const NOW: i64 = 1_700_000_000;

impl World {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir(folder.path().join("context")).expect("made");
        let store = Store::open(&folder.path().join("home")).expect("opened");
        let images = FakeImages::new(&store);
        Self {
            folder,
            store,
            executor: FakeExecutor::default(),
            images,
            remote: remote::FakeRemote::default(),
            cancel: Cancel::new(),
        }
    }

    pub(crate) fn context(&self) -> PathBuf {
        self.folder.path().join("context")
    }

    /// Lays a file (0644), a folder (`name/`, 0755) or a link (`name -> target`) into the context, all as old as time.
    pub(crate) fn lay(&self, path: &str, content: &str) -> &Self {
        let at = self.context().join(path.trim_end_matches('/'));
        std::fs::create_dir_all(at.parent().expect("below the context")).expect("made");
        if let Some(target) = content.strip_prefix("-> ") {
            std::os::unix::fs::symlink(target, &at).expect("linked");
        } else if path.ends_with('/') {
            std::fs::create_dir_all(&at).expect("made");
        } else {
            #[expect(clippy::disallowed_methods, reason = "a test's own file")]
            std::fs::write(&at, content).expect("written");
            self.mode(path, 0o644);
        }
        for above in at.ancestors().take_while(|above| above.starts_with(self.context())) {
            age(above, 1_000_000);
        }
        self
    }

    pub(crate) fn mode(&self, path: &str, mode: u32) -> &Self {
        let at = self.context().join(path);
        std::fs::set_permissions(at, PermissionsExt::from_mode(mode)).expect("changed");
        self
    }

    pub(crate) fn request(&self, dockerfile: &str) -> BuildRequest {
        let source = DockerfileSource { name: "Dockerfile".into(), bytes: dockerfile.into(), ignore: None };
        let now = jiff::Timestamp::from_second(NOW).expect("in range");
        let mut request = BuildRequest::new(Context::Folder(self.context()), source, now);
        request.platforms = vec![Platform::linux("amd64")];
        request
    }

    pub(crate) fn try_build(&self, request: &BuildRequest) -> (Result<Built, BuildError>, Seen) {
        let seen = Seen::default();
        let built = crate::build(request, &self.store, &self.executor, &self.images, &self.remote, &seen, &self.cancel);
        (built, seen)
    }

    pub(crate) fn build(&self, dockerfile: &str) -> Image<'_> {
        self.build_request(&self.request(dockerfile))
    }

    pub(crate) fn build_request(&self, request: &BuildRequest) -> Image<'_> {
        let (built, seen) = self.try_build(request);
        let built = built.unwrap_or_else(|error| panic!("{}", error.render(false)));
        Image { world: self, built, seen }
    }

    /// Returns the error of a build that must fail.
    pub(crate) fn refuse(&self, dockerfile: &str) -> String {
        let (built, _) = self.try_build(&self.request(dockerfile));
        built.map(|_| ()).expect_err("refused").render(false)
    }

    pub(crate) fn leftovers(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let staging = self.store.home().join("staging");
        for session in std::fs::read_dir(staging).into_iter().flatten().flatten() {
            for folder in [session.path(), session.path().join("trash")] {
                let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path());
                found.extend(files.filter(|path| !path.ends_with("lock") && !path.ends_with("trash")));
            }
        }
        found
    }
}

fn age(path: &Path, seconds: i64) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("aged");
}

/// A built image.
pub(crate) struct Image<'a> {
    world: &'a World,
    pub(crate) built: Built,
    pub(crate) seen: Seen,
}

impl Image<'_> {
    pub(crate) fn config(&self) -> &ImageConfig {
        &self.built.images[0].config
    }

    pub(crate) fn digest(&self) -> String {
        self.built.images[0].descriptor.digest.to_string()
    }

    pub(crate) fn layers(&self) -> usize {
        self.config().rootfs.diff_ids.len()
    }

    /// Returns what history says, without what every line has.
    pub(crate) fn history(&self) -> Vec<String> {
        let line = |line: &oci::History| {
            let empty = if line.empty_layer { " (empty)" } else { "" };
            format!("{}{empty}", line.created_by.clone().unwrap_or_default())
        };
        self.config().history.iter().map(line).collect()
    }

    /// Lists the files of layers, less those of the base image: mode, owner, path and content.
    pub(crate) fn files(&self) -> String {
        let image = &self.built.images[0];
        let image = self.world.store.images().image(&image.descriptor, &image.platform).expect("in the store");
        let snapshot =
            self.world.store.snapshots().ensure(&image.layers().expect("paired"), &|_| {}).expect("unpacked");
        let tree = snapshot.tree().expect("opened");
        let mut lines = Vec::new();
        list(&tree, &tree.root().expect("a root"), &mut lines);
        lines.retain(|line| !BASE.iter().any(|base| line == base));
        lines.join("\n")
    }
}

const BASE: &[&str] = &[
    "755 0:0 etc/",
    "644 0:0 etc/passwd root:x:0:0:root:/root:/bin/sh web:x:33:34::/var/www:/bin/false",
    "644 0:0 etc/group root:x:0:root wheel:x:10:root web:x:34:",
];

fn list(tree: &Tree, folder: &layer::Node, lines: &mut Vec<String>) {
    for node in tree.read_dir(folder).expect("listed") {
        let path = String::from_utf8_lossy(&node.path).into_owned();
        let head = format!("{:o} {}:{} {path}", node.mode, node.uid, node.gid);
        match node.kind {
            NodeKind::Directory => {
                lines.push(format!("{head}/"));
                list(tree, &node, lines);
            }
            NodeKind::Symlink => {
                let target = String::from_utf8_lossy(node.target.as_deref().expect("a target")).into_owned();
                lines.push(format!("{}:{} {path} -> {target}", node.uid, node.gid));
            }
            NodeKind::File => {
                let content = tree.read_small(&node.path, 1 << 20).expect("read").expect("there");
                let content = String::from_utf8_lossy(&content).trim_end().replace('\n', " ");
                lines.push(format!("{head} {content}"));
            }
            other => lines.push(format!("{head} {other:?}")),
        }
    }
}

/// What a build told.
#[derive(Default)]
pub(crate) struct Seen {
    names: Mutex<BTreeMap<usize, String>>,
    outcomes: Mutex<Vec<(usize, Outcome)>>,
    output: Mutex<Vec<u8>>,
    warnings: Mutex<Vec<String>>,
    misses: Mutex<BTreeMap<usize, Vec<String>>>,
}

impl BuildEvents for Seen {
    fn event(&self, event: BuildEvent<'_>) {
        match event {
            BuildEvent::Planned { steps } => {
                self.names.lock().expect("whole").extend(steps.into_iter().map(|step| (step.id.0, step.name)));
            }
            BuildEvent::StepStarted { .. } | BuildEvent::Made { .. } => {}
            BuildEvent::Missed { id, miss } => {
                let reasons = miss.differences.iter().map(ToString::to_string).collect();
                self.misses.lock().expect("whole").insert(id.0, reasons);
            }
            BuildEvent::Output { bytes, .. } => self.output.lock().expect("whole").extend_from_slice(bytes),
            BuildEvent::StepFinished { id, outcome, .. } => {
                self.outcomes.lock().expect("whole").push((id.0, outcome));
            }
            BuildEvent::Warning { message, .. } => self.warnings.lock().expect("whole").push(message),
        }
    }
}

impl Seen {
    /// Returns how each step ended, in the order of the Dockerfile.
    pub(crate) fn steps(&self) -> Vec<String> {
        let mut outcomes = self.outcomes.lock().expect("whole").clone();
        outcomes.sort_by_key(|(id, _)| *id);
        let names = self.names.lock().expect("whole");
        let word = |outcome: &Outcome| match outcome {
            Outcome::Done => "done",
            Outcome::Cached => "cached",
            Outcome::Failed { .. } => "failed",
            Outcome::Cancelled => "cancelled",
        };
        outcomes.iter().map(|(id, outcome)| format!("{}: {}", names[id], word(outcome))).collect()
    }

    /// Returns why each step was not in the cache, in the order of the Dockerfile.
    pub(crate) fn misses(&self) -> Vec<Vec<String>> {
        self.misses.lock().expect("whole").values().cloned().collect()
    }

    /// Tells whether all steps but the base image were cached.
    pub(crate) fn all_cached(&self) -> bool {
        self.steps().iter().all(|step| step.ends_with("cached") || step.contains(" FROM "))
    }

    pub(crate) fn output(&self) -> String {
        String::from_utf8_lossy(&self.output.lock().expect("whole")).into_owned()
    }

    pub(crate) fn warnings(&self) -> Vec<String> {
        self.warnings.lock().expect("whole").clone()
    }
}

/// Knows one image, `base`, with an `/etc/passwd` and an `/etc/group`.
pub(crate) struct FakeImages {
    images: Mutex<BTreeMap<String, store::Image>>,
}

impl FakeImages {
    fn new(store: &Store) -> Self {
        let images = Self { images: Mutex::default() };
        let config =
            oci::ContainerConfig { env: vec!["BASE=1".into()], cmd: Some(vec!["sh".into()]), ..Default::default() };
        images.add(store, "base", config);
        images
    }

    /// Adds an image with the base's files and a config.
    pub(crate) fn add(&self, store: &Store, name: &str, config: oci::ContainerConfig) {
        self.add_with(store, name, config, "");
    }

    /// Returns the digest of an image's manifest.
    pub(crate) fn digest(&self, name: &str) -> Digest {
        self.images.lock().expect("whole")[name].descriptor.digest.clone()
    }

    /// Adds an image with one more file, unless its name is empty.
    pub(crate) fn add_with(&self, store: &Store, name: &str, config: oci::ContainerConfig, more: &str) {
        let mut tar = tar::Writer::new(Vec::new());
        tar.append_empty(&Entry::new("etc", EntryKind::Directory, 0o755)).expect("written");
        for (path, text) in [
            ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/var/www:/bin/false\n"),
            ("etc/group", "root:x:0:root\nwheel:x:10:root\nweb:x:34:\n"),
        ] {
            let entry = Entry::new(path, EntryKind::File { size: text.len() as u64 }, 0o644);
            tar.append(&entry, &mut text.as_bytes()).expect("written");
        }
        if !more.is_empty() {
            tar.append_empty(&Entry::new(more, EntryKind::File { size: 0 }, 0o644)).expect("written");
        }
        let layer = tar.finish().expect("finished");
        let blob = Descriptor::of(media_type::OCI_LAYER, &layer);
        let config = ImageConfig {
            architecture: "amd64".into(),
            os: "linux".into(),
            created: Some("2001-02-03T04:05:06Z".into()),
            config,
            rootfs: oci::RootFs { diff_ids: vec![DiffId(Digest::sha256(&layer))], ..Default::default() },
            ..Default::default()
        };
        let config = serde_json::to_vec(&config).expect("text keys");
        let manifest = Manifest::new(Descriptor::of(media_type::OCI_CONFIG, &config), vec![blob]);
        let manifest = serde_json::to_vec(&manifest).expect("text keys");
        for bytes in [&layer, &config, &manifest] {
            store.blobs().put(bytes).expect("stored");
        }
        let descriptor = Descriptor::of(media_type::OCI_MANIFEST, &manifest);
        let image = store.images().image(&descriptor, &Platform::linux("amd64")).expect("an image");
        self.images.lock().expect("whole").insert(name.to_owned(), image);
    }
}

impl ImageSource for FakeImages {
    fn resolve(&self, reference: &Reference, _: &Platform, _: PullPolicy) -> Result<store::Image, ImageSourceError> {
        let name = reference.repository().as_str().trim_start_matches("library/").to_owned();
        self.images.lock().expect("whole").get(&name).cloned().ok_or_else(|| ImageSourceError {
            message: format!("cannot resolve image `{reference}`"),
            hint: None,
            source: None,
        })
    }
}

/// What was seen of a process.
#[derive(Clone, Debug)]
pub(crate) struct Ran {
    pub(crate) argv: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) cwd: String,
    pub(crate) user: ProcessUser,
    pub(crate) mounts: Vec<StepMount>,
}

/// Does what a few words say, right in the upper folder.
///
/// | Command | Does |
/// | --- | --- |
/// | `write PATH TEXT` | writes a file, and the folders above it |
/// | `folder PATH` | makes a folder |
/// | `print TEXT` | prints a line |
/// | `fail CODE` | ends with a code |
/// | `wait` | waits until it is cancelled |
/// | `list TARGET` | prints what is mounted at a target |
/// | anything else | nothing |
#[derive(Default)]
pub(crate) struct FakeExecutor {
    ran: Mutex<Vec<Ran>>,
}

impl FakeExecutor {
    pub(crate) fn ran(&self) -> Vec<Ran> {
        std::mem::take(&mut self.ran.lock().expect("whole"))
    }
}

impl Executor for FakeExecutor {
    fn execute(&self, step: &ExecStep<'_>) -> Result<ExitStatus, ExecuteError> {
        let (argv, env, cwd) = (step.argv.clone(), step.env.clone(), step.cwd.clone());
        self.ran.lock().expect("whole").push(Ran {
            argv,
            env,
            cwd,
            user: step.user.clone(),
            mounts: step.mounts.clone(),
        });
        let upper = &step.rootfs.upper;
        let mut code = 0;
        for command in step.argv.last().expect("a command").split(" && ") {
            let mut words = command.trim().splitn(3, ' ');
            let (word, path, text) = (words.next(), words.next().unwrap_or("x"), words.next().unwrap_or_default());
            let at = upper.join(path.trim_start_matches('/'));
            match word {
                Some("write") => {
                    make_folders(at.parent().expect("below the root"));
                    #[expect(clippy::disallowed_methods, reason = "a test's own file")]
                    std::fs::write(&at, text).expect("written");
                    std::fs::set_permissions(&at, PermissionsExt::from_mode(0o644)).expect("changed");
                    // What is done again comes out the same, whatever the clock says.
                    at.ancestors().take_while(|above| above != upper).for_each(|above| age(above, 1_000_000));
                }
                Some("folder") => make_folders(&at),
                Some("print") => (step.output)(Stream::Stdout, format!("{path} {text}\n").as_bytes()),
                Some("fail") => code = path.parse().expect("a number"),
                Some("list") => (step.output)(Stream::Stdout, mounted(step, path).as_bytes()),
                Some("wait") => {
                    while !step.cancel.is_cancelled() {
                        std::thread::sleep(std::time::Duration::from_millis(1));
                    }
                    return Err(ExecuteError::Cancelled);
                }
                _ => {}
            }
        }
        Ok(ExitStatus { code, out_of_memory: false })
    }
}

fn make_folders(path: &Path) {
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path).expect("made");
}

/// Lists the files that a mount shows, with their content.
fn mounted(step: &ExecStep<'_>, target: &str) -> String {
    let mount = step.mounts.iter().find(|mount| mount.target == target).expect("a mount");
    let folders = match &mount.kind {
        MountKind::Bind { source, read_only: false } if source.is_file() => {
            use std::os::unix::fs::MetadataExt;
            let file = std::fs::metadata(source).expect("there");
            let text = std::fs::read_to_string(source).expect("read");
            return format!("{:o} {}:{} {text}", file.mode() & 0o7777, file.uid(), file.gid());
        }
        MountKind::Bind { source, .. } if source.is_file() => {
            return std::fs::read_to_string(source).expect("read");
        }
        MountKind::Bind { source, .. } => vec![source.clone()],
        MountKind::Merged { lower } => lower.clone(),
        MountKind::Overlay(overlay) => overlay.lower.clone(),
        MountKind::Tmpfs { .. } => return "tmpfs\n".into(),
        MountKind::Agent { socket, mode, uid, gid } => return format!("{mode:o} {uid}:{gid} {}\n", socket.display()),
        MountKind::Secret { value, mode, .. } => return format!("{mode:o} {}\n", String::from_utf8_lossy(value)),
    };
    let tree = Tree::of_layers(folders).expect("opened");
    let mut lines = Vec::new();
    list(&tree, &tree.root().expect("a root"), &mut lines);
    lines.iter().map(|line| format!("{line}\n")).collect()
}

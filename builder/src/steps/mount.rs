//! What `RUN --mount` mounts, made ready on the disk.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::Duration;

use layer::{ApplyOptions, Node, NodeKind, Tree, Whiteouts};
use oci::Digest;
use rustix::fs::{FlockOperation, Timespec, Timestamps};
use store::{Active, Snapshot};

use super::Bench;
use crate::dockerfile::Sharing;
use crate::executor::{MountKind, Overlay, StepMount};
use crate::fault::{Fault, StepError};
use crate::files::path::{ancestors, lossy};
use crate::graph::{ExecOperation, MountOperation, MountSource, Origin, SecretFile, StepIndex};
use crate::request::SecretSource;

/// Mounts that are ready, and what must live until the process has ended.
#[derive(Default)]
pub(crate) struct Prepared {
    pub(crate) mounts: Vec<StepMount>,
    /// Secrets that go into the environment.
    pub(crate) env: Vec<(String, String)>,
    /// Folders that take writes to be thrown away, and files written for the process.
    held: Vec<Active>,
    /// Locks of caches by name: the kernel drops them with the file.
    locks: Vec<(String, File, PathBuf)>,
}

/// Makes everything ready that a process mounts.
pub(crate) fn prepare(operation: &ExecOperation, bench: &Bench<'_>) -> Result<Prepared, StepError> {
    let mut prepared = Prepared::default();
    let mut locks: Vec<(String, &str, Sharing)> = Vec::new();
    for MountOperation { source, .. } in &operation.mounts {
        if let MountSource::Cache { id, sharing, seed, .. } = source {
            locks.push((cache_name(id, *seed, bench), id, *sharing));
        }
    }
    // Always in the same order, so that two steps that wait for two caches never wait for each other. The same cache may
    // be mounted twice, but is locked once, as the strictest of its mounts asks.
    locks.sort_by_cached_key(|(name, _, sharing)| (name.clone(), *sharing == Sharing::Shared));
    locks.dedup_by(|(one, ..), (other, ..)| one == other);
    for (name, id, sharing) in locks {
        let (lock, folder) = lock_cache(&name, id, sharing, bench)?;
        prepared.locks.push((name, lock, folder));
    }
    for mount in &operation.mounts {
        let kind = match &mount.source {
            MountSource::Bind { origin, path, read_only } => prepared.bind(origin, path, *read_only, bench)?,
            MountSource::Cache { id, seed, mode, uid, gid, read_only, .. } => {
                let name = cache_name(id, *seed, bench);
                let folder = prepared.locks.iter().find(|(other, ..)| *other == name).map(|(_, _, folder)| folder);
                let folder = folder.expect("every cache was locked above");
                let source = cache_content(folder, id, *seed, (*mode, *uid, *gid), bench)?;
                MountKind::Bind { source, read_only: *read_only }
            }
            MountSource::Tmpfs { size } => MountKind::Tmpfs { size: *size },
            MountSource::Secret { id, file, env, required } => {
                let Some(value) = secret(id, *required, bench)? else { continue };
                if let Some(name) = env {
                    prepared.env.push((name.clone(), String::from_utf8_lossy(&value).into_owned()));
                }
                let Some(SecretFile { mode, uid, gid }) = *file else { continue };
                MountKind::Secret { value, mode, uid, gid }
            }
            MountSource::Ssh { id, socket: SecretFile { mode, uid, gid }, required } => {
                let Some(socket) = agent(id, *required, bench)? else { continue };
                let (mode, uid, gid) = (*mode, *uid, *gid);
                // The first one is the agent that programs find by themselves.
                if !prepared.env.iter().chain(&operation.env).any(|(name, _)| name == AUTH_SOCK) {
                    prepared.env.push((AUTH_SOCK.into(), mount.target.clone()));
                }
                MountKind::Agent { socket, mode, uid, gid }
            }
            MountSource::Script { name, content } => prepared.script(name, content, bench)?,
        };
        prepared.mounts.push(StepMount { target: mount.target.clone(), kind });
    }
    // What is mounted below another mount comes after it.
    prepared.mounts.sort_by(|one, other| one.target.cmp(&other.target));
    Ok(prepared)
}

impl Prepared {
    fn bind(
        &mut self,
        origin: &Origin,
        path: &str,
        read_only: bool,
        bench: &Bench<'_>,
    ) -> Result<MountKind, StepError> {
        let layers = match origin {
            Origin::Step(step) => bench.layers(*step),
            // Evaluation copies what is mounted of a context into layers of its own.
            Origin::Context | Origin::Named(_) => None,
        };
        let snapshot = match layers {
            Some(layers) => layers.snapshot(bench.workshop.store, &bench.workshop.cancel)?,
            None => Snapshot::empty(),
        };
        let tree = snapshot.tree()?;
        let Some(node) = tree.lookup(path, layer::Follow::Last)? else {
            return Err(Fault::new(format!("\"{path}\": not found")).hint("it is the `source` of a mount").into());
        };
        if node.kind != NodeKind::Directory {
            return self.bind_file(&tree, &snapshot, &node, read_only, bench);
        }
        let mut lower = folders_below(&snapshot.dirs, &node.path)?;
        if lower.is_empty() {
            lower.push(bench.workshop.store.layout().empty());
        }
        if read_only {
            return Ok(match <[PathBuf; 1]>::try_from(lower) {
                Ok([source]) => MountKind::Bind { source, read_only },
                Err(lower) => MountKind::Merged { lower },
            });
        }
        let active = bench.workshop.store.snapshots().begin(&Snapshot { chain: None, dirs: lower.clone() })?;
        let overlay = Overlay { lower, upper: active.upper(), work: active.work() };
        self.held.push(active);
        Ok(MountKind::Overlay(overlay))
    }

    fn bind_file(
        &mut self,
        tree: &Tree,
        snapshot: &Snapshot,
        node: &Node,
        read_only: bool,
        bench: &Bench<'_>,
    ) -> Result<MountKind, StepError> {
        if read_only {
            let source = snapshot.dirs[node.layer].join(OsStr::from_bytes(&node.path));
            return Ok(MountKind::Bind { source, read_only });
        }
        // A copy takes the writes.
        let active = bench.workshop.store.snapshots().begin(&Snapshot::empty())?;
        let source = active.scratch()?.join("file");
        let doing = || format!("cannot copy `/{}` to mount it", lossy(&node.path));
        let mut file = tree.open(node)?;
        let mut write = || -> io::Result<()> {
            let mut copy = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&source)?;
            io::copy(&mut file, &mut copy)?;
            if layer::rights::gives_owners() {
                std::os::unix::fs::fchown(&copy, Some(node.uid), Some(node.gid))?;
            }
            // After the owner, whose change takes setuid away; and never less than the umask leaves.
            copy.set_permissions(PermissionsExt::from_mode(node.mode))
        };
        write().map_err(|error| Fault::because(doing(), &error))?;
        self.held.push(active);
        Ok(MountKind::Bind { source, read_only: false })
    }

    fn script(&mut self, name: &str, content: &[u8], bench: &Bench<'_>) -> Result<MountKind, StepError> {
        let active = bench.workshop.store.snapshots().begin(&Snapshot::empty())?;
        let folder = active.scratch()?;
        let write = || -> io::Result<()> {
            use std::io::Write;
            std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o755))?;
            let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(folder.join(name))?;
            file.set_permissions(PermissionsExt::from_mode(0o755))?;
            file.write_all(content)
        };
        write().map_err(|error| Fault::because(format!("cannot write the script `{name}`"), &error))?;
        self.held.push(active);
        Ok(MountKind::Bind { source: folder, read_only: true })
    }
}

/// Returns the layer folders that show through at a folder, topmost first, as overlayfs merges them.
fn folders_below(layers: &[PathBuf], folder: &[u8]) -> Result<Vec<PathBuf>, Fault> {
    let mut found = Vec::new();
    for layer in layers {
        let mut covers = false;
        let mut is_here = true;
        let mut above: Vec<&[u8]> = ancestors(folder).collect();
        above.reverse();
        for step in above.into_iter().chain((!folder.is_empty()).then_some(folder)) {
            let path = layer.join(OsStr::from_bytes(step));
            match std::fs::symlink_metadata(&path) {
                Ok(metadata) if metadata.is_dir() => covers |= is_opaque(&path),
                // A whiteout or another kind of file hides all that is below.
                Ok(_) => (is_here, covers) = (false, true),
                Err(error) if error.kind() == io::ErrorKind::NotFound => is_here = false,
                Err(error) => return Err(Fault::because(format!("cannot read `{}`", path.display()), &error)),
            }
            if !is_here {
                break;
            }
        }
        if is_here {
            found.push(layer.join(OsStr::from_bytes(folder)));
        }
        if covers {
            break;
        }
    }
    Ok(found)
}

fn is_opaque(folder: &Path) -> bool {
    let mut value = [0; 1];
    ["trusted.overlay.opaque", "user.overlay.opaque"]
        .iter()
        .any(|name| rustix::fs::lgetxattr(folder, *name, &mut value[..]).is_ok_and(|size| size == 1 && value == *b"y"))
}

/// Returns the name of a cache's folder: one that begins with files of a stage or an image is another one for each content
/// that these have, as with BuildKit.
fn cache_name(id: &str, seed: Option<StepIndex>, bench: &Bench<'_>) -> String {
    let source = bench.layers(seed).and_then(|layers| layers.identity());
    // No ID has a zero in it.
    let text = source.map_or_else(|| id.to_owned(), |source| format!("{id}\0{source}"));
    Digest::sha256(text.as_bytes()).hex()[..32].to_owned()
}

/// Takes a cache for as long as the file lives.
///
/// ```text
/// cache-mounts/NAME/
/// ├── lock      shared or taken by whoever has the cache mounted; as old as its last use
/// ├── id        the ID
/// ├── making    held while content is made
/// ├── data      what the cache holds
/// └── data-N    what it holds since it was emptied for the Nth time; only the last of them is mounted anew
/// ```
fn lock_cache(name: &str, id: &str, sharing: Sharing, bench: &Bench<'_>) -> Result<(File, PathBuf), StepError> {
    let root = match &bench.workshop.own_caches {
        Some(folder) => folder.scratch()?,
        None => bench.workshop.store.layout().cache_mounts(),
    };
    let doing = || format!("cannot use the cache `{id}`");
    let mut copy = 0;
    loop {
        // Whoever wants a cache for itself gets another one when somebody is at work in the first.
        let folder = root.join(if copy == 0 { name.to_owned() } else { format!("{name}-{copy}") });
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&folder)
            .map_err(|error| Fault::because(doing(), &error))?;
        drop_emptied(&folder).map_err(|error| Fault::because(format!("cannot empty the cache `{id}`"), &error))?;
        let lock = lock_file(&folder).map_err(|error| Fault::because(doing(), &error))?;
        let operation = match sharing {
            Sharing::Shared => FlockOperation::NonBlockingLockShared,
            Sharing::Private | Sharing::Locked => FlockOperation::NonBlockingLockExclusive,
        };
        match rustix::fs::flock(&lock, operation) {
            Ok(()) => {
                let now = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
                // Without the time of its last use it is merely pruned too early.
                let _ = rustix::fs::futimens(&lock, &Timestamps { last_access: now, last_modification: now });
                return Ok((lock, folder));
            }
            Err(rustix::io::Errno::WOULDBLOCK) if sharing == Sharing::Private => copy += 1,
            Err(rustix::io::Errno::WOULDBLOCK) if bench.workshop.cancel.is_cancelled() => {
                return Err(StepError::Cancelled);
            }
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(Duration::from_millis(20)),
            Err(error) => return Err(Fault::because(doing(), &io::Error::from(error)).into()),
        }
    }
}

fn lock_file(folder: &Path) -> io::Result<File> {
    File::options().create(true).truncate(false).write(true).open(folder.join("lock"))
}

/// Removes what a cache held before it was emptied, as soon as nobody is at work in it.
fn drop_emptied(folder: &Path) -> io::Result<()> {
    let contents = store::cache_contents(folder)?;
    let Some((_, old)) = contents.split_last().filter(|(_, old)| !old.is_empty()) else { return Ok(()) };
    let lock = lock_file(folder)?;
    if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
        for (_, path) in old {
            std::fs::remove_dir_all(path)?;
        }
    }
    Ok(())
}

/// Returns the folder with what a cache holds, which is made with what it is to hold at first when there is none, and
/// once in a build without cache. What was mounted before stays where it is: others may be just about to mount it.
fn cache_content(
    folder: &Path,
    id: &str,
    seed: Option<StepIndex>,
    (mode, uid, gid): (u32, u32, u32),
    bench: &Bench<'_>,
) -> Result<PathBuf, StepError> {
    let fault = |error: io::Error| Fault::because("cannot make the folder of a cache", &error);
    // Several may share the cache, but one makes it.
    let making = File::options().create(true).truncate(false).write(true).open(folder.join("making"));
    let making = making.map_err(fault)?;
    rustix::fs::flock(&making, FlockOperation::LockExclusive).map_err(|error| fault(error.into()))?;
    let is_emptied = bench.ignore_cache
        && bench.workshop.emptied_caches.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.to_owned());
    let place = match store::cache_contents(folder).map_err(fault)?.pop() {
        Some((_, content)) if !is_emptied => return Ok(content),
        Some((number, _)) => folder.join(format!("data-{}", number.saturating_add(1))),
        None => folder.join("data"),
    };
    let new = folder.join("new");
    match std::fs::remove_dir_all(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fault(error).into()),
        _ => {}
    }
    std::fs::create_dir(&new).map_err(fault)?;
    if let Some(layers) = bench.layers(seed) {
        let root = File::open(&new).map_err(fault)?;
        for layer in &layers.stack {
            let blob = bench.workshop.store.blobs().open(&layer.blob.digest)?;
            let options =
                ApplyOptions { whiteouts: Whiteouts::Literal, root_metadata: false, ..ApplyOptions::default() };
            let mut tar = io::BufReader::new(blob.file);
            layer::apply(&mut tar, std::os::fd::AsFd::as_fd(&root), &options)
                .map_err(|error| Fault::because("cannot fill a new cache", &error))?;
        }
    }
    if layer::rights::gives_owners() {
        std::os::unix::fs::chown(&new, Some(uid), Some(gid)).map_err(fault)?;
    }
    std::fs::set_permissions(&new, PermissionsExt::from_mode(mode)).map_err(fault)?;
    store::atomic_file::write(&folder.join("id"), id.as_bytes())?;
    std::fs::rename(&new, &place).map_err(fault)?;
    Ok(place)
}

/// The variable that tells programs where the agent is.
const AUTH_SOCK: &str = "SSH_AUTH_SOCK";

fn agent(id: &str, required: bool, bench: &Bench<'_>) -> Result<Option<PathBuf>, Fault> {
    let agents = &bench.workshop.request.agents;
    match agents.get(id) {
        Some(socket) => Ok(Some(socket.clone())),
        None if required => {
            let known: Vec<&str> = agents.keys().map(String::as_str).collect();
            let fault = Fault::new(format!("no SSH key \"{id}\" forwarded from the client"));
            Err(match crate::plan::nearest(id, &known) {
                Some(meant) => fault.hint(format!("did you mean `{meant}`?")),
                None => fault.hint(format!("offer an agent or a key with `--ssh {id}` or `--ssh {id}=SOCKET|KEY`")),
            })
        }
        None => Ok(None),
    }
}

fn secret(id: &str, required: bool, bench: &Bench<'_>) -> Result<Option<Vec<u8>>, Fault> {
    match bench.workshop.request.secrets.get(id) {
        Some(SecretSource::Value(value)) => Ok(Some(value.clone())),
        Some(SecretSource::File(path)) => {
            let read = std::fs::read(path);
            read.map(Some).map_err(|error| {
                Fault::because(format!("cannot read the secret `{id}` from `{}`", path.display()), &error)
            })
        }
        None if required => {
            let known: Vec<&str> = bench.workshop.request.secrets.keys().map(String::as_str).collect();
            let fault = Fault::new(format!("secret {id}: not found"));
            Err(match crate::plan::nearest(id, &known) {
                Some(meant) => fault.hint(format!("did you mean `{meant}`?")),
                None => fault.hint(format!("give it with `--secret id={id},src=FILE`")),
            })
        }
        None => Ok(None),
    }
}

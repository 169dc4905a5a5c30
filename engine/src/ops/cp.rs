//! Copies files between a container and this machine.
//!
//! The container's side is reached by one descriptor, its root: for a running one that of its first process, so that
//! volumes are seen; for another one its overlay, mounted nowhere. Paths are resolved below that descriptor by the kernel, so
//! no link of the container's, made before or meanwhile, leads anywhere else; and a tar is applied beneath a folder that
//! was found so.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use layer::{ApplyError, ApplyOptions, Devices, Follow, Node, NodeKind, Tree, TreeError, Whiteouts};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};
use supervisor::{Claim, Container, ContainerError};

use crate::Engine;
use crate::containers::{self, StartError};

/// How to copy.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpOptions {
    /// Keep owners.
    pub archive: bool,
    /// Copy what a link leads to, when the source is one.
    pub follow: bool,
}

/// This machine's side of a copy.
pub enum Here<T> {
    /// A file or folder.
    Path(PathBuf),
    /// A tar.
    Tar(T),
}

/// Why files were not copied.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum CpError {
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error("cannot read the container's image")]
    Image(#[from] StartError),
    #[error("container {name} is being started or stopped")]
    Busy { name: String },
    #[error("container rootfs is marked read-only")]
    ReadOnly,
    #[error("cannot open the container's files")]
    Root(#[source] io::Error),
    #[error("Could not find the file {path} in container {name}")]
    NotInContainer { path: String, name: String },
    #[error("cannot open `{path}` in container {name}")]
    Open { path: String, name: String, source: io::Error },
    #[error("`{}` is not there", path.display())]
    NotHere { path: PathBuf },
    #[error("cannot use `{}`", path.display())]
    Use { path: PathBuf, source: io::Error },
    #[error("`{path}` is not a directory")]
    NotADirectory { path: String },
    #[error("cannot copy a directory onto the file `{path}`")]
    OntoFile { path: String },
    #[error("cannot read the files")]
    Tree(#[from] TreeError),
    #[error("cannot write the tar")]
    Tar(#[from] layer::tar::TarWriteError),
    #[error("cannot write the files")]
    Apply(#[from] ApplyError),
    #[error("cannot make a pipe")]
    Pipe(#[source] io::Error),
}

/// Copies out of a container.
///
/// # Errors
///
/// When there is no such container or file, or it cannot be written here.
pub async fn copy_out(
    engine: &Engine,
    name: String,
    path: String,
    to: Here<Box<dyn Write + Send>>,
    options: CpOptions,
    now: Timestamp,
) -> Result<(), CpError> {
    let (all, store) = (containers::all(engine), engine.store().clone());
    containers::on_thread(move || {
        let root = open_root(&store, all.find(&name)?, now)?;
        // The descriptor is the root: the tree resolves every path and link below it.
        let tree = Tree::of_folder(root.path())?;
        let follow = if options.follow || path.ends_with('/') { Follow::Last } else { Follow::No };
        let found = tree.lookup(clean(&path), follow)?;
        let node = found.ok_or_else(|| CpError::NotInContainer { path: path.clone(), name: name.clone() })?;
        let own = last_name(&path).unwrap_or("root").to_owned();
        match to {
            Here::Tar(mut sink) => {
                let prefix = if is_contents(&path) { "." } else { &own };
                write_tar(&tree, &node, prefix, &mut sink)
            }
            Here::Path(to) => {
                let is_folder = node.kind == NodeKind::Directory;
                let (folder, name) = place_here(&to, is_folder, is_contents(&path), &own)?;
                let owner = if options.archive { None } else { Some(us()) };
                // A container's devices are this machine's, and here no cgroup keeps anybody from them.
                let options = ApplyOptions { devices: Devices::Skip, ..apply_options(owner) };
                transfer(&tree, &node, &name, folder.as_fd(), &options)
            }
        }
    })
    .await
}

/// Copies into a container.
///
/// # Errors
///
/// When there is no such container or file, or it cannot be written there.
pub async fn copy_in(
    engine: &Engine,
    name: String,
    path: String,
    from: Here<Box<dyn Read + Send>>,
    options: CpOptions,
    now: Timestamp,
) -> Result<(), CpError> {
    let (all, store) = (containers::all(engine), engine.store().clone());
    containers::on_thread(move || {
        let container = all.find(&name)?;
        if container.record.host_config.readonly_rootfs {
            return Err(CpError::ReadOnly);
        }
        let root = open_root(&store, container, now)?;
        let there = Inside { root: &root, name: &name };
        let owner = if options.archive { None } else { Some((0, 0)) };
        match from {
            Here::Tar(mut tar) => {
                let folder = there.open(&path)?.ok_or_else(|| there.missing(&path))?;
                if !folder.is_folder {
                    return Err(CpError::NotADirectory { path });
                }
                layer::apply(&mut tar, folder.file.as_fd(), &apply_options(owner))?;
                Ok(())
            }
            Here::Path(from) => {
                let (tree, node, own) = source_here(&from, options.follow)?;
                let is_folder = node.kind == NodeKind::Directory;
                let contents = is_contents(&from.to_string_lossy());
                let (folder, name) = there.place(&path, is_folder, contents, &own)?;
                transfer(&tree, &node, &name, folder.as_fd(), &apply_options(owner))
            }
        }
    })
    .await
}

/// The root of a container's files.
struct Root {
    file: OwnedFd,
    /// Nobody starts the container while its overlay is mounted here.
    _claim: Option<Claim>,
}

impl Root {
    fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }
}

fn open_root(store: &store::Store, container: Container, now: Timestamp) -> Result<Root, CpError> {
    let state = container.state(now)?;
    if let Some(process) = &state.process {
        let gone = || CpError::Busy { name: container.record.name.clone() };
        let _handle = process.open().ok_or_else(gone)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let file = rustix::fs::open(format!("/proc/{}/root", process.pid), flags, Mode::empty());
        let file = file.map_err(|error| CpError::Root(error.into()))?;
        // Only now is it sure whose root that was.
        process.open().ok_or_else(gone)?;
        return Ok(Root { file, _claim: None });
    }
    let claim = container.claim()?.ok_or_else(|| CpError::Busy { name: container.record.name.clone() })?;
    let lower = containers::lower(store, &container)?;
    let mounted = || -> rustix::io::Result<OwnedFd> {
        let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for folder in &lower {
            fsconfig_set_string(fs.as_fd(), "lowerdir+", folder)?;
        }
        fsconfig_set_string(fs.as_fd(), "upperdir", container.upper())?;
        fsconfig_set_string(fs.as_fd(), "workdir", container.work())?;
        // As the container's own mount has it.
        for (key, value) in runtime::overlay_options(runtime::rootless::is_confined()) {
            match value {
                Some(value) => fsconfig_set_string(fs.as_fd(), key, value)?,
                None => fsconfig_set_flag(fs.as_fd(), key)?,
            }
        }
        fsconfig_create(fs.as_fd())?;
        fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    };
    let file = mounted().map_err(|error| CpError::Root(error.into()))?;
    Ok(Root { file, _claim: Some(claim) })
}

/// Something inside that was found.
struct Found {
    file: OwnedFd,
    is_folder: bool,
}

/// Paths of a container.
struct Inside<'a> {
    root: &'a Root,
    name: &'a str,
}

impl Inside<'_> {
    fn missing(&self, path: &str) -> CpError {
        CpError::NotInContainer { path: path.to_owned(), name: self.name.to_owned() }
    }

    /// Opens what a path is, below the root; none when it is not there.
    fn open(&self, path: &str) -> Result<Option<Found>, CpError> {
        let failed =
            |error: Errno| CpError::Open { path: path.to_owned(), name: self.name.to_owned(), source: error.into() };
        let inside = clean(path);
        let inside = if inside.is_empty() { "." } else { &inside };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let open =
            |flags| rustix::fs::openat2(&self.root.file, inside, flags | OFlags::CLOEXEC, Mode::empty(), resolve);
        match open(OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(file) => Ok(Some(Found { file, is_folder: true })),
            Err(Errno::NOTDIR) => match open(OFlags::PATH) {
                Ok(file) => Ok(Some(Found { file, is_folder: false })),
                // A part of the path is a file.
                Err(Errno::NOTDIR) => Ok(None),
                Err(error) => Err(failed(error)),
            },
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// Finds the folder that takes a copy, and the copy's name there; no name takes the contents.
    fn place(&self, path: &str, is_folder: bool, contents: bool, own: &str) -> Result<(OwnedFd, String), CpError> {
        match self.open(path)? {
            Some(found) if found.is_folder => Ok((found.file, if contents { String::new() } else { own.to_owned() })),
            Some(_) if is_folder => Err(CpError::OntoFile { path: path.to_owned() }),
            Some(_) if path.ends_with('/') => Err(CpError::NotADirectory { path: path.to_owned() }),
            None if path.ends_with('/') && !is_folder => Err(CpError::NotADirectory { path: path.to_owned() }),
            _ => {
                let (parent, name) = split(path);
                let folder = self.open(&parent)?.filter(|parent| parent.is_folder);
                Ok((folder.ok_or_else(|| self.missing(&parent))?.file, name))
            }
        }
    }
}

/// Finds the folder of this machine that takes a copy, and the copy's name there.
fn place_here(to: &Path, is_folder: bool, contents: bool, own: &str) -> Result<(File, String), CpError> {
    let text = to.to_string_lossy();
    let failed = |path: &Path, source| CpError::Use { path: path.to_owned(), source };
    let open = |path: &Path| File::open(path).map_err(|error| failed(path, error));
    match std::fs::metadata(to) {
        Ok(metadata) if metadata.is_dir() => Ok((open(to)?, if contents { String::new() } else { own.to_owned() })),
        Ok(_) if is_folder => Err(CpError::OntoFile { path: text.into_owned() }),
        Ok(_) if text.ends_with('/') => Err(CpError::NotADirectory { path: text.into_owned() }),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(to, error)),
        Err(_) if text.ends_with('/') && !is_folder => Err(CpError::NotADirectory { path: text.into_owned() }),
        _ => {
            let trimmed = Path::new(text.trim_end_matches('/'));
            let name = trimmed.file_name().map(|name| name.to_string_lossy().into_owned());
            let name = name.ok_or_else(|| CpError::NotHere { path: to.to_owned() })?;
            let parent = trimmed.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            match open(parent) {
                Ok(folder) => Ok((folder, name)),
                Err(_) if !parent.exists() => Err(CpError::NotHere { path: parent.to_owned() }),
                Err(error) => Err(error),
            }
        }
    }
}

/// Opens what is copied from this machine; gives its name, too.
fn source_here(from: &Path, follow: bool) -> Result<(Tree, Node, String), CpError> {
    let missing = || CpError::NotHere { path: from.to_owned() };
    let absolute = std::path::absolute(from).map_err(|source| CpError::Use { path: from.to_owned(), source })?;
    let text = from.to_string_lossy();
    let follow = follow || text.ends_with('/') || is_contents(&text);
    // Where links lead is this machine's own affair.
    let real = if follow { std::fs::canonicalize(&absolute).map_err(|_| missing())? } else { absolute.clone() };
    let name = absolute.file_name().map_or_else(|| "root".to_owned(), |name| name.to_string_lossy().into_owned());
    let (Some(parent), Some(last)) = (real.parent(), real.file_name()) else {
        let tree = Tree::of_folder("/")?;
        let node = tree.root()?;
        return Ok((tree, node, name));
    };
    let parent = std::fs::canonicalize(parent).map_err(|_| missing())?;
    let tree = Tree::of_folder(parent)?;
    let node = tree.lookup(last.as_encoded_bytes(), Follow::No)?.ok_or_else(missing)?;
    Ok((tree, node, name))
}

/// Copies a file or folder under a name into a folder; without a name, what is in it.
fn transfer(
    tree: &Tree,
    node: &Node,
    name: &str,
    folder: rustix::fd::BorrowedFd<'_>,
    options: &ApplyOptions,
) -> Result<(), CpError> {
    let (mut reader, writer) = io::pipe().map_err(CpError::Pipe)?;
    std::thread::scope(|scope| {
        let writing = scope.spawn(move || {
            let mut writer = io::BufWriter::with_capacity(256 << 10, writer);
            write_tar(tree, node, name, &mut writer)?;
            writer.flush().map_err(CpError::Pipe)
        });
        let applied = layer::apply(&mut reader, folder, options);
        // The writer must not wait for a reader that is gone.
        drop(reader);
        let written = match writing.join() {
            Ok(written) => written,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        match (applied, written) {
            (Ok(_), written) => written,
            // What could not be read is the better explanation.
            (Err(_), Err(error @ CpError::Tree(_))) => Err(error),
            (Err(error), _) => Err(error.into()),
        }
    })
}

fn apply_options(owner: Option<(u32, u32)>) -> ApplyOptions {
    let (is_root, owns) = (layer::rights::is_machine_root(), layer::rights::gives_owners());
    ApplyOptions {
        whiteouts: Whiteouts::Literal,
        chown: owns,
        owner: owner.filter(|_| owns),
        drop_rights: owner.is_some(),
        devices: if is_root { Devices::CreateIfPermitted } else { Devices::Skip },
        root_metadata: false,
        ..ApplyOptions::default()
    }
}

/// Who we are, whom copies on this machine belong to.
fn us() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// Writes a file or folder under a name as a tar.
fn write_tar(tree: &Tree, node: &Node, name: &str, sink: &mut dyn Write) -> Result<(), CpError> {
    let mut tar = layer::tar::Writer::new(sink);
    append(tree, node, name.as_bytes().to_vec(), &mut tar)?;
    tar.finish()?;
    Ok(())
}

fn append<W: Write>(tree: &Tree, node: &Node, path: Vec<u8>, tar: &mut layer::tar::Writer<W>) -> Result<(), CpError> {
    if let Some(mut entry) = node.entry().filter(|_| !path.is_empty()) {
        entry.path.clone_from(&path);
        entry.xattrs = tree.xattrs(node)?;
        if node.kind == NodeKind::File {
            tar.append(&entry, &mut tree.open(node)?)?;
        } else {
            tar.append_empty(&entry)?;
        }
    }
    if node.kind == NodeKind::Directory {
        for child in tree.read_dir(node)? {
            let below = if path.is_empty() { child.name().to_vec() } else { [&path[..], b"/", child.name()].concat() };
            append(tree, &child, below, tar)?;
        }
    }
    Ok(())
}

/// `folder/.` is what is in the folder.
fn is_contents(path: &str) -> bool {
    path == "." || path.ends_with("/.")
}

/// The path without its ends: relative to the root.
fn clean(path: &str) -> String {
    let path = path.strip_suffix("/.").unwrap_or(path);
    path.trim_matches('/').to_owned()
}

fn last_name(path: &str) -> Option<&str> {
    let path = path.strip_suffix("/.").unwrap_or(path).trim_end_matches('/');
    path.rsplit('/').next().filter(|name| !["", ".", ".."].contains(name))
}

/// Splits a path into its folder and its last name.
fn split(path: &str) -> (String, String) {
    let inside = clean(path);
    match inside.rsplit_once('/') {
        Some((parent, name)) => (format!("/{parent}"), name.to_owned()),
        None => ("/".into(), inside),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart() {
        assert_eq!((clean("/a/b/"), clean("/a/."), clean("/")), ("a/b".into(), "a".into(), String::new()));
        assert_eq!((split("/a/b"), split("x")), (("/a".into(), "b".into()), ("/".into(), "x".into())));
        assert_eq!((last_name("/a/b/"), last_name("/"), last_name("/a/..")), (Some("b"), None, None));
        assert!(is_contents("/a/.") && is_contents(".") && !is_contents("/a/b."));
    }
}

//! Opens what a build reads: its context and its Dockerfile, wherever they come from.
//!
//! ```text
//! folder                  read where it is
//! -         a Dockerfile  no files at all
//!           a tar         unpacked into a folder that goes away with the build
//! URL       a Dockerfile  no files at all
//!           a tar         unpacked into a folder that goes away with the build
//! git                     checked out into one
//! ```

mod fetched;

use std::io::{self, Cursor, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use builder::request::ReadDockerfileError;
use builder::{Context, DockerfileSource, GitSourceError, RemoteError};
use layer::compress::{self, Format};
use layer::tar::{Limits, TarError};
use layer::{ApplyError, ApplyOptions, Devices, Whiteouts};
use store::{Active, Snapshot, SnapshotError, Store};

use fetched::Opener;
pub use fetched::{Access, git_source};

use crate::context_spec::ContextSpec;
use crate::interruptible::Interruptible;
use crate::ssh::SshError;
use crate::{Cancel, Engine};

/// What a build reads.
#[derive(Debug)]
pub struct OpenContext {
    /// Its files.
    pub context: Context,
    /// Its Dockerfile.
    pub dockerfile: DockerfileSource,
    /// What was unpacked, until this is dropped.
    _unpacked: Option<Active>,
}

/// Why there is nothing to build from.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum OpenContextError {
    #[error(transparent)]
    Dockerfile(#[from] ReadDockerfileError),
    #[error("cannot read the Dockerfile from standard input")]
    DockerfileFromStdin(#[source] io::Error),
    #[error("cannot read the build context from standard input")]
    Stdin(#[source] io::Error),
    #[error("standard input cannot be both the context and the Dockerfile")]
    StdinTwice,
    #[error("standard input is a Dockerfile, and `{}` is another", path.display())]
    TwoDockerfiles { path: PathBuf },
    #[error("the build context cannot be unpacked")]
    Unpack(#[source] ApplyError),
    #[error("there is no place to unpack the build context")]
    Place(#[from] SnapshotError),
    #[error("there is no place to unpack the build context in `{}`", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("the build context cannot be an image, as `{text}` is")]
    AnImage { text: String },
    #[error("invalid build context `{text}`")]
    Git { text: String, source: GitSourceError },
    #[error("`{text}` has no folder `{subdir}`")]
    NoSubdir { text: String, subdir: String },
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error(transparent)]
    Ssh(#[from] SshError),
    #[error("the build context `{url}` cannot be kept")]
    Fetched { url: String, source: io::Error },
    #[error("`{url}` is a Dockerfile, and `{}` is another", path.display())]
    UrlIsDockerfile { url: String, path: PathBuf },
}

/// Opens a folder. Its Dockerfile is `file`, which may be `-`, or else its own.
///
/// # Errors
///
/// When there is no Dockerfile, or it cannot be read.
pub fn open_folder(folder: &Path, file: Option<&Path>, stdin: impl Read) -> Result<OpenContext, OpenContextError> {
    let dockerfile = match file {
        Some(file) if is_stdin(file) => dockerfile_from(stdin)?,
        file => DockerfileSource::read(folder, file)?,
    };
    Ok(OpenContext { context: Context::Folder(folder.to_owned()), dockerfile, _unpacked: None })
}

/// Opens any kind of context.
///
/// # Errors
///
/// When it cannot be read, or has no Dockerfile.
pub async fn open(
    engine: &Engine,
    spec: &ContextSpec,
    file: Option<&Path>,
    stdin: impl Read + Send + 'static,
    access: &Access,
    cancel: &Cancel,
) -> Result<OpenContext, OpenContextError> {
    let (store, file) = (engine.store().clone(), file.map(Path::to_owned));
    let stdin = Interruptible::new(stdin, cancel);
    match spec {
        ContextSpec::Folder(folder) => {
            let folder = folder.clone();
            store::blocking::run(move || open_folder(&folder, file.as_deref(), stdin)).await
        }
        ContextSpec::Stdin => store::blocking::run(move || open_stdin(&store, file.as_deref(), stdin)).await,
        ContextSpec::Git(text) | ContextSpec::Http(text) => {
            let (engine, access, cancel) = (engine.clone(), access.clone(), cancel.clone());
            let (is_git, text) = (matches!(spec, ContextSpec::Git(_)), text.clone());
            let runtime = tokio::runtime::Handle::current();
            store::blocking::run(move || {
                let file = file.as_deref();
                let opener = Opener { engine: &engine, runtime, access: &access, cancel: &cancel, file };
                if is_git { opener.git(&text, stdin) } else { opener.http(&text, stdin) }
            })
            .await
        }
        ContextSpec::OciLayout(layout) => {
            Err(OpenContextError::AnImage { text: format!("oci-layout://{}", layout.path.display()) })
        }
        ContextSpec::Image(image) => Err(OpenContextError::AnImage { text: format!("docker-image://{image}") }),
        ContextSpec::Scratch => Err(OpenContextError::AnImage { text: "docker-image://scratch".into() }),
    }
}

/// Opens standard input: a tar if its first bytes say so, else a Dockerfile.
fn open_stdin(
    store: &Store,
    file: Option<&Path>,
    mut stdin: impl Read + Send + 'static,
) -> Result<OpenContext, OpenContextError> {
    if file.is_some_and(is_stdin) {
        return Err(OpenContextError::StdinTwice);
    }
    let mut start = Vec::new();
    stdin.by_ref().take(HEADER).read_to_end(&mut start).map_err(OpenContextError::Stdin)?;
    let is_tar = is_tar(&start);
    let stdin = Cursor::new(start).chain(stdin);
    if is_tar {
        return open_tar(store, file, stdin);
    }
    if let Some(path) = file {
        return Err(OpenContextError::TwoDockerfiles { path: path.to_owned() });
    }
    Ok(OpenContext { context: Context::None, dockerfile: dockerfile_from(stdin)?, _unpacked: None })
}

/// Unpacks a tar, compressed or not, into a folder that lives as long as what is returned. Its Dockerfile is in it.
///
/// # Errors
///
/// When the tar is broken or hostile, larger than the disk has room for, or has no Dockerfile.
pub fn open_tar(
    store: &Store,
    file: Option<&Path>,
    tar: impl Read + Send + 'static,
) -> Result<OpenContext, OpenContextError> {
    let (unpacked, path) = unpack(store, tar)?;
    let dockerfile = DockerfileSource::read_inside(&path, file)?;
    Ok(OpenContext { context: Context::Fetched(path), dockerfile, _unpacked: Some(unpacked) })
}

/// Unpacks a tar, compressed or not; returns what keeps the folder, and the folder.
fn unpack(store: &Store, tar: impl Read + Send + 'static) -> Result<(Active, PathBuf), OpenContextError> {
    let (_, mut plain) = compress::decoder(tar).map_err(OpenContextError::Stdin)?;
    let unpacked = store.snapshots().begin(&Snapshot::empty())?;
    let path = unpacked.upper();
    let no_folder = |source| OpenContextError::Folder { path: path.clone(), source };
    let folder = std::fs::File::open(&path).map_err(no_folder)?;
    let disk = rustix::fs::fstatvfs(&folder).map_err(|error| no_folder(error.into()))?;
    let options = ApplyOptions {
        whiteouts: Whiteouts::Literal,
        // A tenth of what is free stays so: what a bomb fills up to then is given back at once.
        limits: Limits { entries: MAX_ENTRIES, bytes: disk.f_bavail.saturating_mul(disk.f_frsize) / 10 * 9 },
        chown: layer::rights::gives_owners(),
        owner: None,
        drop_rights: false,
        devices: Devices::CreateIfPermitted,
        root_metadata: false,
    };
    layer::apply(&mut plain, folder.as_fd(), &options).map_err(OpenContextError::Unpack)?;
    Ok((unpacked, path))
}

/// More files than any context has; fewer than would fill memory with what is known of them.
const MAX_ENTRIES: u64 = 4_000_000;

/// What is looked at to tell a tar: two blocks, as many as end a tar without files.
const HEADER: u64 = 1024;

fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

fn dockerfile_from(stdin: impl Read) -> Result<DockerfileSource, OpenContextError> {
    DockerfileSource::read_from("-", stdin).map_err(OpenContextError::DockerfileFromStdin)
}

/// Tells whether bytes begin a tar, plain or compressed.
fn is_tar(start: &[u8]) -> bool {
    if compress::sniff(start).is_some_and(|format| format != Format::Plain) {
        return true;
    }
    // More than its first header may well be needed to read the first entry, and an empty tar has none.
    let first = layer::tar::Reader::new(start).next_entry();
    start.len() >= 512 && !matches!(first, Err(TarError::BadHeader { offset: 0, .. }))
}

#[cfg(test)]
mod tests {
    use layer::{Entry, EntryKind, tar};

    use super::*;

    const DOCKERFILE: &str = "FROM scratch\nCOPY . /\n";

    fn file(path: &str, content: &str) -> (Entry, Vec<u8>) {
        (Entry::new(path, EntryKind::File { size: content.len() as u64 }, 0o644), content.into())
    }

    fn tar_of(entries: &[(Entry, Vec<u8>)]) -> Vec<u8> {
        let mut writer = tar::Writer::new(Vec::new());
        for (entry, content) in entries {
            writer.append(entry, &mut content.as_slice()).expect("written");
        }
        writer.finish().expect("finished")
    }

    fn open(store: &Store, file: Option<&str>, bytes: Vec<u8>) -> Result<OpenContext, String> {
        open_stdin(store, file.map(Path::new), Cursor::new(bytes)).map_err(|error| {
            let mut told = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(error) = source {
                told = format!("{told}: {error}");
                source = error.source();
            }
            told
        })
    }

    fn is_clean(store: &Store) -> bool {
        let sessions = std::fs::read_dir(store.home().join("staging")).expect("listed");
        let files = sessions.flatten().flat_map(|session| std::fs::read_dir(session.path()).into_iter().flatten());
        files.flatten().all(|file| file.file_name() == "lock")
    }

    #[test]
    fn g11_standard_input_is_a_tar_or_a_dockerfile() {
        let home = tempfile::tempdir().expect("tempdir");
        let store = Store::open(home.path()).expect("opened");
        let plain = tar_of(&[file("Dockerfile", DOCKERFILE), file("docker/Other", "FROM scratch\n"), file("-", "x")]);
        let compressed = |compression| {
            let mut encoder = layer::Encoder::new(Vec::new(), compression, 1).expect("begun");
            io::Write::write_all(&mut encoder, &plain).expect("compressed");
            encoder.finish().expect("finished")
        };
        for bytes in [plain.clone(), compressed(layer::Compression::Gzip), compressed(layer::Compression::Zstd)] {
            let opened = open(&store, None, bytes).expect("a tar");
            assert_eq!(opened.dockerfile.bytes, DOCKERFILE.as_bytes());
            let Context::Fetched(folder) = &opened.context else { panic!("{:?}", opened.context) };
            assert!(folder.join("docker/Other").exists());
        }
        let opened = open(&store, Some("docker/Other"), plain.clone()).expect("a tar");
        assert_eq!((opened.dockerfile.name.as_str(), opened.dockerfile.bytes.len()), ("docker/Other", 13));
        drop(opened);
        // A tar that begins with the headers of another entry than the first file: `git archive` writes such.
        let mut global = vec![0_u8; 1024];
        global[..17].copy_from_slice(b"pax_global_header");
        global[100..108].copy_from_slice(b"0000666\0");
        global[124..136].copy_from_slice(b"00000000014\0");
        global[156] = b'g';
        global[512..524].copy_from_slice(b"12 comment=\n");
        global[148..156].fill(b' ');
        let sum: u32 = global[..512].iter().map(|&byte| u32::from(byte)).sum();
        global[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        global.extend(&plain);
        assert!(matches!(open(&store, None, global).expect("a tar").context, Context::Fetched(_)));
        let long = format!("{DOCKERFILE}{}", "# a comment\n".repeat(1000));
        for text in [DOCKERFILE, long.as_str(), ""] {
            let opened = open(&store, None, text.into()).expect("a Dockerfile");
            assert!(matches!(opened.context, Context::None));
            assert_eq!(opened.dockerfile.bytes, text.as_bytes());
        }
        let lower = tar_of(&[file("sub/dockerfile", DOCKERFILE)]);
        assert!(open(&store, Some("sub/Dockerfile"), lower).is_ok());
        assert!(is_clean(&store));
    }

    #[test]
    fn a_context_that_cannot_be_used_is_refused_and_leaves_nothing() {
        let home = tempfile::tempdir().expect("tempdir");
        let store = Store::open(home.path()).expect("opened");
        let dockerfile = || file("Dockerfile", DOCKERFILE);
        let link = |path: &str, kind| (Entry::new(path, kind, 0o777), Vec::new());
        let symlink = |path, target: &str| link(path, EntryKind::Symlink { target: target.into() });
        let plain = tar_of(&[dockerfile(), file("a", &"x".repeat(2000))]);
        let mut gzip = layer::Encoder::new(Vec::new(), layer::Compression::Gzip, 1).expect("begun");
        io::Write::write_all(&mut gzip, &plain).expect("compressed");
        let gzip = gzip.finish().expect("finished");
        let mut damaged = gzip.clone();
        let middle = damaged.len() / 2;
        damaged[middle..].fill(0);
        let cases: &[(&str, Option<&str>, Vec<u8>, &str)] = &[
            ("climbs", None, tar_of(&[dockerfile(), file("../x", "x")]), "`../x` leaves the root of the archive"),
            (
                "hard link out",
                None,
                tar_of(&[dockerfile(), link("a", EntryKind::Hardlink { target: b"../../x".to_vec() })]),
                "`../../x`",
            ),
            (
                "link to nothing",
                None,
                tar_of(&[dockerfile(), link("a", EntryKind::Hardlink { target: b"/etc/passwd".to_vec() })]),
                "etc/passwd",
            ),
            ("cut short", None, plain[..plain.len() / 2].to_vec(), "the tar ends in the middle"),
            ("cut short, gzip", None, gzip[..gzip.len() - 20].to_vec(), "cannot be unpacked"),
            ("damaged", None, damaged, "cannot be unpacked"),
            ("gzip of something else", None, b"\x1f\x8b\x08\0\0\0\0\0\0\0".to_vec(), "cannot be unpacked"),
            ("no Dockerfile", None, tar_of(&[file("a", "x")]), "cannot read `Dockerfile`"),
            ("empty", None, vec![0; 10_240], "cannot read `Dockerfile`"),
            ("no such file", Some("x/y"), plain.clone(), "cannot read `x/y`"),
            ("Dockerfile elsewhere", None, tar_of(&[symlink("Dockerfile", "/etc/passwd")]), "cannot read `Dockerfile`"),
            (
                "Dockerfile is a folder",
                None,
                tar_of(&[link("Dockerfile", EntryKind::Directory)]),
                "cannot read `Dockerfile`",
            ),
            ("both from standard input", Some("-"), plain, "cannot be both the context and the Dockerfile"),
            ("two Dockerfiles", Some("x"), DOCKERFILE.into(), "standard input is a Dockerfile, and `x` is another"),
        ];
        for (name, file, bytes, expected) in cases {
            let told = open(&store, *file, bytes.clone()).expect_err(name);
            assert!(told.contains(expected), "{name}: {told}");
            assert!(is_clean(&store), "{name}");
        }
    }

    #[test]
    fn nothing_in_a_tar_reaches_what_is_beside_its_folder() {
        let home = tempfile::tempdir().expect("tempdir");
        let store = Store::open(home.path()).expect("opened");
        let victim = home.path().join("victim");
        std::fs::create_dir(&victim).expect("made");
        let target = victim.to_string_lossy().into_owned().into_bytes();
        let link = Entry::new("out", EntryKind::Symlink { target }, 0o777);
        let bytes = tar_of(&[file("Dockerfile", DOCKERFILE), (link, Vec::new()), file("out/x", "x")]);
        // Whether such a tar is refused or stays inside its folder does not matter.
        let opened = open(&store, None, bytes);
        assert_eq!(std::fs::read_dir(&victim).expect("listed").count(), 0);
        drop(opened);
        assert!(is_clean(&store));
    }
}

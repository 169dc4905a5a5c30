//! [`fold`]: an overlay layer folder takes in those below it, so that fewer have to be stacked.
//!
//! ```text
//! top      below     rest        top, then
//! a/       a/x       a/z         a/, a/x              a/z still shows through
//!          b                     b                    a hard link: no bytes are copied
//! c/       c (0:0)   c/z         c/ opaque            what the whiteout hid stays hidden
//! d        d/y                   d                    hidden anyway
//! ```
//!
//! At every moment the top shows, on top of the same folders, what it showed before. So a fold that fails half way does no
//! harm, as long as the folders stay stacked.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::beneath::{self, Opaque};

/// Folders that lie deeper are not folded: each level takes a few descriptors.
const DEEPEST: usize = 128;

/// Makes `top` show by itself, on top of whatever lies further down, what it shows on top of the folders `below` it, topmost
/// first. Files become hard links, so that all must be on one file system, and nobody may write to any of them.
///
/// # Errors
///
/// When something cannot be linked or looked at. Then `top` must stay on the folders `below`.
pub fn fold(top: &Path, below: &[PathBuf]) -> io::Result<()> {
    let open = |path: &Path| rustix::fs::open(path, beneath::folder_flags(), Mode::empty());
    let below = below.iter().map(|path| open(path)).collect::<Result<Vec<_>, _>>()?;
    let top = open(top)?;
    // What the root hides, nothing shows anyway.
    folder(&top, below, DEEPEST).map(drop)
}

/// Counts the files in a folder, of which there may be millions; `None` when there are more than `most`.
pub fn count(folder: &Path, most: usize) -> io::Result<Option<usize>> {
    let mut count = 0;
    let mut waiting = vec![rustix::fs::open(folder, beneath::folder_flags(), Mode::empty())?];
    while let Some(folder) = waiting.pop() {
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            if [c".", c".."].contains(&entry.file_name()) {
                continue;
            }
            count += 1;
            if count > most || waiting.len() > DEEPEST {
                return Ok(None);
            }
            if entry.file_type() == FileType::Directory {
                waiting.push(open(folder.as_fd(), entry.file_name().to_bytes())?);
            }
        }
    }
    Ok(Some(count))
}

/// A name of the folder that takes in others.
enum Known {
    /// It hides what is below it.
    Leaf,
    Folder {
        /// The folders that show through it, topmost first.
        below: Vec<OwnedFd>,
        /// Whether another one may.
        open: bool,
        /// Whether something that is not taken along hides what is further down.
        cut: bool,
    },
}

/// Takes in the folders that show through one, topmost first.
fn folder(top: &OwnedFd, below: Vec<OwnedFd>, deepest: usize) -> io::Result<()> {
    if deepest == 0 {
        return Err(io::Error::other("the folders lie too deep"));
    }
    let before = rustix::fs::fstat(top)?;
    let mut known = BTreeMap::new();
    for name in beneath::names_in(top.as_fd())? {
        let here = match is_folder(&look(top, &name)?) {
            true => Known::Folder { below: Vec::new(), open: !hides(&open(top.as_fd(), &name)?)?, cut: false },
            false => Known::Leaf,
        };
        known.insert(name, here);
    }
    for lower in below {
        for name in beneath::names_in(lower.as_fd())? {
            let is_folder = is_folder(&look(&lower, &name)?);
            match known.get_mut(&name) {
                None if is_folder => {
                    let source = open(lower.as_fd(), &name)?;
                    let cut = hides(&source)?;
                    make_like(top, &name, &source)?;
                    known.insert(name, Known::Folder { below: vec![source], open: !cut, cut });
                }
                None => {
                    rustix::fs::linkat(&lower, &name, top, &name, AtFlags::empty())?;
                    known.insert(name, Known::Leaf);
                }
                Some(Known::Folder { below, open: is_open @ true, cut }) => {
                    if is_folder {
                        let source = open(lower.as_fd(), &name)?;
                        *cut = hides(&source)?;
                        below.push(source);
                    } else {
                        *cut = true;
                    }
                    *is_open = !*cut;
                }
                Some(Known::Leaf | Known::Folder { .. }) => {}
            }
        }
    }
    for (name, known) in known {
        let Known::Folder { below, cut, .. } = known else { continue };
        if below.is_empty() && !cut {
            continue;
        }
        let inner = open(top.as_fd(), &name)?;
        folder(&inner, below, deepest - 1)?;
        if cut {
            // Not before all that shows through is in it.
            hide(&inner)?;
        }
    }
    give_times(top, &before)
}

fn look(folder: &OwnedFd, name: &[u8]) -> Result<Stat, Errno> {
    rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
}

fn is_folder(stat: &Stat) -> bool {
    beneath::kind_bits(stat) == beneath::DIRECTORY
}

fn open(folder: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(folder, name, beneath::folder_flags(), Mode::empty())
}

/// Whether nothing shows through a folder.
fn hides(folder: &OwnedFd) -> io::Result<bool> {
    match beneath::opaque(folder.as_fd())? {
        Opaque::Yes => Ok(true),
        Opaque::No => Ok(false),
        Opaque::XattrWhiteouts => Err(io::Error::other("a folder has whiteouts by attribute")),
    }
}

/// Lets nothing show through a folder any more.
fn hide(folder: &OwnedFd) -> io::Result<()> {
    let name: &[u8] = match rustix::process::geteuid().is_root() {
        true => b"trusted.overlay.opaque",
        false => b"user.overlay.opaque",
    };
    Ok(beneath::set_xattr(folder.as_fd(), name, b"y")?)
}

/// Makes an empty folder that looks like another one.
fn make_like(parent: &OwnedFd, name: &[u8], model: &OwnedFd) -> io::Result<()> {
    rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
    let (made, stat) = (open(parent.as_fd(), name)?, rustix::fs::fstat(model)?);
    if rustix::process::geteuid().is_root() {
        rustix::fs::fchown(&made, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    }
    rustix::fs::fchmod(&made, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    for (name, value) in beneath::all_xattrs(model.as_fd())? {
        beneath::set_xattr(made.as_fd(), &name, &value)?;
    }
    give_times(&made, &stat)
}

/// Gives a folder the time of change that `stat` says.
fn give_times(folder: &OwnedFd, stat: &Stat) -> io::Result<()> {
    let omit = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    let last_modification = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec.try_into().unwrap_or(0) };
    Ok(rustix::fs::futimens(folder, &Timestamps { last_access: omit, last_modification })?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;
    use crate::{NodeKind, Tree};

    /// Makes a layer folder of lines such as `d a`, `f a/x text`, `w a/y` and `o a`.
    fn layer(root: &Path, lines: &str) {
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (kind, rest) = line.split_once(' ').expect("a kind and a path");
            let (path, text) = rest.split_once(' ').unwrap_or((rest, ""));
            let path = root.join(path);
            match kind {
                "d" => fs::create_dir_all(&path).expect("made"),
                "f" => {
                    fs::create_dir_all(path.parent().expect("inside")).expect("made");
                    fs::File::create(&path)
                        .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
                        .expect("written");
                }
                "w" => {
                    fs::create_dir_all(path.parent().expect("inside")).expect("made");
                    rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::CharacterDevice, Mode::empty(), 0)
                        .expect("root");
                }
                "o" => {
                    fs::create_dir_all(&path).expect("made");
                    hide(&rustix::fs::open(&path, beneath::folder_flags(), Mode::empty()).expect("open")).expect("set");
                }
                other => panic!("{other}"),
            }
        }
    }

    /// Lists all that a stack of folders shows.
    fn shown(folders: &[PathBuf]) -> Vec<String> {
        let tree = Tree::of_layers(folders.to_vec()).expect("opened");
        let mut waiting = vec![tree.root().expect("there")];
        let mut all = Vec::new();
        while let Some(node) = waiting.pop() {
            let text = match node.kind {
                NodeKind::File => tree.read_small(&node.path, 100).expect("read").expect("a file"),
                _ => Vec::new(),
            };
            let path = String::from_utf8_lossy(&node.path).into_owned();
            all.push(format!("{path} {:o} {} {}", node.mode, node.mtime.seconds, String::from_utf8_lossy(&text)));
            waiting.extend(tree.read_dir(&node).expect("listed"));
        }
        all.sort();
        all
    }

    #[test]
    fn a_folded_folder_shows_the_same_without_those_that_it_took_in() {
        if !crate::testing::is_root() {
            return;
        }
        let cases = [
            // (rest, lower, middle, top)
            ("f a/rest 1", "f a/lower 2", "f a/middle 3", "f a/top 4"),
            ("f a/rest 1\nf b 1", "w b\nf c/x 2", "w a\nf c/y 3", "f a/top 4\nd c"),
            ("f a/rest 1", "f a/lower 2", "o a\nf a/middle 3", "f a/top 4"),
            ("f a/x/rest 1\nf k/rest 1", "f a/x/lower 2\no k\nf k/l 2", "f a 3", "f a/x/top 4\nd k"),
            ("f a/rest 1", "f a/lower 2", "w a/lower\nw a/rest", "d a"),
            ("d a/b/c", "f a/b/c/d/e 2", "o a/b/c/d\nf a/b/c/d/f 3", "f z 4"),
            ("f a 1", "f a/b 2", "f c/d 3", "o c\nf c/e 4"),
            ("f x/a 1\nf x/b 1", "w x", "f x/c 3", "f x/d 4"),
        ];
        for (number, case) in cases.iter().enumerate() {
            let folder = tempfile::tempdir().expect("tempdir");
            let names = ["rest", "lower", "middle", "top"];
            let paths: Vec<PathBuf> = names.iter().map(|name| folder.path().join(name)).collect();
            for (path, lines) in paths.iter().zip([case.0, case.1, case.2, case.3]) {
                fs::create_dir(path).expect("made");
                layer(path, lines);
            }
            let stack = |names: &[usize]| names.iter().map(|&at| paths[at].clone()).collect::<Vec<_>>();
            let before = shown(&stack(&[3, 2, 1, 0]));
            fold(&paths[3], &stack(&[2, 1])).expect("folded");
            assert_eq!(shown(&stack(&[3, 2, 1, 0])), before, "case {number}, still stacked");
            assert_eq!(shown(&stack(&[3, 0])), before, "case {number}");
        }
    }

    #[test]
    fn a_file_is_linked_and_a_folder_keeps_its_looks() {
        if !crate::testing::is_root() {
            return;
        }
        let folder = tempfile::tempdir().expect("tempdir");
        let (top, below) = (folder.path().join("top"), folder.path().join("below"));
        layer(&top, "d own");
        layer(&below, "f made/x text\nf own/y text");
        std::os::unix::fs::symlink("x", below.join("made/link")).expect("linked");
        fs::set_permissions(below.join("made"), fs::Permissions::from_mode(0o2750)).expect("set");
        std::os::unix::fs::chown(below.join("made"), Some(5), Some(6)).expect("given");
        fs::set_permissions(below.join("made"), fs::Permissions::from_mode(0o2750)).expect("set");
        let old = std::time::UNIX_EPOCH + std::time::Duration::from_millis(1_234_567);
        for path in [below.join("made"), top.join("own")] {
            fs::File::open(path).expect("open").set_modified(old).expect("set");
        }
        fold(&top, std::slice::from_ref(&below)).expect("folded");
        let stat = |path: PathBuf| fs::symlink_metadata(path).expect("there");
        let made = stat(top.join("made"));
        assert_eq!((made.mode() & 0o7777, made.uid(), made.gid()), (0o2750, 5, 6));
        assert_eq!((made.modified().expect("a time"), stat(top.join("own")).modified().expect("a time")), (old, old));
        assert_eq!(stat(top.join("made/x")).ino(), stat(below.join("made/x")).ino());
        assert_eq!(fs::read_link(top.join("made/link")).expect("a link"), Path::new("x"));
    }

    #[test]
    fn files_are_counted_up_to_a_bound() {
        let folder = tempfile::tempdir().expect("tempdir");
        fs::create_dir_all(folder.path().join("a/b/c")).expect("made");
        assert_eq!(count(folder.path(), 3).expect("counted"), Some(3));
        assert_eq!(count(folder.path(), 2).expect("counted"), None);
    }
}

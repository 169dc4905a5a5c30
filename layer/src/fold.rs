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
//!
//! A container sees how many links a file has, and the links of its image are none of its business. Hardly any program asks,
//! and what it writes to is a copy with one link, so copying all small files would not be worth its time. But cron runs no
//! table that has a second name, since that may be somebody else's file. So what is named `cron…`, or lies in such a folder,
//! is copied.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::beneath::{self, Opaque};
use crate::rights;

/// Folders that lie deeper are not folded: each level takes a few descriptors.
const DEEPEST: usize = 128;

/// Makes `top` show by itself, on top of whatever lies further down, what it shows on top of the folders `below` it, topmost
/// first. Files become hard links, but for those of cron, so that all must be on one file system, and nobody may write to any of them.
///
/// # Errors
///
/// When something cannot be linked or looked at. Then `top` must stay on the folders `below`.
pub fn fold(top: &Path, below: &[PathBuf]) -> io::Result<()> {
    let open = |path: &Path| rustix::fs::open(path, beneath::folder_flags(), Mode::empty());
    let below = below.iter().map(|path| open(path)).collect::<Result<Vec<_>, _>>()?;
    let top = open(top)?;
    // What the root hides, nothing shows anyway.
    folder(&top, below, DEEPEST, false)
}

/// Counts the files in a folder, of which there may be millions; `None` when there are more than `most`.
pub fn count(folder: &Path, most: usize) -> io::Result<Option<usize>> {
    let mut left = most;
    let folder = rustix::fs::open(folder, beneath::folder_flags(), Mode::empty())?;
    Ok(count_in(&folder, &mut left, DEEPEST)?.then(|| most - left))
}

/// Takes what is in a folder off `left`; says whether that was enough, and no folder lies too deep.
fn count_in(folder: &OwnedFd, left: &mut usize, deepest: usize) -> io::Result<bool> {
    if deepest == 0 {
        return Ok(false);
    }
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if [c".", c".."].contains(&entry.file_name()) {
            continue;
        }
        if *left == 0 {
            return Ok(false);
        }
        *left -= 1;
        if entry.file_type() == FileType::Directory
            && !count_in(&open(folder.as_fd(), entry.file_name().to_bytes())?, left, deepest - 1)?
        {
            return Ok(false);
        }
    }
    Ok(true)
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

/// Takes in the folders that show through one, topmost first. Its time stays, whatever comes of it.
fn folder(top: &OwnedFd, below: Vec<OwnedFd>, deepest: usize, cron: bool) -> io::Result<()> {
    if deepest == 0 {
        return Err(io::Error::other("the folders lie too deep"));
    }
    let before = rustix::fs::fstat(top)?;
    let taken = take_in(top, below, deepest, cron);
    let restored = give_times(top, &before);
    taken.and(restored)
}

fn take_in(top: &OwnedFd, below: Vec<OwnedFd>, deepest: usize, cron: bool) -> io::Result<()> {
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
            let stat = look(&lower, &name)?;
            let is_folder = is_folder(&stat);
            match known.get_mut(&name) {
                None if is_folder => {
                    let source = open(lower.as_fd(), &name)?;
                    let cut = hides(&source)?;
                    make_like(top, &name, &source)?;
                    known.insert(name, Known::Folder { below: vec![source], open: !cut, cut });
                }
                None => {
                    if (cron || is_of_cron(&name)) && beneath::kind_bits(&stat) == beneath::FILE {
                        copy(&lower, &name, top)?;
                    } else {
                        rustix::fs::linkat(&lower, &name, top, &name, AtFlags::empty())?;
                    }
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
        folder(&inner, below, deepest - 1, cron || is_of_cron(&name))?;
        if cut {
            // Not before all that shows through is in it.
            hide(&inner)?;
        }
    }
    Ok(())
}

/// `/etc/crontab`, `/etc/cron.d`, `/var/spool/cron`…
fn is_of_cron(name: &[u8]) -> bool {
    name.starts_with(b"cron")
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
    let name: &[u8] = match rights::is_machine_root() {
        true => b"trusted.overlay.opaque",
        false => b"user.overlay.opaque",
    };
    Ok(beneath::set_xattr(folder.as_fd(), name, b"y")?)
}

/// Makes an empty folder that looks like another one.
fn make_like(parent: &OwnedFd, name: &[u8], model: &OwnedFd) -> io::Result<()> {
    rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
    let done = open(parent.as_fd(), name).map_err(io::Error::from).and_then(|made| look_like(&made, model));
    // Half of its looks would show.
    done.inspect_err(|_| {
        let _ = rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR);
    })
}

/// Makes a copy of a file with a link of its own; where the file system can, the bytes are shared.
fn copy(from: &OwnedFd, name: &[u8], to: &OwnedFd) -> io::Result<()> {
    let model = rustix::fs::openat(from, name, beneath::file_flags(), Mode::empty())?;
    let new = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let made = rustix::fs::openat(to, name, new, Mode::RUSR | Mode::WUSR)?;
    let (mut model, mut made) = (File::from(model), File::from(made));
    let copied = io::copy(&mut model, &mut made);
    let done = copied.and_then(|_| look_like(&made.into(), &model.into()));
    // Half of it would hide the whole one.
    done.inspect_err(|_| {
        let _ = rustix::fs::unlinkat(to, name, AtFlags::empty());
    })
}

/// Gives a new file or folder the owner, mode, attributes and time of another.
fn look_like(made: &OwnedFd, model: &OwnedFd) -> io::Result<()> {
    let stat = rustix::fs::fstat(model)?;
    if rights::gives_owners() {
        rustix::fs::fchown(made, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    }
    rustix::fs::fchmod(made, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    for (name, value) in beneath::all_xattrs(model.as_fd())? {
        beneath::set_xattr(made.as_fd(), &name, &value)?;
    }
    give_times(made, &stat)
}

/// Gives a file or folder the time of change that `stat` says.
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
    fn what_cron_reads_has_one_link() {
        if !crate::testing::is_root() {
            return;
        }
        let folder = tempfile::tempdir().expect("tempdir");
        let (top, below) = (folder.path().join("top"), folder.path().join("below"));
        layer(&top, "d etc/cron.d");
        layer(&below, "f etc/cron.d/job text\nf etc/crontab all\nf var/spool/cron/tabs/me mine\nf etc/other x");
        let job = below.join("etc/cron.d/job");
        fs::set_permissions(&job, fs::Permissions::from_mode(0o640)).expect("set");
        std::os::unix::fs::chown(&job, Some(5), Some(6)).expect("given");
        fold(&top, std::slice::from_ref(&below)).expect("folded");
        for (path, links) in
            [("etc/cron.d/job", 1), ("etc/crontab", 1), ("var/spool/cron/tabs/me", 1), ("etc/other", 2)]
        {
            let (one, other) =
                (fs::metadata(top.join(path)).expect("there"), fs::metadata(below.join(path)).expect("there"));
            assert_eq!(one.nlink(), links, "{path}");
            assert_eq!(
                (one.mode(), one.uid(), one.gid(), one.mtime_nsec()),
                (other.mode(), other.uid(), other.gid(), other.mtime_nsec())
            );
            assert_eq!(fs::read(top.join(path)).expect("read"), fs::read(below.join(path)).expect("read"));
        }
    }

    #[test]
    fn a_fold_that_fails_leaves_the_times_of_folders() {
        if !crate::testing::is_root() {
            return;
        }
        let folder = tempfile::tempdir().expect("tempdir");
        let (top, below) = (folder.path().join("top"), folder.path().join("below"));
        layer(&top, "d own");
        layer(&below, "f own/a text\nd own/z");
        // Such a folder cannot be taken in.
        let bad = rustix::fs::open(below.join("own/z"), beneath::folder_flags(), Mode::empty()).expect("open");
        beneath::set_xattr(bad.as_fd(), b"trusted.overlay.opaque", b"x").expect("set");
        let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_234_567);
        for path in [&top.join("own"), &top] {
            fs::File::open(path).expect("open").set_modified(old).expect("set");
        }
        fold(&top, std::slice::from_ref(&below)).expect_err("attributes");
        for path in [&top.join("own"), &top] {
            assert_eq!(fs::metadata(path).expect("there").modified().expect("a time"), old);
        }
    }

    #[test]
    fn files_are_counted_up_to_a_bound() {
        let folder = tempfile::tempdir().expect("tempdir");
        fs::create_dir_all(folder.path().join("a/b/c")).expect("made");
        assert_eq!(count(folder.path(), 3).expect("counted"), Some(3));
        assert_eq!(count(folder.path(), 2).expect("counted"), None);
        for number in 0..2 * DEEPEST {
            fs::create_dir(folder.path().join(number.to_string())).expect("made");
        }
        assert_eq!(count(folder.path(), 1000).expect("counted"), Some(3 + 2 * DEEPEST), "many are not deep");
        fs::create_dir_all(folder.path().join("d/".repeat(DEEPEST))).expect("made");
        assert_eq!(count(folder.path(), 1000).expect("counted"), None);
    }
}

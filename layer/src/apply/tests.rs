//! Tests of applying: what lands, and that nothing leaves.

#![expect(clippy::disallowed_methods, reason = "tests write fixtures")]

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{CWD, getxattr, mknodat};

use super::*;
use crate::tar::Writer;
use crate::testing;

/// Builds entries from short texts: `d a`, `f a/b content`, `l link target`, `h link target`, `c null 1:3`, `p pipe`.
fn tar(lines: &[&str]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for line in lines {
        let mut words = line.splitn(3, ' ');
        let (kind, path, rest) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap_or(""));
        let target = rest.as_bytes().to_vec();
        let (kind, mode) = match kind {
            "d" => (EntryKind::Directory, 0o755),
            "f" => (EntryKind::File { size: rest.len() as u64 }, 0o644),
            "l" => (EntryKind::Symlink { target }, 0o777),
            "h" => (EntryKind::Hardlink { target }, 0o644),
            "p" => (EntryKind::Fifo, 0o600),
            "c" => {
                let (major, minor) = rest.split_once(':').unwrap();
                let (major, minor) = (major.parse().unwrap(), minor.parse().unwrap());
                (EntryKind::CharDevice { major, minor }, 0o666)
            }
            other => panic!("{other}"),
        };
        let mut entry = Entry::new(path, kind, mode);
        entry.mtime = Timestamp::from_seconds(1_000_000_000);
        let rustix_id = rustix::process::geteuid();
        entry.uid = rustix_id.as_raw();
        entry.gid = rustix::process::getegid().as_raw();
        writer.append(&entry, &mut rest.as_bytes()).unwrap();
    }
    writer.finish().unwrap()
}

fn onto(root: &Path, tar: &[u8], options: &ApplyOptions) -> Result<Applied, ApplyError> {
    let folder = fs::File::open(root).unwrap();
    apply(&mut { tar }, folder.as_fd(), options)
}

fn removing() -> ApplyOptions {
    ApplyOptions { whiteouts: Whiteouts::Remove, ..ApplyOptions::default() }
}

fn read(root: &Path, path: &str) -> String {
    fs::read_to_string(root.join(path)).unwrap_or_else(|error| format!("{path}: {error}"))
}

fn exists(root: &Path, path: &str) -> bool {
    fs::symlink_metadata(root.join(path)).is_ok()
}

#[test]
fn everything_lands_with_its_metadata() {
    let root = tempfile::tempdir().unwrap();
    let mut writer = Writer::new(Vec::new());
    let mut entry = Entry::new("bin", EntryKind::Directory, 0o2711);
    entry.mtime = Timestamp::from_seconds(-5);
    writer.append_empty(&entry).unwrap();
    let mut entry = Entry::new("bin/su", EntryKind::File { size: 3 }, 0o4755);
    let root_user = rustix::process::geteuid().is_root();
    if root_user {
        (entry.uid, entry.gid) = (1234, 3_000_000_000);
        // cap_net_bind_service+ep, as setcap writes it.
        let value = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        entry.xattrs.insert(b"security.capability".into(), value.into());
    }
    entry.xattrs.insert(b"user.note".into(), b"a\nb\0".into());
    entry.xattrs.insert(b"trusted.overlay.redirect".into(), b"/etc".into());
    entry.mtime = Timestamp::from_seconds(1_600_000_000);
    writer.append(&entry, &mut b"abc".as_slice()).unwrap();
    let name = [b"bin/n\xff\xfe".as_slice(), &[b'x'; 200]].concat();
    writer.append_empty(&Entry::new(name.clone(), EntryKind::Fifo, 0o640)).unwrap();
    let tar = writer.finish().unwrap();

    let options = ApplyOptions { chown: root_user, ..removing() };
    let applied = onto(root.path(), &tar, &options).unwrap();
    assert_eq!((applied.entries, applied.bytes, applied.skipped_xattrs), (3, 3, 1));
    let folder = fs::metadata(root.path().join("bin")).unwrap();
    assert_eq!((folder.mode() & 0o7777, folder.mtime()), (0o2711, -5));
    let path = root.path().join("bin/su");
    let file = fs::metadata(&path).unwrap();
    assert_eq!((file.mode() & 0o7777, file.mtime()), (0o4755, 1_600_000_000));
    if root_user {
        assert_eq!((file.uid(), file.gid()), (1234, 3_000_000_000));
        let mut value = [0; 64];
        assert_eq!(getxattr(&path, "security.capability", &mut value[..]).unwrap(), 20);
    }
    let mut value = [0; 64];
    let size = getxattr(&path, "user.note", &mut value[..]).unwrap();
    assert_eq!(&value[..size], b"a\nb\0");
    use std::os::unix::ffi::OsStrExt;
    let pipe = fs::symlink_metadata(root.path().join(std::ffi::OsStr::from_bytes(&name))).unwrap();
    assert!(pipe.file_type().is_fifo());
    assert_eq!(pipe.mode() & 0o7777, 0o640);
}

#[test]
fn what_comes_later_replaces_what_is_there() {
    let cases: [(&str, &[&str], &str, &str); 9] = [
        ("file over folder", &["d a", "f a/x 1", "f a file"], "a", "file"),
        ("folder over file", &["f a file", "d a", "f a/x 1"], "a/x", "1"),
        ("folder over link", &["d b", "l a b", "d a", "f a/x 1"], "a/x", "1"),
        ("link over folder", &["d b", "f b/x 1", "d a", "f a/y 2", "l a b"], "a/x", "1"),
        ("file over link", &["f b old", "l a b", "f a new"], "b", "old"),
        ("file over file", &["f a old", "f a new"], "a", "new"),
        ("hard link over file", &["f a 1", "f b 2", "h b a"], "b", "1"),
        ("hard link to itself", &["f a 1", "h a a"], "a", "1"),
        ("folder over folder", &["d a", "f a/x 1", "d a"], "a/x", "1"),
    ];
    for (case, lines, path, content) in cases {
        let root = tempfile::tempdir().unwrap();
        onto(root.path(), &tar(lines), &removing()).unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(read(root.path(), path), content, "{case}");
    }
}

#[test]
fn a_path_goes_through_links_inside_the_root() {
    let root = tempfile::tempdir().unwrap();
    let lines = ["d var", "l run /var", "f run/x 1", "l up ../../..", "f up/y 2", "l new some/where", "f new/z 3"];
    let applied = onto(root.path(), &tar(&lines), &removing()).unwrap();
    assert_eq!(read(root.path(), "var/x"), "1");
    assert_eq!(read(root.path(), "y"), "2");
    assert_eq!(read(root.path(), "some/where/z"), "3");
    assert_eq!(applied.implied, [b"some".to_vec(), b"some/where".to_vec()]);
}

#[test]
fn nothing_leaves_the_root() {
    let cases: [(&[&str], bool); 14] = [
        (&["f ../outside 1"], false),
        (&["f a/../../outside 1"], false),
        (&["f /../outside 1"], false),
        (&["f /absolute 1"], true),
        (&["l a ..", "f a/outside 1"], true),
        (&["l a /", "f a/outside 1"], true),
        (&["l a ../../../../../../../../tmp", "f a/outside 1"], true),
        (&["h a ../secret"], false),
        (&["h a /etc/passwd"], false),
        (&["l e ../", "h a e/secret"], false),
        (&["d a", "l a ..", "f a/secret 1", "d a/locked"], true),
        (&["l secret ../secret", "f secret 1"], true),
        (&["l secret ../secret", "d secret"], true),
        (&["d a", "f .wh... 1"], false),
    ];
    for (lines, fine) in cases {
        let outer = tempfile::tempdir().unwrap();
        fs::set_permissions(outer.path(), fs::Permissions::from_mode(0o711)).unwrap();
        fs::write(outer.path().join("secret"), "secret").unwrap();
        let root = outer.path().join("root");
        fs::create_dir(&root).unwrap();
        let result = onto(&root, &tar(lines), &removing());
        assert_eq!(result.is_ok(), fine, "{lines:?}: {result:?}");
        let mut names: Vec<_> = fs::read_dir(outer.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["root", "secret"], "{lines:?}");
        assert_eq!(read(outer.path(), "secret"), "secret", "{lines:?}");
        assert_eq!(fs::metadata(outer.path()).unwrap().mode() & 0o7777, 0o711, "{lines:?}");
        assert_eq!(fs::metadata(outer.path().join("secret")).unwrap().nlink(), 1, "{lines:?}");
    }
}

#[test]
fn a_hard_link_needs_its_target() {
    for lines in [&["h a b"][..], &["d d", "h a d/x"], &["f x 1", "h a x/y"]] {
        let root = tempfile::tempdir().unwrap();
        let error = onto(root.path(), &tar(lines), &removing()).unwrap_err();
        assert!(matches!(error, ApplyError::MissingHardlinkTarget { .. }), "{lines:?}: {error}");
    }
}

#[test]
fn folders_without_an_entry_are_told() {
    let root = tempfile::tempdir().unwrap();
    let applied = onto(root.path(), &tar(&["f usr/share/doc/x 1", "d usr/share"]), &removing()).unwrap();
    assert_eq!(applied.implied, [b"usr".to_vec(), b"usr/share/doc".to_vec()]);
    let folder = fs::metadata(root.path().join("usr")).unwrap();
    assert_eq!((folder.mode() & 0o7777, folder.mtime()), (0o755, 0));
}

#[test]
fn whiteouts_remove_from_a_plain_folder_what_is_not_of_this_tar() {
    let root = tempfile::tempdir().unwrap();
    let lower = ["d a", "f a/old 1", "d a/deep", "f a/deep/old 1", "f gone 1", "d tree", "f tree/x 1", "f keep 1"];
    onto(root.path(), &tar(&lower), &removing()).unwrap();
    let upper = [
        "f a/deep/new 2",
        "f a/.wh..wh..opq ",
        "f .wh.gone ",
        "f .wh.tree ",
        "f .wh.missing ",
        "f missing/.wh.missing ",
        "f .wh..wh.aufs ",
        "d .wh..wh.plnk",
        "f .wh..wh.plnk/1.2 x",
        "f keep 2",
        "f .wh.keep ",
    ];
    onto(root.path(), &tar(&upper), &removing()).unwrap();
    for (path, there) in [
        ("a/deep/new", true),
        ("a/deep/old", false),
        ("a/old", false),
        ("gone", false),
        ("tree", false),
        ("missing", false),
        (".wh..wh.aufs", false),
        (".wh..wh.plnk", false),
        (".wh.gone", false),
    ] {
        assert_eq!(exists(root.path(), path), there, "{path}");
    }
    assert_eq!(read(root.path(), "keep"), "2");
}

#[test]
fn whiteouts_become_overlay_ones() {
    if !testing::is_root() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let lines = [
        "f .wh.gone ",
        "f deep/er/.wh.gone ",
        "d opaque",
        "f opaque/.wh..wh..opq ",
        "f opaque/x 1",
        // In either order, the folder of this layer hides the one below.
        "f .wh.again ",
        "d again",
        "d twice",
        "f .wh.twice ",
        "f .wh.implied ",
        "f implied/x 1",
        "f kept 1",
        "f .wh.kept ",
        "f only/.wh..wh..opq ",
    ];
    let applied = onto(root.path(), &tar(&lines), &ApplyOptions::default()).unwrap();
    for path in ["gone", "deep/er/gone"] {
        let node = fs::symlink_metadata(root.path().join(path)).unwrap();
        assert!(node.file_type().is_char_device() && node.rdev() == 0, "{path}");
    }
    for (path, opaque) in
        [("opaque", true), ("again", true), ("twice", true), ("implied", true), ("only", true), ("deep", false)]
    {
        let mut value = [0; 8];
        let result = getxattr(root.path().join(path), "trusted.overlay.opaque", &mut value[..]);
        assert_eq!(result.is_ok_and(|size| &value[..size] == b"y"), opaque, "{path}");
    }
    assert_eq!(read(root.path(), "kept"), "1");
    let implied: Vec<&[u8]> = applied.implied.iter().map(Vec::as_slice).collect();
    assert_eq!(implied, [b"deep".as_slice(), b"deep/er", b"implied", b"only"]);
    let error = onto(root.path(), &tar(&["f .wh.x ", "h y x"]), &ApplyOptions::default()).unwrap_err();
    assert!(matches!(error, ApplyError::MissingHardlinkTarget { .. }), "{error}");
}

#[test]
fn invalid_whiteouts_are_refused() {
    for line in ["f .wh. ", "f .wh.. ", "f .wh... ", "f a/.wh... ", "f .wh.a/b "] {
        let root = tempfile::tempdir().unwrap();
        let error = onto(root.path(), &tar(&[line]), &removing()).unwrap_err();
        assert!(matches!(error, ApplyError::BadWhiteout { .. }), "{line}: {error}");
        let literal = ApplyOptions { whiteouts: Whiteouts::Literal, ..ApplyOptions::default() };
        onto(root.path(), &tar(&[line]), &literal).unwrap();
    }
}

#[test]
fn devices_are_made_or_left_out_as_asked() {
    if !testing::is_root() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let tar = tar(&["c null 1:3", "p pipe"]);
    let skip = ApplyOptions { devices: Devices::Skip, ..ApplyOptions::default() };
    assert_eq!(onto(root.path(), &tar, &skip).unwrap().skipped_devices, 1);
    assert!(!exists(root.path(), "null"));
    onto(root.path(), &tar, &ApplyOptions::default()).unwrap();
    let node = fs::symlink_metadata(root.path().join("null")).unwrap();
    assert_eq!((node.rdev(), node.mode() & 0o7777), (rustix::fs::makedev(1, 3), 0o666));
}

#[test]
fn the_root_gets_metadata_only_when_wanted_and_is_a_folder() {
    let root = tempfile::tempdir().unwrap();
    let mut writer = Writer::new(Vec::new());
    writer
        .append_empty(&Entry {
            uid: rustix::process::geteuid().as_raw(),
            ..Entry::new("", EntryKind::Directory, 0o750)
        })
        .unwrap();
    let tar = writer.finish().unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let keep = ApplyOptions { root_metadata: false, ..removing() };
    onto(root.path(), &tar, &keep).unwrap();
    assert_eq!(fs::metadata(root.path()).unwrap().mode() & 0o7777, 0o700);
    onto(root.path(), &tar, &removing()).unwrap();
    assert_eq!(fs::metadata(root.path()).unwrap().mode() & 0o7777, 0o750);
    let error = onto(root.path(), &self::tar(&["l a/.. x"]), &removing()).unwrap_err();
    assert!(matches!(error, ApplyError::RootIsNotAFolder { .. }), "{error}");
}

#[test]
fn bombs_are_refused_before_they_land() {
    let root = tempfile::tempdir().unwrap();
    let limits = Limits { entries: 3, bytes: 10 };
    let options = ApplyOptions { limits, ..removing() };
    let error = onto(root.path(), &tar(&["f a 12345", "f b 123456"]), &options).unwrap_err();
    assert!(matches!(error, ApplyError::Tar(TarError::TooManyBytes { limit: 10 })), "{error}");
    assert!(!exists(root.path(), "b"));
    let error = onto(root.path(), &tar(&["d a", "d b", "d c", "d d"]), &options).unwrap_err();
    assert!(matches!(error, ApplyError::Tar(TarError::TooManyEntries { limit: 3 })), "{error}");
}

#[test]
fn a_deep_tree_is_replaced_without_running_out() {
    let root = tempfile::tempdir().unwrap();
    let deep = "d/".repeat(400);
    onto(root.path(), &tar(&[&format!("f {deep}x 1"), "f d file"]), &removing()).unwrap();
    assert_eq!(read(root.path(), "d"), "file");
}

#[test]
fn an_owner_can_be_given_for_everything() {
    if !testing::is_root() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let options = ApplyOptions { owner: Some((7, 8)), ..removing() };
    onto(root.path(), &tar(&["f a/b 1", "l c a"]), &options).unwrap();
    for path in ["a", "a/b", "c"] {
        let file = fs::symlink_metadata(root.path().join(path)).unwrap();
        assert_eq!((file.uid(), file.gid()), (7, 8), "{path}");
    }
}

#[test]
fn what_was_in_the_folder_before_is_no_way_out() {
    let outer = tempfile::tempdir().unwrap();
    let root = outer.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::create_dir(outer.path().join("out")).unwrap();
    symlink("../out", root.join("a")).unwrap();
    mknodat(CWD, root.join("b"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    onto(&root, &tar(&["f a/x 1", "f b 2"]), &removing()).unwrap();
    assert_eq!(fs::read_dir(outer.path().join("out")).unwrap().count(), 0);
    assert_eq!(read(&root, "out/x"), "1");
    assert_eq!(read(&root, "b"), "2");
}

use proptest::prelude::*;

/// Entries whose names, targets and kinds are out to get us.
fn any_hostile() -> impl Strategy<Value = Entry> {
    let name = prop_oneof![
        4 => Just("a"), 4 => Just("b"), 2 => Just("c"), 2 => Just(".."), 1 => Just(""), 1 => Just("."),
        1 => Just(".wh.a"), 1 => Just(".wh..wh..opq"), 1 => Just(".wh..."), 1 => Just(".wh..wh.plnk"), 1 => Just("out"),
    ];
    let path = proptest::collection::vec(name, 0..4).prop_map(|names| names.join("/").into_bytes());
    let target = prop_oneof![
        path.clone(),
        Just(b"/".to_vec()),
        Just(b"..".to_vec()),
        Just(b"../out".to_vec()),
        Just(b"/out".to_vec()),
        Just(b"../../../../../../../../../../tmp".to_vec()),
        Just(b"/proc/self/cwd".to_vec()),
    ];
    let kind = prop_oneof![
        3 => Just(EntryKind::File { size: 3 }),
        4 => Just(EntryKind::Directory),
        4 => target.clone().prop_map(|target| EntryKind::Symlink { target }),
        2 => target.prop_map(|target| EntryKind::Hardlink { target }),
        1 => Just(EntryKind::Fifo),
    ];
    (path, kind).prop_map(|(path, kind)| {
        let mut entry = Entry::new(path, kind, 0o755);
        (entry.uid, entry.gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        entry
    })
}

proptest! {
    #[test]
    fn no_archive_reaches_what_lies_outside(
        layers in proptest::collection::vec(proptest::collection::vec(any_hostile(), 1..12), 1..3),
        remove in any::<bool>(),
    ) {
        let outer = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let (root, out) = (outer.path().join("root"), outer.path().join("out"));
        fs::create_dir(&root).unwrap();
        fs::create_dir(&out).unwrap();
        fs::write(out.join("a"), "outside").unwrap();
        let options = if remove || !rustix::process::geteuid().is_root() { removing() } else { ApplyOptions::default() };
        let state = |path: &Path| {
            let metadata = fs::metadata(path).unwrap();
            (metadata.mode(), metadata.nlink(), metadata.mtime_nsec(), metadata.ctime_nsec(), metadata.ino())
        };
        let before = (state(&out), state(&out.join("a")), state(outer.path()));
        for entries in layers {
            let mut writer = Writer::new(Vec::new());
            for entry in entries {
                // Not all can be written: a link needs a target.
                let _ = writer.append(&entry, &mut b"abc".as_slice());
            }
            let _ = onto(&root, &writer.finish().unwrap(), &options);
        }
        prop_assert_eq!(before, (state(&out), state(&out.join("a")), state(outer.path())));
        prop_assert_eq!(fs::read(out.join("a")).unwrap(), b"outside");
    }

    #[test]
    fn any_bytes_are_applied_or_refused(
        lines in proptest::collection::vec(any_hostile(), 1..6),
        changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..8),
    ) {
        let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let mut writer = Writer::new(Vec::new());
        for entry in lines {
            let _ = writer.append(&entry, &mut b"abc".as_slice());
        }
        let mut tar = writer.finish().unwrap();
        for (position, byte) in changes {
            let position = position % tar.len();
            tar[position] = byte;
        }
        let limits = Limits { entries: 100, bytes: 1 << 20 };
        let _ = onto(root.path(), &tar, &ApplyOptions { limits, ..removing() });
    }
}

#[test]
fn gnu_tar_agrees_on_what_an_ordinary_archive_holds() {
    let folder = tempfile::tempdir().unwrap();
    let lines = [
        "d bin",
        "f bin/sh content",
        "h bin/bash bin/sh",
        "l lib usr/lib",
        "d usr",
        "d usr/lib",
        "f usr/lib/x 1",
        "p pipe",
        "f ünï ü",
        "d deep",
        "f deep/er/est 3",
    ];
    let tar = tar(&lines);
    fs::write(folder.path().join("t.tar"), &tar).unwrap();
    let (ours, theirs) = (folder.path().join("ours"), folder.path().join("theirs"));
    fs::create_dir(&ours).unwrap();
    fs::create_dir(&theirs).unwrap();
    onto(&ours, &tar, &removing()).unwrap();
    let arguments = ["--extract", "--same-permissions", "--file=../t.tar"];
    match std::process::Command::new("tar").args(arguments).current_dir(&theirs).status() {
        Ok(status) => assert!(status.success()),
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "tar: {error}");
            return;
        }
    }
    let look = |root: &Path| {
        let tree = crate::Tree::of_folder(root).unwrap();
        let mut seen = Vec::new();
        let mut stack = vec![tree.root().unwrap()];
        while let Some(folder) = stack.pop() {
            for node in tree.read_dir(&folder).unwrap() {
                // Folders without an entry get the time of the day from GNU tar.
                let time = if node.path == b"deep/er" { 0 } else { node.mtime.seconds };
                seen.push((node.path.clone(), node.kind, node.mode, node.uid, time, node.nlink, node.target.clone()));
                stack.push(node);
            }
        }
        seen
    };
    assert_eq!(look(&ours), look(&theirs));
}

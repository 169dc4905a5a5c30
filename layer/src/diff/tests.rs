//! Tests of the difference, against folders made by hand and against the kernel's overlayfs.
#![expect(clippy::disallowed_methods, reason = "tests write fixtures")]

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::PathBuf;

use rustix::fs::{CWD, FileType, Timespec, Timestamps, XattrFlags, mknodat, setxattr, utimensat};

use super::*;
use crate::testing;

struct Layers {
    _temporary: tempfile::TempDir,
    upper: PathBuf,
    lower: PathBuf,
}

impl Layers {
    fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let [upper, lower] = ["upper", "lower"].map(|name| temporary.path().join(name));
        fs::create_dir(&upper).unwrap();
        fs::create_dir(&lower).unwrap();
        Self { _temporary: temporary, upper, lower }
    }

    fn diff(&self) -> Vec<String> {
        let lower = Tree::of_layers(vec![self.lower.clone()]).unwrap();
        diff(&self.upper, &lower).unwrap().iter().map(show).collect()
    }
}

fn show(entry: &Entry) -> String {
    let path = String::from_utf8_lossy(&entry.path);
    match &entry.kind {
        EntryKind::Directory => format!("{path}/"),
        EntryKind::Hardlink { target } => format!("{path} = {}", String::from_utf8_lossy(target)),
        EntryKind::Symlink { target } => format!("{path} -> {}", String::from_utf8_lossy(target)),
        _ => path.into(),
    }
}

fn file(path: PathBuf, content: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    set_time(&path, 1_600_000_000, 0);
}

fn set_time(path: &Path, seconds: i64, nanos: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn whiteout(path: PathBuf) {
    mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
}

#[test]
fn new_and_changed_files_come_with_their_folders() {
    let layers = Layers::new();
    file(layers.lower.join("etc/conf.d/a"), "old");
    file(layers.lower.join("etc/same"), "same");
    file(layers.upper.join("etc/conf.d/a"), "new");
    file(layers.upper.join("etc/same"), "same");
    file(layers.upper.join("etc.txt"), "");
    file(layers.upper.join("usr/bin/x"), "");
    fs::create_dir_all(layers.upper.join("etc/empty")).unwrap();
    symlink("x", layers.upper.join("usr/bin/y")).unwrap();
    mknodat(CWD, layers.upper.join("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    mknodat(CWD, layers.upper.join("socket"), FileType::Socket, Mode::RWXU, 0).unwrap();
    assert_eq!(
        layers.diff(),
        [
            "etc/",
            "etc/conf.d/",
            "etc/conf.d/a",
            "etc/empty/",
            "etc.txt",
            "pipe",
            "usr/",
            "usr/bin/",
            "usr/bin/x",
            "usr/bin/y -> x",
        ]
    );
}

#[test]
fn what_was_copied_up_but_is_equal_is_left_out() {
    let layers = Layers::new();
    for folder in [&layers.lower, &layers.upper] {
        file(folder.join("a/b/file"), "same");
        file(folder.join("a/nanos"), "same");
        file(folder.join("a/content"), if folder == &layers.lower { "one" } else { "two" });
        file(folder.join("a/mode"), "same");
        file(folder.join("a/time"), "same");
        symlink("same", folder.join("a/link")).unwrap();
        set_time(&folder.join("a/link"), 5, 0);
    }
    set_time(&layers.upper.join("a/nanos"), 1_600_000_000, 77);
    set_time(&layers.upper.join("a/time"), 1_600_000_001, 0);
    set_time(&layers.upper.join("a"), 9, 0);
    fs::set_permissions(layers.upper.join("a/mode"), fs::Permissions::from_mode(0o4755)).unwrap();
    assert_eq!(layers.diff(), ["a/", "a/content", "a/mode", "a/time"]);
    fs::set_permissions(layers.upper.join("a/b"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(layers.diff(), ["a/", "a/b/", "a/content", "a/mode", "a/time"]);
}

#[test]
fn whiteouts_are_told_only_for_what_is_below() {
    if !testing::is_root() {
        return;
    }
    let layers = Layers::new();
    for path in ["a/gone", "a/stays", "kind/x", "opaque/one", "opaque/sub/old", "opaque/sub/kept", "opaque/two/x"] {
        file(layers.lower.join(path), "1");
    }
    fs::create_dir_all(layers.upper.join("a")).unwrap();
    whiteout(layers.upper.join("a/gone"));
    whiteout(layers.upper.join("a/never-there"));
    file(layers.upper.join("kind"), "a file now");
    file(layers.upper.join("opaque/new"), "1");
    file(layers.upper.join("opaque/sub/kept"), "2");
    setxattr(layers.upper.join("opaque"), "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
    let expected = [
        "a/",
        "a/.wh.gone",
        "kind",
        "opaque/",
        "opaque/new",
        "opaque/.wh.one",
        "opaque/sub/",
        "opaque/sub/kept",
        "opaque/sub/.wh.old",
        "opaque/.wh.two",
    ];
    assert_eq!(layers.diff(), expected);
    let entry = Entry::whiteout(b"a/gone");
    assert_eq!((entry.mtime.seconds, entry.size()), (0, 0));
}

#[test]
fn marks_in_the_user_space_count_as_well() {
    let layers = Layers::new();
    file(layers.lower.join("a/gone"), "1");
    file(layers.lower.join("b/gone"), "1");
    fs::create_dir_all(layers.upper.join("a")).unwrap();
    setxattr(layers.upper.join("a"), "user.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
    file(layers.upper.join("b/gone"), "");
    file(layers.upper.join("b/empty"), "");
    setxattr(layers.upper.join("b"), "user.overlay.opaque", b"x", XattrFlags::empty()).unwrap();
    setxattr(layers.upper.join("b/gone"), "user.overlay.whiteout", b"", XattrFlags::empty()).unwrap();
    assert_eq!(layers.diff(), ["a/", "a/.wh.gone", "b/", "b/empty", "b/.wh.gone"]);
}

#[test]
fn hard_links_point_to_the_first_name() {
    let layers = Layers::new();
    for folder in [&layers.lower, &layers.upper] {
        file(folder.join("a/old"), "same");
    }
    file(layers.upper.join("x/one"), "1");
    fs::hard_link(layers.upper.join("x/one"), layers.upper.join("x/two")).unwrap();
    // `ln a/old b/new`: the name that did not change comes along, or the layer would hold the bytes alone.
    fs::create_dir_all(layers.upper.join("b")).unwrap();
    fs::hard_link(layers.upper.join("a/old"), layers.upper.join("b/new")).unwrap();
    assert_eq!(layers.diff(), ["b/", "b/new", "a/", "a/old = b/new", "x/", "x/one", "x/two = x/one"]);
}

#[test]
fn overlay_features_that_we_mount_without_are_refused() {
    if !testing::is_root() {
        return;
    }
    for (path, xattr) in [("folder", "trusted.overlay.redirect"), ("file", "trusted.overlay.metacopy")] {
        let layers = Layers::new();
        fs::create_dir(layers.upper.join("folder")).unwrap();
        file(layers.upper.join("file"), "");
        setxattr(layers.upper.join(path), xattr, b"/x", XattrFlags::empty()).unwrap();
        let lower = Tree::of_layers(Vec::new()).unwrap();
        let error = diff(&layers.upper, &lower).unwrap_err();
        assert!(matches!(error, DiffError::UnsupportedOverlay { .. }), "{error}");
    }
}

/// An overlay mount of the kernel's, for as long as it lives.
struct Mounted(PathBuf);

impl Mounted {
    fn new(at: PathBuf, lower: &[PathBuf], upper: &Path, work: &Path) -> Option<Self> {
        for folder in [&at, upper, work] {
            fs::create_dir_all(folder).unwrap();
        }
        let lower: Vec<_> = lower.iter().map(|path| path.to_str().unwrap()).collect();
        let options = format!(
            "lowerdir={},upperdir={},workdir={},index=off,redirect_dir=off,metacopy=off",
            lower.join(":"),
            upper.display(),
            work.display()
        );
        let options = std::ffi::CString::new(options).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        match rustix::mount::mount("overlay", &at, "overlay", flags, options.as_c_str()) {
            Ok(()) => Some(Self(at)),
            Err(errno) => {
                assert!(std::env::var_os("CI").is_none(), "overlayfs: {errno}");
                println!("skipped: cannot mount overlayfs: {errno}");
                None
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

/// What can be seen of a tree, but for the times of folders: they change with what is made and removed in them.
fn look(tree: &Tree) -> Vec<String> {
    let mut seen = Vec::new();
    let mut stack = tree.read_dir(&tree.root().unwrap()).unwrap();
    while let Some(node) = stack.pop() {
        let time = if node.kind == NodeKind::Directory { 0 } else { node.mtime.seconds };
        let content = match node.kind {
            NodeKind::File => {
                let mut content = String::new();
                tree.open(&node).unwrap().read_to_string(&mut content).unwrap();
                content
            }
            _ => String::from_utf8(node.target.clone().unwrap_or_default()).unwrap(),
        };
        let path = String::from_utf8_lossy(&node.path);
        seen.push(format!("{path} {:?} {:o} {}:{} {time} {content}", node.kind, node.mode, node.uid, node.gid));
        let found = tree.lookup(&node.path, crate::Follow::No).unwrap().unwrap();
        assert_eq!(found, node, "a listing and a lookup disagree");
        if node.kind == NodeKind::Directory {
            stack.extend(tree.read_dir(&node).unwrap());
        }
    }
    seen.sort();
    seen
}

/// Does something to a tree that may fail, as programs do.
fn disturb(root: &Path, (action, one, other): (u8, usize, usize)) {
    const PATHS: [&str; 14] =
        ["a", "b", "a/a", "a/b", "a/c", "b/a", "b/b", "a/a/a", "a/a/b", "b/a/a", "b/a/b", "c", "c/a", "a/a/a/a"];
    let (one, other) = (root.join(PATHS[one % PATHS.len()]), root.join(PATHS[other % PATHS.len()]));
    let is_folder = fs::symlink_metadata(&one).is_ok_and(|metadata| metadata.is_dir());
    // Links are not followed here: they could lead through the mount and out.
    let is_link = one.ancestors().take_while(|path| *path != root).any(Path::is_symlink);
    // A pipe without a reader would wait for one.
    let waits = matches!(action, 2 | 3 | 13) && fs::metadata(&one).is_ok_and(|metadata| metadata.file_type().is_fifo());
    if is_link && action != 4 || waits {
        return;
    }
    let _ = match action {
        0 | 1 => fs::create_dir_all(&one),
        2 | 3 => fs::write(&one, format!("{}", other.display())),
        4 => fs::remove_file(&one),
        5 | 6 => fs::remove_dir_all(&one),
        7 => fs::remove_dir_all(&one).and_then(|()| fs::create_dir(&one)),
        8 => fs::rename(&one, &other),
        9 => fs::hard_link(&one, &other),
        10 => symlink("nowhere", &one),
        11 => fs::set_permissions(&one, fs::Permissions::from_mode(if is_folder { 0o700 } else { 0o4711 })),
        12 => std::os::unix::fs::chown(&one, Some(7), Some(8)),
        13 => fs::OpenOptions::new().append(true).open(&one).map(drop),
        14 if !is_folder && one.exists() => {
            set_time(&one, 1_500_000_000, 1234);
            Ok(())
        }
        _ => mknodat(CWD, &one, FileType::Fifo, Mode::RWXU, 0).map_err(Into::into),
    };
}

fn apply_to(folder: &Path, tar: &[u8], whiteouts: crate::Whiteouts) {
    fs::create_dir_all(folder).unwrap();
    let opened = fs::File::open(folder).unwrap();
    let options = crate::ApplyOptions { whiteouts, ..crate::ApplyOptions::default() };
    crate::apply(&mut { tar }, opened.as_fd(), &options).unwrap();
}

fn agrees_with_the_kernel(rounds: &[Vec<(u8, usize, usize)>]) {
    // In memory: an unmount writes everything out.
    let temporary = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let folder = |name: String| temporary.path().join(name);
    let flat = folder("flat".into());
    fs::create_dir(&flat).unwrap();
    // Topmost first: what the kernel wrote, and what came out of our tars.
    let (mut kernel, mut ours) = (vec![folder("base".into())], vec![folder("base".into())]);
    fs::create_dir(&kernel[0]).unwrap();
    for (round, actions) in rounds.iter().enumerate() {
        let upper = folder(format!("upper{round}"));
        let Some(mounted) = Mounted::new(folder("m".into()), &kernel, &upper, &folder(format!("work{round}"))) else {
            return;
        };
        for action in actions {
            disturb(&mounted.0, *action);
        }
        let expected = look(&Tree::of_folder(&mounted.0).unwrap());
        drop(mounted);
        let below = Tree::of_layers(kernel.clone()).unwrap();
        kernel.insert(0, upper.clone());
        assert_eq!(look(&Tree::of_layers(kernel.clone()).unwrap()), expected, "the view of round {round}");

        let mut tar = Vec::new();
        let packed = crate::pack_diff(&upper, &below, &mut tar, &crate::PackOptions::default()).unwrap();
        assert_eq!(packed.entries, diff(&upper, &below).unwrap().len() as u64);
        let applied = folder(format!("applied{round}"));
        apply_to(&applied, &tar, crate::Whiteouts::Overlay);
        ours.insert(0, applied);
        assert_eq!(look(&Tree::of_layers(ours.clone()).unwrap()), expected, "the layers of round {round}");
        apply_to(&flat, &tar, crate::Whiteouts::Remove);
        assert_eq!(look(&Tree::of_folder(&flat).unwrap()), expected, "the flat folder of round {round}");
    }
    // The merged tree packs to the same bytes as the flat one, but for the times of folders and for hard links,
    // which end at the border of a layer.
    let mut flattened = Vec::new();
    let whole = Tree::of_layers(ours).unwrap();
    crate::pack_tree(&whole, &mut flattened, &crate::PackOptions::default()).unwrap();
    let copy = folder("copy".into());
    apply_to(&copy, &flattened, crate::Whiteouts::Overlay);
    assert_eq!(look(&Tree::of_folder(&copy).unwrap()), look(&whole));
}

/// Runs a script in an overlay on a few files, and shows the entries of the layer that it makes.
fn layer_of(script: &str) -> Option<(Vec<String>, Vec<Entry>)> {
    let temporary = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let folder = |name: &str| temporary.path().join(name);
    let lower = folder("lower");
    for path in ["a/b", "a/g", "deep/er/f", "deep/other/f", "l/one", "x"] {
        file(lower.join(path), "content\n");
    }
    fs::hard_link(lower.join("l/one"), lower.join("l/two")).unwrap();
    let mounted = Mounted::new(folder("m"), std::slice::from_ref(&lower), &folder("upper"), &folder("work"))?;
    let status = std::process::Command::new("sh").args(["-ec", script]).current_dir(&mounted.0).status().unwrap();
    assert!(status.success(), "{script}");
    drop(mounted);
    let below = Tree::of_layers(vec![lower]).unwrap();
    let entries = diff(&folder("upper"), &below).unwrap();
    Some((entries.iter().map(show).collect(), entries))
}

#[test]
fn l1_to_l8_a_layer_says_what_a_process_changed() {
    if !testing::is_root() {
        return;
    }
    let cases: [(&str, &[&str]); 18] = [
        // L1: what is gone, if it was ever there; what an emptied folder had.
        ("rm a/b", &["a/", "a/.wh.b"]),
        ("echo > new; rm new; mkdir n; rmdir n", &[]),
        ("rm -rf a; mkdir a", &["a/", "a/.wh.b", "a/.wh.g"]),
        ("rm -rf a; mkdir a; echo > a/g", &["a/", "a/.wh.b", "a/g"]),
        ("rm -rf a deep l x", &[".wh.a", ".wh.deep", ".wh.l", ".wh.x"]),
        // L2: what is as it was.
        ("mv x y; mv y x", &[]),
        ("cp -p x y; cat y > x; touch -r y x; rm y", &[]),
        ("chmod 600 x; chmod 644 x", &[]),
        // L3: the folders above come first, and each once.
        ("echo > deep/er/f; echo > deep/er/new", &["deep/", "deep/er/", "deep/er/f", "deep/er/new"]),
        ("chmod 700 deep", &["deep/"]),
        // L4: another kind takes the place of what was there.
        ("rm -rf a; echo > a", &["a"]),
        ("rm x; mkdir x; echo > x/y", &["x/", "x/y"]),
        ("rm x; ln -s a x", &["x -> a"]),
        // L5: names of one file.
        ("echo > n; ln n m; mkdir z; ln n z/o", &["m", "n = m", "z/", "z/o = m"]),
        ("echo >> l/one", &["l/", "l/one"]),
        // L6: no sockets, but pipes and devices.
        ("mkfifo p; mknod c c 1 3", &["c", "p"]),
        // L7: a folder that moved is gone there and new here.
        ("mv a r", &[".wh.a", "r/", "r/b", "r/g"]),
        // L8: nothing.
        ("true", &[]),
    ];
    for (script, expected) in cases {
        let Some((mut shown, entries)) = layer_of(script) else { return };
        shown.sort_by_key(|line| line.replace('/', "\0"));
        let mut expected = expected.to_vec();
        expected.sort_by_key(|line| line.replace('/', "\0"));
        assert_eq!(shown, expected, "{script}");
        let at = |path: &[u8]| entries.iter().position(|entry| entry.path == path);
        for entry in &entries {
            // What is above an entry and in the layer stands in front of it.
            let above = entry.path.iter().rposition(|byte| *byte == b'/').map(|end| &entry.path[..end]);
            assert!(above.is_none_or(|above| at(above).is_some_and(|above| Some(above) < at(&entry.path))), "{script}");
        }
    }
}

#[test]
fn l6_a_layer_keeps_capabilities_and_no_other_attribute() {
    if !testing::is_root() {
        return;
    }
    let layers = Layers::new();
    // What a process may do with a file that is otherwise as it was.
    let capability = [[1, 0, 0, 2], [0, 4, 0, 0], [0; 4], [0; 4], [0; 4]].concat();
    for (name, attribute) in [("cap", "security.capability"), ("user", "user.x"), ("trusted", "trusted.x")] {
        for folder in [&layers.lower, &layers.upper] {
            file(folder.join(name), "same");
        }
        let value: &[u8] = if name == "cap" { &capability } else { b"v" };
        setxattr(layers.upper.join(name), attribute, value, XattrFlags::empty()).unwrap();
    }
    let lower = Tree::of_layers(vec![layers.lower.clone()]).unwrap();
    let entries = diff(&layers.upper, &lower).unwrap();
    assert_eq!(entries.iter().map(show).collect::<Vec<_>>(), ["cap"]);
    assert_eq!(entries[0].xattrs, [(b"security.capability".to_vec(), capability)].into());
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(150))]

    #[test]
    fn views_and_layers_agree_with_the_kernels_overlayfs(
        rounds in proptest::collection::vec(
            proptest::collection::vec((0u8..16, 0usize..14, 0usize..14), 1..40), 1..4,
        ),
    ) {
        if testing::is_root() {
            agrees_with_the_kernel(&rounds);
        }
    }
}

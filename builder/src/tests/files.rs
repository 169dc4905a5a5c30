//! Rows 1.5 and 1.6: `COPY`, `ADD`, `.dockerignore`.

use super::World;

fn built(lay: impl Fn(&World), dockerfile: &str) -> String {
    let world = World::new();
    lay(&world);
    world.build(dockerfile).files()
}

fn tree(world: &World) {
    world
        .lay("a", "A")
        .lay("b", "B")
        .lay("d/x", "X")
        .lay("d/s/y", "Y")
        .lay("l", "-> a")
        .lay("dl", "-> d")
        .mode("d/s", 0o700);
}

#[test]
fn c3_several_sources_without_a_slash_overwrite_each_other() {
    insta::assert_snapshot!(built(tree, "FROM scratch\nCOPY a b /dest\nCOPY d a /dest2"), @r"
    644 0:0 dest B
    755 0:0 dest2/
    644 0:0 dest2/a A
    700 0:0 dest2/s/
    644 0:0 dest2/s/y Y
    644 0:0 dest2/x X
    ");
}

#[test]
fn c4_c5_folders_give_their_content_and_files_go_into_folders() {
    insta::assert_snapshot!(built(tree, "FROM scratch\nCOPY d /e\nCOPY a /e\nCOPY b /e/c\nCOPY d* /f/"), @r"
    755 0:0 e/
    644 0:0 e/a A
    644 0:0 e/c B
    700 0:0 e/s/
    644 0:0 e/s/y Y
    644 0:0 e/x X
    755 0:0 f/
    700 0:0 f/s/
    644 0:0 f/s/y Y
    644 0:0 f/x X
    ");
}

#[test]
fn c6_what_is_in_the_way_is_an_error() {
    let world = World::new();
    tree(&world);
    assert!(world.refuse("FROM scratch\nCOPY a /f\nCOPY d /f").contains("cannot copy to non-directory: /f"));
    world.lay("e/x/deep", "1");
    assert!(world.refuse("FROM scratch\nCOPY e /g\nCOPY d /g").contains("cannot replace to directory /g/x with file"));
    assert!(world.refuse("FROM scratch\nCOPY a /f\nCOPY a /f/g").contains("/f: not a directory"));
}

#[test]
fn c7_folders_on_the_way_take_owner_and_mode() {
    insta::assert_snapshot!(
        built(tree, "FROM base\nCOPY --chown=web --chmod=770 a /p/q/a\nCOPY --chown=7 d /n/m"), @r"
    755 7:7 n/
    755 7:7 n/m/
    700 7:7 n/m/s/
    644 7:7 n/m/s/y Y
    644 7:7 n/m/x X
    770 33:34 p/
    770 33:34 p/q/
    770 33:34 p/q/a A
    "
    );
}

#[test]
fn c9_folders_that_are_there_take_the_mode_of_those_copied_onto_them() {
    insta::assert_snapshot!(built(tree, "FROM base\nRUN folder t/s && write t/s/z Z\nCOPY d /t"), @r"
    755 0:0 t/
    700 0:0 t/s/
    644 0:0 t/s/y Y
    644 0:0 t/s/z Z
    644 0:0 t/x X
    ");
}

#[test]
fn c10_hardlinks_stay_within_one_copy() {
    let world = World::new();
    world.lay("h/one", "1");
    std::fs::hard_link(world.context().join("h/one"), world.context().join("h/two")).expect("linked");
    let image = world.build("FROM scratch AS s\nCOPY h /h\nFROM s\nCOPY --from=s /h /again");
    assert_eq!(image.files().matches("644 0:0").count(), 4);
    let snapshot = |path: &str| {
        let image = &image.built.images[0];
        let image = world.store.images().image(&image.descriptor, &image.platform).expect("there");
        let snapshot = world.store.snapshots().ensure(&image.layers().expect("paired"), &|_| {}).expect("unpacked");
        snapshot.tree().expect("opened").lookup(path, layer::Follow::No).expect("looked").expect("there").ino
    };
    assert_eq!(snapshot("h/one"), snapshot("h/two"));
    assert_ne!(snapshot("h/one"), snapshot("again/one"));
}

#[test]
fn c11_links_that_are_named_are_followed_and_links_inside_are_kept() {
    let lay = |world: &World| {
        tree(world);
        world.lay("d/in", "-> x").lay("abs", "-> /d/x");
    };
    insta::assert_snapshot!(built(lay, "FROM scratch\nCOPY l abs dl/s/y /o/\nCOPY dl /p"), @r"
    755 0:0 o/
    644 0:0 o/abs X
    644 0:0 o/l A
    644 0:0 o/y Y
    755 0:0 p/
    0:0 p/in -> x
    700 0:0 p/s/
    644 0:0 p/s/y Y
    644 0:0 p/x X
    ");
}

#[test]
fn c11_a_link_at_the_destination_leads_inside_the_image() {
    let world = World::new();
    world.lay("a", "A").lay("t/out", "-> /../../real").lay("t/real/", "");
    let files = world.build("FROM scratch\nCOPY t /\nCOPY a /out/a").files();
    insta::assert_snapshot!(files, @r"
    0:0 out -> /../../real
    755 0:0 real/
    644 0:0 real/a A
    ");
}

#[test]
fn c14_wildcards_that_match_nothing_still_make_a_layer() {
    let world = World::new();
    tree(&world);
    let image = world.build("FROM scratch\nCOPY z* /z\nCOPY [ab] ?? /w/");
    assert_eq!(image.layers(), 2);
    insta::assert_snapshot!(image.files(), @r"
    755 0:0 w/
    644 0:0 w/a A
    644 0:0 w/b B
    700 0:0 w/s/
    644 0:0 w/s/y Y
    644 0:0 w/x X
    ");
}

#[test]
fn c15_owners_come_from_the_image_and_unknown_names_are_root() {
    insta::assert_snapshot!(
        built(tree, "FROM base\nCOPY --chown=web:wheel a /1\nCOPY --chown=ghost a /2\nCOPY --chown=5:web a /3"), @r"
    644 33:10 1 A
    644 0:0 2 A
    644 5:34 3 A
    "
    );
}

#[test]
fn c17_a_linked_copy_does_not_look_below() {
    let world = World::new();
    world.lay("a", "A");
    let dockerfile = "FROM base\nRUN folder d && write d/old O\nCOPY --link --chown=3:4 a /d/a";
    insta::assert_snapshot!(world.build(dockerfile).files(), @r"
    755 3:4 d/
    644 3:4 d/a A
    644 0:0 d/old O
    ");
    // On another base, the layer is found without copying again.
    let other = world.build("FROM base\nRUN write other 1\nCOPY --link --chown=3:4 a /d/a");
    assert_eq!(other.seen.steps().last().map(String::as_str), Some("[3/3] COPY --link --chown=3:4 a /d/a: cached"));
}

#[test]
fn c18_parents_are_kept_from_the_pivot_on() {
    insta::assert_snapshot!(built(tree, "FROM scratch\nCOPY --parents d/s/y /k/\nCOPY --parents ./d/./**/y a /p/"), @r"
    755 0:0 k/
    755 0:0 k/d/
    700 0:0 k/d/s/
    644 0:0 k/d/s/y Y
    755 0:0 p/
    644 0:0 p/a A
    700 0:0 p/s/
    644 0:0 p/s/y Y
    ");
}

#[test]
fn c19_excluded_files_are_left_out() {
    insta::assert_snapshot!(built(tree, "FROM scratch\nCOPY --exclude=**/y --exclude=l --exclude=d? . /o"), @r"
    755 0:0 o/
    644 0:0 o/a A
    644 0:0 o/b B
    755 0:0 o/d/
    700 0:0 o/d/s/
    644 0:0 o/d/x X
    ");
}

#[test]
fn c21_heredocs_are_files_with_variables() {
    insta::assert_snapshot!(
        built(tree, "FROM scratch\nARG V=v\nCOPY <<one <<'two' /h/\n$V 1\none\n$V 2\ntwo\nCOPY --chmod=600 <<-three f\n\ttab\n\tthree\n"), @r"
    600 0:0 f tab
    755 0:0 h/
    644 0:0 h/one v 1
    644 0:0 h/two $V 2
    "
    );
}

#[test]
fn c21_a_heredoc_with_an_absolute_name_is_a_file_of_its_last_part() {
    let world = World::new();
    let image = world.build("FROM scratch\nCOPY <</one <<../../two /h/\n1\n/one\n2\n../../two\n");
    insta::assert_snapshot!(image.files(), @r"
    755 0:0 h/
    644 0:0 h/one 1
    644 0:0 h/two 2
    ");
    assert_eq!(image.history(), ["COPY <</one <<../../two /h/ # buildkit"]);
}

#[test]
fn c14_a_dangling_link_is_refused_where_buildkit_follows_it_and_else_copied() {
    let world = World::new();
    world.lay("dir/x", "x").lay("dir/broken", "-> nowhere").lay("top", "-> dir/x");
    for (copy, expected) in [
        // Below what was found or chosen, links are as they are.
        ("COPY d* /d/", "d/broken -> nowhere"),
        ("COPY --exclude=x dir /d/", "d/broken -> nowhere"),
        ("COPY --exclude=dir/x . /d/", "d/dir/broken -> nowhere"),
        ("COPY --parents dir/broken /d/", "d/dir/broken -> nowhere"),
        ("COPY dir /d/", "d/broken -> nowhere"),
    ] {
        let files = world.build(&format!("FROM scratch\n{copy}\n")).files();
        assert!(files.contains(expected), "{copy}: {files}");
    }
    assert!(world.refuse("FROM scratch\nCOPY dir/b* /d/\n").contains("\"/dir/broken\": not found"));
    world.lay("broken", "-> nowhere");
    for copy in ["COPY * /d/", "COPY b* /d/", "COPY --exclude=x . /d/", "COPY --parents broken /d/"] {
        assert!(world.refuse(&format!("FROM scratch\n{copy}\n")).contains("\"/broken\": not found"), "{copy}");
    }
    let files = world.build("FROM scratch\nCOPY --exclude=broken . /d/\nCOPY . /e/\n").files();
    assert!(files.contains("e/broken -> nowhere") && !files.contains("d/broken"), "{files}");
}

#[test]
fn c17_link_with_chmod_copies_in_place() {
    let world = World::new();
    world.lay("f", "f");
    let dockerfile = "FROM scratch\nCOPY <<x /real/\nx\nCOPY link /\nCOPY --link FLAGS f /to/f\n";
    world.lay("link/to", "-> real");
    let plain = world.build(&dockerfile.replace("FLAGS ", "")).files();
    assert!(plain.contains("to/\n644 0:0 to/f f"), "{plain}");
    let in_place = world.build(&dockerfile.replace("FLAGS", "--chmod=600")).files();
    assert!(in_place.contains("real/f") && in_place.contains("to -> real"), "{in_place}");
}

#[test]
fn c23_archives_are_unpacked_by_add_alone() {
    let world = World::new();
    let mut tar = layer::tar::Writer::new(Vec::new());
    let entry = |path: &str, kind| layer::Entry::new(path, kind, 0o640);
    tar.append(&entry("../up/f", layer::EntryKind::File { size: 1 }), &mut b"F".as_slice()).expect("written");
    let link = layer::EntryKind::Hardlink { target: b"up/f".to_vec() };
    tar.append_empty(&entry("/h", link)).expect("written");
    tar.append_empty(&entry("abs", layer::EntryKind::Symlink { target: b"/up".to_vec() })).expect("written");
    tar.append(&entry("abs/through", layer::EntryKind::File { size: 1 }), &mut b"T".as_slice()).expect("written");
    let bytes = tar.finish().expect("finished");
    #[expect(clippy::disallowed_methods, reason = "a test's own file")]
    std::fs::write(world.context().join("t.tar"), &bytes).expect("written");
    let image = world.build("FROM scratch\nADD t.tar /x/\nADD --unpack=false t.tar /y/");
    let files = image.files();
    let unpacked: Vec<&str> = files.lines().filter(|line| line.contains(" x/")).collect();
    insta::assert_snapshot!(unpacked.join("\n"), @r"
    755 0:0 x/
    0:0 x/abs -> /up
    640 0:0 x/h F
    755 0:0 x/up/
    640 0:0 x/up/f F
    640 0:0 x/up/through T
    ");
    assert!(files.contains(" y/t.tar "), "{files}");
    assert!(world.build("FROM scratch\nCOPY t.tar /y/").files().contains(" y/t.tar "));
}

#[test]
fn c27_the_user_does_not_matter_to_copy_but_to_workdir() {
    insta::assert_snapshot!(built(tree, "FROM base\nUSER web\nWORKDIR /w/x\nCOPY a .\nUSER 9\nWORKDIR y"), @r"
    755 33:34 w/
    755 33:34 w/x/
    644 0:0 w/x/a A
    755 9:9 w/x/y/
    ");
}

#[test]
fn i1_the_dockerfiles_own_ignore_file_wins() {
    let world = World::new();
    tree(&world);
    world.lay(".dockerignore", "a\n");
    let mut request = world.request("FROM scratch\nCOPY a* b* /");
    request.dockerfile.ignore = Some(b"b\n".to_vec());
    assert_eq!(world.build_request(&request).files(), "644 0:0 a A");
    request.dockerfile.ignore = None;
    assert_eq!(world.build_request(&request).files(), "644 0:0 b B");
}

#[test]
fn i4_i5_folders_above_what_is_included_again_are_there() {
    let lay = |world: &World| {
        tree(world);
        world.lay(".dockerignore", "*\n!d/s/y\n");
    };
    insta::assert_snapshot!(built(lay, "FROM scratch\nCOPY . /"), @r"
    755 0:0 d/
    700 0:0 d/s/
    644 0:0 d/s/y Y
    ");
}

#[test]
fn a_build_without_context_has_no_files() {
    let world = World::new();
    let mut request = world.request("FROM scratch\nCOPY . /x/");
    request.context = crate::Context::None;
    assert_eq!(world.build_request(&request).files(), "755 0:0 x/");
}

#[test]
fn an_image_from_scratch_is_the_same_on_two_stores() {
    let image = |_: u32| {
        let world = World::new();
        tree(&world);
        world.build("FROM scratch\nCOPY . /new/app\nWORKDIR /new/work\nENV A=1").digest()
    };
    assert_eq!(image(1), image(2));
}

#[test]
fn with_an_epoch_no_file_is_newer() {
    let world = World::new();
    world.lay("a", "A");
    let mut request = world.request("FROM base\nCOPY a /new/a\nRUN write x X\nWORKDIR /w");
    request.source_date_epoch = Some(500);
    let image = world.build_request(&request);
    assert_eq!(image.config().created.as_deref(), Some("1970-01-01T00:08:20Z"));
    for diff_id in &image.config().rootfs.diff_ids[1..] {
        let blob = world.store.blobs().open(&diff_id.0).expect("there");
        let mut reader = layer::tar::Reader::new(blob.file);
        while let Some(entry) = reader.next_entry().expect("a tar") {
            assert!(entry.mtime.seconds <= 500, "{entry:?}");
        }
    }
}

#[test]
fn c15_c16_an_owner_and_a_mode_that_come_out_empty_are_none() {
    let world = World::new();
    world.lay("a", "A").mode("a", 0o640);
    let image = world.build("FROM scratch\nARG NO\nCOPY --chown=$NO --chmod=$NO a /");
    assert_eq!(image.files(), "640 0:0 a A");
    assert_eq!(image.history()[1], "COPY a / # buildkit");
}

#[test]
fn c12_what_is_no_plain_file_is_copied_as_buildkit_does_it() {
    let world = World::new();
    world.lay("d/a", "A");
    let socket = world.context().join("d/socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("bound");
    world.mode("d/socket", 0o750);
    rustix::fs::mkfifoat(rustix::fs::CWD, world.context().join("d/fifo"), rustix::fs::Mode::from_bits_retain(0o600))
        .expect("made");
    world.mode("d/fifo", 0o600);
    let image = world.build("FROM scratch\nCOPY d /d");
    assert_eq!(image.files(), "755 0:0 d/\n644 0:0 d/a A\n600 0:0 d/fifo Fifo\n750 0:0 d/socket ");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test's own file")]
fn c23_the_folder_that_an_archive_is_unpacked_into_stays_as_it_is() {
    let world = World::new();
    let mut archive = layer::tar::Writer::new(Vec::new());
    for path in ["", "d"] {
        let mut entry = layer::Entry::new(path, layer::EntryKind::Directory, 0o700);
        (entry.uid, entry.gid) = (3, 4);
        archive.append_empty(&entry).expect("written");
    }
    let archive = archive.finish().expect("finished");
    std::fs::write(world.context().join("a.tar"), archive).expect("written");
    let image = world.build("FROM scratch\nADD a.tar /new/\nADD --chown=9 a.tar /own/");
    assert_eq!(image.files(), "755 0:0 new/\n700 3:4 new/d/\n755 9:9 own/\n700 9:9 own/d/");
}

#[test]
fn c18_folders_that_are_chosen_take_the_source_s_metadata_and_those_on_the_way_keep_theirs() {
    let world = World::new();
    world.lay("d/s/f", "F");
    let below = "FROM base\nRUN folder e\nCOPY --chown=7:8 d /e/d\n";
    let image = world.build(&format!("{below}COPY --parents --chown=3:4 d/s /e/"));
    assert_eq!(image.files(), "755 0:0 e/\n755 7:8 e/d/\n755 3:4 e/d/s/\n644 3:4 e/d/s/f F");
    let error = world.refuse("FROM scratch\nCOPY --parents --exclude=d d /e/");
    assert!(error.contains("\"/d\": not found") && error.contains("hint: --exclude leaves nothing of it"), "{error}");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test's own file")]
fn c23_odd_archives_are_taken_as_go_takes_them() {
    let world = World::new();
    let path = world.context().join("a.tar");
    let archive = |change: &dyn Fn(&mut layer::Entry)| {
        let mut writer = layer::tar::Writer::new(Vec::new());
        let mut entry = layer::Entry::new("f", layer::EntryKind::File { size: 0 }, 0o640);
        change(&mut entry);
        writer.append_empty(&entry).expect("written");
        writer.finish().expect("finished")
    };
    // What follows the end is nobody's business.
    std::fs::write(&path, [&archive(&|_| {})[..], b"signature"].concat()).expect("written");
    assert_eq!(world.build("FROM scratch\nADD a.tar /x/").files(), "755 0:0 x/\n640 0:0 x/f ");

    // It is an archive, with something that cannot be unpacked, and not a file to copy.
    let mut odd = archive(&|_| {});
    odd[156] = b'7';
    odd[148..156].fill(b' ');
    let sum: u32 = odd[..512].iter().map(|byte| u32::from(*byte)).sum();
    odd[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    std::fs::write(&path, odd).expect("written");
    let error = world.refuse("FROM scratch\nADD a.tar /x/");
    assert!(error.contains("cannot unpack `a.tar`"), "{error}");

    let capable = archive(&|entry| drop(entry.xattrs.insert(b"security.capability".to_vec(), b"everything".to_vec())));
    std::fs::write(&path, capable).expect("written");
    let error = world.refuse("FROM scratch\nADD a.tar /x/");
    assert!(error.contains("`f` has capabilities that Linux does not take"), "{error}");
}

#[test]
fn c18_a_path_through_a_link_is_refused_rather_than_forgotten() {
    let world = World::new();
    world.lay("d/f", "F").lay("link", "-> d");
    let error = world.refuse("FROM scratch\nCOPY --parents link/f /x/");
    assert!(error.contains("\"/link/f\": not found") && error.contains("hint: --parents follows no"), "{error}");
    let image = world.build("FROM scratch\nCOPY --parents link d/f /x/\nCOPY --parents d/./f /y/");
    assert_eq!(image.files(), "755 0:0 x/\n755 0:0 x/d/\n644 0:0 x/d/f F\n0:0 x/link -> d\n755 0:0 y/\n644 0:0 y/f F");
}

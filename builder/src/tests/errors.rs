//! Each refusal is one message with its place and what to do.

use super::World;

#[test]
fn a_failing_process_shows_its_lines_and_its_last_words() {
    let world = World::new();
    let error = world.refuse("FROM base\nRUN print one && \\\n    print two && \\\n    fail 7\nRUN x");
    insta::assert_snapshot!(error, @r#"
     > one
     > two
    error: process "/bin/sh -c print one &&     print two &&     fail 7" did not complete successfully: exit code: 7
     --> Dockerfile:2:1
      |
    1 |   FROM base
    2 | / RUN print one && \
    3 | |     print two && \
    4 | |     fail 7
      | |__________^
    5 |   RUN x
      |
    "#);
}

#[test]
fn a_missing_source_is_named() {
    let world = World::new();
    world.lay("there", "1").lay("d/source", "1").lay(".dockerignore", "there\n");
    insta::assert_snapshot!(world.refuse("FROM scratch\nCOPY missing /x"), @r#"
    error: "/missing": not found in the build context
     --> Dockerfile:2:1
      |
    1 | FROM scratch
    2 | COPY missing /x
      | ^^^^^^^^^^^^^^^
      |
      = hint: only files below the context are seen
    "#);
    insta::assert_snapshot!(world.refuse("FROM scratch\nCOPY there /x"), @r#"
    error: "/there": not found in the build context
     --> Dockerfile:2:1
      |
    1 | FROM scratch
    2 | COPY there /x
      | ^^^^^^^^^^^^^
      |
      = hint: it is there, but `.dockerignore` excludes it from the build
    "#);
    insta::assert_snapshot!(world.refuse("FROM scratch\nCOPY d/sorce /x"), @r#"
    error: "/d/sorce": not found in the build context
     --> Dockerfile:2:1
      |
    1 | FROM scratch
    2 | COPY d/sorce /x
      | ^^^^^^^^^^^^^^^
      |
      = hint: did you mean `d/source`?
    "#);
}

#[test]
fn a_link_that_leads_nowhere_is_named() {
    let world = World::new();
    world.lay("d/link", "-> gone");
    for source in ["d/link", "d/l*"] {
        let error = world.refuse(&format!("FROM scratch\nCOPY {source} /x"));
        assert!(error.contains("\"/d/link\": not found"), "{error}");
        assert!(error.contains("hint: it is a symbolic link to `gone`, which is not there"), "{error}");
    }
}

#[test]
fn a_mistyped_stage_is_guessed() {
    let world = World::new();
    let mut request = world.request("FROM base AS build\nFROM base");
    request.target = Some("bulid".into());
    let error = world.try_build(&request).0.map(|_| ()).expect_err("refused").render(false);
    insta::assert_snapshot!(error, @r#"
    error: target stage "bulid" could not be found
     |
     = hint: did you mean `build`?
    "#);
    insta::assert_snapshot!(world.refuse("FROM base AS build\nFROM base\nCOPY --from=biuld /etc /e"), @r#"
    error: cannot resolve image `docker.io/library/biuld:latest`
     --> Dockerfile:3:1
      |
    1 | FROM base AS build
    2 | FROM base
    3 | COPY --from=biuld /etc /e
      | ^^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = hint: did you mean the stage `build`?
    "#);
}

#[test]
fn g3_a_later_stage_cannot_be_copied_from() {
    let world = World::new();
    let error = world.refuse("FROM base AS one\nCOPY --from=two /a /b\nFROM base AS two\nFROM one");
    assert!(error.contains("it needs to be defined before current stage \"one\""), "{error}");
    let error = world.refuse("FROM base AS one\nCOPY --from=one /a /b");
    assert!(error.contains("within itself"), "{error}");
    let error = world.refuse("FROM base\nCOPY --from=3 /a /b");
    assert!(error.contains("invalid stage index 3"), "{error}");
}

#[test]
fn g3_stages_in_a_circle_are_refused_also_where_the_target_does_not_reach_them() {
    let world = World::new();
    let circle =
        "FROM base AS one\nCOPY --from=TWO /a /b\nFROM one AS two\nFROM base AS three\nCOPY --from=two /a /b\n";
    insta::assert_snapshot!(world.refuse(&format!("{circle}FROM scratch\nCMD true")), @"
    error: circular dependency detected on stage: one
     --> Dockerfile:2:1
      |
    1 | FROM base AS one
    2 | COPY --from=TWO /a /b
      | ^^^^^^^^^^^^^^^^^^^^^
    3 | FROM one AS two
    4 | FROM base AS three
      |
      = hint: each needs the next: one, two, one
    ");
    for (stages, message) in [
        ("FROM base AS me\nCOPY --from=0 /a /b\n", "cannot copy from stage \"me\" within itself"),
        ("FROM base AS me\nRUN --mount=from=me ls\n", "cannot copy from stage \"me\" within itself"),
        (
            "FROM base\nRUN --mount=from=1 ls\nFROM base AS b\nCOPY --from=0 / /\n",
            "circular dependency detected on stage: stage-0",
        ),
        ("FROM base\nCOPY --from=9 / /\n", "invalid stage index 9"),
        ("FROM base\nCOPY --from=-1 / /\n", "invalid stage index -1"),
    ] {
        let error = world.refuse(&format!("{stages}FROM base\nCMD true"));
        assert!(error.contains(message), "{error}");
    }
    // A later stage, no stage at all, and two of one name are no circle.
    let other = "FROM base AS a\nCOPY --from=b /x /y\nFROM base AS b\nCOPY --from=nosuch /x /y\nFROM base AS b\n";
    world.build(&format!("{other}FROM base\nCMD true"));
}

#[test]
fn a_stage_whose_trigger_needs_itself_is_refused() {
    let world = World::new();
    let on_build = vec!["COPY --from=me /a /b".into()];
    world.images.add(&world.store, "onbuild", oci::ContainerConfig { on_build, ..Default::default() });
    let error = world.refuse("FROM onbuild AS me");
    assert!(error.contains("within itself"), "{error}");
}

#[test]
fn what_cannot_be_says_so_at_its_line() {
    let world = World::new();
    for (line, what) in [
        ("COPY https://example.com/x /x", "source can't be a URL for COPY"),
        ("RUN --network=host x", "not allowed"),
        ("RUN --security=insecure x", "not allowed"),
        ("COPY --chmod=9 . /x", "invalid chmod parameter"),
        ("RUN --mount=type=bind,target=/ x", "invalid mount target"),
        ("RUN --mount=from=base,source=/nope,target=/x y", "\"/nope\": not found"),
        ("COPY nope/* /x/", "\"/nope\": not found"),
        ("COPY --from=base nope/*/x /x/", "\"/nope\": not found"),
        ("COPY --link --chown=web . /x", "names a user"),
        ("COPY --link --chown=3:web . /x", "names a user"),
    ] {
        let error = world.refuse(&format!("FROM base\n{line}\n"));
        assert!(error.contains(what) && error.contains("Dockerfile:2"), "{error}");
    }
}

#[test]
fn g1_what_no_stage_could_name_is_refused_also_in_stages_that_are_not_built() {
    let world = World::new();
    for stage in [
        "FROM base:$nope",
        "FROM BASE",
        "FROM --platform=a/b/c/d base",
        "FROM base AS un\nCOPY --from=Bad /a /b",
        "FROM base AS un\nRUN --mount=from=Bad,target=/x x",
    ] {
        let error = world.refuse(&format!("{stage}\nFROM base\n"));
        assert!(error.contains("Dockerfile:"), "{error}");
    }
    let error = world.refuse("FROM base AS Web\nFROM Web\n");
    assert!(error.contains("names of stages are lower case here: `FROM web`"), "{error}");
    world.build("FROM base AS Web\nFROM web\nCOPY --from=WEB . /x\n");
}

#[test]
fn p2_the_language_is_built_in_and_others_are_refused() {
    let world = World::new();
    for syntax in
        ["docker/dockerfile:1", "docker.io/docker/dockerfile:1.9@sha256:0", "docker/dockerfile-upstream:master"]
    {
        world.build(&format!("# syntax={syntax}\nFROM base"));
    }
    let error = world.refuse("# syntax=example.com/other:1\nFROM base");
    assert!(
        error.contains("syntax `example.com/other:1` is not supported") && error.contains("Dockerfile:1"),
        "{error}"
    );
}

#[test]
fn junk_is_refused_without_a_panic() {
    let world = World::new();
    for bytes in [b"".as_slice(), b"\xff\xfe\0\0", b"FROM base\n\0RUN x", b"FROM \xff", "FROM base\nRÜN x".as_bytes()]
    {
        let mut request = world.request("");
        request.dockerfile.bytes = bytes.to_vec();
        let error = world.try_build(&request).0.map(|_| ()).expect_err("refused").render(false);
        assert!(error.starts_with("error: "), "{error}");
    }
}

#[test]
fn output_of_a_process_cannot_write_to_the_terminal_through_an_error() {
    let world = World::new();
    let error = world.refuse("FROM base\nRUN print \u{1b}[2Jgone && fail 1");
    assert!(!error.split("error:").next().expect("the log").contains('\u{1b}'), "{error:?}");
}

#[test]
fn an_archive_that_is_cut_off_is_an_error() {
    let world = World::new();
    let mut tar = layer::tar::Writer::new(Vec::new());
    let entry = layer::Entry::new("big", layer::EntryKind::File { size: 100_000 }, 0o644);
    tar.append(&entry, &mut std::io::repeat(7)).map_err(|error| error.to_string()).unwrap_or_default();
    let mut bytes = tar.finish().expect("finished");
    bytes.truncate(50_000);
    #[expect(clippy::disallowed_methods, reason = "a test's own file")]
    std::fs::write(world.context().join("t.tar"), &bytes).expect("written");
    let error = world.refuse("FROM scratch\nADD t.tar /x");
    assert!(error.contains("cannot unpack `t.tar`"), "{error}");
    assert_eq!(world.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn r2_c21_a_heredoc_whose_name_leads_elsewhere_makes_no_file() {
    let world = World::new();
    let outside = world.context().join("outside");
    let absolute = outside.display();
    for dockerfile in [
        format!("FROM base\nRUN <<{absolute}\n#!/bin/sh\nx\n{absolute}\n"),
        "FROM base\nRUN <<../a/x\n#!/bin/sh\nx\n../a/x\n".into(),
        "FROM base\nCOPY <<../../a/x /d/\nx\n../../a/x\n".into(),
        "FROM base\nADD <<.. /d/\nx\n..\n".into(),
    ] {
        assert!(world.refuse(&dockerfile).contains("that is no file name"), "{dockerfile}");
    }
    assert!(!outside.exists());
    // Where the name is no file's, any will do.
    world.build("FROM base\nRUN <<a/b\nprint x\na/b\n");
}

#[test]
fn a_stage_that_comes_later_and_a_variable_in_from_are_told_as_what_they_are() {
    let world = World::new();
    let error = world.refuse("FROM a AS b\nFROM b AS A");
    assert!(error.contains("hint: the stage `a` comes later: a stage can only use those before it"), "{error}");
    let error = world.refuse("FROM base\nCOPY --from=$X /a /");
    assert!(error.contains("hint: no variable is expanded here: write `FROM IMAGE AS NAME`"), "{error}");
}

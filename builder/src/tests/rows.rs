//! Rows of sections 1.1 to 1.9 that no recorded case and no other test holds us to, as tables.

use super::World;

/// Builds a Dockerfile, and returns the command line of each process that ran.
fn ran(dockerfile: &str) -> Vec<String> {
    let world = World::new();
    world.build(dockerfile);
    world.executor.ran().iter().map(|ran| ran.argv.join("|")).collect()
}

/// Builds a Dockerfile on nothing with labels, and returns the label `l`.
fn label(dockerfile: &str, arguments: &[(&str, &str)]) -> String {
    let world = World::new();
    let mut request = world.request(dockerfile);
    request.build_args.extend(arguments.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    world.build_request(&request).config().config.labels.get("l").cloned().unwrap_or_else(|| "no label".into())
}

/// Refuses each Dockerfile with words of its own, in one error that has a place.
fn refused(cases: &[(&str, &str)]) {
    let world = World::new();
    for (dockerfile, expected) in cases {
        let error = world.try_build(&world.request(dockerfile)).0.map(|_| ());
        let error = error.expect_err(dockerfile).render(false);
        assert!(error.contains(expected), "{dockerfile}\ngives {error}\nnot {expected}");
        assert_eq!(error.lines().filter(|line| line.starts_with("error:")).count(), 1, "{error}");
    }
}

#[test]
fn p1_directives_end_at_the_first_other_line() {
    for (dockerfile, expected) in [
        ("# escape=`\nFROM scratch\nLABEL l=a`\nb", "ab"),
        ("#ESCAPE = `\nFROM scratch\nLABEL l=a`\nb", "ab"),
        ("# other=x\n# escape=`\nFROM scratch\nLABEL l=a\\\nb", "ab"),
        ("# a comment\n# escape=`\nFROM scratch\nLABEL l=a\\\nb", "ab"),
        ("\n# escape=`\nFROM scratch\nLABEL l=a\\\nb", "ab"),
    ] {
        assert_eq!(label(dockerfile, &[]), expected, "{dockerfile}");
    }
    refused(&[("# escape=`\n# escape=`\nFROM scratch", "escape"), ("# escape=x\nFROM scratch", "escape")]);
}

#[test]
fn p2_the_syntax_is_found_however_it_is_written() {
    let world = World::new();
    for first in ["# syntax=docker/dockerfile:1", "#syntax = docker.io/docker/dockerfile:1.7-labs"] {
        world.build(&format!("{first}\nFROM scratch\n"));
    }
    world.build("\u{feff}# syntax=docker/dockerfile:1\nFROM scratch\n");
    refused(&[
        ("#!/usr/bin/env x\n# syntax=example.com/other\nFROM scratch", "syntax `example.com/other` is not supported"),
        ("\u{feff}# syntax=example.com/other:1 --flag\nFROM scratch", "syntax `example.com/other:1`"),
    ]);
}

#[test]
fn p3_the_escape_of_the_file_is_that_of_its_words() {
    assert_eq!(label("# escape=`\nFROM scratch\nENV A=1\nLABEL l=`$A\\n", &[]), "$A\\n");
    assert_eq!(label("FROM scratch\nENV A=1\nLABEL l=\\$A`n", &[]), "$A`n");
}

#[test]
fn p5_p6_lines_go_on_over_comments_blanks_and_the_end() {
    assert_eq!(ran("FROM base\nRUN a \\  \n# comment\n   # indented\n\n  b \\\n c"), ["/bin/sh|-c|a   b  c"]);
    assert_eq!(ran("FROM base\nRUN a # b"), ["/bin/sh|-c|a # b"]);
    assert_eq!(ran("FROM base\r\nRUN a \\\r\n b\r\n"), ["/bin/sh|-c|a  b"]);
    assert_eq!(ran("FROM base\nRUN a \\"), ["/bin/sh|-c|a"]);
    assert_eq!(ran("FROM base\nRUN a \\\\\nRUN b"), ["/bin/sh|-c|a \\\\", "/bin/sh|-c|b"]);
}

#[test]
fn p8_p11_instructions_and_flags() {
    assert_eq!(ran("from base\nrUn --network=none -- --x"), ["/bin/sh|-c|--x"]);
    assert_eq!(ran("FROM base\nRUN x --network=none"), ["/bin/sh|-c|x --network=none"]);
    refused(&[
        ("FROM base\nRUN --netwrk=none x", "did you mean"),
        ("FROM base\nRUN --network=none --network=host x", "network"),
        ("FROM base\nCOPY --chwon=1 a b", "did you mean `chown`"),
        ("FROM base\nCOPY --link=maybe a b", "link"),
        ("FROM base\nCOPPY a b", "did you mean"),
        ("FROM base\nHEALTHCHECK --intervall=1s CMD x", "did you mean"),
        ("FROM base\nRUN --mount=type=bind,targe=/x x", "did you mean"),
        ("FROM base\nRUN --mount=type=bnd,target=/x x", "bnd"),
    ]);
}

#[test]
fn p9_p10_heredocs_and_json_where_they_are_meant() {
    // The shell sees what is no heredoc.
    assert_eq!(ran("FROM base\nRUN x <<<\"a\""), ["/bin/sh|-c|x <<<\"a\""]);
    assert_eq!(ran("FROM base\nRUN x $((1<<2))"), ["/bin/sh|-c|x $((1<<2))"]);
    assert_eq!(ran("FROM base\nRUN x \"<<EOF\""), ["/bin/sh|-c|x \"<<EOF\""]);
    assert_eq!(ran("FROM base\nRUN 3<<-EOF cat\n\ta\n\tEOF\n"), ["/bin/sh|-c|3<<-EOF cat\n\ta\nEOF"]);
    assert_eq!(
        ran("FROM base\nRUN [\"a\", \"b\"]\nRUN ['a']\nRUN [ -f x ] && y"),
        ["a|b", "/bin/sh|-c|['a']", "/bin/sh|-c|[ -f x ] && y"]
    );
    refused(&[("FROM base\nRUN <<EOF\nx\n", "EOF"), ("FROM base\nCMD [\"a\", 1]\nCOPY <<A /a\n", "A")]);
}

#[test]
fn p12_p14_p15_p16_what_cannot_be_is_refused() {
    refused(&[
        ("FROM base\nENV A", "ENV"),
        ("FROM base\nENV A=1 B", "B"),
        ("FROM base\nLABEL =x", "blank"),
        ("", "no instructions"),
        ("# nothing\n", "no instructions"),
        ("RUN x", "RUN"),
        ("ARG A", "no stages"),
        ("FROM base as", "FROM"),
        ("FROM base as 1st", "1st"),
        ("FROM base AS a b", "FROM"),
        ("FROM --plattform=x base", "did you mean"),
        ("FROM base\nONBUILD ONBUILD RUN x", "ONBUILD"),
        ("FROM base\nONBUILD FROM x", "FROM"),
        ("FROM base\nONBUILD MAINTAINER x", "MAINTAINER"),
        ("FROM base\nSHELL /bin/sh", "SHELL"),
        ("FROM base\nCOPY --from=$X a b", "variable"),
        ("FROM base\nUSER", "USER"),
    ]);
    assert_eq!(label("FROM scratch\nLABEL l  two   words \"q\"  ", &[]), "two   words q");
    assert_eq!(label("FROM scratch\nENV A one=two three\nLABEL l=$A", &[]), "one=two three");
}

#[test]
fn p17_a_dockerfile_may_be_in_lower_case_or_a_link() {
    let world = World::new();
    let read = || crate::DockerfileSource::read(&world.context(), None).map(|source| source.bytes);
    world.lay("dockerfile", "FROM lower");
    assert_eq!(read().expect("there"), b"FROM lower");
    world.lay("real", "FROM real").lay("Dockerfile", "-> real");
    assert_eq!(read().expect("there"), b"FROM real");
}

#[test]
fn x1_x2_x3_x4_every_form_of_a_variable() {
    let value = |word: &str| label(&format!("FROM scratch\nENV V=value E= P=/a/b/c.tar.gz\nLABEL l={word}"), &[]);
    for (word, expected) in [
        ("$V", "value"),
        ("${V}x", "valuex"),
        ("${U:-d}${E:-d}${E-d}${U-d}", "ddd"),
        ("${V:+y}${E:+y}${E+y}${U+y}", "yy"),
        ("${V:?m}${E?m}", "value"),
        ("${P#*/}", "a/b/c.tar.gz"),
        ("${P##*/}", "c.tar.gz"),
        ("${P%.*}", "/a/b/c.tar"),
        ("${P%%.*}", "/a/b/c"),
        ("${P/a/x}", "/x/b/c.tar.gz"),
        ("${P//a/x}", "/x/b/c.txr.gz"),
        ("${U:-${E:-$V}}", "value"),
        ("a$1b$@c", "abc"),
        ("a$.b", "a$.b"),
        ("'$V'\"$V\"\\$V", "$Vvalue$V"),
        ("a\\tb", "atb"),
        ("\"a\\tb\\\"\"", "a\\tb\""),
    ] {
        assert_eq!(value(word), expected, "{word}");
    }
    refused(&[
        ("FROM base\nLABEL l=${}", "${}"),
        ("FROM base\nLABEL l=${V:=x}", ":="),
        ("FROM base\nLABEL l=${V", "${V"),
        ("FROM base\nLABEL l=\"a", "quote"),
        ("FROM base\nLABEL l=${V:?it is needed}", "it is needed"),
    ]);
}

#[test]
fn x5_words_are_split_where_several_are_wanted() {
    let world = World::new();
    world.lay("a b", "x");
    let image = world.build("FROM scratch\nENV P=\"80 81\" F=\"a b\"\nEXPOSE $P\nCOPY $F /\nVOLUME $F\n");
    assert_eq!(image.config().config.exposed_ports.keys().collect::<Vec<_>>(), ["80/tcp", "81/tcp"]);
    assert!(image.files().contains("a b x"), "{}", image.files());
    assert!(image.config().config.volumes.contains_key("a b"), "{:?}", image.config().config.volumes);
}

#[test]
fn x6_x7_what_expands_and_with_which_values() {
    assert_eq!(label("FROM scratch\nENV abc=hello\nENV abc=bye def=$abc\nLABEL l=$def", &[]), "hello");
    let world = World::new();
    let image = world.build(
        "FROM base\nENV X=x\nCMD $X\nENTRYPOINT [\"$X\"]\nMAINTAINER $X\nHEALTHCHECK CMD $X\nSTOPSIGNAL ${S:-KILL}\n\
         USER $X\nWORKDIR /$X\nSHELL [\"$X\"]\n",
    );
    let config = &image.config().config;
    assert_eq!(config.cmd.as_deref().map(|cmd| cmd[2].as_str()), Some("$X"));
    assert_eq!(config.entrypoint.as_deref(), Some(&["$X".to_owned()][..]));
    assert_eq!((config.user.as_str(), config.working_dir.as_str()), ("x", "/x"));
    assert_eq!((config.stop_signal.as_deref(), config.shell[0].as_str()), (Some("KILL"), "$X"));
    assert_eq!(image.config().author.as_deref(), Some("$X"));
}

#[test]
fn a2_a4_a6_what_an_argument_is_worth() {
    for (dockerfile, arguments, expected) in [
        ("FROM scratch\nARG A=${B:?no}\nLABEL l=$A", &[("A", "given")][..], "given"),
        ("FROM scratch\nARG A\nLABEL l=${A-unset}", &[], "unset"),
        ("FROM scratch\nARG A=\nLABEL l=${A-unset}", &[], ""),
        ("FROM scratch\nARG A\nLABEL l=${A-unset}", &[("A", "")], ""),
        ("FROM scratch\nLABEL l=${A-unset}", &[("A", "given")], "unset"),
        ("ARG A=g\nFROM scratch\nARG A\nLABEL l=$A", &[("A", "given")], "given"),
        ("ARG A=g\nFROM scratch\nARG A=own\nLABEL l=$A", &[], "own"),
        ("FROM scratch\nARG A=1 B=${A}2\nLABEL l=$B", &[], "12"),
        ("FROM base\nARG BASE=arg\nLABEL l=$BASE", &[], "arg"),
        ("FROM base\nLABEL l=$BASE", &[], "1"),
    ] {
        assert_eq!(label(dockerfile, arguments), expected, "{dockerfile}");
    }
    let world = World::new();
    let image = world.build("FROM base\nARG BASE=arg\nRUN x");
    assert!(world.executor.ran()[0].env.contains(&("BASE".into(), "arg".into())));
    assert!(image.config().config.env.contains(&"BASE=1".to_owned()));
}

#[test]
fn a7_arguments_of_the_platform() {
    let line = "FROM scratch AS s\nARG TARGETPLATFORM\nARG TARGETARCH\nARG TARGETVARIANT\nARG TARGETSTAGE\n\
                LABEL l=$TARGETPLATFORM,$TARGETARCH,$TARGETVARIANT,$TARGETSTAGE,$TARGETOS";
    let world = World::new();
    let mut request = world.request(line);
    for (platform, target, expected) in [
        ("linux/amd64", None, "linux/amd64,amd64,,default,"),
        ("linux/arm64", None, "linux/arm64,arm64,,default,"),
        ("linux/arm/v7", Some("s"), "linux/arm/v7,arm,v7,s,"),
    ] {
        request.platforms = vec![platform.parse().expect("a platform")];
        request.target = target.map(str::to_owned);
        assert_eq!(world.build_request(&request).config().config.labels["l"], expected);
    }
    assert_eq!(label("FROM scratch\nARG TARGETARCH\nLABEL l=$TARGETARCH", &[("TARGETARCH", "own")]), "own");
    // What a stage is built for is not what the image is for.
    assert_eq!(label("FROM --platform=linux/arm64 scratch\nARG TARGETARCH\nLABEL l=$TARGETARCH", &[]), "amd64");
}

#[test]
fn a9_what_the_builder_itself_understands_is_no_variable_of_run() {
    let world = World::new();
    let mut request = world.request("FROM base\nRUN x");
    for name in ["BUILDKIT_INLINE_CACHE", "BUILDKIT_CONTEXT_KEEP_GIT_DIR", "BUILDKIT_MULTI_PLATFORM"] {
        request.build_args.insert(name.into(), "1".into());
    }
    let image = world.build_request(&request);
    assert!(!world.executor.ran()[0].env.iter().any(|(name, _)| name.starts_with("BUILDKIT_")));
    assert_eq!(image.history()[1..], ["RUN /bin/sh -c x # buildkit"]);
    assert_eq!(image.seen.warnings(), Vec::<String>::new());
}

#[test]
fn g2_a_target_is_a_name_in_any_case_or_a_number() {
    let world = World::new();
    for (target, expected) in [("ONE", "1"), ("one", "1"), ("1", "2"), ("two.x", "3"), ("", "3")] {
        let mut request =
            world.request("FROM scratch AS One\nLABEL l=1\nFROM scratch\nLABEL l=2\nFROM scratch AS two.x\nLABEL l=3");
        request.target = Some(target.into());
        assert_eq!(world.build_request(&request).config().config.labels["l"], expected, "{target}");
    }
}

#[test]
fn g3_a_name_means_the_last_stage_before_and_a_number_counts_from_0() {
    let world = World::new();
    world.lay("a", "a").lay("b", "b");
    let two = "FROM scratch AS s\nCOPY a /f\nFROM scratch AS S\nCOPY b /f\nFROM scratch\n";
    assert!(world.build(&format!("{two}COPY --from=s /f /")).files().ends_with("f b"));
    assert!(world.build(&format!("{two}COPY --from=0 /f /")).files().ends_with("f a"));
    refused(&[
        ("FROM scratch AS s\nCOPY --from=s /f /", "within itself"),
        ("FROM scratch AS s\nCOPY --from=0 /f /", "within itself"),
        ("FROM scratch\nCOPY --from=7 /f /", "invalid stage index 7"),
        ("FROM base AS a\nRUN --mount=from=b,target=/x x\nFROM scratch AS b\nFROM a", "needs to be defined before"),
    ]);
}

#[test]
fn g4_a_context_of_the_platform_comes_before_one_for_all() {
    let world = World::new();
    world.lay("any/f", "any").lay("arm/f", "arm").lay("any/.dockerignore", "hidden").lay("any/hidden", "x");
    let mut request = world.request("FROM scratch\nCOPY --from=ctx / /");
    for (name, folder) in [("ctx", "any"), ("ctx::linux/arm64", "arm")] {
        let files = crate::NamedContext::Files(crate::Context::Folder(world.context().join(folder)));
        request.named_contexts.insert(name.into(), files);
    }
    let files = world.build_request(&request).files();
    assert!(files.contains("f any") && !files.contains("hidden x"), "{files}");
    request.platforms = vec!["linux/arm64".parse().expect("a platform")];
    assert!(world.build_request(&request).files().contains("f arm"));
}

#[test]
fn g5_a_context_that_nobody_needs_is_not_looked_at() {
    let world = World::new();
    world.lay("f", "f");
    let mut request = world.request("FROM gone AS unused\nFROM scratch\nCOPY f /");
    let gone = crate::NamedContext::Files(crate::Context::Folder("/no/such/folder".into()));
    request.named_contexts.insert("gone".into(), gone);
    world.build_request(&request);
}

#[test]
fn c1_sources_stay_inside_and_a_slash_at_their_end_means_nothing() {
    let world = World::new();
    world.lay("d/f", "f").lay("g", "g");
    for source in ["d", "d/", "/d", "../d", "/../../d/.", "./d//", "x/../d"] {
        let files = world.build(&format!("FROM scratch\nCOPY {source} /o/")).files();
        assert_eq!(files, "755 0:0 o/\n644 0:0 o/f f", "{source}");
    }
    assert_eq!(world.build("FROM scratch\nCOPY g/ /h").files(), "644 0:0 h g");
}

#[test]
fn c8_the_folder_that_is_copied_does_not_bring_its_own_look() {
    let world = World::new();
    world.lay("d/sub/f", "f").mode("d", 0o700).mode("d/sub", 0o711);
    assert_eq!(world.build("FROM scratch\nCOPY d /o").files(), "755 0:0 o/\n711 0:0 o/sub/\n644 0:0 o/sub/f f");
    let files = world.build("FROM scratch\nCOPY --chown=1:2 d /o").files();
    assert_eq!(files, "755 1:2 o/\n711 1:2 o/sub/\n644 1:2 o/sub/f f");
}

#[test]
fn c12_a_file_with_the_name_of_a_whiteout_is_one_as_with_buildkit_and_is_told() {
    let world = World::new();
    world.lay("d/.wh.passwd", "x");
    let image = world.build("FROM base\nCOPY d /etc/");
    assert!(image.seen.output().contains("warning: `/etc/.wh.passwd` deletes a file"), "{}", image.seen.output());
    let files = world.build("FROM base AS a\nCOPY d /etc/\nFROM scratch\nCOPY --from=a /etc /e").files();
    assert!(files.contains("e/group") && !files.contains("passwd"), "{files}");
}

#[test]
fn c16_a_mode_goes_to_files_and_folders_but_not_to_links() {
    let world = World::new();
    world.lay("d/sub/f", "f").lay("d/l", "-> sub/f").mode("d/sub/f", 0o750);
    for (mode, expected) in [
        ("640", "640 0:0 o/\n0:0 o/l -> sub/f\n640 0:0 o/sub/\n640 0:0 o/sub/f f"),
        ("u=rwX,go=rX", "755 0:0 o/\n0:0 o/l -> sub/f\n755 0:0 o/sub/\n755 0:0 o/sub/f f"),
        ("a-x", "755 0:0 o/\n0:0 o/l -> sub/f\n644 0:0 o/sub/\n640 0:0 o/sub/f f"),
    ] {
        assert_eq!(world.build(&format!("FROM scratch\nCOPY --chmod={mode} d /o")).files(), expected, "{mode}");
    }
    refused(&[
        ("FROM scratch\nCOPY --chmod=8 Dockerfile /", "invalid chmod parameter: '8'"),
        ("FROM scratch\nCOPY --chmod=10000 Dockerfile /", "invalid chmod parameter: '10000'"),
        ("FROM scratch\nCOPY --chmod=u+q Dockerfile /", "chmod"),
        ("FROM scratch\nADD --chmod=rwx Dockerfile /", "chmod"),
    ]);
}

#[test]
fn c20_c22_where_copy_takes_from() {
    let world = World::new();
    assert_eq!(world.build("FROM scratch\nCOPY --from=base /etc/passwd /p").files().split(' ').next(), Some("644"));
    refused(&[
        ("FROM scratch\nCOPY http://host/x /", "source can't be a URL for COPY"),
        ("FROM scratch\nCOPY https://host/x.git /", "for COPY"),
        ("FROM scratch\nCOPY git@host:x.git /", "for COPY"),
    ]);
}

#[test]
fn c26_i2_i3_i6_what_is_ignored_is_not_there() {
    let world = World::new();
    world
        .lay(".dockerignore", "\u{feff}# comment\n\n  *.md  \n!keep.md\n/sub/\nDockerfile\n.dockerignore\n")
        .lay("a.md", "a");
    world.lay("keep.md", "k").lay("sub/f", "f").lay("deep/b.md", "b").lay("Dockerfile", "x");
    let files = world.build("FROM scratch\nCOPY . /").files();
    assert_eq!(files, "755 0:0 deep/\n644 0:0 deep/b.md b\n644 0:0 keep.md k");
    let error = world.refuse("FROM scratch\nCOPY a.md /");
    assert!(error.contains("\"/a.md\": not found") && error.contains("`.dockerignore` excludes it"), "{error}");
    let error = world.refuse("FROM scratch\nADD s* a.md /");
    assert!(error.contains("\"/a.md\": not found"), "{error}");
    world.lay(".dockerignore", "!\n");
    assert!(world.refuse("FROM scratch\nCOPY . /").contains("illegal exclusion pattern"));
}

#[test]
fn i7_only_what_a_build_uses_is_read() {
    let world = World::new();
    world.lay("used/f", "f").lay("big", "").lay("loop", "-> loop");
    // Nobody reads this to its end in a day, and nobody ever writes to the pipe.
    let big = std::fs::File::options().write(true).open(world.context().join("big")).expect("opened");
    big.set_len(1 << 40).expect("grown");
    let pipe = world.context().join("used-not-pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).expect("made");
    let image = world.build("FROM base\nCOPY used /o/\nCOPY u*d/f /p/\nRUN --mount=target=/m,source=used list /m");
    assert!(image.files().contains("o/f f") && image.files().contains("p/f f"), "{}", image.files());
    assert_eq!(image.seen.output(), "644 0:0 f f\n");
    // A pipe is copied as one, without anybody reading from it.
    let files = world.build("FROM scratch\nCOPY used-not-pipe /pipe").files();
    assert!(files.ends_with("pipe Fifo"), "{files}");
}

#[test]
fn r5_r7_r8_mounts_are_understood_or_refused() {
    let world = World::new();
    world.lay("f", "f");
    let image = world.build(
        "FROM base\nENV T=there\nWORKDIR /w\nRUN --mount=TYPE=tmpfs,Target=/t,size=1m --mount=\"type=bind,source=f,target=rel/$T\" \
         list /w/rel/there\n",
    );
    assert_eq!(image.seen.output(), "f");
    refused(&[
        ("FROM base\nRUN --mount=type=bind,target=/ x", "invalid mount target"),
        ("FROM base\nRUN --mount=type=bind x", "target"),
        ("FROM base\nRUN --mount=type=tmpfs,target=/t,uid=1 x", "uid"),
        ("FROM base\nRUN --mount=type=bind,target=/t,mode=700 x", "mode"),
        ("FROM base\nRUN --mount=type=cache,target=/t,sharing=some x", "sharing"),
        ("FROM base\nRUN --mount=type=cache,target=/t,uid=x x", "uid"),
        ("FROM base\nRUN --mount=type=bind,target=/t,from=$X x", "variable"),
        ("FROM base\nRUN --mount=type=bind,target=/t,readonly=perhaps x", "readonly"),
        ("FROM base\nRUN --mount=type=tmpfs,target=/t,size=much x", "size"),
        ("FROM base\nRUN --mount=type=secret,id=s,required x", "secret s: not found"),
        ("FROM base\nRUN --mount=type=bind,source=nosuch,target=/t x", "\"/nosuch\": not found"),
    ]);
}

#[test]
fn r9_r10_what_needs_a_right_is_refused_without_it() {
    let world = World::new();
    let error = world.refuse("FROM base\nRUN --network=host x");
    assert!(error.contains("network.host"), "{error}");
    let error = world.refuse("FROM base\nRUN --security=insecure x");
    assert!(error.contains("security.insecure"), "{error}");
    refused(&[("FROM base\nRUN --network=hots x", "hots"), ("FROM base\nRUN --security=loose x", "loose")]);
    let mut request = world.request("FROM base\nRUN --network=host x");
    request.allow.network_host = true;
    world.build_request(&request);
    // The network is part of the key.
    let mut request = world.request("FROM base\nRUN --network=none y");
    world.build_request(&request);
    request.dockerfile.bytes = b"FROM base\nRUN y".to_vec();
    assert!(!world.build_request(&request).seen.all_cached());
}

#[test]
fn m1_m2_the_shell_of_the_moment_wraps_commands() {
    let world = World::new();
    let image = world.build("FROM base\nCMD a\nSHELL [\"/bin/x\", \"-y\"]\nENTRYPOINT b\nRUN c\nHEALTHCHECK CMD d");
    let config = &image.config().config;
    assert_eq!(config.cmd.as_deref().map(|words| words.join(" ")).as_deref(), Some("/bin/sh -c a"));
    assert_eq!(config.entrypoint.as_deref().map(|words| words.join(" ")).as_deref(), Some("/bin/x -y b"));
    assert_eq!(world.executor.ran()[0].argv, ["/bin/x", "-y", "c"]);
    assert_eq!(config.shell, ["/bin/x", "-y"]);
    // The command of the base goes with the first entrypoint; one of this stage stays.
    assert_eq!(world.build("FROM base\nENTRYPOINT e").config().config.cmd, None);
    assert!(world.build("FROM base\nCMD c\nENTRYPOINT e").config().config.cmd.is_some());
    assert!(world.build("FROM base\nENTRYPOINT e\nCMD c").config().config.cmd.is_some());
}

#[test]
fn m6_m7_m8_m9_m10_values_that_mean_nothing_are_refused() {
    refused(&[
        ("FROM base\nVOLUME \"\"", "empty"),
        ("FROM base\nVOLUME [\"\"]", "empty"),
        ("FROM base\nEXPOSE 80/xyz", "xyz"),
        ("FROM base\nEXPOSE 90-80", "90-80"),
        ("FROM base\nEXPOSE 65536", "65536"),
        ("FROM base\nSTOPSIGNAL SIGWHAT", "SIGWHAT"),
        ("FROM base\nHEALTHCHECK --retries=-1 CMD x", "retries"),
        ("FROM base\nHEALTHCHECK --interval=1us CMD x", "interval"),
        ("FROM base\nHEALTHCHECK --interval=soon CMD x", "soon"),
        ("FROM base\nHEALTHCHECK x", "x"),
        ("FROM base\nHEALTHCHECK NONE x", "NONE"),
        ("FROM base\nHEALTHCHECK CMD", "CMD"),
    ]);
    let world = World::new();
    let image = world.build("FROM base\nEXPOSE 8 8-9 7/UDP\nVOLUME /b /a\nVOLUME [\"/c d\"]\nHEALTHCHECK NONE");
    assert_eq!(
        image.history()[1..],
        [
            "EXPOSE [7/udp 8/tcp 8/tcp 9/tcp] (empty)",
            "VOLUME [/b /a] (empty)",
            "VOLUME [/c d] (empty)",
            "HEALTHCHECK {Test:[NONE] Interval:0s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0} (empty)"
        ]
    );
}

#[test]
fn m12_a_trigger_is_kept_as_it_is_written() {
    let world = World::new();
    let image = world.build("FROM base\nONBUILD   RUN  a   $X \\\n  b\nONBUILD COPY <<E /e\n$Y\nE\n");
    assert_eq!(image.config().config.on_build, ["RUN  a   $X   b", "COPY <<E /e\n$Y\nE"]);
    assert_eq!(world.executor.ran().len(), 0);
    let files = world.build("FROM base AS a\nONBUILD COPY <<E /e\n${Y:-y}\nE\nFROM a\n").files();
    assert!(files.ends_with("e y"), "{files}");
}

#[test]
fn history_counts_arguments_once_by_where_they_came_first() {
    let world = World::new();
    let image =
        world.build("FROM base\nARG A=1\nARG B\nARG A=2\nENV E=e\nRUN x\nFROM scratch\nWORKDIR /\nWORKDIR a/../b/");
    assert_eq!(image.history(), ["WORKDIR / (empty)", "WORKDIR /b"]);
    let mut request = world.request("FROM base\nARG A=1\nARG B\nARG A=2\nENV E=e\nRUN x");
    request.build_args.insert("B".into(), "b c".into());
    let history = world.build_request(&request).history();
    assert_eq!(history.last().map(String::as_str), Some("RUN |2 A=2 B=b c /bin/sh -c x # buildkit"));
}

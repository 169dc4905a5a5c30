//! Rows 1.3, 1.4, 1.8 and 1.9: variables, stages, config and history.

use super::World;

#[test]
fn a1_global_arguments_reach_a_stage_only_when_it_asks() {
    let world = World::new();
    let dockerfile = "ARG G=g\nARG H=$G-h\nFROM ${B:-base}\nLABEL before=$G\nARG G\nARG H=own\nLABEL after=$G:$H";
    let image = world.build(dockerfile);
    let labels = &image.config().config.labels;
    assert_eq!((labels["before"].as_str(), labels["after"].as_str()), ("", "g:own"));
}

#[test]
fn a2_a3_the_last_of_arg_and_env_wins_for_run_but_the_config_keeps_env() {
    let world = World::new();
    let mut request = world.request("FROM base\nENV X=env\nARG X=default\nARG Y\nRUN x $X");
    request.build_args.insert("X".into(), "given".into());
    let image = world.build_request(&request);
    let ran = world.executor.ran();
    assert!(ran[0].env.contains(&("X".into(), "given".into())), "{ran:?}");
    assert!(!ran[0].env.iter().any(|(name, _)| name == "Y"));
    assert!(image.config().config.env.contains(&"X=env".to_owned()));
}

#[test]
fn a5_a_stage_passes_its_arguments_on_and_an_image_does_not() {
    let world = World::new();
    world.build("FROM base AS one\nARG A=1\nFROM one\nRUN x\nFROM base\nCOPY --from=1 /etc/passwd /\nRUN y");
    let ran = world.executor.ran();
    let has = |command: &str| {
        let ran = ran.iter().find(|ran| ran.argv[2] == command).expect("ran");
        ran.env.iter().any(|(name, _)| name == "A")
    };
    assert!(has("x") && !has("y"));
}

#[test]
fn a8_proxies_reach_run_and_nothing_else() {
    let world = World::new();
    let mut request = world.request("FROM base\nRUN x");
    request.build_args.insert("http_proxy".into(), "http://one".into());
    let image = world.build_request(&request);
    assert!(world.executor.ran()[0].env.contains(&("http_proxy".into(), "http://one".into())));
    assert!(!serde_json::to_string(image.config()).expect("text").contains("one"));
    request.build_args.insert("http_proxy".into(), "http://two".into());
    assert!(world.build_request(&request).seen.all_cached());
}

#[test]
fn a10_arguments_that_nobody_uses_are_told() {
    let world = World::new();
    let mut request = world.request("FROM base\nARG USED");
    for name in ["USED", "TYPO", "BUILDKIT_INLINE_CACHE", "TARGETARCH"] {
        request.build_args.insert(name.into(), "1".into());
    }
    assert_eq!(world.build_request(&request).seen.warnings(), ["one or more build-args [TYPO] were not consumed"]);
}

#[test]
fn a12_g7_scratch_has_a_path_and_a_folder_but_no_layers() {
    let world = World::new();
    let image = world.build("FROM scratch");
    let config = serde_json::to_string(image.config()).expect("text");
    insta::assert_snapshot!(config, @r#"{"architecture":"amd64","os":"linux","created":"1970-01-01T00:00:00Z","config":{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"WorkingDir":"/"},"rootfs":{"type":"layers","diff_ids":[]}}"#);
}

#[test]
fn g1_stages_that_nobody_needs_are_not_touched() {
    let world = World::new();
    let dockerfile = "FROM nowhere AS unused\nCOPY missing /\nFROM base AS wanted\nRUN print hi\nFROM unused";
    let mut request = world.request(dockerfile);
    request.target = Some("WANTED".into());
    assert_eq!(
        world.build_request(&request).seen.steps(),
        ["[wanted 1/2] FROM base: done", "[wanted 2/2] RUN print hi: done"]
    );
}

#[test]
fn g6_triggers_fire_first_and_are_gone_in_the_result() {
    let world = World::new();
    world.lay("a", "A");
    let on_build = vec!["ENV T=1".into(), "COPY a /fired".into(), "COPY --from=src /made /made".into()];
    world.images.add(&world.store, "onbuild", oci::ContainerConfig { on_build, ..Default::default() });
    let image = world.build("FROM base AS src\nRUN write made M\nFROM onbuild\nRUN x\nONBUILD RUN later");
    assert!(world.executor.ran().iter().any(|ran| ran.env.contains(&("T".into(), "1".into()))));
    assert_eq!(image.files(), "644 0:0 fired A\n644 0:0 made M");
    assert_eq!(image.config().config.on_build, ["RUN later"]);
    assert_eq!(image.history()[1], "ENV T=1 (empty)");
}

#[test]
fn m3_a_workdir_is_made_where_it_is_set() {
    let world = World::new();
    let image = world.build("FROM base\nWORKDIR a\nWORKDIR b/../c\nWORKDIR /\nWORKDIR /x//y/");
    assert_eq!(image.config().config.working_dir, "/x//y/");
    assert_eq!(image.files(), "755 0:0 a/\n755 0:0 a/c/\n755 0:0 x/\n755 0:0 x/y/");
    assert_eq!(image.history()[1..], ["WORKDIR /a", "WORKDIR /a/c", "WORKDIR / (empty)", "WORKDIR /x//y/"]);
}

#[test]
fn m5_m13_a_base_passes_its_config_on() {
    let world = World::new();
    let image = world.build("FROM base\nENV NEW=2 BASE=changed\nCMD [\"a\"]\nEXPOSE 8000-8001/udp 80\nVOLUME /v");
    let config = &image.config().config;
    let path = format!("PATH={}", crate::image_state::DEFAULT_PATH);
    assert_eq!(config.env, ["BASE=changed".to_owned(), path, "NEW=2".into()]);
    assert_eq!(config.exposed_ports.keys().collect::<Vec<_>>(), ["80/tcp", "8000/udp", "8001/udp"]);
    assert!(config.args_escaped);
}

#[test]
fn history_reads_as_buildkit_writes_it() {
    let world = World::new();
    world.lay("a", "A");
    let dockerfile = "FROM scratch\nARG A=1 B\nENV E=$A\nLABEL k=v\nMAINTAINER me\nSHELL [\"/bin/sh\", \"-ec\"]\nRUN x && y\n\
        RUN [\"z\", \"q\"]\nCOPY --chown=1:2 --chmod=600 a /b\nADD a /c/\nCMD w \"v\"\nENTRYPOINT [\"e\"]\nUSER 1\nVOLUME /v\n\
        EXPOSE 80\nSTOPSIGNAL 9\nHEALTHCHECK --interval=90s CMD t\nWORKDIR /w\nONBUILD RUN o\nCOPY <<EOF /h\nx\nEOF\n";
    insta::assert_snapshot!(world.build(dockerfile).history().join("\n"), @r#"
    ARG A=1 B (empty)
    ENV E=1 (empty)
    LABEL k=v (empty)
    MAINTAINER me (empty)
    SHELL [/bin/sh -ec] (empty)
    RUN |2 A=1 B= /bin/sh -ec x && y # buildkit
    RUN |2 A=1 B= z q # buildkit
    COPY --chown=1:2 --chmod=600 a /b # buildkit
    ADD a /c/ # buildkit
    CMD ["/bin/sh" "-ec" "w \"v\""] (empty)
    ENTRYPOINT ["e"] (empty)
    USER 1 (empty)
    VOLUME [/v] (empty)
    EXPOSE [80/tcp] (empty)
    STOPSIGNAL 9 (empty)
    HEALTHCHECK {Test:[CMD-SHELL t] Interval:1m30s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0} (empty)
    WORKDIR /w
    COPY <<EOF /h # buildkit
    "#);
}

#[test]
fn labels_of_the_request_are_not_history() {
    let world = World::new();
    let mut request = world.request("FROM scratch\nLABEL a=1");
    request.labels.insert("a".into(), "2".into());
    let image = world.build_request(&request);
    assert_eq!(image.config().config.labels["a"], "2");
    assert_eq!(image.config().history.len(), 1);
}

#[test]
fn g4_a_named_context_takes_the_place_of_images_and_stages() {
    let world = World::new();
    world.images.add(&world.store, "other", oci::ContainerConfig { env: vec!["OTHER=1".into()], ..Default::default() });
    world.lay("named/f", "F").lay("named/.dockerignore", ".dockerignore\nx\n").lay("named/x", "X");
    let mut request = world.request(
        "FROM docker.io/library/gone:latest AS one\nRUN a\nFROM never AS two\nRUN b\nFROM one\nCOPY --from=two / /t/\nCOPY --from=files f /g\nRUN --mount=from=files,target=/m list /m",
    );
    let other: oci::Reference = "other".parse().expect("valid");
    let files = || crate::NamedContext::Files(crate::Context::Folder(world.context().join("named")));
    request.named_contexts.insert("gone".into(), crate::NamedContext::Image(other));
    request.named_contexts.insert("two".into(), files());
    request.named_contexts.insert("files".into(), files());
    let image = world.build_request(&request);
    assert_eq!(image.files(), "644 0:0 g F\n755 0:0 t/\n644 0:0 t/f F");
    assert!(image.config().config.env.contains(&"OTHER=1".to_owned()));
    assert_eq!(image.seen.output(), "644 0:0 f F\n");
}

#[test]
fn several_platforms_make_an_image_each() {
    let world = World::new();
    let dockerfile = "FROM --platform=$BUILDPLATFORM base AS tools\nRUN write t T\nFROM scratch\nARG TARGETARCH\nLABEL a=$TARGETARCH\nCOPY --from=tools /t /\n";
    let mut request = world.request(dockerfile);
    request.build_platform = oci::Platform::linux("amd64");
    request.platforms = vec![oci::Platform::linux("amd64"), oci::Platform::linux("arm64")];
    let image = world.build_request(&request);
    let made: Vec<_> = image
        .built
        .images
        .iter()
        .map(|image| (image.config.architecture.as_str(), image.config.config.labels["a"].as_str()))
        .collect();
    assert_eq!(made, [("amd64", "amd64"), ("arm64", "arm64")]);
    assert_eq!(world.executor.ran().len(), 1, "the tools are built once");
}

#[test]
fn stages_may_stand_on_each_other_by_the_thousand() {
    let world = World::new();
    let stages: String = (1..5000).map(|index| format!("FROM s{} AS S{index}\n", index - 1)).collect();
    assert_eq!(world.build(&format!("FROM base AS s0\nLABEL a=1\n{stages}")).config().config.labels["a"], "1");
    let mut copies = String::from("FROM base AS s0\nRUN write a A\n");
    for index in 1..5000 {
        copies += &format!("FROM scratch AS s{index}\nONBUILD COPY --from=s{} /a /a\nENV E=1\n", index - 1);
    }
    world.build(&(copies + "FROM scratch\nCOPY --from=s4999 /etc* /"));
}

//! `slipway push`.

use super::support::{Registry, TestEnv, needs, path, run};

#[test]
fn a_push_sends_each_layer_once() {
    let env = TestEnv::with_busybox();
    let registry = env.registry();
    let name = |repository: &str| format!("{}/{repository}:1", registry.address);
    for repository in ["one", "two"] {
        env.slipway(["tag", "busybox", &name(repository)]).success();
    }
    let ran = env.slipway(["push", &name("one")]);
    assert!(ran.stderr().contains(": Pushed"), "{}", ran.stderr());
    let stdout = ran.success();
    let last = stdout.lines().last().unwrap_or_default();
    assert!(last.starts_with("1: digest: sha256:") && last.contains(" size: "), "{stdout}");
    let again = env.slipway(["push", &name("one")]);
    assert!(again.stderr().contains("Layer already exists"), "{}", again.stderr());
    assert_eq!(again.success(), stdout, "the same image has the same digest");
    assert_eq!(env.slipway(["push", "-q", &name("two")]).success(), format!("{}\n", name("two")));
}

#[test]
fn all_tags_of_a_repository_go_together() {
    let env = TestEnv::with_busybox();
    let registry = env.registry();
    for tag in ["1", "2"] {
        env.slipway(["tag", "busybox", &format!("{}/bb:{tag}", registry.address)]).success();
    }
    let stdout = env.slipway(["push", "--all-tags", &format!("{}/bb", registry.address)]).success();
    assert!(stdout.contains("\n1: digest:") && stdout.contains("\n2: digest:"), "{stdout}");
}

#[test]
fn an_image_that_is_not_here_is_named() {
    let env = TestEnv::new();
    let stderr = env.slipway(["push", "localhost:1/nosuch"]).failure(1);
    assert!(stderr.contains("an image does not exist locally with the name `localhost:1/nosuch:latest`"), "{stderr}");
    assert!(stderr.contains("hint:"), "{stderr}");
}

#[test]
fn a_registry_that_is_not_there_is_named() {
    let env = TestEnv::with_busybox();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let name = format!("{free}/bb:1");
    env.slipway(["tag", "busybox", &name]).success();
    let stderr = env.slipway(["push", &name]).failure(1);
    assert!(stderr.contains(&free.to_string()) && stderr.contains("refused"), "{stderr}");
}

#[test]
fn a_registry_of_the_same_home_takes_an_image_from_the_store() {
    let env = TestEnv::with_busybox();
    let registry = Registry::start(&env, &env.home());
    let context = env.context("app", "FROM busybox\nCOPY large small /\n");
    env.write("app/large", vec![7; 3 << 20]);
    env.write("app/small", "small");
    let name = format!("{}/app:1", registry.address);
    env.slipway(["build", "-t", &name, path(&context)]).success();
    let ran = env.slipway(["push", &name]);
    let stderr = ran.stderr();
    assert!(stderr.contains(": Mounted") && !stderr.contains("Pushed"), "{stderr}");
    ran.success();

    // What the store throws away then, the registry keeps, and the other way round.
    env.slipway(["rmi", &name, "busybox"]).success();
    env.slipway(["prune", "-af"]).success();
    env.slipway(["registry", "gc", "--grace", "0", "--unnamed", "0"]).success();
    env.slipway(["registry", "fsck", "--verify"]).success();
    let pulled = run(env.command(["pull", &name]).env("SLIPWAY_HOME", env.path("other")));
    assert!(pulled.success().contains("Downloaded newer image"));
    if needs::tools(&["skopeo"]) {
        let to = format!("dir:{}", path(&env.path("copy")));
        #[expect(clippy::disallowed_methods, reason = "a test starts programs")]
        let mut skopeo = std::process::Command::new("skopeo");
        run(skopeo.args(["--insecure-policy", "copy", "--src-tls-verify=false", &format!("docker://{name}"), &to]))
            .success();
    }
}

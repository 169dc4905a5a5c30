//! `slipway create`.

use super::support::TestEnv;

#[test]
fn what_was_asked_for_is_kept_and_shown_as_docker_shows_it() {
    let Some(env) = TestEnv::for_containers() else { return };
    let id = env
        .slipway([
            "create",
            "--name",
            "box",
            "-e",
            "A=1",
            "-l",
            "tier=db",
            "-w",
            "/tmp",
            "-u",
            "33",
            "-m",
            "64m",
            "--cpus",
            "1.5",
            "--restart",
            "on-failure:3",
            "--read-only",
            "--network=none",
            "--stop-timeout",
            "3",
            "--log-opt",
            "max-size=1m",
            "--tmpfs",
            "/t:size=1m",
            "busybox",
            "sleep",
            "9",
        ])
        .success();
    let id = id.trim();
    assert_eq!(id.len(), 64);
    let look = |template: &str| env.look("box", template);
    assert_eq!(look("{{.Id}} {{.Name}} {{.Path}} {{.Args}}"), format!("{id} /box sleep [9]"));
    assert_eq!(look("{{.State.Status}} {{.State.Running}} {{.State.StartedAt}}"), "created false 0001-01-01T00:00:00Z");
    assert_eq!(
        look("{{index .Config.Env 0}} {{.Config.Labels.tier}} {{.Config.WorkingDir}} {{.Config.User}}"),
        "A=1 db /tmp 33"
    );
    assert_eq!(
        look("{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.ReadonlyRootfs}}"),
        "67108864 1500000000 true"
    );
    assert_eq!(
        look("{{.HostConfig.RestartPolicy.Name}} {{.HostConfig.RestartPolicy.MaximumRetryCount}}"),
        "on-failure 3"
    );
    assert_eq!(
        look("{{.Config.StopTimeout}} {{json .HostConfig.LogConfig}}"),
        "3 {\"Config\":{\"max-size\":\"1m\"},\"Type\":\"json-file\"}"
    );
    assert_eq!(look("{{range .Mounts}}{{.Type}} {{.Destination}} {{.RW}}{{end}}"), "tmpfs /t true");
    assert_eq!(look("{{.Config.Hostname}} {{.Config.Image}}"), format!("{} busybox", &id[..12]));
}

#[test]
fn what_cannot_be_is_refused_and_leaves_nothing() {
    let Some(env) = TestEnv::for_containers() else { return };
    env.slipway(["create", "--name", "taken", "busybox"]).success();
    let refused = |flags: &[&str], text: &str| {
        let error = env.slipway([&["create"], flags].concat()).failure(1);
        assert!(error.contains(text), "{flags:?}: {error}");
    };
    refused(&["--name", "taken", "busybox"], "Conflict. The container name \"/taken\" is already in use by container");
    refused(
        &["--name", "no name", "busybox"],
        "Invalid container name (no name), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
    );
    refused(&["--log-driver", "nosuch", "busybox"], "no log driver named 'nosuch' is registered");
    refused(&["--log-opt", "nosuch=1", "busybox"], "unknown log opt 'nosuch' for json-file log driver");
    refused(&["--pull=never", "nosuch"], "nosuch");
    for (flags, text) in [
        (["--restart", "sometimes"], "invalid restart policy: unknown policy 'sometimes'"),
        (["--restart", "always:3"], "maximum retry count can only be used with 'on-failure'"),
        (["--memory", "1k"], "minimum memory limit allowed is 6MB"),
        (["--stop-signal", "NOPE"], "Invalid signal: NOPE"),
        (["--memory-swap", "1g"], "you should always set the memory limit when using memory-swap limit"),
    ] {
        let error = env.slipway([&["create"], &flags[..], &["busybox"]].concat()).failure(125);
        assert!(error.contains(text), "{flags:?}: {error}");
    }
    let both = env.slipway(["create", "--rm", "--restart", "always", "busybox"]).failure(125);
    assert!(both.contains("conflicting options: cannot specify both --restart and --rm"), "{both}");
    assert_eq!(std::fs::read_dir(env.home().join("containers")).unwrap().count(), 1);
    assert_eq!(std::fs::read_dir(env.home().join("container-names")).unwrap().count(), 1);
}

#[test]
fn what_would_be_left_out_is_refused() {
    let Some(env) = TestEnv::for_containers() else { return };
    let flags = ["--memory=16m", "--memory-reservation=32m", "busybox", "true"];
    let error = env.slipway(["create", "--name", "never"].into_iter().chain(flags)).failure(125);
    assert!(error.contains("Minimum memory limit can not be less than memory reservation limit"), "{error}");
    assert!(!env.slipway(["ps", "-a"]).success().contains("never"));
}

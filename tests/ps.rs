//! `slipway ps`.

use super::support::TestEnv;

#[test]
fn columns_filters_and_formats_are_dockers() {
    let Some(env) = TestEnv::for_containers() else { return };
    let id = env.start("web", &["-l", "tier=front", "--health-cmd", "true"], "sleep 100");
    env.slipway(["run", "--name", "job", "-l", "tier=back", "--network=none", "busybox", "false"]).failure(1);
    env.slipway(["create", "--name", "new", "busybox"]).success();
    let table = env.slipway(["ps"]).success();
    let lines: Vec<&str> = table.lines().collect();
    let headings = "CONTAINER ID IMAGE COMMAND CREATED STATUS PORTS NAMES";
    assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>().join(" "), headings);
    assert!(lines.len() == 2 && lines[1].starts_with(&id[..12]) && lines[1].ends_with("web"), "{table}");
    assert!(lines[1].contains("\"sh -c sleep 100\"") && lines[1].contains("Up "), "{table}");
    let names = |flags: &[&str]| {
        let list = env.slipway([&["ps", "--format", "{{.Names}}"], flags].concat()).success();
        list.lines().map(str::to_owned).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(&["-a"]), "new job web");
    assert_eq!(names(&["-n", "2"]), "new job");
    assert_eq!(names(&["-l"]), "new");
    for (filter, found) in [
        ("status=exited", "job"),
        ("status=created", "new"),
        ("exited=1", "job"),
        ("label=tier", "job web"),
        ("label=tier=front", "web"),
        ("name=^/we", "web"),
        ("since=web", "new job"),
        ("before=job", "web"),
        ("ancestor=busybox", "new job web"),
        ("ancestor=other", ""),
        ("network=none", "job web"),
    ] {
        assert_eq!(names(&["-a", "-f", filter]), found, "{filter}");
    }
    assert_eq!(names(&["-a", "-f", &format!("id={}", &id[..5])]), "web");
    assert_eq!(env.slipway(["ps", "-q", "--no-trunc"]).success(), format!("{id}\n"));
    assert_eq!(
        env.slipway(["ps", "--format", "table {{.Names}}\\t{{.State}}"]).success(),
        "NAMES   STATE\nweb     running\n"
    );
    assert_eq!(env.slipway(["ps", "--format", "{{.Label \"tier\"}}"]).success(), "front\n");
    let json: serde_json::Value = serde_json::from_str(&env.slipway(["ps", "--format", "json"]).success()).unwrap();
    assert_eq!((&json["Names"], &json["ID"], &json["State"]), (&"web".into(), &id[..12].into(), &"running".into()));
    assert!(env.slipway(["ps", "-a", "-s"]).success().contains("SIZE"));
    assert!(env.slipway(["ps", "-f", "nosuch=1"]).failure(1).contains("invalid filter 'nosuch'"));
    assert!(env.slipway(["ps", "--format", "{{.Nope}}"]).code() != 0);
}

#[test]
fn a_container_whose_supervisor_was_killed_has_ended() {
    let Some(env) = TestEnv::for_containers() else { return };
    env.start("box", &[], "sleep 100");
    env.start("gone", &["--rm"], "sleep 100");
    let state = |name: &str| -> serde_json::Value {
        let id = env.look(name, "{{.Id}}");
        let text = std::fs::read(env.home().join("containers").join(id).join("state.json")).unwrap();
        serde_json::from_slice(&text).unwrap()
    };
    let pids = ["box", "gone"].map(|name| {
        let state = state(name);
        (state["supervisor"]["pid"].as_u64().unwrap() as u32, state["process"]["pid"].as_u64().unwrap() as u32)
    });
    for (supervisor, _) in pids {
        super::support::send(supervisor, rustix::process::Signal::KILL);
    }
    for (_, process) in pids {
        super::support::eventually(20, "the container dies with it", || !super::support::is_alive(process));
    }
    assert_eq!(env.slipway(["ps", "-a", "--format", "{{.Names}} {{.State}}"]).success(), "box exited\n");
    assert_eq!(env.look("box", "{{.State.ExitCode}} {{.State.Pid}}"), "255 0");
    env.slipway(["start", "box"]).success();
    assert_eq!(env.look("box", "{{.State.Status}}"), "running");
}

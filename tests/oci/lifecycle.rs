//! A container's life, verb by verb.

use super::{Bundle, needs_root_and, spec, support};
use serde_json::json;
use std::io::{IoSliceMut, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(10), "not within ten seconds: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_container_is_created_started_joined_paused_killed_and_deleted() {
    needs_root_and!();
    let bundle = Bundle::new();
    let mut config = spec(&["/bin/sh", "-c", "echo started > /tmp/mark; exec sleep 1000"]);
    config["annotations"] = json!({"a": "b"});
    bundle.write(&config);
    let pid_file = bundle.path("pid");
    bundle.ours(&["create", "--bundle", ".", "--pid-file", pid_file.to_str().unwrap(), &bundle.id]);
    let state = bundle.state();
    assert_eq!(state["status"], "created");
    assert_eq!(state["annotations"]["a"], "b");
    assert_eq!(state["bundle"], bundle.path("bundle").canonicalize().unwrap().to_str().unwrap());
    let pid = std::fs::read_to_string(&pid_file).unwrap();
    assert_eq!(state["pid"].to_string(), pid);
    assert!(!bundle.root().join("tmp/mark").exists());
    assert!(bundle.refused(&["create", "--bundle", ".", &bundle.id]).contains("exists already"));
    assert!(bundle.refused(&["resume", &bundle.id]).contains("is created"));

    bundle.ours(&["start", &bundle.id]);
    eventually("the program runs", || bundle.root().join("tmp/mark").exists());
    assert_eq!(bundle.state()["status"], "running");
    assert!(bundle.refused(&["start", &bundle.id]).contains("is running"));
    assert!(bundle.refused(&["delete", &bundle.id]).contains("is running"));

    let output =
        bundle.run("slipway", &["exec", "-e", "A=b", "--cwd", "/etc", &bundle.id, "sh", "-c", "pwd; echo $A; exit 7"]);
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "/etc\nb\n");
    let pids = bundle.ours(&["ps", "--format", "json", &bundle.id]);
    assert_eq!(pids.trim(), format!("[{pid}]"));
    assert!(bundle.ours(&["ps", &bundle.id]).contains("sleep 1000"));
    assert!(bundle.ours(&["list"]).contains("running"));
    assert_eq!(bundle.ours(&["list", "-q"]).trim(), bundle.id);

    bundle.ours(&["pause", &bundle.id]);
    assert_eq!(bundle.state()["status"], "paused");
    assert!(bundle.refused(&["exec", &bundle.id, "true"]).contains("is paused"));
    bundle.ours(&["resume", &bundle.id]);
    assert_eq!(bundle.state()["status"], "running");
    bundle.ours(&["update", "--pids-limit", "33", &bundle.id]);
    assert_eq!(bundle.ours(&["exec", &bundle.id, "cat", "/sys/fs/cgroup/pids/pids.max"]).trim(), "33");

    bundle.ours(&["kill", &bundle.id, "KILL"]);
    eventually("the program ends", || bundle.state()["status"] == "stopped");
    assert!(bundle.refused(&["kill", &bundle.id]).contains("is stopped"));
    assert!(bundle.refused(&["exec", &bundle.id, "true"]).contains("is stopped"));
    bundle.ours(&["delete", &bundle.id]);
    assert!(bundle.refused(&["state", &bundle.id]).contains("does not exist"));
    assert!(bundle.refused(&["delete", &bundle.id]).contains("does not exist"));
    bundle.ours(&["delete", "--force", &bundle.id]);
    assert!(cgroups_of(&bundle).is_empty());
}

fn cgroups_of(bundle: &Bundle) -> Vec<String> {
    let entries = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten();
    let paths = entries.map(|entry| entry.path().join(&bundle.id)).filter(|path| path.exists());
    paths.map(|path| path.display().to_string()).collect()
}

#[test]
fn a_program_that_is_not_there_is_told_to_who_creates_and_one_that_breaks_to_who_starts() {
    needs_root_and!();
    let bundle = Bundle::new();
    bundle.write(&spec(&["nothere"]));
    assert!(bundle.refused(&["create", &bundle.id]).contains("executable file not found"));
    assert!(bundle.ours(&["list", "-q"]).is_empty());
    assert!(cgroups_of(&bundle).is_empty());
    // The kernel finds out about this only when it executes.
    let script = bundle.root().join("bin/broken");
    std::fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    bundle.write(&spec(&["broken"]));
    bundle.ours(&["create", &bundle.id]);
    assert!(bundle.refused(&["start", &bundle.id]).contains("exec: `broken`"));
    eventually("it ends", || bundle.state()["status"] == "stopped");
    bundle.ours(&["delete", &bundle.id]);
}

#[test]
fn a_created_container_is_deleted_without_ever_running() {
    needs_root_and!();
    let bundle = Bundle::new();
    bundle.write(&spec(&["touch", "/tmp/mark"]));
    bundle.ours(&["create", &bundle.id]);
    bundle.ours(&["delete", &bundle.id]);
    assert!(!bundle.root().join("tmp/mark").exists());
    assert!(cgroups_of(&bundle).is_empty());
}

#[test]
fn kill_all_reaches_everybody_and_force_ends_what_ignores_signals() {
    needs_root_and!();
    let bundle = Bundle::new();
    // Without PIDs of its own, the end of the first process is not that of the others.
    let mut config = spec(&["sh", "-c", "trap '' TERM; sleep 1000 & sleep 1000 & wait; sleep 1000"]);
    config["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "pid");
    bundle.write(&config);
    bundle.ours(&["run", "-d", &bundle.id]);
    let count = || bundle.ours(&["ps", "-f", "json", &bundle.id]).matches(',').count() + 1;
    eventually("all run", || count() == 3);
    bundle.ours(&["kill", "--all", &bundle.id, "TERM"]);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(bundle.state()["status"], "running");
    bundle.ours(&["delete", "--force", &bundle.id]);
    assert!(cgroups_of(&bundle).is_empty());
}

/// Takes the descriptor that somebody sends.
fn received(listener: &UnixListener) -> (OwnedFd, String) {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let (socket, _) = listener.accept().unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 65536];
    let length = recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::empty()).unwrap().bytes;
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
        _ => None,
    });
    (fd.unwrap(), String::from_utf8_lossy(&bytes[..length]).into_owned())
}

#[test]
fn a_terminal_goes_to_the_console_socket() {
    needs_root_and!();
    let bundle = Bundle::new();
    let mut config = spec(&["sh", "-c", "tty; stty size; read x; echo got $x; sleep 1000"]);
    config["process"]["terminal"] = json!(true);
    config["process"]["consoleSize"] = json!({"height": 12, "width": 34});
    bundle.write(&config);
    assert!(bundle.refused(&["create", &bundle.id]).contains("no console socket"));
    let socket = bundle.path("console");
    let listener = UnixListener::bind(&socket).unwrap();
    let socket = socket.to_str().unwrap();
    bundle.ours(&["create", "--console-socket", socket, &bundle.id]);
    let mut terminal = std::fs::File::from(received(&listener).0);
    bundle.ours(&["start", &bundle.id]);
    let mut text = String::new();
    let mut read_until = |terminal: &mut std::fs::File, word: &str| {
        let mut bytes = [0; 256];
        while !text.contains(word) {
            let length = terminal.read(&mut bytes).unwrap();
            text.push_str(&String::from_utf8_lossy(&bytes[..length]));
        }
    };
    read_until(&mut terminal, "/dev/pts/0\r\n12 34\r\n");
    terminal.write_all(b"word\n").unwrap();
    read_until(&mut terminal, "got word");
    // One more program has one more terminal.
    bundle.ours(&["exec", "--tty", "--detach", "--console-socket", socket, &bundle.id, "sh", "-c", "tty; stty size"]);
    let mut second = std::fs::File::from(received(&listener).0);
    let mut bytes = [0; 256];
    let length = second.read(&mut bytes).unwrap();
    assert!(String::from_utf8_lossy(&bytes[..length]).starts_with("/dev/pts/1"));
}

#[test]
fn a_program_that_joins_has_what_its_own_process_says() {
    needs_root_and!();
    let bundle = Bundle::new();
    let mut config = spec(&["sleep", "1000"]);
    config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]
    });
    bundle.write(&config);
    bundle.ours(&["run", "--detach", &bundle.id]);
    let process = bundle.path("process.json");
    let script = "grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status; id -u; id -G; mkdir /tmp/x; \
                  cat /proc/self/cgroup | grep -c ':/$'";
    std::fs::write(
        &process,
        json!({
            "args": ["sh", "-c", script], "cwd": "/", "env": ["PATH=/bin"],
            "user": {"uid": 1000, "gid": 1000, "additionalGids": [7]},
            "capabilities": {"bounding": ["CAP_KILL"], "effective": [], "permitted": []}, "noNewPrivileges": true
        })
        .to_string(),
    )
    .unwrap();
    let output = bundle.run("slipway", &["exec", "--process", process.to_str().unwrap(), &bundle.id]);
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<_> = text.lines().map(|line| line.replace('\t', " ")).collect();
    let bounding = format!("CapBnd: {:016x}", 1 << 5);
    let expected = ["CapEff: 0000000000000000", &bounding, "NoNewPrivs: 1", "Seccomp: 2", "1000", "1000 7"];
    assert_eq!(lines[..6], expected, "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stderr).contains("Operation not permitted"));
    // Its cgroups are the container's, which the container sees as the top.
    assert!(lines[6].parse::<u32>().unwrap() >= 8, "{text}");
}

#[test]
fn descriptors_are_passed_on_only_when_asked_for() {
    needs_root_and!("bash");
    let bundle = Bundle::new();
    bundle.write(&spec(&["sh", "-c", "cat <&3; cat <&4; ls /proc/self/fd | wc -l"]));
    let script = format!(
        "exec 3< <(echo three) 4< <(echo four) 5< /etc/passwd; \"$0\" oci --root {} run --preserve-fds \"$1\" {}",
        bundle.path("states").display(),
        bundle.id
    );
    let run = |count: &str| {
        std::process::Command::new("bash")
            .args(["-c", &script, support::SLIPWAY, count])
            .current_dir(bundle.path("bundle"))
            .output()
            .unwrap()
    };
    // 0, 1, 2, 3, 4, and the folder that `ls` reads.
    let output = run("2");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "three\nfour\n6\n", "{output:?}");
    let output = run("9");
    assert!(String::from_utf8_lossy(&output.stderr).contains("it is not open"), "{output:?}");
}

#[test]
fn errors_go_to_the_log_too_and_bad_words_do_nothing() {
    needs_root_and!();
    let bundle = Bundle::new();
    let log = bundle.path("log");
    let error = bundle.refused(&["--log", log.to_str().unwrap(), "--log-format", "json", "start", "nobody"]);
    assert_eq!(error, "error: container `nobody` does not exist\n");
    let line: serde_json::Value = serde_json::from_str(std::fs::read_to_string(&log).unwrap().trim()).unwrap();
    assert_eq!(
        (line["level"].as_str(), line["msg"].as_str()),
        (Some("error"), Some("container `nobody` does not exist"))
    );
    for id in ["../x", "", "a/b", "a b", ".."] {
        assert!(bundle.refused(&["state", id]).contains("is not a container id"), "{id}");
    }
    std::fs::write(bundle.path("bundle/config.json"), "{\"ociVersion\": ").unwrap();
    assert!(bundle.refused(&["create", "x"]).contains("does not hold what it should"));
    assert!(bundle.refused(&["create", "--bundle", "/no/where", "x"]).contains("`/no/where`"));
    assert!(bundle.ours(&["list", "--format", "json"]).trim() == "[]");
}

#[test]
fn what_it_can_do_is_told_and_an_example_runs() {
    needs_root_and!();
    let bundle = Bundle::new();
    let features: serde_json::Value = serde_json::from_str(&bundle.ours(&["features"])).unwrap();
    assert!(features["linux"]["namespaces"].as_array().unwrap().contains(&json!("time")));
    bundle.ours(&["spec"]);
    let path = bundle.path("bundle/config.json");
    let mut config: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(["hostname"]);
    bundle.write(&config);
    assert_eq!(bundle.ours(&["run", &bundle.id]), "slipway\n");
    assert!(bundle.refused(&["spec"]).contains("cannot make"));
    // Under its other name it takes runc's command line at once.
    let link = bundle.path("slipway-oci");
    std::os::unix::fs::symlink(support::SLIPWAY, &link).unwrap();
    let output = std::process::Command::new(&link).arg("--version").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("spec: 1."), "{output:?}");
}

#[test]
fn clocks_of_a_time_namespace_are_set() {
    needs_root_and!();
    let bundle = Bundle::new();
    let mut config =
        spec(&["sh", "-c", "cut -d. -f1 /proc/uptime; cat /proc/self/timens_offsets | tr -s ' ' | head -1"]);
    config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "time"}));
    config["linux"]["timeOffsets"] =
        json!({"monotonic": {"secs": 1234}, "boottime": {"secs": 100_000_000, "nanosecs": 5}});
    bundle.write(&config);
    let text = bundle.ours(&["run", &bundle.id]);
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].parse::<u64>().unwrap() >= 100_000_000, "{text}");
    assert_eq!(lines[1].trim(), "monotonic 1234 0");
    // One more program in it sees the same clocks.
    config["process"]["args"] = json!(["sleep", "1000"]);
    bundle.write(&config);
    bundle.ours(&["run", "--detach", &bundle.id]);
    let uptime = bundle.ours(&["exec", &bundle.id, "cut", "-d.", "-f1", "/proc/uptime"]);
    assert!(uptime.trim().parse::<u64>().unwrap() >= 100_000_000, "{uptime}");
}

#[test]
fn an_id_mapped_mount_shows_other_owners() {
    needs_root_and!();
    let bundle = Bundle::new();
    let map = json!([{"containerID": 0, "hostID": 5000, "size": 1000}]);
    let mut config = spec(&["sh", "-c", "stat -c %u:%g /data/file; touch /data/new; stat -c %u /data/new"]);
    config["process"]["user"] = json!({"uid": 5000, "gid": 5000});
    config["mounts"].as_array_mut().unwrap().push(json!({
        "destination": "/data", "type": "bind", "source": bundle.host(), "options": ["bind"],
        "uidMappings": map, "gidMappings": map
    }));
    bundle.write(&config);
    let output = bundle.run("slipway", &["run", &bundle.id]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "5000:5000\n5000\n", "{output:?}");
    // On the host it is as if root had written it.
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(bundle.host().join("new")).unwrap());
    assert_eq!(owner, 0);
}

#[test]
fn the_seccomp_agent_gets_the_listener() {
    needs_root_and!();
    let bundle = Bundle::new();
    let socket = bundle.path("agent");
    let listener = UnixListener::bind(&socket).unwrap();
    let mut config = spec(&["sleep", "1000"]);
    config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": socket, "listenerMetadata": "hello",
        "syscalls": [{"names": ["chroot"], "action": "SCMP_ACT_NOTIFY"}]
    });
    bundle.write(&config);
    let started = std::thread::scope(|scope| {
        let agent = scope.spawn(|| received(&listener));
        bundle.ours(&["run", "--detach", &bundle.id]);
        agent.join().unwrap()
    });
    let text: serde_json::Value = serde_json::from_str(&started.1).unwrap();
    assert_eq!((text["metadata"].as_str(), text["fds"][0].as_str()), (Some("hello"), Some("seccompFd")));
    assert_eq!(text["pid"], bundle.state()["pid"]);
    assert_eq!(text["state"]["id"], bundle.id.as_str());
}

#[test]
fn who_asks_for_systemds_cgroups_is_told_that_there_are_none() {
    needs_root_and!();
    let bundle = Bundle::new();
    bundle.write(&spec(&["/bin/true"]));
    let (flag, warning) = ("--systemd-cgroup", "--systemd-cgroup: the container's cgroup is made by this program");
    let output = bundle.run("slipway", &[flag, "create", "--bundle", ".", &bundle.id]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains(warning), "{said}");
    let output = bundle.run("slipway", &[flag, "delete", "--force", &bundle.id]);
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

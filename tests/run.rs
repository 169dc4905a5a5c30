//! `slipway run`.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use rustix::process::Signal;

use super::support::{SLIPWAY, TestEnv, eventually, needs, path, run, send};

fn home() -> Option<TestEnv> {
    TestEnv::for_containers()
}

#[test]
fn output_errors_and_the_exit_code_are_the_programs() {
    let Some(env) = home() else { return };
    let ran = env.slipway(["run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((ran.stdout().as_str(), ran.stderr().as_str(), ran.code()), ("out\n", "err\n", 7));
    let ran = env.slipway(["run", "busybox", "sh", "-c", "kill -9 $$; sleep 9"]);
    // The first process of a namespace cannot kill itself, a child can be killed.
    assert!(matches!(ran.code(), 0 | 137), "{}", ran.code());
}

#[test]
fn failures_have_dockers_exit_codes() {
    let Some(env) = home() else { return };
    let run = |arguments: &[&str]| env.slipway([&["run", "--network=none"], arguments].concat());
    assert!(run(&["busybox", "nosuch"]).failure(127).contains("`nosuch`: executable file not found in $PATH"));
    assert!(run(&["busybox", "/etc/passwd"]).failure(126).contains("Permission denied"));
    assert!(run(&["--pull=never", "nosuch"]).failure(125).contains("nosuch"));
    assert!(run(&["-u", "nosuch", "busybox"]).failure(125).contains("unable to find user `nosuch`"));
    assert!(run(&["-v", "na me:/x", "busybox"]).failure(125).contains("invalid characters for a local volume name"));
    let home = env.home();
    let left = || std::fs::read_dir(home.join("containers")).map_or(0, Iterator::count);
    // As under docker, what could not be started stays; what could not be made does not.
    assert_eq!(left(), 3);
    assert!(run(&["--rm", "busybox", "nosuch"]).failure(127).contains("not found"));
    assert_eq!(left(), 3);
    assert!(run(&["--mount", "type=bind,src=/no/such,dst=/x", "busybox"]).failure(125).contains("/no/such"));
    assert!(run(&["--name", "taken", "-d", "busybox", "true"]).code() == 0);
    assert!(run(&["--name", "taken", "busybox"]).failure(125).contains("is already in use by container"));
    assert!(run(&["-p", "80:80", "busybox"]).failure(125).contains("ports cannot be published"));
    assert!(run(&["-it", "busybox"]).failure(125).contains("not a TTY"));
    assert!(run(&["-m", "1k", "busybox"]).failure(125).contains("minimum memory limit"));
}

#[test]
fn standard_input_reaches_the_program_only_when_asked_to() {
    let Some(env) = home() else { return };
    let input = env.write("input", "line\n");
    let feed = |flags: &[&str]| {
        let arguments = [&["run", "--network=none"], flags, &["busybox", "cat"]].concat();
        run(env.command(arguments).stdin(std::fs::File::open(&input).unwrap())).success()
    };
    assert_eq!(feed(&["-i"]), "line\n");
    assert_eq!(feed(&[]), "");
}

#[test]
fn variables_come_from_flags_files_and_the_environment() {
    let Some(env) = home() else { return };
    let file = env.write("env", "# a comment\nFROM_FILE=1\nBOTH=file\nPASSED\n");
    let mut command = env.command(["run", "--network=none", "-e", "BOTH=flag", "-e", "PASSED", "--env-file"]);
    command.args([path(&file), "-h", "box", "-w", "/tmp", "busybox", "sh", "-c"]);
    command.arg("echo $FROM_FILE $BOTH $PASSED $HOSTNAME $HOME $PWD; hostname").env("PASSED", "through");
    assert_eq!(run(&mut command).success(), "1 flag through box /root /tmp\nbox\n");
}

#[test]
fn mounts_are_there_and_volumes_go_away() {
    let Some(env) = home() else { return };
    env.write("data/file", "from the host");
    let data = format!("{}:/data", path(&env.path("data")));
    let script =
        "cat /data/file; echo written > /data/new; echo x > /vol/x; echo y > /fast/y; mount | grep -c ' /fast '";
    let stdout = env
        .slipway([
            "run",
            "--network=none",
            "-v",
            &data,
            "-v",
            "/vol",
            "--tmpfs",
            "/fast",
            "busybox",
            "sh",
            "-c",
            script,
        ])
        .success();
    assert_eq!(stdout, "from the host1\n");
    assert_eq!(std::fs::read_to_string(env.path("data/new")).unwrap(), "written\n");
    let read_only = format!("{data}:ro");
    let ran = env.slipway(["run", "--network=none", "-v", &read_only, "busybox", "touch", "/data/x"]);
    assert!(ran.stderr().contains("Read-only file system") && ran.code() == 1, "{}", ran.stderr());
    let ran = env.slipway(["run", "--network=none", "--read-only", "busybox", "touch", "/x"]);
    assert!(ran.stderr().contains("Read-only file system"), "{}", ran.stderr());
}

#[test]
fn a_volume_of_the_image_starts_with_its_files() {
    let Some(env) = home() else { return };
    let dockerfile = "FROM busybox\nCOPY Dockerfile /srv/seed\nRUN chown www-data /srv/seed\nVOLUME /srv\n";
    env.slipway(["build", "-t", "vol", path(&env.context("vol", dockerfile))]).success();
    let script = "stat -c %U /srv/seed; echo more > /srv/more; ls /srv";
    let list = env.slipway(["run", "--network=none", "vol", "sh", "-c", script]).success();
    assert_eq!(list, "www-data\nmore\nseed\n");
    assert_eq!(env.slipway(["run", "--network=none", "vol", "ls", "/srv"]).success(), "seed\n");
}

#[test]
fn what_a_container_writes_goes_away_with_it() {
    let Some(env) = home() else { return };
    env.slipway(["run", "--rm", "--network=none", "busybox", "sh", "-c", "echo x > /etc/x"]).success();
    let ran = env.slipway(["run", "--rm", "--network=none", "busybox", "cat", "/etc/x"]);
    assert_eq!(ran.code(), 1);
    assert_eq!(super::interrupt::leftovers(&env), Vec::<std::path::PathBuf>::new());
    let left = || std::fs::read_dir(env.home().join("containers")).map_or(0, Iterator::count);
    eventually(10, "its files are gone", || left() == 0);
}

#[test]
fn the_user_and_rights_are_dockers() {
    let Some(env) = home() else { return };
    let run = |arguments: &[&str]| env.slipway([&["run", "--network=none"], arguments].concat()).success();
    assert_eq!(run(&["-u", "www-data", "busybox", "id", "-u"]), "33\n");
    assert_eq!(run(&["-u", "5:6", "busybox", "sh", "-c", "id -u; id -g"]), "5\n6\n");
    let status = |flags: &[&str]| {
        let status = run(&[flags, &["busybox", "cat", "/proc/self/status"]].concat());
        let line = status.lines().find(|line| line.starts_with("CapEff")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!(status(&[]), "00000000a80425fb");
    assert_eq!(status(&["--cap-drop", "ALL"]), "0000000000000000");
    assert_eq!(status(&["--cap-drop", "ALL", "--cap-add", "CHOWN"]), "0000000000000001");
}

#[test]
fn signals_reach_the_program() {
    let Some(env) = home() else { return };
    let script = "trap 'echo got it; exit 9' USR1; echo ready; while true; do sleep 0.1; done";
    let mut command = env.command(["run", "--network=none", "busybox", "sh", "-c", script]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut ready = [0; 6];
    stdout.read_exact(&mut ready).unwrap();
    send(child.id(), Signal::USR1);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!((rest.as_str(), child.wait().unwrap().code()), ("got it\n", Some(9)));
}

#[test]
fn a_published_port_is_reachable() {
    let Some(env) = home() else { return };
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let script = "mkdir /www; echo hello > /www/index.html; exec httpd -f -p 80 -h /www";
    let publish = format!("127.0.0.1:{port}:80");
    let mut child = env.command(["run", "-p", &publish, "busybox", "sh", "-c", script]).spawn().unwrap();
    let fetch = || -> std::io::Result<String> {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    eventually(20, "the page is served", || fetch().is_ok_and(|text| text.ends_with("hello\n")));
    send(child.id(), Signal::INT);
    child.wait().unwrap();
    assert!(fetch().is_err(), "the port is closed with the container");
}

#[test]
fn a_terminal_is_one_and_keeps_its_settings() {
    if !needs::tools(&["script"]) {
        return;
    }
    let Some(env) = home() else { return };
    let inside = "tty; stty size; stty -echo";
    let line = format!("stty rows 33 cols 99; {SLIPWAY} run --network=none -it busybox sh -c '{inside}'; stty -a");
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).env("SLIPWAY_HOME", env.home()).stdin(Stdio::null());
    let shown = run(&mut script).success();
    assert!(shown.contains("/dev/pts/0") && shown.contains("33 99"), "{shown}");
    // The settings outside are as they were: echo on, lines and signals cooked.
    assert!(shown.contains(" echo ") && shown.contains(" icanon ") && !shown.contains("-isig"), "{shown}");
}

#[test]
fn an_init_passes_signals_on_and_reaps_whoever_ends() {
    let Some(env) = home() else { return };
    let run = |arguments: &[&str]| env.slipway([&["run", "--rm", "--network=none", "--init"], arguments].concat());
    // Orphans go to the first process. Whether it knows of them is the kernel's to say: no zombie stays.
    let script = "echo $$ $PPID; cat /proc/1/comm; sh -c 'sleep 0 & sleep 0 &'; sleep 0 & wait
        i=0; while grep -q '^State:.Z' /proc/[0-9]*/status 2>/dev/null; do
            i=$((i+1)); [ $i -lt 2000 ] || exit 9; sleep 0.01; done; exit 3";
    let ran = run(&["busybox", "sh", "-c", script]);
    assert_eq!((ran.code(), ran.stdout().as_str()), (3, "2 1\ndocker-init\n"), "{}", ran.stderr());
    assert!(run(&["busybox", "nosuch"]).failure(127).contains("`nosuch`: executable file not found"));
    assert!(run(&["busybox", "/etc/passwd"]).failure(126).contains("`/etc/passwd`: permission denied"));
    assert_eq!(run(&["-u", "33:33", "busybox", "sh", "-c", "kill -USR1 $$; sleep 9"]).code(), 128 + 10);
    // What runs there is no file of this machine's, and not to be changed.
    let script = "readlink /proc/1/exe; echo x >/sbin/docker-init || echo x >/proc/1/exe || echo refused";
    assert_eq!(run(&["busybox", "sh", "-c", script]).success(), "/sbin/docker-init\nrefused\n");

    // A first process of the usual kind would not hear it.
    env.slipway(["run", "-d", "--name=deaf", "--network=none", "--init", "busybox", "sleep", "99"]).success();
    env.slipway(["stop", "-t", "60", "deaf"]).success();
    assert_eq!(env.look("deaf", "{{.State.ExitCode}} {{.HostConfig.Init}} {{.Path}}"), "143 true sleep");
    env.slipway(["start", "deaf"]).success();
    env.slipway(["kill", "-s", "INT", "deaf"]).success();
    assert_eq!(env.slipway(["wait", "deaf"]).success(), "130\n");
}

#[test]
fn limits_hold() {
    let Some(env) = home() else { return };
    let run = |arguments: &[&str]| env.slipway([&["run", "--network=none"], arguments].concat());
    let ulimit = run(&["--ulimit", "nofile=123:456", "busybox", "sh", "-c", "ulimit -n; ulimit -Hn"]).success();
    assert_eq!(ulimit, "123\n456\n");
    let shm = run(&["--shm-size", "1m", "busybox", "sh", "-c", "df -k /dev/shm | tail -1"]).success();
    assert!(shm.contains(" 1024 "), "{shm}");
    let hungry = run(&["-m", "16m", "busybox", "sh", "-c", "x=a; while true; do x=$x$x; done"]);
    assert_eq!(hungry.code(), 137, "{}", hungry.stderr());
}

#[test]
fn a_container_has_the_domain_the_hardware_address_and_the_soft_limits_that_were_asked_for() {
    let Some(env) = TestEnv::for_containers() else { return };
    let flags = ["--domainname=example.org", "--memory=64m", "--memory-reservation=32m", "--cpuset-mems=0"];
    let script = "cat /proc/sys/kernel/domainname /sys/class/net/eth0/address; \
        cat /sys/fs/cgroup/memory/memory.soft_limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.low; \
        cat /sys/fs/cgroup/cpuset/cpuset.mems 2>/dev/null || cat /sys/fs/cgroup/cpuset.mems";
    let program = ["--mac-address=02:42:ac:11:77:02", "busybox", "sh", "-c", script];
    let ran = env.slipway(["run", "--rm"].into_iter().chain(flags).chain(program));
    assert_eq!(ran.success(), "example.org\n02:42:ac:11:77:02\n33554432\n0\n");
}

#[test]
fn how_soon_memory_is_taken_from_a_container_is_its_own_matter() {
    let Some(env) = TestEnv::for_containers() else { return };
    env.start("first", &["--oom-score-adj=700"], "sleep 1000");
    let pid = env.look("first", "{{.State.Pid}}");
    let badness = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("read");
    assert_eq!(badness(&pid), "700\n");
    assert_eq!(env.slipway(["exec", "first", "cat", "/proc/self/oom_score_adj"]).success(), "700\n");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("read");
    let supervisor = status.lines().find_map(|line| line.strip_prefix("PPid:\t")).expect("a parent");
    assert_eq!(badness(supervisor), badness("self"));
}

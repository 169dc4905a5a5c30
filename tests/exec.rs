//! `slipway exec`.

use super::support::{SLIPWAY, TestEnv, eventually, needs, run};

#[test]
fn a_program_has_the_containers_surroundings_and_its_own_wishes() {
    let Some(env) = TestEnv::for_containers() else { return };
    env.start("box", &["-e", "A=1", "-w", "/tmp", "-h", "inside", "--cap-drop", "CHOWN"], "echo x > /file; sleep 100");
    let exec = |arguments: &[&str]| env.slipway([&["exec"], arguments].concat());
    eventually(20, "it has written", || exec(&["box", "cat", "/file"]).stdout() == "x\n");
    let ran = exec(&["box", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((ran.stdout().as_str(), ran.stderr().as_str(), ran.code()), ("out\n", "err\n", 7));
    let told = exec(&["-e", "B=2", "box", "sh", "-c", "echo $A $B $PWD $HOSTNAME $HOME; hostname; id -u"]).success();
    assert_eq!(told, "1 2 /tmp inside /root\ninside\n0\n");
    assert_eq!(
        exec(&["-u", "www-data", "-w", "/var", "box", "sh", "-c", "id -u; pwd; echo $HOME"]).success(),
        "33\n/var\n/var/www\n"
    );
    let status = |arguments: &[&str]| {
        let text = exec(&[arguments, &["box", "cat", "/proc/self/status"]].concat()).success();
        let line = |name: &str| {
            text.lines().find(|line| line.starts_with(name)).unwrap().split_whitespace().nth(1).unwrap().to_owned()
        };
        (line("CapEff"), line("Seccomp"))
    };
    assert_eq!(status(&[]), ("00000000a80425fa".to_owned(), "2".to_owned()), "as the container's own program");
    assert_ne!(status(&["--privileged"]).0, "00000000a80425fa");
    assert!(exec(&["box", "ps"]).success().contains("sleep 100"), "the same processes");
    let input = env.write("input", "through\n");
    let mut command = env.command(["exec", "-i", "box", "cat"]);
    assert_eq!(run(command.stdin(std::fs::File::open(input).unwrap())).success(), "through\n");
    exec(&["-d", "box", "sh", "-c", "echo later > /later"]).success();
    eventually(20, "it has run in the background", || exec(&["box", "cat", "/later"]).stdout() == "later\n");
}

#[test]
fn failures_have_dockers_exit_codes() {
    let Some(env) = TestEnv::for_containers() else { return };
    env.start("box", &[], "sleep 100");
    let exec = |arguments: &[&str]| env.slipway([&["exec"], arguments].concat());
    assert!(exec(&["box", "nosuch"]).failure(127).contains("executable file not found in $PATH"));
    assert!(exec(&["box", "/etc/passwd"]).failure(126).contains("Permission denied"));
    assert!(exec(&["-u", "nosuch", "box", "true"]).failure(126).contains("unable to find user"));
    assert!(exec(&["nosuch", "true"]).failure(1).contains("No such container: nosuch"));
    env.slipway(["stop", "-t", "0", "box"]).success();
    let error = exec(&["box", "true"]).failure(1);
    assert!(error.contains("container ") && error.contains(" is not running"), "{error}");
}

#[test]
fn a_terminal_is_one() {
    if !needs::tools(&["script"]) {
        return;
    }
    let Some(env) = TestEnv::for_containers() else { return };
    env.start("box", &[], "sleep 100");
    let mut script = std::process::Command::new("script");
    let line = format!("stty rows 33 cols 99; {SLIPWAY} exec -it box sh -c 'tty; stty size; echo $TERM'");
    script.args(["-qec", &line, "/dev/null"]).env("SLIPWAY_HOME", env.home()).stdin(std::process::Stdio::null());
    let shown = run(&mut script).success();
    assert!(shown.contains("/dev/pts/") && shown.contains("33 99") && shown.contains("xterm"), "{shown}");
}

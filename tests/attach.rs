//! `slipway attach`.

use std::io::{Read, Write};
use std::process::Stdio;

use super::support::{SLIPWAY, TestEnv, eventually, needs, run};

#[test]
fn input_and_output_pass_and_the_exit_code_comes_back() {
    let Some(env) = TestEnv::for_containers() else { return };
    env.start("box", &["-i"], "while read line; do echo got $line; [ $line = end ] && exit 9; done");
    let mut child = env.command(["attach", "box"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    stdin.write_all(b"one\n").unwrap();
    let mut first = [0; 8];
    stdout.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"got one\n");
    stdin.write_all(b"end\n").unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!((rest.as_str(), child.wait().unwrap().code()), ("got end\n", Some(9)));
    let error = env.slipway(["attach", "box"]).failure(1);
    assert!(error.contains("You cannot attach to a stopped container, start it first"), "{error}");
}

#[test]
fn keys_leave_a_terminal_and_the_program_runs_on() {
    if !needs::tools(&["script"]) {
        return;
    }
    let Some(env) = TestEnv::for_containers() else { return };
    let mut script = std::process::Command::new("script");
    let line = format!("{SLIPWAY} run -it --name box --detach-keys ctrl-x,q --network=none busybox sh");
    script.args(["-qec", &line, "/dev/null"]).env("SLIPWAY_HOME", env.home());
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).unwrap();
        text
    });
    eventually(20, "it runs", || env.slipway(["ps", "-q"]).stdout().lines().count() == 1);
    stdin.write_all(b"echo a$((1+1))b\n").unwrap();
    eventually(20, "it answers", || env.slipway(["logs", "box"]).stdout().contains("a2b"));
    stdin.write_all(b"\x18q").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(reading.join().unwrap().contains("a2b"));
    assert_eq!(env.look("box", "{{.State.Running}}"), "true");
    let mut again = std::process::Command::new("script");
    let line = format!("{SLIPWAY} attach box");
    again.args(["-qec", &line, "/dev/null"]).env("SLIPWAY_HOME", env.home());
    let mut child = again.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A terminal takes what is typed before the program on it is ready, if it does not throw it away.
    eventually(20, "it passes what is typed", || {
        stdin.write_all(b"echo b$((1+2))c\n").unwrap();
        env.slipway(["logs", "box"]).stdout().contains("b3c")
    });
    stdin.write_all(b"exit 4\n").unwrap();
    eventually(20, "it ends", || env.look("box", "{{.State.Running}}") == "false");
    assert_eq!(run(&mut env.command(["wait", "box"])).success(), "4\n");
    assert_eq!(child.wait().unwrap().code(), Some(4));
}

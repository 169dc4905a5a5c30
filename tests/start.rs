//! `slipway start`.

use super::support::TestEnv;

#[test]
fn a_container_keeps_what_it_wrote_from_start_to_start() {
    let Some(env) = TestEnv::for_containers() else { return };
    let script = "echo line >> /file; wc -l < /file; echo err >&2; exit 3";
    env.slipway(["create", "--name", "box", "--network=none", "busybox", "sh", "-c", script]).success();
    for count in 1..=3 {
        let ran = env.slipway(["start", "-a", "box"]);
        assert_eq!((ran.stdout().as_str(), ran.stderr().as_str(), ran.code()), (&*format!("{count}\n"), "err\n", 3));
    }
    assert_eq!(env.look("box", "{{.State.Status}} {{.State.ExitCode}} {{.State.Pid}}"), "exited 3 0");
    assert_eq!(env.slipway(["logs", "box"]).stdout(), "1\n2\n3\n");
}

#[test]
fn input_reaches_the_program_and_several_start_at_once() {
    let Some(env) = TestEnv::for_containers() else { return };
    for name in ["a", "b", "c"] {
        env.slipway(["create", "-i", "--name", &name.repeat(2), "--network=none", "busybox", "cat"]).success();
    }
    let input = env.write("input", "through\n");
    let mut command = env.command(["start", "-ai", "aa"]);
    let ran = super::support::run(command.stdin(std::fs::File::open(input).unwrap()));
    assert_eq!(ran.success(), "through\n");
    assert_eq!(env.slipway(["start", "bb", "cc"]).success(), "bb\ncc\n");
    assert_eq!(env.slipway(["start", "bb"]).success(), "bb\n", "what runs already is no error");
    assert_eq!(env.look("bb", "{{.State.Running}}"), "true");
    let error = env.slipway(["start", "nosuch"]).failure(1);
    assert!(error.contains("No such container: nosuch"), "{error}");
}

#[test]
fn a_program_that_cannot_be_run_is_told_and_noted() {
    let Some(env) = TestEnv::for_containers() else { return };
    env.slipway(["create", "--name", "box", "--network=none", "busybox", "nosuch"]).success();
    assert!(env.slipway(["start", "box"]).failure(1).contains("executable file not found in $PATH"));
    assert_eq!(env.look("box", "{{.State.Status}} {{.State.ExitCode}}"), "created 127");
    assert!(env.look("box", "{{.State.Error}}").contains("executable file not found in $PATH"));
}

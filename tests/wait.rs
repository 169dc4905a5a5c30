//! `slipway wait`.

use super::support::{TestEnv, run};

#[test]
fn the_exit_code_comes_when_the_container_has_ended() {
    let Some(env) = TestEnv::for_containers() else { return };
    env.start("soon", &[], "sleep 0.5; exit 3");
    env.start("done", &[], "exit 4");
    let first = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| run(&mut env.command(["wait", "soon"])).success());
        assert_eq!(env.slipway(["wait", "soon", "done"]).success(), "3\n4\n");
        waiting.join().unwrap()
    });
    assert_eq!(first, "3\n");
    assert!(env.slipway(["wait", "nosuch"]).failure(1).contains("No such container: nosuch"));
}

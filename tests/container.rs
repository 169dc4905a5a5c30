//! `slipway container`: docker's longer names, and `container prune`.

use super::support::{TestEnv, run};

#[test]
fn what_does_not_run_is_removed_when_somebody_says_so() {
    let Some(env) = TestEnv::for_containers() else { return };
    env.start("runs", &[], "sleep 100");
    env.start("done", &["-l", "keep=1"], "echo 12345 > /file");
    env.slipway(["wait", "done"]).success();
    env.slipway(["container", "create", "--name", "new", "busybox"]).success();
    let names = || env.slipway(["container", "ls", "-a", "--format", "{{.Names}}"]).success();
    assert_eq!(names(), "new\ndone\nruns\n");
    let refused = run(&mut env.command(["container", "prune"]));
    assert!(refused.stderr().contains("This will remove all stopped containers") && refused.code() == 1);
    let pruned = env.slipway(["container", "prune", "-f", "--filter", "label!=keep"]).success();
    assert!(pruned.starts_with("Deleted Containers:\n") && pruned.ends_with("Total reclaimed space: 0B\n"), "{pruned}");
    assert_eq!(names(), "done\nruns\n");
    let pruned = env.slipway(["container", "prune", "-f"]).success();
    assert!(pruned.ends_with("Total reclaimed space: 6B\n"), "{pruned}");
    assert_eq!(names(), "runs\n");
    assert_eq!(env.slipway(["container", "inspect", "-f", "{{.Name}}", "runs"]).success(), "/runs\n");
}

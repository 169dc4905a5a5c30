//! `slipway port`, and `-P`.

use super::support::TestEnv;

#[test]
fn published_ports_are_told_and_others_are_not() {
    let Some(env) = TestEnv::for_containers() else { return };
    let flags = ["-p", "127.0.0.1::80", "-p", "127.0.0.1::9/udp", "busybox", "sleep", "99"];
    env.slipway(["run", "-d", "--name=web"].into_iter().chain(flags)).success();
    let all = env.slipway(["port", "web"]).success();
    let (tcp, udp) = (env.slipway(["port", "web", "80"]).success(), env.slipway(["port", "web", "9/udp"]).success());
    assert!(tcp.starts_with("127.0.0.1:") && udp.starts_with("127.0.0.1:"), "{tcp}{udp}");
    assert_eq!(all, format!("9/udp -> {udp}80/tcp -> {tcp}"));
    let refused = env.slipway(["port", "web", "81"]).failure(1);
    assert!(refused.contains("no public port '81/tcp' published for web"), "{refused}");
    assert!(env.slipway(["port", "web", "x"]).failure(1).contains("invalid port `x`"));
    assert!(env.slipway(["port", "nobody"]).failure(1).contains("No such container"));
    env.slipway(["rm", "-f", "web"]).success();
}

#[test]
fn every_exposed_port_is_published_when_asked_for() {
    let Some(env) = TestEnv::for_containers() else { return };
    let context = env
        .context("app", "FROM busybox\nEXPOSE 80 90/udp\nCMD [\"httpd\", \"-f\", \"-p\", \"80\", \"-h\", \"/etc\"]\n");
    env.slipway(["build", "-q", "-t", "app", super::support::path(&context)]).success();
    env.slipway(["run", "-d", "-P", "--name=web", "app"]).success();
    let all = env.slipway(["port", "web"]).success();
    for expected in ["80/tcp -> 0.0.0.0:", "90/udp -> 0.0.0.0:"] {
        assert_eq!(all.lines().filter(|line| line.starts_with(expected)).count(), 1, "{all}");
    }
    env.slipway(["stop", "-t", "0", "web"]).success();
    assert_eq!(env.slipway(["port", "web"]).success(), "");
}

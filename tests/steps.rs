//! What the steps of builds see of the machine, and of each other.

use std::process::Stdio;

use super::support::{TestEnv, eventually, needs, path, run};

#[test]
fn a_step_meets_nothing_of_the_one_before_but_its_files() {
    if !needs::root() {
        return;
    }
    let env = TestEnv::with_busybox();
    // The second step needs the port that the first one's server had, the third one that a closed connection still holds.
    let dockerfile = "FROM busybox\n\
        RUN httpd -p 8080 -h /etc && wget -q -O /one http://127.0.0.1:8080/passwd && touch /dev/shm/left /dev/left\n\
        RUN ! wget -q -T 3 -O /dev/null http://127.0.0.1:8080/passwd && [ ! -e /dev/shm/left ] && [ ! -e /dev/left ]\n\
        RUN httpd -p 8080 -h /etc && wget -q -O /two http://127.0.0.1:8080/passwd && cmp /one /two && pidof httpd > /p\n\
        RUN ! pidof httpd && grep -q lo: /proc/net/dev && ! echo x > /proc/sys/net/ipv4/ip_forward\n\
        RUN --network=none httpd -p 8080 -h /etc && wget -q -O /dev/null http://127.0.0.1:8080/passwd\n\
        RUN --network=none [ $(grep -c : /proc/net/dev) = 1 ] && httpd -p 8080 -h /etc\n";
    let context = env.context("app", dockerfile);
    env.slipway(["build", "-t", "app", path(&context)]).success();
    eventually(5, "nothing unfinished is left", || super::interrupt::leftovers(&env).is_empty());
}

#[test]
fn r13_mount_points_leave_no_trace() {
    if !needs::root() {
        return;
    }
    let env = TestEnv::with_busybox();
    let built = |name: &str, dockerfile: &str| {
        let context = env.context(name, dockerfile);
        let tar = env.path(&format!("{name}.tar"));
        env.slipway(["build", "-o", &format!("type=tar,dest={}", path(&tar)), path(&context)]).success();
        run(std::process::Command::new("tar").arg("--full-time").arg("-tvf").arg(&tar)).success()
    };
    let base = built("base", "FROM busybox\n");
    let mount = "RUN --network=none --mount=type=tmpfs,target=/etc/deep/er";
    assert_eq!(built("same", &format!("FROM busybox\n{mount} true\n")), base);
    let own = built("own", &format!("FROM busybox\n{mount} echo O > /etc/deep/own\n"));
    let new: Vec<&str> = own.lines().filter(|line| line.contains("deep")).collect();
    assert!(new.len() == 2 && new[0].ends_with("etc/deep/") && new[1].ends_with("etc/deep/own"), "{own}");
}

/// Installs a small real package from Debian; the lists and the downloads stay in the caches that the builds share.
const INSTALLING: &str = "RUN \
    --mount=type=cache,target=/var/lib/apt,sharing=locked --mount=type=cache,target=/var/cache/apt,sharing=locked \
    apt-get update -qq -o Acquire::Languages=none && apt-get install -qq --yes --no-install-recommends \
    -o Dpkg::Options::=--force-unsafe-io tree > /dev/null && echo $BUILD >> /var/cache/apt/builds\n";

/// Starts a build of each Dockerfile, and waits until all have succeeded; they are called `app0`, `app1`, ….
fn build_at_once(env: &TestEnv, dockerfiles: &[String]) {
    let start = |(number, dockerfile): (usize, &String)| {
        let name = format!("app{number}");
        let context = env.context(&name, dockerfile);
        let mut command = env.command(["build", "-q", "-t", &name, path(&context)]);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("start slipway build")
    };
    let builds: Vec<_> = dockerfiles.iter().enumerate().map(start).collect();
    for build in builds {
        let output = build.wait_with_output().expect("wait for slipway build");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn r4_two_builds_at_once_install_real_packages_with_a_shared_cache() {
    if !needs::root() {
        return;
    }
    let Some(tar) = needs::debian_tar() else { return };
    let env = TestEnv::new();
    env.slipway(["import", path(&tar), "debian:bookworm"]).success();
    // One list of packages is enough.
    let head =
        "FROM debian:bookworm\nRUN rm -f /etc/apt/apt.conf.d/docker-clean && sed -i 2,\\$d /etc/apt/sources.list\n";
    let dockerfiles = [0, 1].map(|number| format!("{head}ENV BUILD={number}\n{INSTALLING}"));
    build_at_once(&env, &dockerfiles);
    for name in ["app0", "app1"] {
        let told = env.slipway(["run", "--rm", "--network=none", name, "tree", "--version"]).success();
        assert!(told.starts_with("tree v"), "{told}");
    }
    let context = env.context(
        "after",
        "FROM debian:bookworm\nRUN --mount=type=cache,target=/var/cache/apt [ \"$(sort /var/cache/apt/builds | xargs)\" = '0 1' ]\n",
    );
    env.slipway(["build", path(&context)]).success();
}

#[test]
fn r4_builds_at_once_share_a_cache_wait_for_it_or_have_one_of_their_own() {
    if !needs::root() {
        return;
    }
    let env = TestEnv::with_busybox();
    // Each stays in the step until the other has been there and has looked: both are in `meet` at once.
    let meeting = |own: usize| {
        let other = 1 - own;
        format!(
            "FROM busybox\nRUN --mount=type=cache,target=/meet --mount=type=cache,target=/own,sharing=private \
             touch /meet/{own} /own/{own} && until [ -e /meet/{other} ]; do sleep 0.1; done && ls /own > /seen && \
             touch /meet/seen{own} && until [ -e /meet/seen{other} ]; do sleep 0.1; done && [ $(cat /seen) = {own} ]\n"
        )
    };
    build_at_once(&env, &[meeting(0), meeting(1)]);
    let alone = |number: usize| {
        format!(
            "FROM busybox\nRUN --mount=type=cache,target=/locked,sharing=locked \
             mkdir /locked/busy && sleep 0.2 && rmdir /locked/busy && echo {number} >> /locked/builds\n"
        )
    };
    build_at_once(&env, &[alone(0), alone(1)]);
    let after = "FROM busybox\nRUN --mount=type=cache,target=/locked [ $(wc -l < /locked/builds) = 2 ]\n";
    let context = env.context("after", after);
    env.slipway(["build", path(&context)]).success();
}

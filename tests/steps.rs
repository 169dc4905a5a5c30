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

/// Installs a small real package from Debian; the downloads stay in the caches that the builds share.
fn installing(sharing: &str, number: usize) -> String {
    let cache = |target: &str| format!("--mount=type=cache,target={target},sharing={sharing}");
    let (lists, packages) = (cache("/var/lib/apt"), cache("/var/cache/apt"));
    // apt takes its folders for itself and does not wait for another: with `shared`, the builds have to do that.
    let alone = if sharing == "shared" { "flock /var/cache/apt/busy " } else { "" };
    format!(
        "FROM debian:bookworm\nENV BUILD={number}\nRUN rm -f /etc/apt/apt.conf.d/docker-clean\n\
         RUN {lists} {packages} {alone}sh -ec 'apt-get update -qq; \
         apt-get install -qq --yes --no-install-recommends tree > /dev/null' && touch /var/cache/apt/{sharing}\n\
         RUN {packages} test -e /var/cache/apt/{sharing}\n",
    )
}

#[test]
fn r4_two_builds_at_once_install_real_packages_with_a_shared_cache() {
    if !needs::root() {
        return;
    }
    let Some(tar) = needs::debian_tar() else { return };
    let env = TestEnv::new();
    env.slipway(["import", path(&tar), "debian:bookworm"]).success();
    for sharing in ["shared", "locked", "private"] {
        let builds: Vec<_> = (0..2)
            .map(|number| {
                let name = format!("{sharing}{number}");
                let context = env.context(&name, &installing(sharing, number));
                let arguments = ["build", "-q", "-t", &name, path(&context)];
                let mut command = env.command(arguments);
                command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("start slipway build")
            })
            .collect();
        for build in builds {
            let output = build.wait_with_output().expect("wait for slipway build");
            assert!(output.status.success(), "{sharing}: {}", String::from_utf8_lossy(&output.stderr));
        }
        for number in 0..2 {
            let name = format!("{sharing}{number}");
            let told = env.slipway(["run", "--rm", "--network=none", &name, "tree", "--version"]).success();
            assert!(told.starts_with("tree v"), "{told}");
        }
    }
}

//! Ways out of containers that worked somewhere once, each tried here.

use super::{Bundle, needs_root_and, spec, support};
use serde_json::{Value, json};
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Runs a script that must find no way out; gives what it and the runtime said.
fn attempt(bundle: &Bundle, config: &Value) -> String {
    bundle.write(config);
    let output = bundle.run("slipway", &["run", &bundle.id]);
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn script(text: &str) -> Value {
    spec(&["sh", "-c", text])
}

/// CVE-2019-5736: the container's program is the runtime's own, which it then overwrites.
#[test]
fn the_runtimes_own_program_is_never_the_containers() {
    needs_root_and!();
    let bundle = Bundle::new();
    let before = std::fs::metadata(support::SLIPWAY).unwrap();
    symlink("/proc/self/exe", bundle.root().join("bin/evil")).unwrap();
    std::fs::write(bundle.root().join("bin/script"), "#!/proc/self/exe\n").unwrap();
    std::fs::write(bundle.root().join("bin/chain"), "#!/bin/script\n").unwrap();
    for name in ["script", "chain"] {
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(bundle.root().join("bin").join(name), executable).unwrap();
    }
    for program in ["evil", "script", "chain"] {
        let said = attempt(&bundle, &spec(&[program]));
        assert!(said.contains(&format!("exec: `{program}`")), "{said}");
    }

    // Somebody in the container changes the program again and again while others join, and tries to write to all.
    let change = "cd /bin; cp busybox real; while :; do ln -sf /proc/self/exe target; ln -sf real target; done &
                  while :; do for p in /proc/[0-9]*; do
                      dd if=/dev/zero of=$p/exe bs=1 count=0 conv=notrunc 2>/dev/null && echo $p >> /tmp/wrote;
                  done; done";
    symlink("busybox", bundle.root().join("bin/cp")).unwrap();
    bundle.write(&script(change));
    bundle.ours(&["run", "--detach", &bundle.id]);
    for _ in 0..40 {
        // Either answer is fine: it runs, or is refused.
        bundle.run("slipway", &["exec", &bundle.id, "target", "true"]);
    }
    assert!(!bundle.root().join("tmp/wrote").exists(), "something could write to a program");
    let after = std::fs::metadata(support::SLIPWAY).unwrap();
    assert_eq!((after.modified().unwrap(), after.len()), (before.modified().unwrap(), before.len()));
}

/// CVE-2024-21626: a descriptor of a folder of the host is left open, and the working directory leads through it.
#[test]
fn no_descriptor_of_the_host_is_open_and_none_is_a_working_directory() {
    needs_root_and!();
    let bundle = Bundle::new();
    let host = std::fs::File::open("/").unwrap();
    // Inherited by the runtime, as a careless caller leaves it.
    rustix::io::fcntl_setfd(&host, rustix::io::FdFlags::empty()).unwrap();
    bundle.write(&script("exec sleep 1000"));
    bundle.ours(&["run", "--detach", &bundle.id]);
    let look = "for f in /proc/1/fd/*; do echo ${f##*/}; done; for n in 3 4 5 6 7 8 9 10 11 12 13 14; do readlink /proc/self/fd/$n; done; true";
    assert_eq!(bundle.ours(&["exec", &bundle.id, "sh", "-c", look]), "0\n1\n2\n");
    let other = Bundle::new();
    for number in (3..12).chain([host.as_raw_fd()]) {
        for folder in ["fd", "task/1/fd"] {
            let cwd = format!("/proc/self/{folder}/{number}");
            bundle.refused(&["exec", "--cwd", &cwd, &bundle.id, "ls"]);
            let mut config = spec(&["ls"]);
            config["process"]["cwd"] = json!(cwd);
            other.write(&config);
            other.refused(&["run", &other.id]);
        }
    }
}

/// CVE-2025-31133: `/dev/null` of the image, which masks paths, is something else.
#[test]
fn paths_are_masked_with_the_real_null_device() {
    needs_root_and!();
    let without_dev = |mut config: Value| {
        config["mounts"]
            .as_array_mut()
            .unwrap()
            .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
        config["linux"]["maskedPaths"] = json!(["/proc/keys"]);
        config
    };
    for make in [
        |null: &Path| symlink("/proc/sys/kernel/core_pattern", null).unwrap(),
        |null: &Path| std::fs::write(null, "not null").unwrap(),
        |null: &Path| std::fs::create_dir(null).unwrap(),
    ] {
        let bundle = Bundle::new();
        make(&bundle.root().join("dev/null"));
        let said = attempt(&bundle, &without_dev(script("cat /proc/keys")));
        assert!(said.starts_with("error: mask"), "{said}");
    }
}

/// CVE-2025-52565: `/dev/console` of the image leads elsewhere, and the terminal is bound there.
#[test]
fn the_console_is_not_bound_through_links() {
    needs_root_and!();
    let bundle = Bundle::new();
    symlink("/proc/sys/kernel/core_pattern", bundle.root().join("dev/console")).unwrap();
    std::fs::create_dir(bundle.root().join("dev/pts")).unwrap();
    std::fs::write(bundle.root().join("dev/null"), "").unwrap();
    let mut config = script("mount");
    config["process"]["terminal"] = json!(true);
    config["linux"]["maskedPaths"] = json!([]);
    config["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/dev");
    let said = attempt(&bundle, &config);
    assert!(said.contains("open a terminal"), "{said}");
}

/// CVE-2025-52881: settings and masks of `/proc` go to something that only looks like it.
#[test]
fn kernel_settings_are_written_to_procfs_alone() {
    needs_root_and!();
    let fake = |config: &mut Value, bundle: &Bundle| {
        std::fs::create_dir_all(bundle.host().join("sys/net/ipv4")).unwrap();
        std::fs::write(bundle.host().join("sys/net/ipv4/ip_forward"), "").unwrap();
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts[0] = json!({"destination": "/proc", "type": "bind", "source": bundle.host(), "options": ["rbind"]});
    };
    let bundle = Bundle::new();
    let mut config = script("true");
    fake(&mut config, &bundle);
    config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
    let said = attempt(&bundle, &config);
    assert!(said.contains("set `/proc/sys/net/ipv4/ip_forward`"), "{said}");
    assert_eq!(std::fs::read_to_string(bundle.host().join("sys/net/ipv4/ip_forward")).unwrap(), "");
    let bundle = Bundle::new();
    let mut config = script("true");
    fake(&mut config, &bundle);
    assert!(attempt(&bundle, &config).contains("is not a procfs"));
}

/// CVE-2022-29162: a non-empty inheritable set gives programs with file capabilities more than they should have.
#[test]
fn nothing_is_inheritable_unless_the_spec_says_so() {
    needs_root_and!();
    let bundle = Bundle::new();
    bundle.write(&script("sleep 1000"));
    bundle.ours(&["run", "--detach", &bundle.id]);
    let text = bundle.ours(&["exec", "--cap", "CAP_NET_ADMIN", &bundle.id, "grep", "CapInh", "/proc/self/status"]);
    assert_eq!(text, "CapInh:\t0000000000000000\n");
    let text = bundle.ours(&["exec", &bundle.id, "grep", "CapInh", "/proc/1/status"]);
    assert_eq!(text, "CapInh:\t0000000000000000\n");
}

/// CVE-2021-30465: a folder of a shared volume becomes a link out while something is mounted on it.
#[test]
fn a_mount_target_that_turns_into_a_link_stays_inside() {
    needs_root_and!();
    let bundle = Bundle::new();
    let (volume, outside) = (bundle.path("volume"), bundle.path("outside"));
    std::fs::create_dir_all(volume.join("one")).unwrap();
    std::fs::create_dir_all(&outside).unwrap();
    symlink(format!("/../../../../../../..{}", outside.display()), volume.join("two")).unwrap();
    let mut config = script("true");
    config["mounts"].as_array_mut().unwrap().extend([
        json!({"destination": "/volume", "type": "bind", "source": volume, "options": ["rbind"]}),
        json!({"destination": "/volume/one/inner", "type": "bind", "source": bundle.host(), "options": ["rbind"]}),
    ]);
    bundle.write(&config);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let (one, two) = (volume.join("one"), volume.join("two"));
                let exchange = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(rustix::fs::CWD, &one, rustix::fs::CWD, &two, exchange).unwrap();
            }
        });
        for _ in 0..40 {
            // It runs, or is refused.
            bundle.run("slipway", &["run", &bundle.id]);
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "something was made outside");
}

/// The kernel runs `release_agent`, `core_pattern`, `modprobe` and the like as root of the host.
#[test]
fn what_the_kernel_would_run_cannot_be_set() {
    needs_root_and!();
    let bundle = Bundle::new();
    let said = attempt(
        &bundle,
        &script(
            "for f in /sys/fs/cgroup/*/release_agent /sys/fs/cgroup/*/cgroup.procs /proc/sys/kernel/core_pattern \
             /proc/sys/kernel/modprobe /proc/sys/fs/binfmt_misc/register /proc/sysrq-trigger /sys/kernel/uevent_helper; do
                 [ -e $f ] && (echo x > $f) 2>/dev/null && echo wrote $f; done
             mkdir /tmp/cgroup; mount -t cgroup -o memory x /tmp/cgroup 2>/dev/null && echo mounted cgroup
             mount -t tmpfs x /tmp/cgroup 2>/dev/null && echo mounted tmpfs
             umount /proc/sys 2>/dev/null && echo unmasked; umount /proc/keys 2>/dev/null && echo unmasked
             mount -o remount,rw /sys 2>/dev/null && echo remounted
             mknod /tmp/disk b 254 0 && head -c 1 /tmp/disk 2>/dev/null && echo read the disk; echo end",
        ),
    );
    assert_eq!(said, "end\n");
}

/// A new procfs in a user namespace of one's own would show what is masked.
#[test]
fn a_nested_user_namespace_shows_nothing_more() {
    needs_root_and!();
    let bundle = Bundle::new();
    let said = attempt(
        &bundle,
        &script(
            "unshare --user --map-root-user --pid --fork --mount sh -c \
             'mkdir /tmp/p; mount -t proc proc /tmp/p && echo mounted; mount -t sysfs sysfs /tmp/p && echo mounted; \
              umount /proc/keys && echo unmasked; umount /proc && echo unmasked' 2>/dev/null; echo end",
        ),
    );
    assert_eq!(said, "end\n");
}

/// With the PIDs of the host in sight, root of a container is still not root of the host.
#[test]
fn processes_of_the_host_can_be_seen_but_not_looked_into() {
    needs_root_and!();
    let bundle = Bundle::new();
    // That a file is there is no secret; what is in it is.
    let mut config = script(
        "for f in root/etc cwd/; do ls /proc/1/$f >/dev/null 2>&1 && echo listed $f; done
         for f in environ maps; do [ -n \"$(cat /proc/1/$f 2>/dev/null | head -c 1)\" ] && echo read $f; done
         for f in root cwd exe ns/mnt fd/0; do readlink /proc/1/$f >/dev/null 2>&1 && echo followed $f; done
         dd if=/proc/1/mem of=/dev/null bs=1 count=1 2>/dev/null && echo read mem; echo end",
    );
    config["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "pid");
    assert_eq!(attempt(&bundle, &config), "end\n");
}

/// Keys of whoever starts a container are not the container's.
#[test]
fn the_keyring_of_the_session_is_a_new_one() {
    needs_root_and!();
    let bundle = Bundle::new();
    let mut config = script("cat /proc/keys; sleep 1000");
    config["linux"]["maskedPaths"] = json!([]);
    bundle.write(&config);
    let sessions = |text: &str| -> Vec<String> {
        let keyrings = text.lines().filter(|line| line.contains("_ses"));
        keyrings.map(|line| line.split(' ').next().unwrap().to_owned()).collect()
    };
    let host = sessions(&std::fs::read_to_string("/proc/keys").unwrap());
    bundle.ours(&["run", "--detach", &bundle.id]);
    let inside = sessions(&bundle.ours(&["exec", &bundle.id, "cat", "/proc/keys"]));
    assert!(inside.iter().any(|key| !host.contains(key)), "{inside:?} {host:?}");
}

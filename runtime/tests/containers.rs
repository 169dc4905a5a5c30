//! Containers on this machine: needs root, and a static busybox.

mod machine;
#[path = "machine/networks.rs"]
mod networks;

use machine::{Outcome, Root};
use rstest::rstest;
use runtime::{MountKind, MountPoint, Rootfs, Seccomp, Size, SpecOptions, StartError, Stdio, Ulimit, UserIds};
use std::fs::Permissions;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// Ends the test early where it cannot run.
macro_rules! needs_root {
    () => {
        if !machine::is_root() {
            return;
        }
    };
}

#[rstest]
#[case::fine("true", 0)]
#[case::a_code("exit 42", 42)]
#[case::a_signal_of_its_child("sh -c 'kill -9 $$'; exit $?", 137)]
fn the_exit_code_comes_back(#[case] script: &str, #[case] code: i32) {
    needs_root!();
    assert_eq!(Root::new().sh(script).status.code, Some(code));
}

#[test]
fn a_signal_that_kills_the_first_process_comes_back() {
    needs_root!();
    let root = Root::new();
    let container = root.start(root.options(&["sleep", "100"]), Stdio::null()).unwrap();
    container.kill(libc::SIGKILL).unwrap();
    let status = container.wait().unwrap();
    assert_eq!((status.code, status.signal, status.shell_code()), (None, Some(9), 137));
    assert!(!status.oom_killed);
}

#[test]
fn controls_reach_the_container_from_another_thread_and_are_harmless_afterwards() {
    needs_root!();
    let root = Root::new();
    // The first process of a PID namespace only gets signals that it handles.
    let script = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done";
    let mut container = root.start(root.options(&["sh", "-c", script]), Stdio::pipes()).unwrap();
    let mut line = [0; 6];
    container.take_stdout().unwrap().read_exact(&mut line).unwrap();
    let controls = container.controls().unwrap();
    let sender = std::thread::spawn(move || {
        controls.kill(libc::SIGTERM).unwrap();
        controls
    });
    assert_eq!(container.wait().unwrap().code, Some(7));
    assert!(sender.join().unwrap().kill(libc::SIGTERM).is_err());
}

#[test]
fn a_program_that_is_not_there_is_127_and_one_that_cannot_run_is_126() {
    needs_root!();
    let root = Root::new();
    std::fs::create_dir(root.path("folder")).unwrap();
    root.write("etc/data", "no program");
    root.write("bin/script", "#!/no/such/interpreter\n");
    std::fs::set_permissions(root.path("bin/script"), Permissions::from_mode(0o755)).unwrap();
    let start = |program: &str| root.start(root.options(&[program]), Stdio::null()).unwrap_err();
    for (program, code) in [
        ("nothere", 127),
        ("/no/where", 127),
        ("/folder", 126),
        ("/etc/data", 126),
        ("script", 127),
        ("/etc/data/x", 126),
    ] {
        let error = start(program);
        assert_eq!(error.exit_code(), code, "{program}: {error:?}");
    }
    assert!(matches!(start("nothere"), StartError::ProgramNotFound { program } if program == "nothere"));
    assert!(root.leftovers().is_empty(), "{:?}", root.leftovers());
}

#[test]
fn a_missing_working_directory_is_made_and_a_file_is_refused() {
    needs_root!();
    let root = Root::new();
    let outcome = root.run(SpecOptions { cwd: "/a/new/place".to_owned(), ..root.options(&["pwd"]) });
    assert_eq!(outcome.stdout, "/a/new/place\n");
    root.write("file", "");
    let error = root.start(SpecOptions { cwd: "/file".to_owned(), ..root.options(&["pwd"]) }, Stdio::null());
    assert_eq!(error.unwrap_err().exit_code(), 125);
}

#[test]
fn the_program_is_alone_with_dockers_rights() {
    needs_root!();
    let root = Root::new();
    let outcome = root.sh("cat /proc/self/status; echo pid $$; hostname; ls /proc | grep -c '^[0-9]'; umask");
    let field = |name: &str| {
        let line = outcome.stdout.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}"));
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    for name in ["CapPrm:", "CapEff:", "CapBnd:"] {
        assert_eq!(field(name), "00000000a80425fb");
    }
    assert_eq!((field("CapInh:"), field("CapAmb:")), ("0".repeat(16), "0".repeat(16)));
    assert_eq!((field("Seccomp:"), field("NoNewPrivs:")), ("2".to_owned(), "0".to_owned()));
    assert_eq!(field("SigBlk:"), "0".repeat(16));
    assert_eq!(field("SigIgn:"), "0".repeat(16), "{}", outcome.stdout);
    let last: Vec<_> = outcome.stdout.lines().rev().take(4).collect();
    assert_eq!((last[3], last[2], last[0]), ("pid 1", "box", "0022"));
}

#[test]
fn another_user_has_no_rights_but_keeps_the_bounding_set() {
    needs_root!();
    let root = Root::new();
    let user = UserIds { uid: 1000, gid: 1001, additional_gids: vec![1002, 1003] };
    let outcome = root.run(SpecOptions {
        user,
        ..root.options(&["sh", "-c", "id -u; id -g; id -G; grep Cap /proc/self/status; echo ok > /dev/stdout"])
    });
    assert!(outcome.stdout.starts_with("1000\n1001\n1001 1002 1003\n"), "{outcome:?}");
    assert!(outcome.stdout.contains("CapEff:\t0000000000000000\nCapBnd:\t00000000a80425fb"), "{outcome:?}");
    assert!(outcome.stdout.ends_with("ok\n"), "{outcome:?}");
}

#[test]
fn capabilities_are_added_and_dropped_by_name() {
    needs_root!();
    let root = Root::new();
    let effective = |options: SpecOptions| {
        let outcome = root
            .run(SpecOptions { args: ["grep", "CapEff", "/proc/self/status"].map(str::to_owned).to_vec(), ..options });
        u64::from_str_radix(outcome.stdout.split_whitespace().nth(1).unwrap(), 16).unwrap()
    };
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    let options = || root.options(&["true"]);
    assert_eq!(effective(SpecOptions { cap_drop: names(&["all"]), ..options() }), 0);
    let one = SpecOptions { cap_drop: names(&["ALL"]), cap_add: names(&["NET_ADMIN"]), ..options() };
    assert_eq!(effective(one), 1 << 12);
    let less = SpecOptions { cap_drop: names(&["CAP_CHOWN"]), ..options() };
    assert_eq!(effective(less), 0xa804_25fa);
    let all = effective(SpecOptions { privileged: true, ..options() });
    assert!(all & 0xa804_25fb == 0xa804_25fb && all & 1 << 21 != 0, "{all:x}");
}

#[test]
fn seccomp_refuses_what_docker_refuses() {
    needs_root!();
    let root = Root::new();
    let script = "mount -t tmpfs x /tmp 2>&1; unshare -m true 2>&1; echo end";
    let refused = root.sh(script);
    assert_eq!(refused.stdout.matches("ermitted").count() + refused.stdout.matches("denied").count(), 2, "{refused:?}");
    let options = SpecOptions {
        seccomp: Seccomp::Unconfined,
        cap_add: vec!["SYS_ADMIN".to_owned()],
        ..root.options(&["sh", "-c", script])
    };
    assert_eq!(root.run(options).stdout, "end\n");
    let options =
        SpecOptions { no_new_privileges: true, ..root.options(&["grep", "-E", "NoNew|Seccomp:", "/proc/self/status"]) };
    assert_eq!(root.run(options).stdout, "NoNewPrivs:\t1\nSeccomp:\t2\n");
}

#[test]
fn masked_files_are_empty_and_kernel_settings_cannot_be_written() {
    needs_root!();
    let root = Root::new();
    let outcome =
        root.sh("cat /proc/keys /proc/timer_list /proc/interrupts 2>/dev/null | wc -c; ls /sys/firmware | wc -l
         echo 1 > /proc/sys/kernel/core_pattern; echo 1 > /proc/irq/default_smp_affinity; echo 1 > /sys/kernel/uevent_seqnum
         cat /proc/kcore | head -c 1 | wc -c; mount | grep -c ' /proc/sys '");
    assert_eq!(outcome.stdout, "0\n0\n0\n1\n", "{outcome:?}");
    assert_eq!(outcome.stderr.matches("ead-only").count(), 3, "{outcome:?}");
}

#[test]
fn the_devices_are_those_of_docker_and_no_others_can_be_used() {
    needs_root!();
    let root = Root::new();
    let outcome = root.sh("ls /dev; mknod /tmp/disk b 7 0 && cat /tmp/disk; mknod /tmp/mem c 1 1 && cat /tmp/mem; cat /dev/null; head -c 3 /dev/zero | wc -c");
    let core = if Path::new("/proc/kcore").exists() { "core " } else { "" };
    let expected = format!("{core}fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero 3");
    assert_eq!(outcome.stdout.split_whitespace().collect::<Vec<_>>().join(" "), expected);
    assert_eq!(outcome.stderr.matches("not permitted").count(), 2, "{outcome:?}");
}

#[test]
fn shared_memory_has_the_size_that_was_asked_for() {
    needs_root!();
    let root = Root::new();
    assert!(root.sh("df -k /dev/shm").stdout.contains(" 65536 "));
    let larger = SpecOptions { shm_size: 1 << 20, ..root.options(&["df", "-k", "/dev/shm"]) };
    assert!(root.run(larger).stdout.contains(" 1024 "));
}

#[test]
fn a_read_only_root_cannot_be_written_and_tmpfs_can() {
    needs_root!();
    let root = Root::new();
    let tmpfs = MountPoint {
        target: "/scratch".to_owned(),
        kind: MountKind::Tmpfs { size: Some(4096), mode: None, read_only: false },
    };
    let options = SpecOptions {
        read_only: true,
        mounts: vec![tmpfs],
        ..root.options(&["sh", "-c", "echo x > /etc/x; echo y > /scratch/y; cat /scratch/y; stat -c %a /scratch"])
    };
    let outcome = root.run(options);
    assert_eq!(outcome.stdout, "y\n1777\n");
    assert!(outcome.stderr.contains("ead-only"), "{outcome:?}");
}

#[test]
fn files_and_folders_are_bound_and_read_only_holds_for_mounts_below() {
    needs_root!();
    let root = Root::new();
    let host = tempfile::tempdir().unwrap();
    std::fs::create_dir(host.path().join("folder")).unwrap();
    root.write_at(&host.path().join("resolv.conf"), "nameserver 192.0.2.1\n");
    let bind = |target: &str, source: &Path, read_only| MountPoint {
        target: target.to_owned(),
        kind: MountKind::Bind { source: source.to_path_buf(), read_only },
    };
    let mounts = vec![
        bind("/etc/resolv.conf", &host.path().join("resolv.conf"), true),
        bind("/deep/in/a/folder", &host.path().join("folder"), false),
        bind("/proc-of-host", Path::new("/dev"), true),
    ];
    let script = "cat /etc/resolv.conf; echo new > /deep/in/a/folder/new; echo x >> /etc/resolv.conf; touch /proc-of-host/x /proc-of-host/shm/x";
    let outcome = root.run(SpecOptions { mounts, ..root.options(&["sh", "-c", script]) });
    assert_eq!(outcome.stdout, "nameserver 192.0.2.1\n");
    assert_eq!(outcome.stderr.matches("ead-only").count(), 3, "{outcome:?}");
    assert!(host.path().join("folder/new").exists());
    // Mount points that were made for this are gone from the changes.
    assert!(!outcome.upper.join("deep").exists() && !outcome.upper.join("etc/resolv.conf").exists());
}

#[test]
fn a_mount_point_that_was_made_leaves_no_trace_but_one_that_was_filled_stays() {
    needs_root!();
    let root = Root::new();
    let before = std::fs::metadata(root.path("etc")).unwrap().modified().unwrap();
    let host = tempfile::tempdir().unwrap();
    let mount = |target: &str| MountPoint {
        target: target.to_owned(),
        kind: MountKind::Bind { source: host.path().to_path_buf(), read_only: false },
    };
    let outcome = root.run(SpecOptions {
        mounts: vec![mount("/etc/made"), mount("/srv/made")],
        ..root.options(&["sh", "-c", "echo x > /srv/kept"])
    });
    assert_eq!(outcome.status.code, Some(0));
    assert!(!outcome.upper.join("etc/made").exists());
    assert_eq!(std::fs::metadata(outcome.upper.join("etc")).unwrap().modified().unwrap(), before);
    assert!(outcome.upper.join("srv/kept").exists() && !outcome.upper.join("srv/made").exists());
}

#[test]
fn links_in_the_image_do_not_lead_mounts_out_of_it() {
    needs_root!();
    let outside = tempfile::tempdir().unwrap();
    let file = outside.path().join("victim");
    std::fs::File::create(&file).unwrap();
    let root = Root::new();
    let out = format!("../../../../../../../../../..{}", outside.path().display());
    symlink(format!("{out}/made-by-mount"), root.path("etc/resolv.conf")).unwrap();
    symlink(outside.path(), root.path("absolute")).unwrap();
    let bind = |target: &str| MountPoint {
        target: target.to_owned(),
        kind: MountKind::Bind { source: file.clone(), read_only: false },
    };
    let mounts = vec![bind("/etc/resolv.conf"), bind("/absolute/second"), bind("/absolute/../third")];
    let outcome =
        root.run(SpecOptions { mounts, ..root.options(&["sh", "-c", "echo in > /etc/resolv.conf; ls -d /absolute"]) });
    assert_eq!(outcome.status.code, Some(0), "{outcome:?}");
    let names: Vec<_> = std::fs::read_dir(outside.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["victim"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "in\n");
}

#[rstest]
#[case::proc("proc", "/proc")]
#[case::sys("sys", "/sys")]
fn a_link_in_place_of_a_kernel_filesystem_is_refused(#[case] name: &str, #[case] target: &str) {
    needs_root!();
    let root = Root::new();
    std::fs::create_dir(root.path("elsewhere")).unwrap();
    symlink("/elsewhere", root.path(name)).unwrap();
    let error = root.start(root.options(&["true"]), Stdio::null()).unwrap_err();
    assert!(matches!(&error, StartError::Setup { what, .. } if what.contains(target)), "{error:?}");
    assert!(root.leftovers().is_empty());
}

#[test]
fn a_link_in_place_of_dev_stays_inside_and_a_loop_is_refused() {
    needs_root!();
    let outside = tempfile::tempdir().unwrap();
    let root = Root::new();
    symlink(outside.path(), root.path("dev")).unwrap();
    // The link is followed inside the root, so nothing of ours is made in the host's folder.
    let _ = root.start(root.options(&["true"]), Stdio::null()).map(runtime::Container::wait);
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);

    let root = Root::new();
    symlink("loop", root.path("loop")).unwrap();
    let mount = MountPoint {
        target: "/loop/x".to_owned(),
        kind: MountKind::Tmpfs { size: None, mode: None, read_only: false },
    };
    let error = root.start(SpecOptions { mounts: vec![mount], ..root.options(&["true"]) }, Stdio::null());
    assert!(matches!(error, Err(StartError::Setup { what, .. }) if what == "mount target `/loop/x`"));
}

#[test]
fn a_terminal_is_the_containers_own_and_can_be_resized() {
    needs_root!();
    let root = Root::new();
    let options = SpecOptions {
        terminal: true,
        ..root.options(&["sh", "-c", "tty; stty size; read x; stty size; echo $TERM got $x; ls -l /dev/console"])
    };
    let container = root.start(options, Stdio::Terminal { size: Some(Size { rows: 33, columns: 77 }) }).unwrap();
    let mut terminal = container.terminal().unwrap().try_clone().unwrap();
    let mut seen = String::new();
    read_until(&mut terminal, &mut seen, "33 77\r\n");
    assert!(seen.contains("/dev/pts/0\r\n"), "{seen}");
    container.resize(Size { rows: 11, columns: 22 }).unwrap();
    terminal.write_all(b"word\n").unwrap();
    read_until(&mut terminal, &mut seen, "/dev/console");
    assert!(seen.contains("11 22\r\nxterm got word\r\n"), "{seen}");
    assert_eq!(container.wait().unwrap().code, Some(0));
}

#[test]
fn control_c_on_the_terminal_interrupts_the_foreground_program() {
    needs_root!();
    let root = Root::new();
    let script = "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.05; done";
    let options = SpecOptions { terminal: true, ..root.options(&["sh", "-c", script]) };
    let container = root.start(options, Stdio::Terminal { size: None }).unwrap();
    let mut terminal = container.terminal().unwrap().try_clone().unwrap();
    let mut seen = String::new();
    read_until(&mut terminal, &mut seen, "ready");
    terminal.write_all(b"\x03").unwrap();
    read_until(&mut terminal, &mut seen, "caught");
    assert_eq!(container.wait().unwrap().code, Some(5));
}

/// Reads until the text has been seen; a terminal whose other side is closed gives EIO.
fn read_until(terminal: &mut std::fs::File, seen: &mut String, wanted: &str) {
    let mut bytes = [0; 256];
    while !seen.contains(wanted) {
        match terminal.read(&mut bytes) {
            Ok(0) | Err(_) => panic!("the terminal closed after {seen:?}"),
            Ok(length) => seen.push_str(&String::from_utf8_lossy(&bytes[..length])),
        }
    }
}

#[test]
fn input_and_both_outputs_go_through_pipes() {
    needs_root!();
    let root = Root::new();
    use runtime::Stream;
    let stdio = Stdio::Streams { stdin: Stream::Pipe, stdout: Stream::Pipe, stderr: Stream::Pipe };
    let mut container = root.start(root.options(&["sh", "-c", "cat; echo error >&2"]), stdio).unwrap();
    let mut stdin = container.take_stdin().unwrap();
    stdin.write_all(b"through").unwrap();
    drop(stdin);
    let (mut out, mut err) = (String::new(), String::new());
    container.take_stdout().unwrap().read_to_string(&mut out).unwrap();
    container.take_stderr().unwrap().read_to_string(&mut err).unwrap();
    assert!(container.take_stdout().is_none());
    assert_eq!((out.as_str(), err.as_str(), container.wait().unwrap().code), ("through", "error\n", Some(0)));
}

#[test]
fn no_descriptor_of_the_starter_is_left_open() {
    needs_root!();
    let root = Root::new();
    // A descriptor that somebody forgot to close on exec.
    let leaked = std::fs::File::open("/etc").unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    // The fourth is the folder that `ls` reads.
    assert_eq!(root.sh("ls /proc/self/fd | wc -l").stdout, "4\n");
}

#[test]
fn no_path_leads_through_a_descriptor_of_the_starter() {
    needs_root!();
    let root = Root::new();
    let host = std::fs::File::open("/").unwrap();
    let through = format!("/proc/self/fd/{}", host.as_raw_fd());
    symlink(&through, root.path("folder")).unwrap();
    for cwd in [through.as_str(), "/folder"] {
        let options = SpecOptions { cwd: cwd.to_owned(), ..root.options(&["true"]) };
        let error = root.start(options, Stdio::null()).unwrap_err();
        assert!(matches!(error, StartError::WorkingDirectory { .. }), "{cwd}: {error:?}");
    }
    // Nothing is there any more, rather than something that is refused.
    let error = root.start(root.options(&[&format!("{through}/bin/true")]), Stdio::null()).unwrap_err();
    assert!(matches!(error, StartError::ProgramNotFound { .. }), "{error:?}");
}

#[test]
fn more_memory_than_allowed_is_killed_and_said_so() {
    needs_root!();
    let root = Root::new();
    let options = SpecOptions { memory: Some(16 << 20), ..root.options(&["sh", "-c", "exec tail -c 200m /dev/zero"]) };
    let outcome = root.run(options);
    if outcome.warnings.is_empty() {
        assert!(outcome.status.oom_killed, "{outcome:?}");
        assert_eq!(outcome.status.shell_code(), 137);
    }
}

#[test]
fn a_fork_bomb_is_bounded() {
    needs_root!();
    let root = Root::new();
    let script = "i=0; while [ $i -lt 100 ]; do sleep 5 & i=$((i+1)); done; echo unreachable";
    let outcome = root.run(SpecOptions { pids_limit: Some(10), ..root.options(&["sh", "-c", script]) });
    if outcome.warnings.is_empty() {
        assert!(outcome.stderr.contains("fork") && !outcome.stdout.contains("unreachable"), "{outcome:?}");
    }
    assert!(root.leftovers().is_empty(), "{:?}", root.leftovers());
}

#[test]
fn limits_are_set_and_clamped_with_a_warning_where_raising_is_forbidden() {
    needs_root!();
    let root = Root::new();
    let limit = |name: &str, soft, hard| Ulimit { name: name.to_owned(), soft, hard };
    let options = root.options(&["sh", "-c", "ulimit -n; ulimit -c"]);
    let outcome = root.run(SpecOptions { ulimits: vec![limit("nofile", 100, 200), limit("core", 0, 0)], ..options });
    assert_eq!(outcome.stdout, "100\n0\n");
    let options = root.options(&["sh", "-c", "ulimit -n"]);
    let outcome = root.run(SpecOptions { ulimits: vec![limit("nofile", 64, 1 << 30)], ..options });
    assert_eq!(outcome.stdout, "64\n");
    for warning in outcome.warnings {
        assert!(warning.to_string().starts_with("the limit `nofile` is off: "), "{warning}");
    }
}

#[test]
fn a_cgroup_parent_is_used_as_it_is_named() {
    needs_root!();
    let root = Root::new();
    let mut config = root.config_of(root.options(&["sleep", "100"]), Stdio::null());
    config.cgroup_parent = Some("/slipway-test-parent".to_owned());
    let container = runtime::start(config).unwrap();
    let own = std::fs::read_to_string(format!("/proc/{}/cgroup", container.pid())).unwrap();
    assert!(own.lines().any(|line| line.contains(":/slipway-test-parent/slipway-")), "{own}");
    drop(container);
    assert!(root.leftovers().is_empty());
    for entry in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        // Where it is not, there is nothing to remove.
        let _ = std::fs::remove_dir(entry.path().join("slipway-test-parent"));
    }
}

#[test]
fn a_folder_of_devices_of_the_users_own_replaces_the_default_one() {
    needs_root!();
    let root = Root::new();
    let host = tempfile::tempdir().unwrap();
    let mount = |target: &str, source: &Path| MountPoint {
        target: target.to_owned(),
        kind: MountKind::Bind { source: source.to_path_buf(), read_only: false },
    };
    // Given in the wrong order: outer mounts come first all the same.
    let dev = Path::new("/dev");
    let mounts = vec![mount("/srv/in/dev", dev), mount("/dev/", dev), mount("/srv", host.path())];
    let outcome =
        root.run(SpecOptions { mounts, ..root.options(&["sh", "-c", "ls -d /dev/kmsg /srv/in/dev/null /dev/pts"]) });
    assert_eq!(outcome.stdout, "/dev/kmsg\n/dev/pts\n/srv/in/dev/null\n", "{outcome:?}");
}

#[test]
fn a_kernel_setting_of_the_container_is_set_and_one_of_the_host_is_refused() {
    needs_root!();
    let root = Root::new();
    let with = |name: &str, value: &str| SpecOptions {
        sysctls: vec![(name.to_owned(), value.to_owned())],
        ..root.options(&["cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start"])
    };
    assert_eq!(root.run(with("net.ipv4.ip_unprivileged_port_start", "99")).stdout, "99\n");
    for name in ["kernel.core_pattern", "vm.overcommit_memory", "net.../../kernel.core_pattern", "net/../../x"] {
        let error = root.start(with(name, "1"), Stdio::null()).unwrap_err();
        assert!(matches!(error, StartError::BadSpec { .. }), "{name}: {error:?}");
    }
}

#[test]
fn a_folder_is_a_root_as_well_and_an_overlay_without_layers_is_its_upper_folder() {
    needs_root!();
    let root = Root::new();
    let outcome =
        root.run_on(root.options(&["sh", "-c", "echo x > /etc/new; mount | head -1"]), Rootfs::Folder(root.path("")));
    assert_eq!(outcome.status.code, Some(0), "{outcome:?}");
    assert!(root.path("etc/new").exists());
    let rootfs =
        Rootfs::Overlay { lower: Vec::new(), upper: root.path(""), work: root.state().join("unused"), volatile: true };
    let outcome = root.run_on(root.options(&["cat", "/etc/new"]), rootfs);
    assert_eq!(outcome.stdout, "x\n");
}

#[test]
fn the_topmost_of_many_layers_wins_and_names_with_colons_and_commas_work() {
    needs_root!();
    let root = Root::new();
    let mut lower = vec![];
    for layer in ["top,one", "mid:dle", "low\\est"] {
        let path = root.state().join(layer);
        std::fs::create_dir_all(path.join("etc")).unwrap();
        root.write_at(&path.join("etc/which"), layer);
        root.write_at(&path.join(format!("etc/{layer}")), "");
        lower.push(path);
    }
    lower.push(root.path(""));
    let folder = root.fresh();
    let rootfs = Rootfs::Overlay { lower, upper: folder.join("upper"), work: folder.join("work"), volatile: false };
    let outcome = root.run_on(root.options(&["sh", "-c", "cat /etc/which; ls /etc | wc -l"]), rootfs);
    assert_eq!(outcome.stdout, "top,one4\n", "{outcome:?}");
}

#[test]
fn dropping_a_container_kills_it() {
    needs_root!();
    let root = Root::new();
    let container = root.start(root.options(&["sleep", "100"]), Stdio::null()).unwrap();
    let pid = container.pid();
    drop(container);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert!(root.leftovers().is_empty());
}

#[test]
fn two_hundred_starts_from_threads_that_allocate_all_work() {
    needs_root!();
    use std::sync::atomic::{AtomicBool, Ordering};
    let root = Root::new();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::black_box(vec![0u8; 4096]);
                }
            });
        }
        let starters: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..25 {
                        let outcome: Outcome = root.run(root.options(&["true"]));
                        assert_eq!(outcome.status.code, Some(0), "{outcome:?}");
                    }
                })
            })
            .collect();
        for starter in starters {
            starter.join().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(root.leftovers().is_empty(), "{:?}", root.leftovers());
}

#[test]
fn a_killed_starter_leaves_no_process_or_mount_and_the_next_sweep_takes_the_cgroup() {
    needs_root!();
    let root = Root::new();
    let mut helper = machine::helper(&root, &["sleep", "100"]);
    let pid = helper.container_pid();
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    helper.kill();
    machine::eventually("the container is dead", || !Path::new(&format!("/proc/{pid}/exe")).exists());
    runtime::sweep(runtime::Places::default());
    machine::eventually("nothing is left", || {
        runtime::sweep(runtime::Places::default());
        root.leftovers().is_empty()
    });
}

#[test]
fn a_starter_killed_at_any_moment_leaves_nothing_that_a_sweep_does_not_take() {
    needs_root!();
    let root = Root::new();
    for turn in 0..30u64 {
        let mut helper = machine::helper(&root, &["sleep", "100"]);
        // A start takes some milliseconds; most of these are in the midst of it.
        std::thread::sleep(std::time::Duration::from_micros(turn * 733));
        helper.kill();
    }
    machine::eventually("all processes are dead", || root.processes() == 0);
    machine::eventually("nothing is left", || {
        runtime::sweep(runtime::Places::default());
        root.leftovers().is_empty()
    });
}

#[test]
fn the_helper_of_another_test() {
    machine::be_the_helper();
}

#[test]
fn loopback_is_up_and_alone_without_a_network() {
    needs_root!();
    let outcome = Root::new().sh("ip -o link | wc -l; ip addr show lo | grep -c 127.0.0.1; ip route | wc -l");
    assert_eq!(outcome.stdout, "1\n1\n0\n");
}

#[rstest]
#[case::as_program("/proc/self/exe", "")]
#[case::as_descriptor("/proc/self/fd/0", "")]
#[case::as_link("/bin/innocent", "")]
#[case::as_interpreter("/bin/script", "#!/proc/self/exe\n")]
#[case::as_interpreter_of_an_interpreter("/bin/script", "#! /bin/second argument\n")]
fn the_starters_own_program_cannot_be_run_in_the_container(#[case] program: &str, #[case] script: &str) {
    needs_root!();
    let root = Root::new();
    symlink("/proc/self/exe", root.path("bin/innocent")).unwrap();
    root.write("bin/script", script);
    root.write("bin/second", "#!/proc/self/exe");
    for name in ["bin/script", "bin/second"] {
        std::fs::set_permissions(root.path(name), Permissions::from_mode(0o755)).unwrap();
    }
    let error = root.start(root.options(&[program]), Stdio::null()).unwrap_err();
    assert!(matches!(error, StartError::ProgramNotExecutable { .. }), "{error:?}");
}

#[test]
fn a_script_runs_with_its_interpreter() {
    needs_root!();
    let root = Root::new();
    root.write("bin/script", "#!/bin/sh -e\necho from a script $1");
    std::fs::set_permissions(root.path("bin/script"), Permissions::from_mode(0o755)).unwrap();
    assert_eq!(root.run(root.options(&["script", "here"])).stdout, "from a script here\n");
}

#[rstest]
#[case("/proc/self/fd/3")]
#[case("/proc/self/fd/../fd/7/../../..")]
#[case("/proc/1/root")]
fn a_working_directory_cannot_be_one_of_the_hosts(#[case] cwd: &str) {
    needs_root!();
    let root = Root::new();
    let outcome = root.start(SpecOptions { cwd: cwd.to_owned(), ..root.options(&["ls", "."]) }, Stdio::null());
    // `..` is resolved as text, so such a path may just be a folder inside.
    match outcome {
        Err(error) => assert!(matches!(error, StartError::WorkingDirectory { .. }), "{error:?}"),
        Ok(container) => assert!(container.wait().is_ok()),
    }
}

//! Ctrl-C: whatever goes on stops within a second, and leaves no mounts, processes, cgroups or temporary files.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::support::{TestEnv, eventually, needs, path, send};

/// Returns what a home has that only exists while something goes on.
pub(crate) fn leftovers(env: &TestEnv) -> Vec<PathBuf> {
    let staging = std::fs::read_dir(env.home().join("staging"));
    staging.into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
}

/// Returns the cgroups, and mounts, that a process made.
fn traces(pid: u32, env: &TestEnv) -> Vec<String> {
    let mut found = Vec::new();
    let owner = format!(".{pid}.");
    find(Path::new("/sys/fs/cgroup"), &owner, 4, &mut found);
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    found.extend(mounts.lines().filter(|line| line.contains(path(&env.home()))).map(str::to_owned));
    found
}

fn find(folder: &Path, owner: &str, depth: u32, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("slipway") && name.contains(owner) {
            found.push(entry.path().display().to_string());
        }
        if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            find(&entry.path(), owner, depth - 1, found);
        }
    }
}

/// Tells whether a process with these arguments runs, `\0` between them.
fn runs(mark: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.into_iter().any(|line| line.starts_with(mark.as_bytes()))
}

/// Sends a signal, and asserts that the process ends with the signal's code, and does not wait for what it runs.
fn stop(mut child: Child, signal: Signal) {
    let began = Instant::now();
    send(child.id(), signal);
    let status = child.wait().unwrap();
    let took = began.elapsed();
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap());
    assert_eq!(code, 128 + signal.as_raw());
    assert!(took < Duration::from_secs(8), "it took {took:?}");
}

#[test]
fn a_build_stops_and_leaves_nothing() {
    if !needs::root() {
        return;
    }
    let env = TestEnv::with_busybox();
    let mark = format!("sleep 10{}", std::process::id());
    let context = env.context("app", &format!("FROM busybox\nRUN {mark}\n"));
    for signal in [Signal::INT, Signal::TERM] {
        let child = env.command(["build", path(&context)]).stderr(Stdio::null()).spawn().unwrap();
        let pid = child.id();
        eventually(20, "the step runs", || runs(&mark.replace(' ', "\0")));
        stop(child, signal);
        assert!(!runs(&mark.replace(' ', "\0")), "the step's process is gone");
        assert_eq!(leftovers(&env), Vec::<PathBuf>::new());
        assert_eq!(traces(pid, &env), Vec::<String>::new());
    }
    // The store is as good as before.
    let context = env.context("app", "FROM busybox\nRUN true\n");
    env.slipway(["build", "-t", "app", path(&context)]).success();
}

#[test]
fn a_container_stops_and_leaves_nothing() {
    if !needs::root() {
        return;
    }
    let env = TestEnv::with_busybox();
    let seconds = format!("20{}", std::process::id());
    let child = env.command(["run", "busybox", "sleep", &seconds]).spawn().unwrap();
    let pid = child.id();
    let mark = format!("sleep\0{seconds}");
    eventually(20, "the program runs", || runs(&mark));
    stop(child, Signal::INT);
    assert!(!runs(&mark), "the program is gone");
    assert_eq!(leftovers(&env), Vec::<PathBuf>::new());
    assert_eq!(traces(pid, &env), Vec::<String>::new());
}

#[test]
fn a_load_that_waits_for_its_input_stops() {
    let env = TestEnv::new();
    let mut child = env.command(["load"]).stdin(Stdio::piped()).spawn().unwrap();
    // Something has arrived, so a blob is on its way.
    let tar = std::fs::read(super::support::busybox_tar()).unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, &tar[..tar.len() / 2]).unwrap();
    eventually(20, "it began", || !leftovers(&env).is_empty());
    stop(child, Signal::INT);
    drop(stdin);
    assert_eq!(leftovers(&env), Vec::<PathBuf>::new());
}

#[test]
fn a_pull_from_a_registry_that_never_answers_stops() {
    let env = TestEnv::new();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let name = format!("{}/x:1", silent.local_addr().unwrap());
    let child = env.command(["pull", &name]).stdout(Stdio::null()).spawn().unwrap();
    let _connection = silent.accept().unwrap();
    stop(child, Signal::INT);
    assert_eq!(leftovers(&env), Vec::<PathBuf>::new());
}

#[test]
fn a_run_that_pulls_stops() {
    let env = TestEnv::new();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let name = format!("{}/x:1", silent.local_addr().unwrap());
    for signal in [Signal::INT, Signal::TERM] {
        let child = env.command(["run", &name, "true"]).stderr(Stdio::null()).spawn().unwrap();
        let _connection = silent.accept().unwrap();
        stop(child, signal);
        assert_eq!(leftovers(&env), Vec::<PathBuf>::new());
    }
}

#[test]
fn a_container_that_is_being_started_stops_and_leaves_nothing() {
    if !needs::root() {
        return;
    }
    let env = TestEnv::with_busybox();
    let seconds = format!("40{}", std::process::id());
    // Starting takes some ten milliseconds; a signal comes at each of them.
    for wait in (0..60).step_by(4) {
        let child = env.command(["run", "busybox", "sleep", &seconds]).stderr(Stdio::null()).spawn().unwrap();
        let pid = child.id();
        std::thread::sleep(Duration::from_millis(wait));
        stop(child, Signal::INT);
        assert!(!runs(&format!("sleep\0{seconds}")), "the program is gone");
        assert_eq!(traces(pid, &env), Vec::<String>::new(), "after {wait} ms");
    }
    env.slipway(["images"]).success();
    assert_eq!(leftovers(&env), Vec::<PathBuf>::new());
}

#[test]
fn a_save_that_nobody_reads_stops_and_leaves_no_file() {
    let env = TestEnv::with_busybox();
    // More than a pipe holds, so that writing waits.
    let (reader, writer) = std::io::pipe().unwrap();
    let child = env.command(["save", "busybox"]).stdout(writer).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    stop(child, Signal::INT);
    drop(reader);
    assert_eq!(leftovers(&env), Vec::<PathBuf>::new());
}

#[test]
fn a_killed_build_is_swept_up_by_the_next_command() {
    if !needs::root() {
        return;
    }
    let env = TestEnv::with_busybox();
    let mark = format!("sleep 30{}", std::process::id());
    let context = env.context("app", &format!("FROM busybox\nRUN {mark}\n"));
    let mut child = env.command(["build", path(&context)]).stderr(Stdio::null()).spawn().unwrap();
    let pid = child.id();
    eventually(20, "the step runs", || runs(&mark.replace(' ', "\0")));
    child.kill().unwrap();
    child.wait().unwrap();
    eventually(5, "the step's process dies with us", || !runs(&mark.replace(' ', "\0")));
    // Long enough for the clean-up beside it.
    env.slipway(["run", "--network=none", "busybox", "sleep", "0.3"]).success();
    assert_eq!(leftovers(&env), Vec::<PathBuf>::new());
    assert_eq!(traces(pid, &env), Vec::<String>::new());
}

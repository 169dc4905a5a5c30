//! The applications of `testdata/apps`: built on a real Debian, run, and asked over their published ports; as root and as
//! a plain user.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::rootless::User;
use crate::support::{TestEnv, eventually, needs, path, run, send};

fn app(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/apps").join(name)
}

/// A home with Debian in it, or `None` where this machine cannot have one.
fn debian() -> Option<TestEnv> {
    if !needs::root() {
        return None;
    }
    let tar = needs::debian_tar()?;
    let env = TestEnv::new();
    env.slipway(["import", path(&tar), "debian:bookworm"]).success();
    Some(env)
}

/// Prepares `slipway` as somebody.
type Prepare<'a> = &'a dyn Fn(&[&str]) -> Command;

/// Tests what root has built as root, and then as a plain user who got it as an archive.
fn as_root_and_user(env: &TestEnv, image: &str, test: impl Fn(Prepare<'_>)) {
    test(&|arguments| env.command(arguments));
    let Some(user) = User::new(true) else { return };
    let archive = user.path("image.tar");
    env.slipway(["save", "-o", path(&archive), image]).success();
    user.slipway(["load", "-q", "-i", path(&archive)]).success();
    test(&|arguments| user.command(arguments.iter().copied()));
}

/// A container in the foreground of a background process; killed with the test.
struct Running(Child);

impl Running {
    fn start(slipway: Prepare<'_>, arguments: &[&str]) -> Self {
        let mut command = slipway(&[&["run", "--rm"], arguments].concat());
        Self(command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().expect("start slipway run"))
    }

    /// Sends a signal to `slipway run`, which hands it on; gives the exit code and what the program printed.
    fn end(mut self, signal: Signal) -> (Option<i32>, String) {
        send(self.0.id(), signal);
        let mut text = String::new();
        self.0.stdout.take().expect("piped").read_to_string(&mut text).expect("UTF-8");
        (self.0.wait().expect("wait for slipway run").code(), text)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// Sends one HTTP/1.0 request; gives the whole answer, or `None` when nobody listens yet.
fn ask(port: u16, method: &str, target: &str, body: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let length = body.len();
    write!(stream, "{method} {target} HTTP/1.0\r\nHost: app\r\nContent-Length: {length}\r\n\r\n{body}").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    (!answer.is_empty()).then_some(answer)
}

#[track_caller]
fn answer(port: u16, target: &str) -> String {
    let mut text = None;
    eventually(20, "the application answers", || {
        text = ask(port, "GET", target, "");
        text.is_some()
    });
    text.expect("just seen")
}

#[test]
fn a_compiled_application_leaves_its_compiler_behind() {
    let Some(env) = debian() else { return };
    env.slipway(["build", "--build-arg", "VERSION=7", "-t", "hello-c", path(&app("hello-c"))]).success();
    as_root_and_user(&env, "hello-c", |slipway| {
        let said = run(&mut slipway(&["run", "--rm", "hello-c", "world"])).success();
        assert_eq!(said, "hello, world, from hello-c 7\n");

        let port = free_port();
        let running = Running::start(slipway, &["-p", &format!("127.0.0.1:{port}:8080"), "hello-c"]);
        assert!(answer(port, "/").ends_with("hello from hello-c 7\n"));
        assert_eq!(running.end(Signal::TERM).0, Some(0));
    });
}

#[test]
fn a_python_service_keeps_notes_as_its_own_user() {
    let Some(env) = debian() else { return };
    env.slipway(["build", "-t", "python-notes", path(&app("python-notes"))]).success();
    as_root_and_user(&env, "python-notes", |slipway| {
        let port = free_port();
        let publish = format!("127.0.0.1:{port}:8000");
        let running = Running::start(slipway, &["-p", &publish, "-v", "notes:/data", "python-notes"]);
        assert!(answer(port, "/").contains("notes of Slipway"));
        assert!(ask(port, "POST", "/", "remember the milk").expect("an answer").contains("201"));
        let (code, output) = running.end(Signal::INT);
        assert_eq!(code, Some(0), "{output}");
        assert!(output.contains("as user 1500") && output.contains("notes stops"), "{output}");

        let running = Running::start(slipway, &["-p", &publish, "-v", "notes:/data", "python-notes"]);
        assert!(answer(port, "/").contains("remember the milk\n1 notes"));
        assert_eq!(running.end(Signal::INT).0, Some(0));
    });
}

#[test]
fn nginx_serves_a_static_site() {
    let Some(env) = debian() else { return };
    env.slipway(["build", "-t", "nginx-site", path(&app("nginx-site"))]).success();
    as_root_and_user(&env, "nginx-site", |slipway| {
        let port = free_port();
        let running = Running::start(slipway, &["-p", &format!("127.0.0.1:{port}:80"), "nginx-site"]);
        assert!(answer(port, "/").contains("built, stored and run by one binary"));
        assert!(answer(port, "/img/icons/boat.svg").contains("Content-Type: image/svg+xml"));
        let (code, output) = running.end(Signal::QUIT);
        assert_eq!(code, Some(0), "{output}");
        assert!(output.contains("GET /img/icons/boat.svg"), "the access log is on standard output: {output}");
    });
}

//! `slipway login`.

use std::io::{Read, Write};
use std::net::TcpListener;

use super::support::{Ran, TestEnv, run};

/// A registry that asks for `me` and `secret`.
pub(crate) fn guarded() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let count = stream.read(&mut request).unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..count]).into_owned();
            // base64 of `me:secret`
            let status = if request.contains("Basic bWU6c2VjcmV0") { "200 OK" } else { "401 Unauthorized" };
            let answer = format!(
                "HTTP/1.1 {status}\r\nWWW-Authenticate: Basic realm=\"test\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    address
}

pub(crate) fn login(env: &TestEnv, address: &str, password: &str) -> Ran {
    let file = env.write("password", password);
    let mut command = env.command(["login", "-u", "me", "--password-stdin", address]);
    run(command.stdin(std::fs::File::open(file).unwrap()))
}

#[test]
fn a_password_is_tried_and_kept() {
    let env = TestEnv::new();
    let address = guarded();
    let ran = login(&env, &address, "secret\n");
    assert!(ran.stderr().contains("stored unencrypted"), "{}", ran.stderr());
    assert_eq!(ran.success(), "Login Succeeded\n");
    let config = std::fs::read_to_string(env.path("docker/config.json")).unwrap();
    assert!(config.contains(&address) && config.contains("bWU6c2VjcmV0"), "{config}");
    // Nothing of it needs a store.
    assert!(!env.home().exists());
}

#[test]
fn a_refused_password_is_not_kept() {
    let env = TestEnv::new();
    let address = guarded();
    let stderr = login(&env, &address, "wrong").failure(1);
    assert!(stderr.contains(&address) && stderr.contains("refuses the username or password"), "{stderr}");
    assert!(!env.path("docker/config.json").exists());
    let ran = env.slipway(["login", "-u", "me", "-p", "secret", &address]);
    assert!(ran.stderr().contains("--password-stdin"), "{}", ran.stderr());
    ran.success();
}

#[test]
fn without_a_terminal_nobody_is_asked() {
    let env = TestEnv::new();
    let stderr = env.slipway(["login", "localhost:1"]).failure(1);
    assert!(stderr.contains("not a terminal") && stderr.contains("--password-stdin"), "{stderr}");
}

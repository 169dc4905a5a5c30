//! A server of a test's own that speaks S3.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::TestEnv;

/// A server that speaks S3, ended with the test.
pub struct Moto {
    process: Child,
    port: u16,
}

impl Drop for Moto {
    fn drop(&mut self) {
        // It is a test's, so there is nothing to save.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Moto {
    /// Starts one, and gives a home credentials; `None`, with a word, when it is not installed. CI has it.
    pub fn start(env: &TestEnv) -> Option<Self> {
        let project = Path::new(env!("CARGO_MANIFEST_DIR"));
        let program = project.join("target/moto/bin/python3");
        if !program.exists() {
            assert!(std::env::var_os("CI").is_none(), "no moto: run scripts/setup test");
            eprintln!("skipped: no {}; scripts/setup test installs it", program.display());
            return None;
        }
        env.write(".aws/credentials", "[default]\naws_access_key_id = key\naws_secret_access_key = secret\n");
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
        let process = Command::new(program)
            .arg(project.join("scripts/moto"))
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("started");
        Some(Self { process, port })
    }

    /// Makes a bucket; gives its address for `--storage`.
    pub fn bucket(&self, name: &str) -> String {
        let line = format!("PUT /{name} HTTP/1.1\r\nhost: m\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        for _ in 0..1200 {
            let mut answer = String::new();
            if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port))
                && stream.write_all(line.as_bytes()).is_ok()
                && stream.read_to_string(&mut answer).is_ok()
                && answer.split(' ').nth(1) == Some("200")
            {
                return format!("s3://{name}/some/where?endpoint=http://127.0.0.1:{}&region=us-east-1", self.port);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("moto does not answer");
    }
}

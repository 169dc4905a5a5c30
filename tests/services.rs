//! Servers as Debian packages them: run, asked over a published port, stopped by their own signal, and run again on what
//! they kept in a volume; as root, and as a plain user.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::rootless::User;
use crate::support::{Ran, TestEnv, eventually, needs, path};

/// What is synced while it is installed is lost with the step, or kept as a whole.
const DOCKERFILE: &str = r#"
FROM debian:bookworm
RUN <<EOF
set -e
apt-get update
apt-get install --yes --no-install-recommends -o Dpkg::Options::=--force-unsafe-io \
    nginx-light redis-server postgresql-15 python3-minimal libpython3-stdlib
rm -rf /var/lib/apt/lists/* /etc/nginx/sites-enabled/default
echo 'server { listen 8080; location / { root /data; } }' >/etc/nginx/conf.d/data.conf
echo 'host all all all trust' >>/etc/postgresql/15/main/pg_hba.conf
mkdir /data
chown redis:redis /data
EOF
VOLUME /data
"#;

/// A server: its flags, its program, and its port.
struct Server {
    name: &'static str,
    flags: &'static [&'static str],
    program: &'static [&'static str],
    port: &'static str,
}

const SERVERS: [Server; 4] = [
    Server {
        name: "nginx",
        flags: &["--stop-signal=SIGQUIT", "-v", "nginx-data:/data"],
        program: &["nginx", "-g", "daemon off;"],
        port: "8080",
    },
    Server {
        name: "redis",
        flags: &["--user=redis", "-v", "redis-data:/data"],
        program: &["redis-server", "--dir", "/data", "--appendonly", "yes", "--protected-mode", "no"],
        port: "6379",
    },
    Server {
        name: "postgres",
        flags: &["--user=postgres", "--stop-signal=SIGINT", "-v", "postgres-data:/var/lib/postgresql"],
        program: &[
            "/usr/lib/postgresql/15/bin/postgres",
            "-cconfig_file=/etc/postgresql/15/main/postgresql.conf",
            "-clisten_addresses=*",
            "-cssl=off",
        ],
        port: "5432",
    },
    Server {
        name: "python",
        flags: &["--stop-signal=SIGINT", "-v", "python-data:/data"],
        program: &["python3", "-m", "http.server", "--directory", "/data", "8000"],
        port: "8000",
    },
];

/// Sends bytes to a port of this machine, and returns what comes back until `end` has.
fn ask(port: &str, bytes: &[u8], end: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port.parse().ok()?)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(bytes).ok()?;
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    while !text.contains(end) {
        match stream.read(&mut buffer) {
            Ok(length @ 1..) => text.push_str(&String::from_utf8_lossy(&buffer[..length])),
            _ => return None,
        }
    }
    Some(text)
}

/// Keeps something with a server, or asks for what was kept; says whether it is there.
fn knows(slipway: &dyn Fn(&[&str]) -> Ran, name: &str, port: &str, keep: bool) -> bool {
    match name {
        "redis" => {
            let (request, answer) = if keep { ("SET k kept\r\n", "+OK") } else { ("GET k\r\n", "kept") };
            ask(port, request.as_bytes(), answer).is_some()
        }
        "postgres" => {
            let query = if keep { "create table t as select 'kept' as k" } else { "select k from t" };
            let asked = slipway(&["exec", name, "psql", "-tAc", query]);
            // The published port speaks its protocol: to a request for encryption it says no.
            let refused = ask(port, &[0, 0, 0, 8, 4, 210, 22, 47], "N").is_some();
            refused && asked.stdout().contains(if keep { "SELECT 1" } else { "kept" })
        }
        _ => {
            if keep {
                slipway(&["exec", "-u", "0", name, "sh", "-c", "echo kept >/data/k.txt"]).success();
            }
            ask(port, b"GET /k.txt HTTP/1.0\r\n\r\n", "kept").is_some()
        }
    }
}

fn serve_and_keep(slipway: &dyn Fn(&[&str]) -> Ran) {
    for keep in [true, false] {
        for server in &SERVERS {
            let publish = format!("127.0.0.1::{}", server.port);
            let name = format!("--name={}", server.name);
            let start = ["run", "-d", &name, "-p", &publish];
            slipway(&[&start, server.flags, &["services"], server.program].concat()).success();
        }
        for server in &SERVERS {
            let published = slipway(&["port", server.name, server.port]).success();
            let (_, port) = published.trim().rsplit_once(':').expect("an address and a port");
            eventually(60, &format!("{} answers", server.name), || knows(slipway, server.name, port, keep));
        }
        let names = SERVERS.each_ref().map(|server| server.name);
        slipway(&[&["stop", "-t", "60"], &names[..]].concat()).success();
        for server in &SERVERS {
            let code = slipway(&["inspect", "-f", "{{.State.ExitCode}}", server.name]).success();
            assert_eq!(code.trim(), "0", "{}: {}", server.name, slipway(&["logs", server.name]).stderr());
        }
        slipway(&[&["rm"], &names[..]].concat()).success();
    }
}

#[test]
fn debians_servers_run_stop_and_find_again_what_they_kept() {
    if !needs::root() {
        return;
    }
    let Some(tar) = needs::debian_tar() else { return };
    let env = TestEnv::new();
    env.slipway(["import", path(&tar), "debian:bookworm"]).success();
    env.slipway(["build", "-q", "-t", "services", path(&env.context("services", DOCKERFILE))]).success();
    serve_and_keep(&|arguments| env.slipway(arguments));

    let Some(user) = User::new(true) else { return };
    let archive = user.path("services.tar");
    env.slipway(["save", "-o", path(&archive), "services"]).success();
    user.slipway(["load", "-q", "-i", path(&archive)]).success();
    serve_and_keep(&|arguments| user.slipway(arguments.iter().copied()));
}

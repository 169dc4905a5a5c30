//! What `slipway build` fetches: `ADD` of URLs and repositories, contexts that are elsewhere, and SSH agents.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::support::web::{GitServer, Page, Web};
use super::support::{TestEnv, eventually, needs, path, run};

/// Builds and lists the files of the image, as tar shows them: mode, owner, size, time and name.
fn files(env: &TestEnv, arguments: &[&str]) -> Vec<String> {
    let tar = env.path("files.tar");
    let output = format!("type=tar,dest={}", path(&tar));
    let arguments: Vec<&str> = ["build", "-o", &output].into_iter().chain(arguments.iter().copied()).collect();
    env.slipway(arguments).success();
    let mut list = Command::new("tar");
    list.args(["--numeric-owner", "--utc", "--full-time", "-tvf"]).arg(&tar);
    let lines = run(&mut list).success();
    lines.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

fn content(env: &TestEnv, name: &str) -> String {
    run(Command::new("tar").arg("-xOf").arg(env.path("files.tar")).arg(name)).success()
}

#[test]
fn c24_a_url_is_fetched_once_and_asked_for_again() {
    let (env, web) = (TestEnv::new(), Web::start());
    web.put("/f", Page::of("one").header("ETag", "\"1\"").header("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT"));
    web.put("/moved", Page { status: 302, ..Page::default() }.header("Location", "/said?x=1"));
    web.put("/said?x=1", Page::of("two").header("Content-Disposition", "attachment; filename=\"../s a.id\""));
    let dockerfile = format!("FROM scratch\nADD {} {} /d/\n", web.url("/f"), web.url("/moved"));
    let context = env.context("app", &dockerfile);
    let listed = files(&env, &[path(&context)]);
    assert!(listed.contains(&"-rw------- 0/0 3 1994-11-06 08:49:37 d/f".to_owned()), "{listed:?}");
    assert!(listed.contains(&"-rw------- 0/0 3 1970-01-01 00:00:00 d/s a.id".to_owned()), "{listed:?}");
    let mut seen = web.seen();
    seen.sort();
    assert_eq!(seen, ["200 /f", "200 /said?x=1", "302 /moved"]);
    let again = env.slipway(["build", path(&context)]);
    assert!(again.stderr().contains("CACHED"), "{}", again.stderr());
    again.success();
    assert!(web.seen().contains(&"304 /f".to_owned()));
}

#[test]
fn c24_what_cannot_be_fetched_is_told_at_its_line() {
    let (env, web) = (TestEnv::new(), Web::start());
    web.put("/cut", Page { missing: 2, ..Page::of("whole") });
    web.put("/loop", Page { status: 301, ..Page::default() }.header("Location", "/loop"));
    web.put("/out", Page { status: 302, ..Page::default() }.header("Location", "file:///etc/passwd"));
    web.put("/f", Page::of("f"));
    let wrong = format!("--checksum=sha256:{} ", "0".repeat(64));
    let secret = web.url("/none").replace("http://", "http://me:s3cret@");
    for (line, expected) in [
        (web.url("/none"), "the server answered 404"),
        (secret, "the server answered 404"),
        (web.url("/cut"), "the transfer broke off"),
        (web.url("/loop"), "leads on more than 10 times"),
        (web.url("/out"), "leads to what is no URL of a web server"),
        (
            format!("{wrong}{}", web.url("/f")),
            "digest mismatch sha256:252f10c83610ebca1a059c0bae8255eba2f95be4d1d7bcfa89d7248a82d9f111: expected: sha256:000",
        ),
        ("http://127.0.0.1:1/".into(), "the server cannot be reached"),
    ] {
        let context = env.context("app", &format!("FROM scratch\nADD {line} /\n"));
        let error = env.slipway(["build", path(&context)]).failure(1);
        assert!(error.contains(expected) && error.contains("Dockerfile:2"), "{error}");
        assert!(!error.contains("s3cret"), "{error}");
    }
    // What broke off was tried again.
    assert_eq!(web.seen().iter().filter(|seen| *seen == "200 /cut").count(), 3);
}

#[test]
fn c25_a_repository_is_added_by_branch_tag_commit_and_folder() {
    if !needs::tools(&["git"]) {
        return;
    }
    let env = TestEnv::new();
    let server = GitServer::start(&env.path("served"));
    let first = server.commit("lib", &[("lib", "1")]);
    let one = server.commit("app", &[("a", "1"), ("bin/run", "#!/bin/sh\n"), ("docs/x/y", "y")]);
    std::fs::set_permissions(env.path("served/app/bin/run"), PermissionsExt::from_mode(0o755)).unwrap();
    server.git("app", &["update-index", "--chmod=+x", "bin/run"]);
    server.git("app", &["submodule", "--quiet", "add", &server.url("lib"), "sub"]);
    let two = server.commit("app", &[("a", "2")]);
    server.git("app", &["tag", "-a", "-m", "t", "v2"]);
    server.git("app", &["update-ref", "refs/pull/7/head", &one]);
    server.commit("app", &[("a", "3")]);
    let add = |what: &str| {
        let context = env.context("ctx", &format!("FROM scratch\nADD {what} /s/\n"));
        let listed = files(&env, &[path(&context)]);
        let names = listed.iter().map(|line| format!("{} {}", &line[..10], line.rsplit(' ').next().unwrap()));
        names.collect::<Vec<_>>()
    };
    let app = server.url("app");
    let all = add(&app);
    for line in ["-rw-r--r-- s/a", "-rwxr-xr-x s/bin/run", "drwxr-xr-x s/docs/x/", "-rw-r--r-- s/sub/lib"] {
        assert!(all.contains(&line.to_owned()), "{all:?}");
    }
    assert!(!all.iter().any(|line| line.contains(".git/") || line.ends_with("/.git")), "{all:?}");
    assert_eq!(content(&env, "s/a"), "3");
    assert_eq!(content(&env, "s/sub/lib"), "1");
    for (reference, expected) in
        [("#v2", "2"), ("#pull/7/head", "1"), (&format!("#{one}"), "1"), ("?tag=v2", "2"), ("?branch=main", "3")]
    {
        add(&format!("{app}{reference}"));
        assert_eq!(content(&env, "s/a"), expected, "{reference}");
    }
    assert_eq!(add(&format!("{app}#main:docs/x")), ["drwxr-xr-x s/", "-rw-r--r-- s/y"]);
    let kept = add(&format!("--keep-git-dir=true --checksum={} {app}#v2", &two[..9]));
    assert!(kept.contains(&"drwxr-xr-x s/.git/".to_owned()), "{kept:?}");
    assert!(content(&env, "s/.git/HEAD").starts_with(&two));
    for (what, expected) in [
        (format!("--checksum={first} {app}#main"), "expected checksum to match"),
        (format!("{app}#none"), "does not contain ref none"),
        (format!("{app}#:nowhere"), "has no folder `nowhere`"),
        (server.url("nobody"), "git ls-remote failed"),
    ] {
        let context = env.context("ctx", &format!("FROM scratch\nADD {what} /s/\n"));
        let error = env.slipway(["build", path(&context)]).failure(1);
        assert!(error.contains(expected) && error.contains("Dockerfile:2"), "{error}");
    }
}

#[test]
fn g12_nothing_of_a_repository_runs_here() {
    if !needs::tools(&["git"]) {
        return;
    }
    let env = TestEnv::new();
    let server = GitServer::start(&env.path("served"));
    let proof = env.path("proof");
    // Submodules over transports that run programs or read this machine, and a configuration that would.
    server.commit("private", &[("secret", "s")]);
    let modules = format!("[submodule \"s\"]\n\tpath = s\n\turl = file://{}\n", path(&env.path("served/private")));
    let commit = server.git("private", &["rev-parse", "HEAD"]);
    server.commit("evil", &[(".gitmodules", &modules), (".gitattributes", "* filter=evil\n"), ("f", "plain")]);
    server.git("evil", &["update-index", "--add", "--cacheinfo", &format!("160000,{commit},s")]);
    server.git("evil", &["commit", "-q", "-m", "x"]);
    let config = format!(
        "[filter \"evil\"]\n\tsmudge = touch {0}; cat\n[core]\n\tfsmonitor = touch {0}\n\thooksPath = {1}\n",
        path(&proof),
        path(&env.path("hooks"))
    );
    env.write(".gitconfig", config);
    let hook = env.write("hooks/post-checkout", format!("#!/bin/sh\ntouch {}\n", path(&proof)));
    std::fs::set_permissions(hook, PermissionsExt::from_mode(0o755)).unwrap();
    let build = |what: &str| {
        let context = env.context("ctx", &format!("FROM scratch\nADD {what} /s/\n"));
        env.slipway(["build", "-o", &format!("type=tar,dest={}", path(&env.path("files.tar"))), path(&context)])
    };
    let error = build(&server.url("evil")).failure(1);
    assert!(error.contains("transport 'file' not allowed"), "{error}");
    build(&format!("{}?submodules=false", server.url("evil"))).success();
    assert_eq!(content(&env, "s/f"), "plain");
    let error = build("--keep-git-dir ext::sh%20-c%20touch /x").failure(1);
    assert!(!error.contains("fetch"), "{error}");
    assert!(!proof.exists());
}

/// Answers requests that have the header `wanted` with the references of a repository, and others with 401, until it has
/// seen one that has it. Returns its address, and then the command lines of the processes that were called with it.
fn guarded_repository(wanted: String) -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let place = address.clone();
    let seen = std::thread::spawn(move || {
        let mut seen = String::new();
        for stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
            let is_known = lines.any(|line| line.eq_ignore_ascii_case(&wanted));
            lines.for_each(drop);
            // Whoever asked waits, so it is among them.
            for process in std::fs::read_dir("/proc").unwrap().flatten() {
                let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
                let line = String::from_utf8_lossy(&line).replace('\0', " ");
                if line.contains(&place) {
                    seen.push_str(&format!("{line}\n"));
                }
            }
            let body = format!("{}\trefs/heads/main\n", "a".repeat(40));
            let (status, body) = if is_known { ("200 OK", body.as_str()) } else { ("401 Unauthorized", "") };
            let answer = format!(
                "HTTP/1.1 {status}\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            (&stream).write_all(answer.as_bytes()).unwrap();
            if is_known {
                break;
            }
        }
        seen
    });
    (address, seen)
}

#[test]
fn g12_the_password_of_a_repository_is_given_to_its_server_and_shown_to_nobody() {
    if !needs::tools(&["git"]) {
        return;
    }
    let env = TestEnv::new();
    // `me:s3cr@t`, in base64.
    let (address, seen) = guarded_repository("Authorization: Basic bWU6czNjckB0".into());
    let context = env.context("ctx", &format!("FROM scratch\nADD http://me:s3cr%40t@{address}/x.git#main /s/\n"));
    let error = env.slipway(["build", path(&context)]).failure(1);
    let seen = seen.join().unwrap();
    assert!(seen.contains("/x.git"), "git was among them: {seen}");
    for text in [&error, &seen] {
        assert!(!text.contains("s3cr"), "{text}");
    }
    let kept = run(Command::new("grep").args(["-rla", "s3cr"]).arg(env.home().join("builds")));
    assert_eq!(kept.stdout(), "", "nor is it remembered");
}

#[test]
fn g11_a_repository_is_a_context() {
    if !needs::tools(&["git"]) {
        return;
    }
    let env = TestEnv::new();
    let server = GitServer::start(&env.path("served"));
    let dockerfile = "FROM scratch\nCOPY . /\n";
    server.commit("app", &[("Dockerfile", "FROM nothing"), ("sub/Dockerfile", dockerfile), ("sub/other", dockerfile)]);
    server.commit("app", &[("sub/.dockerignore", "ignored\n"), ("sub/ignored", "i"), ("sub/kept", "k")]);
    let names = |arguments: &[&str]| -> Vec<String> {
        let listed = files(&env, arguments);
        listed.iter().map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect()
    };
    let address = format!("{}#main:sub", server.url("app"));
    assert_eq!(names(&[&address]), [".dockerignore", "Dockerfile", "kept", "other"]);
    assert_eq!(names(&["-f", "other", &address]).len(), 4);
    assert!(
        names(&["--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1", "-f", "sub/other", &server.url("app")])
            .contains(&".git/".to_owned())
    );
    let context = env.context("ctx", "FROM scratch\nCOPY --from=lib kept /k\n");
    assert_eq!(names(&["--build-context", &format!("lib={address}"), path(&context)]), ["k"]);
    let error = env.slipway(["build", &format!("{}#none", server.url("app"))]).failure(1);
    assert!(error.contains("does not contain ref none"), "{error}");
    let error = env.slipway(["build", &format!("{}#main:none", server.url("app"))]).failure(1);
    assert!(error.contains("has no folder `none`"), "{error}");
    let left = std::fs::read_dir(env.home().join("staging")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "nothing is left of the checkouts");
}

#[test]
fn g11_a_url_is_a_tar_or_a_dockerfile() {
    let (env, web) = (TestEnv::new(), Web::start());
    let folder = env.context("ctx", "FROM scratch\nCOPY data /data\n");
    env.write("ctx/data", "d");
    let tar = env.path("ctx.tar.gz");
    run(Command::new("tar").arg("-C").arg(&folder).arg("-czf").arg(&tar).arg(".")).success();
    web.put("/ctx.tgz", Page::of(std::fs::read(&tar).unwrap()));
    web.put("/cut.tgz", Page::of(&std::fs::read(&tar).unwrap()[..60]));
    web.put("/Dockerfile", Page::of("FROM scratch\nENV A=1\nADD http://none.invalid/ /\n"));
    files(&env, &[&web.url("/ctx.tgz")]);
    assert_eq!(content(&env, "data"), "d");
    let named =
        env.context("named", "FROM scratch AS unused\nCOPY --from=never x /\nFROM scratch\nCOPY --from=lib data /n\n");
    let (lib, never) = (format!("lib={}", web.url("/ctx.tgz")), format!("never={}", web.url("/none")));
    files(&env, &["--build-context", &lib, "--build-context", &never, path(&named)]);
    assert_eq!(content(&env, "n"), "d");
    let error = env.slipway(["build", &web.url("/Dockerfile")]).failure(1);
    assert!(error.contains("none.invalid") && error.contains("/Dockerfile:3"), "{error}");
    let error = env.slipway(["build", &web.url("/cut.tgz")]).failure(1);
    assert!(error.contains("cannot be unpacked"), "{error}");
    let error = env.slipway(["build", &web.url("/none")]).failure(1);
    assert!(error.contains("the server answered 404") && error.contains("hint: check the address"), "{error}");
}

/// An `ssh-agent` of the test's own.
struct Agent(Child);

impl Agent {
    fn start(socket: &Path) -> Self {
        let mut command = Command::new("ssh-agent");
        command.arg("-D").arg("-a").arg(socket).stdout(Stdio::null()).stderr(Stdio::null());
        let agent = Self(command.spawn().expect("start ssh-agent"));
        eventually(20, "the agent listens", || socket.exists());
        agent
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn new_key(env: &TestEnv, name: &str) -> (std::path::PathBuf, String) {
    let key = env.path(name);
    run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]).arg(&key)).success();
    let printed = run(Command::new("ssh-keygen").args(["-l", "-f"]).arg(&key)).success();
    let fingerprint = printed.split(' ').nth(1).expect("a fingerprint").to_owned();
    (key, fingerprint)
}

#[test]
fn r7_a_step_reaches_agents_and_keys() {
    if !needs::root() || !needs::tools(&["ssh-agent", "ssh-add", "ssh-keygen", "ldd"]) {
        return;
    }
    let env = TestEnv::with_busybox();
    let socket = env.path("agent");
    let _agent = Agent::start(&socket);
    let (key, fingerprint) = new_key(&env, "one");
    run(Command::new("ssh-add").arg("-q").arg(&key).env("SSH_AUTH_SOCK", &socket)).success();
    let (other, other_fingerprint) = new_key(&env, "two");
    // The real client, with the libraries it needs.
    let listed = run(Command::new("ldd").arg("/usr/bin/ssh-add")).success();
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/'));
    for file in libraries.chain(["/usr/bin/ssh-add"]) {
        let bytes = std::fs::read(file).expect("a library");
        let copy = env.write(&format!("ctx/root{file}"), bytes);
        std::fs::set_permissions(copy, PermissionsExt::from_mode(0o755)).unwrap();
    }
    env.write(
        "ctx/Dockerfile",
        "FROM busybox\nCOPY root /\n\
         RUN --mount=type=ssh,required ssh-add -l > /default && echo $SSH_AUTH_SOCK > /where\n\
         RUN --mount=type=ssh,id=two,uid=33,gid=33,mode=0640 ssh-add -l > /two && stat -c '%a %u:%g' $SSH_AUTH_SOCK > /stat\n\
         RUN --mount=type=ssh,id=none [ -z \"$SSH_AUTH_SOCK\" ] && [ ! -e /run/buildkit ]\n",
    );
    let tar = env.path("files.tar");
    let output = format!("type=tar,dest={}", path(&tar));
    let (two, context) = (format!("two={}", path(&other)), env.path("ctx"));
    let arguments = ["build", "--network=none", "--ssh", "default", "--ssh", &two, "-o", &output, path(&context)];
    run(env.command(arguments).env("SSH_AUTH_SOCK", &socket)).success();
    assert!(content(&env, "default").contains(&fingerprint));
    assert_eq!(content(&env, "where"), "/run/buildkit/ssh_agent.0\n");
    assert!(content(&env, "two").contains(&other_fingerprint));
    assert_eq!(content(&env, "stat"), "640 33:33\n");
    let listed = run(Command::new("tar").arg("-tf").arg(&tar)).success();
    assert!(!listed.contains("buildkit"), "{listed}");
}

#[test]
fn r7_an_agent_that_cannot_be_had_is_told() {
    if !needs::tools(&["ssh-agent", "ssh-keygen"]) {
        return;
    }
    let env = TestEnv::new();
    let context = env.context("ctx", "FROM scratch\n");
    let build = |ssh: &str| run(env.command(["build", "--ssh", ssh, path(&context)]).env_remove("SSH_AUTH_SOCK"));
    let error = build("default").failure(1);
    assert!(error.contains("there is none") && error.contains("ssh-agent"), "{error}");
    let error = build("x=/nowhere/key").failure(1);
    assert!(error.contains("cannot read `/nowhere/key`"), "{error}");
    let locked = env.path("locked");
    run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "phrase", "-f"]).arg(&locked)).success();
    let error = build(&format!("x={}", path(&locked))).failure(1);
    assert!(error.contains("the keys cannot be used") && error.contains("ssh-add KEY"), "{error}");
}

#[test]
fn g12_git_over_ssh_gets_the_agent_that_was_offered_and_nothing_else() {
    if !needs::tools(&["git", "ssh-agent"]) {
        return;
    }
    let env = TestEnv::new();
    let server = GitServer::start(&env.path("served"));
    server.commit("app", &[("a", "1"), ("Dockerfile", "FROM scratch\nCOPY a /\n")]);
    let socket = env.path("agent");
    let _agent = Agent::start(&socket);
    // In place of a server: what would run there runs here, and what the client was told is noted.
    let script = format!(
        "#!/bin/sh\necho \"$SSH_AUTH_SOCK $*\" >> {}\nfor last; do :; done\nexec sh -c \"$last\"\n",
        path(&env.path("log"))
    );
    let ssh = env.write("bin/ssh", script);
    std::fs::set_permissions(&ssh, PermissionsExt::from_mode(0o755)).unwrap();
    let search = format!("{}:{}", path(&env.path("bin")), std::env::var("PATH").unwrap());
    let repository = format!("git@example.com:{}", path(&env.path("served/app")));
    let build = |arguments: &[&str]| {
        let _ = std::fs::remove_file(env.path("log"));
        let mut command = env.command(["build"]);
        run(command.args(arguments).env("PATH", &search).env("SSH_AUTH_SOCK", &socket)).success();
        std::fs::read_to_string(env.path("log")).unwrap()
    };
    let context = env.context("ctx", &format!("FROM scratch\nADD {repository} /s/\n"));
    let log = build(&[path(&context)]);
    assert!(log.starts_with(" -F /dev/null -o BatchMode=yes -o IdentityFile=none"), "{log}");
    let log = build(&["--no-cache", "--ssh", "default", path(&context)]);
    assert!(log.starts_with(&format!("{} -F /dev/null", path(&socket))), "{log}");
    // What the user names is fetched as they themselves would.
    let log = build(&[&repository]);
    assert!(log.starts_with(&format!("{} -o BatchMode=yes ", path(&socket))), "{log}");
}

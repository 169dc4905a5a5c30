//! What a plain user can do: build, run, publish, keep, and be told what is missing.

use std::io::{BufRead, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::{Ran, SLIPWAY, busybox_tar, eventually, needs, path, run};

/// A user of this machine, with a home and a copy of the program; both go away with it.
pub struct User {
    name: String,
    uid: u32,
    gid: u32,
    folder: TempDir,
    /// The mode of the device by which networks are connected.
    tun: u32,
    /// Where their commands find programs.
    programs: String,
    /// The network that they are in, beside the machine's own.
    network: Option<OtherNetwork>,
    /// Whether a cgroup of the second version is theirs, which is all that they see.
    has_cgroup: bool,
}

impl User {
    /// Makes one, with or without further numbers; none when this machine cannot.
    pub fn new(with_numbers: bool) -> Option<Self> {
        if !needs::root() || !needs::tools(&["useradd", "newuidmap", "pasta", "unshare", "setpriv", "mknod"]) {
            return None;
        }
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("slw{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = tempfile::Builder::new().prefix("slipway-user-").tempdir().expect("temporary folder");
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("chmod");
        let home = folder.path().join("home");
        // System accounts have no further numbers.
        let kind: &[&str] = if with_numbers { &[] } else { &["--system"] };
        eventually(20, "nobody else makes users", || {
            let arguments = ["--create-home", "--home-dir", path(&home), "--shell", "/bin/sh", &name];
            run(Command::new("useradd").args(kind).args(arguments)).code() == 0
        });
        let number =
            |flag: &str| run(Command::new("id").args([flag, &name])).success().trim().parse().expect("a number");
        let (uid, gid) = (number("-u"), number("-g"));
        let user = Self {
            name,
            uid,
            gid,
            folder,
            tun: 0o666,
            programs: "/usr/local/bin:/usr/bin:/bin".into(),
            network: None,
            has_cgroup: false,
        };
        for (program, to) in [(Path::new(SLIPWAY), "slipway"), (busybox_tar(), "busybox.tar")] {
            std::fs::copy(program, user.path(to)).expect("copy");
        }
        std::os::unix::fs::chown(user.path("home"), Some(uid), Some(gid)).expect("chown");
        std::fs::set_permissions(user.path("home"), std::fs::Permissions::from_mode(0o700)).expect("chmod");
        Some(user)
    }

    /// Makes one who has `busybox`.
    fn with_busybox(with_numbers: bool) -> Option<Self> {
        let user = Self::new(with_numbers)?;
        user.slipway(["import", "--change", "CMD [\"sh\"]", path(&user.path("busybox.tar")), "busybox"]).success();
        Some(user)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where the user's world is: nobody has logged in, who would have another folder for it.
    fn world(&self) -> PathBuf {
        PathBuf::from(format!("/tmp/slipway-{}", self.uid))
    }

    /// Prepares `slipway` as this user.
    ///
    /// The machine's device for networks may be root's alone, so it is covered by one with the mode that the test wants.
    pub fn command<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let script = "tun=$1 mode=$2 uid=$3 gid=$4 programs=$5 network=$6 cgroup=$7; shift 7
            if [ -n \"$cgroup\" ]; then
                umount --recursive /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup
                mkdir -p /sys/fs/cgroup/$cgroup/commands; chown -R $uid:$gid /sys/fs/cgroup/$cgroup
                echo $$ >/sys/fs/cgroup/$cgroup/commands/cgroup.procs
            fi
            if [ -e /dev/net/tun ]; then
                [ -e $tun ] || mknod $tun c 10 200; chmod $mode $tun; mount --bind $tun /dev/net/tun
            fi
            set -- setpriv --reuid=$uid --regid=$gid --clear-groups -- env PATH=$programs \"$@\"
            [ -z $network ] || set -- nsenter --net=$network -- \"$@\"
            exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation=private", "sh", "-ec", script, "sh", path(&self.path("tun"))]);
        command.args([&format!("{:o}", self.tun), &self.uid.to_string(), &self.gid.to_string(), &self.programs]);
        command.arg(self.network.as_ref().map_or(String::new(), OtherNetwork::path));
        command.arg(if self.has_cgroup { &self.name } else { "" });
        command.arg(self.path("slipway")).args(arguments).stdin(Stdio::null());
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", self.path("home"));
        command.current_dir(self.path("home"));
        command
    }

    pub fn slipway<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Ran {
        run(&mut self.command(arguments))
    }

    /// Writes a context that has just a Dockerfile.
    fn context(&self, dockerfile: &str) -> String {
        let folder = self.path("home/context");
        std::fs::create_dir_all(&folder).expect("mkdir");
        std::fs::write(folder.join("Dockerfile"), dockerfile).expect("write");
        path(&folder).to_owned()
    }

    /// The port of this machine at which a port of a container is published.
    fn port(&self, container: &str) -> u16 {
        let template = "{{range .NetworkSettings.Ports}}{{(index . 0).HostPort}}{{end}}";
        let text = self.slipway(["inspect", "--type=container", "-f", template, container]).success();
        text.trim().parse().expect("a port")
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let ids = self.slipway(["ps", "-aq", "--no-trunc"]).stdout();
        if !ids.is_empty() {
            self.slipway(["rm", "-f"].into_iter().chain(ids.lines()));
        }
        // Nothing of the user's lives on when nobody is in their world any more.
        for _ in 0..200 {
            if !self.world().join("keeper").exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = std::fs::remove_dir_all(self.world());
        if self.has_cgroup {
            let script = "umount --recursive /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup
                cd /sys/fs/cgroup; rmdir $1/commands $1";
            run(Command::new("unshare").args([
                "--mount",
                "--propagation=private",
                "sh",
                "-ec",
                script,
                "sh",
                &self.name,
            ]));
        }
        for _ in 0..50 {
            let removed = run(Command::new("userdel").args(["--force", &self.name]));
            if removed.code() == 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Another network namespace, whose only way out is a cable to the machine's own.
struct OtherNetwork(String);

impl OtherNetwork {
    /// Makes one, with the addresses 198.18.NUMBER.1 for the machine's end of the cable and 198.18.NUMBER.2 for its own.
    fn new(name: &str, number: u32) -> Self {
        let ip = |arguments: &str| run(Command::new("ip").args(arguments.split(' '))).success();
        let network = Self(name.to_owned());
        ip(&format!("netns add {name}"));
        ip(&format!("link add svt{number} type veth peer name up0 netns {name}"));
        ip(&format!("address add 198.18.{number}.1/30 dev svt{number}"));
        ip(&format!("link set svt{number} up"));
        ip(&format!("-n {name} address add 198.18.{number}.2/30 dev up0"));
        ip(&format!("-n {name} link set up0 up"));
        ip(&format!("-n {name} link set lo up"));
        ip(&format!("-n {name} route add default via 198.18.{number}.1"));
        network
    }

    fn path(&self) -> String {
        format!("/run/netns/{}", self.0)
    }
}

impl Drop for OtherNetwork {
    fn drop(&mut self) {
        // The cable goes with it.
        run(Command::new("ip").args(["netns", "delete", &self.0]));
    }
}

/// Asks what is published at a port of this machine.
fn get(port: u16, path: &str) -> std::io::Result<String> {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

#[test]
fn a_plain_user_builds_with_many_owners_and_runs_what_was_built() {
    let Some(user) = User::with_busybox(true) else { return };
    let context = user.context(
        "FROM busybox\n\
         RUN --network=none mkdir /data && echo one >/data/one && chown 33:33 /data/one && mkdir /gone && touch /gone/x\n\
         RUN --network=none rm -r /gone && mkdir /gone && touch /gone/y\n\
         COPY --chown=1234:5678 Dockerfile /data/two\n\
         USER www-data\n",
    );
    user.slipway(["build", "-t", "app", &context]).success();
    let script = "id -u; stat -c %u:%g /data/one /data/two; ls /gone; cat /data/one";
    let ran = user.slipway(["run", "--rm", "--network=none", "app", "sh", "-c", script]);
    assert_eq!(ran.success(), "33\n33:33\n1234:5678\ny\none\n");

    let id = user.slipway([
        "run",
        "-d",
        "--name=app-1",
        "--network=none",
        "app",
        "sh",
        "-c",
        "trap 'exit 7' TERM; sleep 99 & wait",
    ]);
    let id = id.success().trim().to_owned();
    let in_it = |arguments: &[&str]| user.slipway(["exec"].into_iter().chain(arguments.iter().copied()));
    assert_eq!(in_it(&["app-1", "id", "-u"]).success(), "33\n");
    assert_eq!(in_it(&["-u", "0", "app-1", "sh", "-c", "id -u; echo x >/made; chown 9 /made"]).success(), "0\n");
    in_it(&["app-1", "sh", "-c", "exit 3"]).failure(3);
    assert!(user.slipway(["ps"]).success().contains(" Up "));
    assert!(user.slipway(["diff", "app-1"]).success().ends_with("A /made\n"));
    let top = user.slipway(["top", "app-1"]).success();
    assert!(top.contains("sleep 99"), "{top}");
    // The files are the user's, or those of their further numbers; never of somebody else.
    let made = user.path("home/.local/share/slipway/containers").join(&id).join("fs/upper/made");
    assert!(std::fs::metadata(made).expect("made").uid() > 65_535);
    user.slipway(["stop", "app-1"]).success();
    assert_eq!(user.slipway(["wait", "app-1"]).success(), "7\n");
    user.slipway(["start", "app-1"]).success();
    user.slipway(["commit", "app-1", "again"]).success();
    user.slipway(["rm", "-f", "app-1"]).success();
    assert_eq!(user.slipway(["run", "--rm", "--network=none", "again", "stat", "-c", "%u", "/made"]).success(), "9\n");

    // What leaves for the machine is the user's.
    let out = user.path("home/out");
    user.slipway(["build", "-q", "-o", path(&out), &context]).success();
    assert_eq!(std::fs::metadata(out.join("data/one")).expect("there").uid(), user.uid);
}

#[test]
fn a_plain_user_publishes_ports_and_keeps_data_in_volumes() {
    let Some(user) = User::with_busybox(true) else { return };
    let serve = "echo $1 >>/data/index.html; exec httpd -f -p 8080 -h /data";
    for turn in ["one", "two"] {
        let flags =
            ["run", "-d", "--name=web", "-p", "127.0.0.1::8080", "-v", "data:/data", "busybox", "sh", "-c", serve];
        user.slipway(flags.into_iter().chain(["sh", turn])).success();
        let port = user.port("web");
        let mut answer = String::new();
        eventually(20, "the container answers", || {
            answer = get(port, "/index.html").unwrap_or_default();
            answer.contains(turn)
        });
        assert!(answer.contains("one"), "{answer}");
        user.slipway(["stop", "-t", "1", "web"]).success();
        // The port may be another program's by now.
        let after = get(port, "/index.html").unwrap_or_default();
        assert!(!after.contains(turn), "nobody answers for the container any more: {after}");
        user.slipway(["rm", "web"]).success();
    }
    user.slipway(["volume", "rm", "data"]).success();
    // A volume starts with the owners of the image's folder.
    let context =
        user.context("FROM busybox\nRUN --network=none mkdir /data && echo x >/data/x && chown -R 33:44 /data\n");
    user.slipway(["build", "-q", "-t", "app", &context]).success();
    let flags =
        ["run", "--rm", "--network=none", "-v", "owned:/data", "app", "stat", "-c", "%u:%g", "/data", "/data/x"];
    assert_eq!(user.slipway(flags).success(), "33:44\n33:44\n");
    let refused = user.slipway(["run", "--rm", "-p", "53:53/sctp", "busybox", "true"]).failure(125);
    assert!(refused.contains("only TCP and UDP ports can be published"), "{refused}");
}

#[test]
fn a_plain_user_publishes_ports_for_packets() {
    let Some(user) = User::with_busybox(true).filter(|_| needs::tools(&["perl"])) else { return };
    let script = "socket(S, AF_INET, SOCK_DGRAM, 0); bind(S, sockaddr_in(7777, INADDR_ANY));
        while ($from = recv(S, $bytes, 99, 0)) { send(S, $bytes, 0, $from) }";
    // The image has nothing that speaks by packets, but this machine has.
    let program = ["-v", "/:/machine:ro", "busybox", "chroot", "/machine", "perl", "-MSocket", "-e", script];
    let flags = ["run", "-d", "--name=echo", "-p", "127.0.0.1::7777/udp"].into_iter().chain(program);
    user.slipway(flags).success();
    let client = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
    client.connect(("127.0.0.1", user.port("echo"))).expect("connect");
    client.set_read_timeout(Some(Duration::from_millis(200))).expect("set");
    let mut bytes = [0; 16];
    // Nobody listens at first.
    eventually(20, "the container answers", || {
        client.send(b"are you there?").is_ok() && client.recv(&mut bytes).is_ok_and(|length| length == 14)
    });
    assert_eq!(&bytes[..14], b"are you there?");
}

#[test]
fn a_users_containers_are_found_whatever_their_environment_says_and_whether_they_are_logged_in() {
    let Some(user) = User::with_busybox(true) else { return };
    user.slipway(["run", "-d", "--name=one", "--network=none", "busybox", "sleep", "99"]).success();
    let there = |folder: &Path| {
        let mut command = user.command(["exec", "one", "echo", "there"]);
        assert_eq!(run(command.env("XDG_RUNTIME_DIR", folder)).success(), "there\n");
    };
    there(Path::new("/nonexistent"));
    let other = user.path("home/runtime");
    // As a login makes it.
    let login = PathBuf::from(format!("/run/user/{}", user.uid));
    for folder in [&other, &login] {
        std::fs::create_dir_all(folder).expect("mkdir");
        std::os::unix::fs::chown(folder, Some(user.uid), Some(user.gid)).expect("chown");
    }
    there(&other);
    there(&login);
    user.slipway(["rm", "-f", "one"]).success();
    eventually(20, "the world ends", || !user.world().join("keeper").exists());
    user.slipway(["run", "--rm", "--network=none", "busybox", "true"]).success();
    assert!(login.join("slipway").exists(), "the next world is where it belongs");
    eventually(20, "that world ends", || !login.join("slipway/keeper").exists());
    std::fs::remove_dir_all(&login).expect("rmdir");
}

#[test]
fn a_plain_users_device_is_where_they_want_it() {
    let Some(user) = User::with_busybox(true) else { return };
    let flags = ["run", "--rm", "--network=none", "--device=/dev/zero:/dev/nothing", "--device=/dev/full", "busybox"];
    let script = "head -c 3 /dev/nothing | wc -c; stat -c '%F %t %T' /dev/nothing /dev/full";
    let ran = user.slipway(flags.into_iter().chain(["sh", "-c", script]));
    assert_eq!(ran.success(), "3\ncharacter special file 1 5\ncharacter special file 1 7\n");
    let refused = user.slipway(["run", "--rm", "--device=/dev/nosuch", "busybox", "true"]).failure(125);
    assert!(refused.contains("/dev/nosuch"), "{refused}");
}

#[test]
fn a_plain_users_containers_reach_other_machines() {
    if !needs::tun() || !needs::tools(&["ip", "nsenter", "slirp4netns", "nft"]) {
        return;
    }
    for program in ["pasta", "slirp4netns"] {
        let Some(mut user) = User::with_busybox(true) else { return };
        // Of the programs that lead out, there is this one.
        let programs = user.path("programs");
        std::fs::create_dir(&programs).expect("mkdir");
        for name in [program, "newuidmap", "newgidmap"] {
            std::os::unix::fs::symlink(Path::new("/usr/bin").join(name), programs.join(name)).expect("link");
        }
        user.programs = path(&programs).to_owned();
        let number = user.uid % 256;
        user.network = Some(OtherNetwork::new(&user.name, number));
        let server = TcpListener::bind((format!("198.18.{number}.1"), 0)).expect("bind");
        let port = server.local_addr().expect("bound").port();
        let served = std::thread::spawn(move || {
            let (mut stream, client) = server.accept().expect("somebody comes");
            std::io::BufReader::new(&stream).read_line(&mut String::new()).expect("a request");
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nhello from outside\n").expect("write");
            client.ip().to_string()
        });
        let url = format!("http://198.18.{number}.1:{port}/");
        let ran = user.slipway(["run", "--rm", "busybox", "wget", "-qO-", &url]);
        assert_eq!(ran.stderr(), "", "{program}");
        assert_eq!(ran.success(), "hello from outside\n", "{program}");
        assert_eq!(served.join().expect("served"), format!("198.18.{number}.2"), "it came by the cable");
    }
}

#[test]
fn a_plain_users_containers_know_each_other_by_name_and_reach_the_world() {
    if !needs::tun() {
        return;
    }
    let Some(user) = User::with_busybox(true) else { return };
    user.slipway(["network", "create", "front"]).success();
    let serve = "mkdir /d; echo hello >/d/index.html; exec httpd -f -p 80 -h /d";
    let started = user.slipway(["run", "-d", "--name=one", "--network=front", "busybox", "sh", "-c", serve]);
    assert_eq!(started.stderr(), "", "nothing is lacking");
    started.success();
    // Static programs of glibc look names up in files alone.
    let ask = "for i in 1 2 3 4 5 6 7 8 9; do
            a=$(nslookup one | tail -n +3 | sed -n 's/^Address: //p' | head -n 1)
            [ -n \"$a\" ] && wget -qO- http://$a/ && exit
            sleep 1
        done; exit 1";
    assert_eq!(user.slipway(["run", "--rm", "--network=front", "busybox", "sh", "-c", ask]).success(), "hello\n");
    // A program leads out of the world, and does until the last container has ended.
    let uplink = std::fs::read_to_string(user.world().join("uplink")).expect("there is a way out");
    let (pid, _) = uplink.split_once(' ').expect("a number and a time");
    assert!(Path::new("/proc").join(pid).exists());
    user.slipway(["rm", "-f", "one"]).success();
    user.slipway(["network", "rm", "front"]).success();
    eventually(20, "the world ends", || !user.world().join("keeper").exists());
    eventually(20, "the way out ends", || !crate::support::is_alive(pid.parse().expect("a number")));
}

#[test]
fn a_plain_user_is_told_what_networks_need() {
    let Some(mut user) = User::with_busybox(true) else { return };
    user.tun = 0o600;
    // Never on the machine's own network unasked: in there is the loopback alone, and what is made for the container.
    let ran = user.slipway(["run", "--rm", "busybox", "readlink", "/proc/self/ns/net"]);
    let said = ran.stderr();
    let own = std::fs::read_link("/proc/self/ns/net").expect("a namespace");
    assert_ne!(Path::new(ran.success().trim()), own);
    assert!(said.contains("reaches nothing outside of its networks") && said.contains("/dev/net/tun"), "{said}");
    let ran = user.slipway([
        "run",
        "-d",
        "--name=web",
        "-p",
        "127.0.0.1::80",
        "busybox",
        "httpd",
        "-f",
        "-p",
        "80",
        "-h",
        "/etc",
    ]);
    let said = ran.stderr();
    ran.success();
    assert!(said.contains("reaches nothing outside of its networks"), "{said}");
    let port = user.port("web");
    eventually(20, "it is published all the same", || get(port, "/passwd").is_ok_and(|text| text.contains("root:")));
    let context = user.context("FROM busybox\nRUN echo made >/made\n");
    let refused = user.slipway(["build", "-t", "app", &context]).failure(1);
    assert!(refused.contains("`--network=host`") && refused.contains("/dev/net/tun"), "{refused}");
    user.slipway(["build", "--network=none", "-t", "app", &context]).success();
}

#[test]
fn a_plain_user_who_has_a_cgroup_pauses_containers_in_it() {
    let Some(mut user) = User::with_busybox(true) else { return };
    let script = "cat /proc/self/cgroup; while true; do echo x; sleep 0.01; done";
    let start = |user: &User, name: &str| {
        let ran = user.slipway(["run", "-d", name, "--network=none", "busybox", "sh", "-c", script]);
        assert_eq!(ran.stderr(), "", "nothing is lacking");
        ran.success();
    };
    start(&user, "--name=without");
    let refused = user.slipway(["pause", "without"]).failure(1);
    assert!(refused.contains("the container has no cgroup with a freezer"), "{refused}");
    user.slipway(["rm", "-f", "without"]).success();
    eventually(20, "the world ends", || !user.world().join("keeper").exists());

    user.has_cgroup = true;
    start(&user, "--name=one");
    let printed = || user.slipway(["logs", "one"]).success();
    eventually(20, "it prints", || printed().contains('x'));
    assert!(printed().contains("0::/\n"), "its own cgroup is the top: {}", printed());
    user.slipway(["pause", "one"]).success();
    let before = printed();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(printed(), before, "nobody is awake");
    assert!(user.slipway(["top", "one"]).success().contains("while true"));
    user.slipway(["unpause", "one"]).success();
    eventually(20, "it goes on", || printed() != before);
    user.slipway(["pause", "one"]).success();
    user.slipway(["kill", "one"]).success();
    assert_eq!(user.slipway(["wait", "one"]).success(), "137\n");
}

#[test]
fn a_user_without_further_numbers_is_root_alone_and_told_so() {
    let Some(user) = User::with_busybox(false) else { return };
    let context = user.context("FROM busybox\nRUN --network=none echo x >/x\nCOPY --chown=33 Dockerfile /\n");
    let built = user.slipway(["build", "-t", "app", &context]);
    let said = built.stderr();
    built.success();
    let lacking = format!("`/etc/subuid` has no line such as `{}:100000:65536`", user.name);
    assert!(said.contains(&lacking), "{said}");
    let ran =
        user.slipway(["run", "--rm", "--network=none", "app", "sh", "-c", "id -u; stat -c %u /Dockerfile; cat /x"]);
    assert_eq!(ran.success(), "0\n0\nx\n");
}

#[test]
fn what_a_container_removed_stays_removed_for_who_copies_out_of_it() {
    let Some(user) = User::with_busybox(true) else { return };
    let context = user.context("FROM busybox\nRUN --network=none mkdir /d && touch /d/goes /d/stays\n");
    user.slipway(["build", "-q", "-t", "app", &context]).success();
    user.slipway(["run", "--name=one", "--network=none", "app", "rm", "/d/goes"]).success();
    let out = user.path("home/out");
    user.slipway(["cp", "one:/d", path(&out)]).success();
    let names: Vec<_> =
        std::fs::read_dir(&out).expect("copied").map(|entry| entry.expect("read").file_name()).collect();
    assert_eq!(names, ["stays"]);
}

#[test]
fn a_new_world_has_a_way_out_of_its_own_and_asking_its_keeper_to_end_does_nothing() {
    if !needs::tun() {
        return;
    }
    let Some(user) = User::with_busybox(true) else { return };
    let start = |name: &str| user.slipway(["run", "-d", name, "busybox", "sleep", "99"]).success();
    let number = |file: &str| {
        let text = std::fs::read_to_string(user.world().join(file)).expect("it is noted");
        text.split_once(' ').expect("a number and a time").0.parse::<u32>().expect("a number")
    };
    start("--name=one");
    let (keeper, uplink) = (number("keeper"), number("uplink"));
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::HUP] {
        crate::support::send(keeper, signal);
    }
    assert_eq!(user.slipway(["exec", "one", "echo", "there"]).success(), "there\n");
    crate::support::send(keeper, rustix::process::Signal::KILL);
    eventually(20, "it has ended", || user.slipway(["ps", "-a"]).success().contains("Exited (137)"));
    start("--name=two");
    assert_ne!(number("keeper"), keeper);
    eventually(20, "the old way out ends", || !crate::support::is_alive(uplink));
    assert_ne!(number("uplink"), uplink);
}

#[test]
fn containers_end_with_the_keeper_of_their_world_and_the_next_one_finds_another() {
    let Some(user) = User::with_busybox(true) else { return };
    let flags = ["--network=none", "--restart=always", "busybox", "sleep", "99"];
    user.slipway(["run", "-d", "--name=lives"].into_iter().chain(flags)).success();
    let keeper = std::fs::read_to_string(user.world().join("keeper")).expect("there is a keeper");
    let (pid, _) = keeper.split_once(' ').expect("a number and a time");
    crate::support::send(pid.parse().expect("a number"), rustix::process::Signal::KILL);
    eventually(20, "it has ended", || user.slipway(["ps", "-a"]).success().contains("Exited (137)"));
    user.slipway(["start", "lives"]).success();
    assert_eq!(user.slipway(["exec", "lives", "echo", "there"]).success(), "there\n");
}

//! `slipway network`.

use std::io::{Read, Write};

use super::support::{TestEnv, eventually, needs};

/// A name that no other test's network has.
fn name(env: &TestEnv, rest: &str) -> String {
    let folder = env.home();
    let folder = folder.parent().and_then(|folder| folder.file_name()).and_then(|name| name.to_str()).unwrap();
    format!("{}-{rest}", folder.trim_start_matches(|c: char| !c.is_ascii_alphanumeric()))
}

/// Networks that go away with the test.
struct Networks<'a> {
    env: &'a TestEnv,
    names: Vec<String>,
}

impl<'a> Networks<'a> {
    fn new(env: &'a TestEnv) -> Self {
        Self { env, names: Vec::new() }
    }

    fn create(&mut self, rest: &str, flags: &[&str]) -> String {
        let name = name(self.env, rest);
        self.env.slipway([&["network", "create"], flags, &[&name]].concat()).success();
        self.names.push(name.clone());
        name
    }
}

impl Drop for Networks<'_> {
    fn drop(&mut self) {
        for name in &self.names {
            self.env.slipway(["network", "rm", "-f", name]);
        }
    }
}

fn inspect(env: &TestEnv, name: &str) -> serde_json::Value {
    let text = env.slipway(["network", "inspect", name]).success();
    serde_json::from_str::<Vec<serde_json::Value>>(&text).unwrap().remove(0)
}

#[test]
fn a_network_is_made_listed_shown_and_removed() {
    if !needs::root() {
        return;
    }
    let env = TestEnv::new();
    let mut networks = Networks::new(&env);
    let front = networks.create("front", &["--label", "team=web", "--ipv6"]);
    let list = env.slipway(["network", "ls"]).success();
    assert!(list.starts_with("NETWORK ID     NAME"), "{list}");
    for known in ["bridge", "host", "none", &front] {
        assert!(list.contains(known), "{list}");
    }
    let shown = inspect(&env, &front);
    assert_eq!(
        (&shown["Driver"], &shown["EnableIPv6"], &shown["Labels"]["team"]),
        (&"bridge".into(), &true.into(), &"web".into())
    );
    let configs = shown["IPAM"]["Config"].as_array().unwrap();
    assert!(configs.len() == 2 && configs[0]["Gateway"].is_string(), "{shown}");
    let id = shown["Id"].as_str().unwrap();
    let named = env.slipway(["network", "ls", "-f", "type=custom", "--format", "{{.Name}} {{.Driver}}"]).success();
    assert_eq!(named, format!("{front} bridge\n"));
    assert_eq!(env.slipway(["network", "inspect", "-f", "{{.Id}}", &front]).success(), format!("{id}\n"));
    let quiet = |filter: &str| env.slipway(["network", "ls", "-q", "--no-trunc", "-f", filter]).success();
    assert_eq!(quiet("label=team=web"), format!("{id}\n"));
    assert_eq!(quiet("type=custom"), format!("{id}\n"));
    assert_eq!(quiet("label=team=db"), "");
    assert_eq!(env.slipway(["network", "rm", &id[..12]]).success(), format!("{}\n", &id[..12]));
    let error = env.slipway(["network", "inspect", &front]).failure(1);
    assert!(error.contains(&format!("network {front} not found")), "{error}");
    assert_eq!(env.slipway(["network", "rm", "-f", &front]).success(), "");
}

#[test]
fn no_two_networks_share_a_name_or_an_address() {
    if !needs::root() {
        return;
    }
    let env = TestEnv::new();
    let mut networks = Networks::new(&env);
    let first = networks.create("first", &[]);
    let taken = inspect(&env, &first)["IPAM"]["Config"][0]["Subnet"].as_str().unwrap().to_owned();
    let error = env.slipway(["network", "create", &first]).failure(1);
    assert!(error.contains("already exists"), "{error}");
    let error = env.slipway(["network", "create", "--subnet", &taken, "second"]).failure(1);
    assert!(error.contains("overlaps with other one on this address space"), "{error}");
    // Nor across homes.
    let other = TestEnv::new();
    let error = other.slipway(["network", "create", "--subnet", &taken, "second"]).failure(1);
    assert!(error.contains("overlaps"), "{error}");
    let list = other.slipway(["network", "ls", "-q", "-f", "type=custom"]).success();
    assert_eq!(list, "", "nothing half made");
}

#[test]
fn networks_made_at_once_are_all_there_with_addresses_of_their_own() {
    if !needs::root() {
        return;
    }
    let env = TestEnv::new();
    let mut networks = Networks::new(&env);
    networks.names = (0..6).map(|number| name(&env, &format!("n{number}"))).collect();
    std::thread::scope(|scope| {
        for name in &networks.names {
            let env = &env;
            scope.spawn(move || env.slipway(["network", "create", name]).success());
        }
    });
    let subnets: std::collections::BTreeSet<String> =
        networks.names.iter().map(|name| inspect(&env, name)["IPAM"]["Config"][0]["Subnet"].to_string()).collect();
    assert_eq!(subnets.len(), 6, "{subnets:?}");
    env.slipway(["network", "prune", "-f"]).success();
    assert_eq!(env.slipway(["network", "ls", "-q", "-f", "type=custom"]).success(), "");
}

#[test]
fn bad_wishes_are_refused_and_leave_nothing() {
    if !needs::root() {
        return;
    }
    let env = TestEnv::new();
    let cases: [(&[&str], i32, &str); 9] = [
        (&["bridge"], 1, "predefined"),
        (&["../x"], 1, "invalid network name"),
        (&["--subnet", "nonsense", "x"], 1, "no range of addresses"),
        (&["--subnet", "10.251.0.0/31", "x"], 1, "no room"),
        (&["--subnet", "10.251.0.0/24", "--gateway", "10.252.0.1", "x"], 1, "no matching subnet for gateway"),
        (&["--ip-range", "10.251.0.0/24", "x"], 1, "no matching subnet for range"),
        (&["-o", "com.docker.network.driver.mtu=1", "x"], 1, "no size of a packet"),
        (&["-d", "overlay", "x"], 2, "overlay"),
        (&[], 2, "NETWORK"),
    ];
    for (flags, code, expected) in cases {
        let error = env.slipway([&["network", "create"], flags].concat()).failure(code);
        assert!(error.contains(expected), "{flags:?}: {error}");
    }
    let error = env.slipway(["network", "rm", "host"]).failure(1);
    assert!(error.contains("pre-defined network and cannot be removed"), "{error}");
    let error = env.slipway(["network", "ls", "-f", "colour=red"]).failure(1);
    assert!(error.contains("invalid filter"), "{error}");
    assert_eq!(std::fs::read_dir(env.home().join("networks")).map_or(0, Iterator::count), 0);
}

/// A home with containers, which go away with the test.
struct Containers<'a> {
    env: &'a TestEnv,
    names: Vec<String>,
}

impl<'a> Containers<'a> {
    fn new(env: &'a TestEnv) -> Self {
        Self { env, names: Vec::new() }
    }

    /// Runs a web server that says its own name.
    fn serve(&mut self, name: &str, flags: &[&str]) {
        let script = format!("mkdir -p /www; echo {name} > /www/index.html; exec httpd -f -p 80 -h /www");
        self.names.push(name.to_owned());
        let command = [&["run", "-d", "--name", name], flags, &["busybox", "sh", "-c", &script]].concat();
        self.env.slipway(command).success();
    }
}

impl Drop for Containers<'_> {
    fn drop(&mut self) {
        for name in &self.names {
            self.env.slipway(["rm", "-f", "-v", name]);
        }
    }
}

/// What somebody on a network gets from a server there, by its name; empty when there is none of that name.
fn get(env: &TestEnv, network: &str, name: &str) -> String {
    let script = format!(
        "a=$(nslookup {name} | tail -n +3 | sed -n 's/^Address: //p' | grep -v : | head -n 1); [ -n \"$a\" ] && wget -q -O - http://$a/"
    );
    env.slipway(["run", "--rm", "--network", network, "busybox", "sh", "-c", &script]).stdout()
}

fn fetch(port: u16) -> std::io::Result<String> {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

#[test]
fn containers_know_each_other_by_name_also_after_a_restart_and_strangers_do_not() {
    if !needs::root() {
        return;
    }
    let env = TestEnv::with_busybox();
    let mut networks = Networks::new(&env);
    let (front, back) = (networks.create("front", &[]), networks.create("back", &[]));
    let mut containers = Containers::new(&env);
    containers.serve("web", &["--network", &front, "--network-alias", "shop"]);
    for name in ["web", "shop"] {
        eventually(20, "the server is known", || get(&env, &front, name) == "web\n");
    }
    assert_eq!(get(&env, &back, "web"), "");
    env.slipway(["stop", "-t", "0", "web"]).success();
    assert_eq!(get(&env, &front, "web"), "");
    env.slipway(["start", "web"]).success();
    eventually(20, "the server is known again", || get(&env, &front, "web") == "web\n");
    // It moves: both networks know it, then only the other one.
    env.slipway(["network", "connect", "--alias", "moved", &back, "web"]).success();
    assert_eq!((get(&env, &back, "moved").as_str(), get(&env, &front, "web").as_str()), ("web\n", "web\n"));
    let error = env.slipway(["network", "rm", &back]).failure(1);
    assert!(error.contains("has active endpoints (name:\"web\""), "{error}");
    let error = env.slipway(["network", "connect", &back, "web"]).failure(1);
    assert!(error.contains("already exists in network"), "{error}");
    env.slipway(["network", "disconnect", &front, "web"]).success();
    assert_eq!((get(&env, &back, "web").as_str(), get(&env, &front, "web").as_str()), ("web\n", ""));
    let shown = inspect(&env, &back);
    let on = shown["Containers"].as_object().unwrap().values().next().unwrap();
    assert_eq!(on["Name"], "web");
    assert!(
        on["IPv4Address"].as_str().unwrap().contains('/') && on["MacAddress"].as_str().unwrap().len() == 17,
        "{on}"
    );
    // What it was told lasts.
    env.slipway(["stop", "-t", "0", "web"]).success();
    env.slipway(["start", "web"]).success();
    eventually(20, "it is where it was", || get(&env, &back, "moved") == "web\n");
}

#[test]
fn who_left_the_last_network_is_on_none() {
    let Some(env) = TestEnv::for_containers() else { return };
    let mut networks = Networks::new(&env);
    let front = networks.create("front", &[]);
    env.slipway(["run", "-d", "--name=web", "busybox", "sleep", "99"]).success();
    env.slipway(["network", "disconnect", "bridge", "web"]).success();
    let interfaces = || env.slipway(["exec", "web", "ls", "/sys/class/net"]).success();
    assert_eq!(interfaces(), "lo\n");
    assert!(env.slipway(["network", "disconnect", "bridge", "web"]).failure(1).contains("is not connected"));
    // It stays so until somebody connects it.
    env.slipway(["restart", "-t", "0", "web"]).success();
    assert_eq!(interfaces(), "lo\n");
    env.slipway(["network", "connect", &front, "web"]).success();
    env.slipway(["restart", "-t", "0", "web"]).success();
    assert_eq!(interfaces(), "eth0\nlo\n");
    assert_eq!(env.look("web", "{{range $name, $one := .NetworkSettings.Networks}}{{$name}} {{end}}"), front);
    env.slipway(["rm", "-f", "web"]).success();
}

/// A port that is free, and that nobody else gets who asks for any while nobody holds it.
fn lasting_port() -> u16 {
    let picked = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let first: u16 = picked.split_whitespace().next().unwrap().parse().unwrap();
    let start = 1024 + std::process::id() % u32::from(first - 1024);
    let mut candidates = (start..u32::from(first)).chain(1024..start).map(|port| u16::try_from(port).unwrap());
    candidates.find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

#[test]
fn ports_are_published_and_given_back_whoever_is_killed() {
    if !needs::root() {
        return;
    }
    let env = TestEnv::with_busybox();
    let mut networks = Networks::new(&env);
    let front = networks.create("front", &[]);
    let mut containers = Containers::new(&env);
    let port = lasting_port();
    let publish = format!("127.0.0.1:{port}:80");
    containers.serve("web", &["--network", &front, "-p", &publish]);
    eventually(20, "the page is served", || fetch(port).is_ok_and(|text| text.ends_with("web\n")));
    let error = env.slipway(["run", "--rm", "-p", &publish, "busybox", "true"]).failure(125);
    assert!(error.contains(&format!("Bind for 127.0.0.1:{port} failed: port is already allocated")), "{error}");
    // The watcher is killed, and the container with it; the next command finds nothing in its way.
    let shown = env.slipway(["inspect", "web"]).success();
    let shown: Vec<serde_json::Value> = serde_json::from_str(&shown).unwrap();
    let pid = i32::try_from(shown[0]["State"]["Pid"].as_i64().unwrap()).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let watcher = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap();
    super::support::send(watcher, rustix::process::Signal::KILL);
    eventually(20, "the container is gone", || !std::path::Path::new(&format!("/proc/{pid}/exe")).exists());
    env.slipway(["start", "web"]).success();
    eventually(20, "the page is served again", || fetch(port).is_ok_and(|text| text.ends_with("web\n")));
    env.slipway(["rm", "-f", "web"]).success();
    assert!(fetch(port).is_err());
    eventually(20, "its interface is gone", || env.slipway(["network", "rm", &front]).code() == 0);
}

#[test]
fn addresses_modes_and_files_are_as_asked_for() {
    if !needs::root() {
        return;
    }
    let env = TestEnv::with_busybox();
    let mut networks = Networks::new(&env);
    let part = std::process::id() % 250;
    let subnet = format!("10.250.{part}.0/24");
    let front = networks.create("front", &["--subnet", &subnet]);
    let auto = networks.create("auto", &[]);
    let wished = format!("10.250.{part}.77");
    let run = |flags: &[&str], script: &str| {
        env.slipway([&["run", "--rm"], flags, &["busybox", "sh", "-c", script]].concat())
    };
    let shown =
        run(&["--network", &front, "--ip", &wished, "-h", "box"], "ip addr show eth0; cat /etc/hosts /etc/resolv.conf")
            .success();
    assert!(shown.contains(&format!("inet {wished}/24")) && shown.contains(&format!("{wished}\tbox\n")), "{shown}");
    assert!(shown.contains("nameserver 127.0.0.11\n") && shown.contains("options ndots:0\n"), "{shown}");
    let shown = run(&["--network", &front, "--add-host", "me:host-gateway"], "cat /etc/hosts").success();
    assert!(shown.contains(&format!("10.250.{part}.1\tme\n")), "{shown}");
    let shown =
        run(&["--dns", "10.9.8.7", "--dns-search", "example.org", "--dns-option", "timeout:1"], "cat /etc/resolv.conf")
            .success();
    for line in ["nameserver 10.9.8.7", "search example.org", "options timeout:1"] {
        assert!(shown.lines().any(|known| known == line), "{shown}");
    }
    let both = run(&["--network", &front, "--network", &auto], "ip -o -4 addr | grep -c eth").success();
    assert_eq!(both, "2\n");
    let mut containers = Containers::new(&env);
    containers.serve("web", &["--network", &front]);
    let shared =
        run(&["--network", "container:web"], "hostname; until wget -q -O - http://127.0.0.1/; do sleep 0.1; done")
            .success();
    assert!(shared.ends_with("web\n") && shared.lines().next().is_some_and(|name| name.len() == 12), "{shared}");
    for (flags, expected) in [
        (&["--network", "nosuch"][..], "network nosuch not found"),
        (&["--network", "container:nosuch"], "No such container"),
        (&["--network", &auto, "--ip", "10.1.2.3"], "networks with user configured subnets"),
        (&["--network", &front, "--ip", "10.1.2.3"], "no address for a container"),
        (&["--network-alias", "x"], "only supported for user-defined networks"),
        (&["--network", "container:web", "-p", "80"], "conflicting options"),
        (&["-p", "x:80"], "invalid hostPort"),
    ] {
        let error = run(flags, "true").failure(125);
        assert!(error.contains(expected), "{flags:?}: {error}");
    }
    env.slipway(["stop", "-t", "0", "web"]).success();
    let error = run(&["--network", "container:web"], "true").failure(125);
    assert!(error.contains("cannot join network of a non running container"), "{error}");
}

/// A machine of its own, with the world behind a firewall as docker leaves it: what is forwarded is dropped.
const BESIDE_DOCKER: &str = r#"
set -e
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
ip link set lo up
unshare -n sleep infinity & world=$!
trap 'kill $world' EXIT
until [ "$(readlink /proc/$world/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.05; done
inside() { nsenter -t $world -n "$@"; }
ip link add w0 type veth peer name w1 netns $world
ip addr add 192.0.2.1/24 dev w0; ip link set w0 up; ip route add default via 192.0.2.2
inside ip link set lo up; inside ip addr add 192.0.2.2/24 dev w1; inside ip link set w1 up
echo world > "$FOLDER/x"
nsenter -t $world -n busybox httpd -f -p 192.0.2.2:8000 -h "$FOLDER" & httpd=$!
trap 'kill $httpd $world' EXIT
until inside busybox wget -q -O /dev/null http://192.0.2.2:8000/x; do sleep 0.05; done
iptables -P FORWARD DROP
iptables -N DOCKER-USER; iptables -A DOCKER-USER -j RETURN; iptables -I FORWARD -j DOCKER-USER
"$SLIPWAY" network create front > /dev/null
for network in bridge front; do
    echo "out of $network: $("$SLIPWAY" run --rm --network $network busybox wget -q -O - http://192.0.2.2:8000/x)"
done
"$SLIPWAY" run -d --name web --network front -p 8080:80 -p 127.0.0.1:8081:80 busybox sh -c 'mkdir /w; echo served > /w/index.html; exec httpd -f -p 80 -h /w' > /dev/null
address=$("$SLIPWAY" inspect -f '{{.NetworkSettings.Networks.front.IPAddress}}' web)
until busybox wget -q -O /dev/null http://$address/; do sleep 0.1; done
echo "in by the port: $(inside busybox wget -q -O - http://192.0.2.1:8080/)"
inside ip route add $address/32 via 192.0.2.1
echo "in past it: $(inside timeout 1 busybox wget -q -O - http://$address/ || echo nothing)"
# Who is on the same wire and leads what is for its own loopback to us is not this machine.
inside sh -c "echo 1 > /proc/sys/net/ipv4/conf/w1/route_localnet"
inside ip addr del 127.0.0.1/8 dev lo
inside ip route add 127.0.0.1/32 via 192.0.2.1 dev w1 src 192.0.2.2
echo "at our loopback: $(busybox wget -q -O - http://127.0.0.1:8081/)"
echo "at it from outside: $(inside timeout 1 busybox wget -q -O - http://127.0.0.1:8081/ || echo nothing)"
bridge=$(nft list tables | sed -n 's/^table ip \(slipway-.*\)/\1/p')
nft add rule ip $bridge prerouting ip daddr 127.0.0.1 tcp dport 8081 dnat to $address:80
echo "at it if we led it there: $(inside timeout 5 busybox wget -q -O - http://127.0.0.1:8081/)"
"$SLIPWAY" rm -f web > /dev/null
until "$SLIPWAY" network rm front > /dev/null; do sleep 0.1; done
echo "left: $(nft list tables | grep -c slipway-) $(ip -br link | grep -c slipway-)"
"#;

#[test]
fn beside_a_docker_that_drops_what_it_forwards_packets_pass_and_nothing_more() {
    if !needs::root() || !needs::tools(&["unshare", "nsenter", "iptables", "nft", "ip", "busybox"]) {
        return;
    }
    let env = TestEnv::with_busybox();
    let mut machine = std::process::Command::new("unshare");
    machine.args(["-n", "-m", "bash", "-c", BESIDE_DOCKER]);
    machine.env("SLIPWAY", super::support::SLIPWAY).env("SLIPWAY_HOME", env.home()).env("FOLDER", env.path(""));
    let shown = super::support::run(&mut machine).stdout();
    let expected = "out of bridge: world\nout of front: world\nin by the port: served\nin past it: nothing\n\
        at our loopback: served\nat it from outside: nothing\n\
        at it if we led it there: served\nleft: 0 0\n";
    assert_eq!(shown, expected);
}

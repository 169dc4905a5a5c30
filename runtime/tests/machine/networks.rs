//! Containers on networks, with real traffic between them and from this machine.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::machine::{self, Outcome, Root};
use runtime::network::{self, Definition, Mode, Network, Place, Range, Wishes, parse_ports, prepare, prepare_places};
use runtime::{Container, Stdio};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A network of a test's own, which goes away with it.
struct TestNetwork {
    definition: Definition,
    state: tempfile::TempDir,
}

impl TestNetwork {
    fn new() -> TestNetwork {
        TestNetwork::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Definition)) -> TestNetwork {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let state = tempfile::tempdir().unwrap();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let mut definition = Definition {
            bridge: format!("slipwayT{:04x}{number:02x}", std::process::id() & 0xffff),
            ipv4: Range::of("10.0.0.0/8".parse().unwrap()),
            ipv6: None,
            internal: false,
            masquerade: true,
            isolated: false,
            mtu: None,
            record: state.path().join("record"),
        };
        change(&mut definition);
        std::fs::File::create(&definition.record).unwrap();
        // Tests of other programs choose as well: each has the part that its process and number say.
        let part = (std::process::id().wrapping_mul(64).wrapping_add(number)) % (64 * 254);
        let net = format!("10.{}.{}.0/24", 128 + part / 254, part % 254);
        definition.ipv4 = Range::of(net.parse().unwrap());
        let reservation = definition.reserve(state.path()).unwrap();
        TestNetwork { definition: reservation.definition, state }
    }

    fn state(&self) -> &Path {
        self.state.path()
    }

    fn place(&self, container: &str, names: &[&str]) -> Place {
        let names = [&[container], names].concat().iter().map(|name| (*name).to_owned()).collect();
        let wishes = Wishes { network: "net".into(), container: container.into(), names, ..Wishes::default() };
        Place { network: Some(self.definition.clone()), wishes }
    }

    fn join(&self, container: &str, names: &[&str]) -> Network {
        prepare_places(self.state(), &[self.place(container, names)], &[]).unwrap()
    }
}

impl Drop for TestNetwork {
    fn drop(&mut self) {
        network::remove(self.state(), &self.definition.bridge).unwrap();
    }
}

/// A container that serves `text` at port 80.
fn server(root: &Root, text: &str, network: Network) -> Container {
    root.write("srv/index.html", text);
    let address = network.address().unwrap();
    let server =
        root.start_in(root.options(&["httpd", "-f", "-p", "80", "-h", "/srv"]), Stdio::null(), network).unwrap();
    machine::eventually("the server listens", || TcpStream::connect((address, 80)).is_ok());
    server
}

fn fetch(address: impl std::net::ToSocketAddrs) -> std::io::Result<String> {
    let address = address.to_socket_addrs()?.next().unwrap();
    let mut client = TcpStream::connect_timeout(&address, std::time::Duration::from_secs(3))?;
    client.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    client.read_to_string(&mut answer)?;
    Ok(answer)
}

fn stop(container: Container) {
    container.kill(libc::SIGKILL).unwrap();
    container.wait().unwrap();
}

/// Runs a script in a container on networks, with what runs beside it.
fn run(root: &Root, script: &str, mut network: Network) -> Outcome {
    let _serving = network.take_service().map(|service| service.spawn().unwrap());
    root.run_in(root.options(&["sh", "-c", script]), network)
}

/// A command that shows what a server sends, or fails soon.
fn get(host: impl std::fmt::Display, port: u16) -> String {
    // Debian's wget of busybox cannot give up.
    format!(r"printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 2 {host} {port} | tail -n 1")
}

#[test]
fn containers_on_the_default_network_reach_each_other_and_publish_ports() {
    if !machine::is_root() {
        return;
    }
    let root = Root::new();
    let state = tempfile::tempdir().unwrap();
    let bridge = || prepare(Mode::Bridge(state.path().to_path_buf())).unwrap();
    let mut network = bridge();
    let (address, gateway) = (network.address().unwrap(), network.gateway().unwrap());
    let port = network.publish(&parse_ports("127.0.0.1::80").unwrap()).unwrap()[0].host.port();
    let server = server(&root, "hello from inside\n", network);
    assert_eq!(server.address(), Some(address));

    let script = format!("ip addr show eth0; ip route; wget -q -O - http://{address}/");
    let network = bridge();
    let other = network.address().unwrap();
    let outcome = root.run_in(root.options(&["sh", "-c", &script]), network);
    assert!(outcome.stdout.ends_with("hello from inside\n"), "{outcome:?}");
    assert!(outcome.stdout.contains(&format!("inet {other}/")), "{outcome:?}");
    assert!(outcome.stdout.contains(&format!("default via {gateway}")), "{outcome:?}");

    let answer = fetch(("127.0.0.1", port)).unwrap();
    assert!(answer.ends_with("hello from inside\n"), "{answer}");
    stop(server);
    assert!(fetch(("127.0.0.1", port)).is_err());
    assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 0);
}

#[test]
fn a_published_port_is_reached_from_everywhere_and_nothing_else_from_other_networks() {
    if !machine::is_root() {
        return;
    }
    let (root, one, two) = (Root::new(), TestNetwork::new(), TestNetwork::new());
    let mut network = one.join("web", &[]);
    let ports = network.publish(&parse_ports("80").unwrap()).unwrap().to_vec();
    let _serving = network.take_service().map(|service| service.spawn().unwrap());
    let (address, gateway) = (network.address().unwrap(), network.gateway().unwrap());
    let port = ports[0].host.port();
    assert_eq!(ports[1].host, SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port)));
    let server = server(&root, "published\n", network);
    let hosts = ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap(), IpAddr::V4(gateway)];
    for host in hosts {
        let answer = fetch((host, port)).unwrap();
        assert!(answer.ends_with("published\n"), "{host}: {answer}");
    }
    // A neighbor, somebody on another network, and the server itself reach it at an address of this machine.
    let script = get(gateway, port);
    assert_eq!(run(&root, &script, one.join("neighbor", &[])).stdout, "published\n");
    assert_eq!(run(&root, &script, two.join("stranger", &[])).stdout, "published\n");
    let itself = format!("httpd -p 80 -h /srv; {script}");
    let mut network = one.join("itself", &[]);
    let own = network.publish(&parse_ports("80").unwrap()).unwrap()[0].host.port();
    let outcome = run(&root, &itself.replace(&port.to_string(), &own.to_string()), network);
    assert_eq!(outcome.stdout, "published\n", "{outcome:?}");
    // Beside that, only its neighbors reach it.
    assert_eq!(run(&root, &get(address, 80), one.join("neighbor", &[])).stdout, "published\n");
    let outcome = run(&root, &get(address, 80), two.join("stranger", &[]));
    assert_eq!(outcome.stdout, "", "{outcome:?}");
    stop(server);
}

/// Does something in the network namespace of a process.
fn inside<T: Send>(pid: u32, work: impl FnOnce() -> T + Send) -> T {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

fn set(path: &str, value: &str) {
    std::fs::OpenOptions::new().write(true).open(path).unwrap().write_all(value.as_bytes()).unwrap();
}

#[expect(clippy::disallowed_methods, reason = "a tool of the machine's")]
fn tool(name: &str, arguments: &str) {
    let status = std::process::Command::new(name).args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "{name} {arguments}");
}

#[test]
fn a_container_reaches_nothing_of_this_machines_loopback() {
    if !machine::is_root() {
        return;
    }
    for internal in [false, true] {
        let (root, one) = (Root::new(), TestNetwork::with(|definition| definition.internal = internal));
        let network = one.join("spy", &[]);
        let (address, gateway) = (network.address().unwrap(), one.definition.ipv4.gateway);
        let spy = root.start_in(root.options(&["sleep", "100"]), Stdio::null(), network).unwrap();
        let local = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let secret = local.local_addr().unwrap();
        // Whoever administers the namespace can lead what is for its own loopback out of it.
        inside(spy.pid(), || {
            set("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1");
            tool("ip", "addr del 127.0.0.1/8 dev lo");
            tool("ip", &format!("route add 127.0.0.1/32 via {gateway} dev eth0 src {address}"));
        });
        let connect = || inside(spy.pid(), || TcpStream::connect_timeout(&secret, Duration::from_millis(500)).is_ok());
        assert!(!connect(), "internal: {internal}");
        // It is the rules that keep it away, even where packets for the loopback are let in; without them, it gets there.
        let bridge = &one.definition.bridge;
        set(&format!("/proc/sys/net/ipv4/conf/{bridge}/route_localnet"), "1");
        assert!(!connect(), "internal: {internal}");
        tool("nft", &format!("flush chain ip {bridge} raw"));
        assert!(connect(), "internal: {internal}");
        stop(spy);
    }
}

#[test]
fn a_bridge_takes_no_container_for_a_router() {
    if !machine::is_root() {
        return;
    }
    let net = format!("fd00:5118:{:x}::/64", std::process::id() & 0xffff);
    let range = Range::of(net.parse().unwrap());
    for (ipv6, internal, expected) in [(None, false, ["0", "1", "1"]), (Some(range), true, ["0", "0", "0"])] {
        let one = TestNetwork::with(|definition| (definition.ipv6, definition.internal) = (ipv6, internal));
        let _network = one.join("c", &[]);
        let bridge = &one.definition.bridge;
        let settings = ["ipv6/conf/B/accept_ra", "ipv6/conf/B/disable_ipv6", "ipv4/conf/B/route_localnet"];
        let found = settings
            .map(|setting| std::fs::read_to_string(format!("/proc/sys/net/{}", setting.replace('B', bridge))).unwrap());
        assert_eq!(found.each_ref().map(|text| text.trim()), expected);
    }
}

#[test]
fn packets_are_published_as_well() {
    if !machine::is_root() {
        return;
    }
    let (root, one) = (Root::new(), TestNetwork::new());
    let mut network = one.join("echo", &[]);
    let host = network.publish(&parse_ports("127.0.0.1::7/udp").unwrap()).unwrap()[0].host;
    let container = root.start_in(root.options(&["sleep", "100"]), Stdio::null(), network).unwrap();
    let pid = container.pid();
    std::thread::spawn(move || {
        inside(pid, || {
            let server = UdpSocket::bind("0.0.0.0:7").unwrap();
            let mut bytes = [0; 16];
            let (length, from) = server.recv_from(&mut bytes).unwrap();
            server.send_to(&bytes[..length], from).unwrap();
        });
    });
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(host).unwrap();
    client.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
    let mut answer = [0; 4];
    machine::eventually("the packet comes back", || {
        // Until the program listens, nobody does.
        client.send(b"ping").is_ok() && client.recv(&mut answer).is_ok_and(|length| &answer[..length] == b"ping")
    });
    stop(container);
}

#[test]
fn a_port_in_use_is_refused_and_nothing_is_published() {
    if !machine::is_root() {
        return;
    }
    let one = TestNetwork::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut network = one.join("c", &[]);
    let mappings = [parse_ports("80").unwrap(), parse_ports(&format!("127.0.0.1:{port}:81")).unwrap()].concat();
    let error = network.publish(&mappings).unwrap_err();
    assert_eq!(error.to_string(), format!("Bind for 127.0.0.1:{port} failed: port is already allocated"));
    drop(taken);
    network.publish(&mappings).unwrap();
}

#[test]
fn neighbors_know_each_other_by_name() {
    if !machine::is_root() {
        return;
    }
    let (root, one, two) = (Root::new(), TestNetwork::new(), TestNetwork::new());
    let server = server(&root, "by name\n", one.join("web", &["www", "shop"]));
    root.write("etc/resolv.conf", &format!("nameserver {}\n", network::NAME_SERVER));
    let ask = |name: &str, network: Network| run(&root, &format!("nslookup {name} | tail -n +3"), network).stdout;
    let address = format!("Address: {}\n", server.address().unwrap());
    for name in ["web", "www", "SHOP", "web.net"] {
        let answer = ask(name, one.join("asker", &[]));
        assert!(answer.contains(&address), "{name}: {answer}");
    }
    let reverse = ask(&server.address().unwrap().to_string(), one.join("asker", &[]));
    assert!(reverse.contains("name = web.net"), "{reverse}");
    for (name, network) in [("nobody", one.join("asker", &[])), ("web", two.join("stranger", &[]))] {
        let answer = ask(name, network);
        assert!(!answer.contains("Address: "), "{answer}");
    }
    // Who comes later is known at once, and over connections as well.
    let waiting = "until nslookup late | grep 'Address: '; do sleep 0.1; done";
    let found = std::thread::scope(|scope| {
        let runs = scope.spawn(|| run(&root, waiting, one.join("early", &[])).stdout);
        let late = one.join("late-id", &["late"]);
        let address = late.address().unwrap();
        (runs.join().unwrap(), format!("Address: {address}\n"))
    });
    assert!(found.0.contains(&found.1), "{found:?}");
    // The port of name servers is still the container's own.
    let own = format!("httpd -p 53 -h /srv; {}", get("127.0.0.1", 53));
    assert_eq!(run(&root, &own, one.join("own", &[])).stdout, "by name\n");
    stop(server);
}

#[test]
fn an_internal_network_leads_nowhere_but_to_its_own() {
    if !machine::is_root() {
        return;
    }
    let root = Root::new();
    let (inner, outer) = (TestNetwork::with(|definition| definition.internal = true), TestNetwork::new());
    let mut network = inner.join("web", &[]);
    assert_eq!(network.publish(&parse_ports("80").unwrap()).unwrap(), []);
    let address = network.address().unwrap();
    let server = server(&root, "inside\n", network);
    let script = format!("ip route | grep -c default; {}", get(address, 80));
    assert_eq!(run(&root, &script, inner.join("neighbor", &[])).stdout, "0\ninside\n");
    let outcome = run(&root, &get(address, 80), outer.join("stranger", &[]));
    assert_eq!(outcome.stdout, "");
    stop(server);
}

#[test]
fn a_network_has_ipv6_when_it_is_asked_to() {
    if !machine::is_root() {
        return;
    }
    let root = Root::new();
    let net = format!("fd00:5117:{:x}::/64", std::process::id() & 0xffff);
    let one = TestNetwork::with(|definition| definition.ipv6 = Some(Range::of(net.parse().unwrap())));
    let mut network = one.join("web", &[]);
    let port = network.publish(&parse_ports("80").unwrap()).unwrap()[0].host.port();
    let _serving = network.take_service().map(|service| service.spawn().unwrap());
    let attached = network.attached();
    let address = attached[0].ipv6.unwrap().addr();
    root.write("srv/index.html", "six\n");
    let server =
        root.start_in(root.options(&["httpd", "-f", "-p", "[::]:80", "-h", "/srv"]), Stdio::null(), network).unwrap();
    machine::eventually("the server listens", || TcpStream::connect((address, 80)).is_ok());
    let gateway = IpAddr::V6(attached[0].ipv6_gateway.unwrap());
    for host in ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap(), gateway] {
        assert!(fetch((host, port)).unwrap().ends_with("six\n"), "{host}");
    }
    let script = format!("ip -6 route | grep default; {}", get(address, 80));
    let outcome = run(&root, &script, one.join("neighbor", &[]));
    assert!(outcome.stdout.contains(&format!("via {gateway}")) && outcome.stdout.ends_with("six\n"), "{outcome:?}");
    stop(server);
}

#[test]
fn an_address_can_be_wished_for_once() {
    if !machine::is_root() {
        return;
    }
    let (root, one) = (Root::new(), TestNetwork::new());
    let IpAddr::V4(first) = one.definition.ipv4.gateway else { panic!("an IPv4 network") };
    let wished = Ipv4Addr::from_bits(first.to_bits() + 41);
    let mut place = one.place("c", &[]);
    place.wishes.ipv4 = Some(wished);
    place.wishes.hardware = Some([2, 0, 0, 1, 2, 3]);
    let network = prepare_places(one.state(), std::slice::from_ref(&place), &[]).unwrap();
    let again = prepare_places(one.state(), std::slice::from_ref(&place), &[]).unwrap_err();
    assert!(again.to_string().contains("already in use"), "{again}");
    let outcome = root.run_in(root.options(&["ip", "addr", "show", "eth0"]), network);
    assert!(outcome.stdout.contains(&format!("inet {wished}/24")) && outcome.stdout.contains("02:00:00:01:02:03"));
    place.wishes.ipv4 = Some(first);
    let error = prepare_places(one.state(), &[place], &[]).unwrap_err();
    assert!(error.to_string().contains("no address for a container"), "{error}");
}

#[test]
fn a_running_container_is_connected_and_disconnected() {
    if !machine::is_root() {
        return;
    }
    let (root, one, two) = (Root::new(), TestNetwork::new(), TestNetwork::new());
    let server = server(&root, "moved\n", one.join("web", &[]));
    let attached =
        network::connect(two.state(), &network::namespace_of(server.pid()).unwrap(), &two.place("web", &[])).unwrap();
    let names = |network: &TestNetwork| -> Vec<String> {
        network::neighbors(network.state(), &network.definition.bridge).into_iter().map(|one| one.container).collect()
    };
    assert_eq!((names(&one), names(&two)), (vec!["web".into()], vec!["web".into()]));
    let script = get(attached.ipv4.addr(), 80);
    assert_eq!(run(&root, &script, two.join("neighbor", &[])).stdout, "moved\n");
    assert!(network::disconnect(two.state(), &two.definition.bridge, "web").unwrap());
    assert!(!network::disconnect(two.state(), &two.definition.bridge, "web").unwrap());
    assert_eq!((names(&one).len(), names(&two).len()), (1, 0));
    stop(server);
}

#[test]
fn a_container_joins_the_network_of_another() {
    if !machine::is_root() {
        return;
    }
    let (root, one) = (Root::new(), TestNetwork::new());
    let server = server(&root, "shared\n", one.join("web", &[]));
    let network = Network::of_namespace(network::namespace_of(server.pid()).unwrap());
    let script = get("127.0.0.1", 80);
    assert_eq!(run(&root, &script, network).stdout, "shared\n");
    stop(server);
}

#[test]
fn what_dead_owners_left_is_swept() {
    if !machine::is_root() {
        return;
    }
    let (root, one) = (Root::new(), TestNetwork::new());
    let folder: PathBuf = one.state().join(&one.definition.bridge);
    let mut network = one.join("web", &[]);
    let port = network.publish(&parse_ports("127.0.0.1::80").unwrap()).unwrap()[0].host.port();
    // A process that was killed drops nothing.
    std::mem::forget(network);
    let other = TestNetwork::new();
    let mut elsewhere = other.join("other", &[]);
    elsewhere.publish(&parse_ports("127.0.0.1::80").unwrap()).unwrap();
    // What is in other tables has its lease elsewhere, so it is somebody else's to sweep.
    std::fs::remove_file(other.state().join(&other.definition.bridge).join(elsewhere.address().unwrap().to_string()))
        .unwrap();
    let sweep = || runtime::sweep(runtime::Places { network_state: Some(one.state()), files: None }).networks;
    assert_eq!((sweep().leases, sweep().ports), (0, 0), "the namespace lives as long as somebody holds it");
    std::fs::File::create(folder.join("10.99.99.99")).unwrap();
    assert_eq!(sweep().leases, 1);
    // The next one to publish the port finds a rule of the dead, if the port is free.
    drop(root);
    assert!(std::net::TcpListener::bind(("127.0.0.1", port)).is_err());
    std::fs::remove_file(&one.definition.record).unwrap();
    assert_eq!(sweep().networks, 0, "somebody is on it");
    network::disconnect(one.state(), &one.definition.bridge, "web").unwrap();
    let swept = sweep();
    assert_eq!((swept.networks, folder.exists()), (1, false), "{swept:?}");
    assert!(!Path::new("/sys/class/net").join(&one.definition.bridge).exists());
}

#[test]
fn a_hundred_containers_are_on_one_network() {
    if !machine::is_root() {
        return;
    }
    let one = TestNetwork::new();
    let names: Vec<String> = (0..100).map(|number| format!("c{number}")).collect();
    let networks: Vec<Network> = std::thread::scope(|scope| {
        let parts: Vec<_> = names
            .chunks(25)
            .map(|part| {
                let one = &one;
                scope.spawn(move || part.iter().map(|name| one.join(name, &["all"])).collect::<Vec<_>>())
            })
            .collect();
        parts.into_iter().flat_map(|part| part.join().unwrap()).collect()
    });
    let mut addresses: Vec<_> = networks.iter().map(|network| network.address().unwrap()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), 100);
    assert_eq!(network::neighbors(one.state(), &one.definition.bridge).len(), 100);
    drop(networks);
    let folder = one.state().join(&one.definition.bridge);
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 1, "only what the network is");
}

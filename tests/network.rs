//! `slipway network`.

use super::support::{TestEnv, needs};

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

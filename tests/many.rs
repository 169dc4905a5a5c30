//! Many containers at once: none is lost, whoever is killed meanwhile, and nothing of them is left.

#![expect(clippy::disallowed_methods, reason = "the rules are nft's to show")]

use std::collections::BTreeSet;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use super::support::{TestEnv, eventually, needs};

/// Where it is kept who has which address.
const NETWORK_STATE: &str = "/run/slipway/network";

/// How many: enough for their starts and ends to cross. `TESTS_MANY` asks for more.
fn many() -> usize {
    std::env::var("TESTS_MANY").map_or(48, |text| text.parse().expect("a number of containers"))
}

/// One in so many is on the bridge and publishes a port; the others have no network.
const CONNECTED: usize = 6;

/// What the kernel has for containers on the bridge, which only tells apart from others who looked while they ran.
struct Connections {
    /// The host's ends of pairs, by name and number. They go with the namespace that the other end is in.
    interfaces: BTreeSet<(String, String)>,
    /// Addresses, and the ports of this machine that lead to them.
    published: BTreeSet<(String, String)>,
}

impl Connections {
    fn of(env: &TestEnv, ids: &[String]) -> Self {
        let (mut interfaces, mut published) = (BTreeSet::new(), BTreeSet::new());
        for lease in std::fs::read_dir(NETWORK_STATE).unwrap().flatten() {
            let text = std::fs::read_to_string(lease.path()).unwrap_or_default();
            let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
            if let (Some(id), Some((name, number))) =
                (value("container "), value("interface ").and_then(|text| text.split_once(' ')))
                && ids.iter().any(|known| known == id)
            {
                interfaces.insert((name.to_owned(), number.to_owned()));
                let port = env.look(id, "{{range .NetworkSettings.Ports}}{{range .}}{{.HostPort}} {{end}}{{end}}");
                // The same for IPv4 and IPv6.
                let port = port.split(' ').next().unwrap().to_owned();
                published.insert((lease.file_name().into_string().unwrap(), port));
            }
        }
        Self { interfaces, published }
    }

    /// What of it is still there.
    fn left(&self) -> Vec<String> {
        let number = |name: &str| std::fs::read_to_string(format!("/sys/class/net/{name}/ifindex")).unwrap_or_default();
        let interfaces = self.interfaces.iter().filter(|(name, known)| number(name).trim() == known);
        let rules = Command::new("nft").args(["list", "ruleset"]).output().unwrap().stdout;
        let rules = String::from_utf8_lossy(&rules).into_owned();
        let leads_to =
            |rule: &str, (address, port): &(String, String)| rule.contains(address) && rule.contains(port.as_str());
        let rules: Vec<&str> = rules.split([',', '{', '}', '\n']).collect();
        let published = self.published.iter().filter(|pair| rules.iter().any(|rule| leads_to(rule, pair)));
        interfaces.chain(published).map(|(one, other)| format!("{one} {other}")).collect()
    }
}

/// What containers of one home have on this machine: processes, mounts and cgroups, by the names that only they have.
fn traces(env: &TestEnv, ids: &[String], connections: &Connections) -> Vec<String> {
    let mut found = connections.left();
    let home = env.home();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    found.extend(mounts.lines().filter(|line| line.contains(home.to_str().unwrap())).map(str::to_owned));
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(home.to_str().unwrap()) {
            found.push(line);
        }
    }
    let mut waiting = vec![Path::new("/sys/fs/cgroup").to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if ids.iter().any(|id| name.contains(id.as_str())) {
                    found.push(entry.path().display().to_string());
                } else if folder.components().count() < 7 {
                    waiting.push(entry.path());
                }
            }
        }
    }
    found
}

fn create(env: &TestEnv) -> Vec<String> {
    let make = |number: usize| {
        let name = format!("many-{number}");
        // Its processes are found by the name of the home.
        let script = format!(": {}; trap 'exit 3' TERM; echo ready; sleep 1000 & wait", env.home().display());
        let network: &[&str] = if number.is_multiple_of(CONNECTED) { &["-p", "80"] } else { &["--network=none"] };
        let flags = [&["create", "--name", &name], network, &["busybox", "sh", "-c", &script]].concat();
        env.slipway(flags).success().trim().to_owned()
    };
    (0..many()).map(make).collect()
}

#[test]
fn many_start_and_stop_at_once_and_leave_nothing() {
    let Some(env) = TestEnv::for_containers() else { return };
    if !needs::tools(&["nft"]) {
        return;
    }
    let ids = create(&env);
    let started = env.slipway(["start"].into_iter().chain(ids.iter().map(String::as_str))).success();
    assert_eq!(started.lines().collect::<Vec<_>>(), ids);
    assert_eq!(env.slipway(["ps", "-q"]).success().lines().count(), many());
    let connections = Connections::of(&env, &ids);
    assert_eq!(connections.interfaces.len(), many().div_ceil(CONNECTED));
    assert_eq!(connections.left().len(), 2 * many().div_ceil(CONNECTED), "what is there is seen");
    let ready = || ids.iter().all(|id| env.slipway(["logs", id]).stdout() == "ready\n");
    eventually(60, "all are ready", ready);
    env.slipway(["stop", "-t", "20"].into_iter().chain(ids.iter().map(String::as_str))).success();
    let codes = env.slipway(["ps", "-a", "--format", "{{.Status}}"]).success();
    assert_eq!(codes.lines().filter(|status| status.starts_with("Exited (3)")).count(), many(), "{codes}");
    env.slipway(["rm"].into_iter().chain(ids.iter().map(String::as_str))).success();
    eventually(10, "nothing is left", || traces(&env, &ids, &connections).is_empty());
    for folder in ["containers", "container-names"] {
        assert_eq!(std::fs::read_dir(env.home().join(folder)).unwrap().count(), 0, "{folder}");
    }
}

#[test]
fn kills_at_random_lose_nothing_and_leave_nothing() {
    let Some(env) = TestEnv::for_containers() else { return };
    let seed = RandomState::new().build_hasher().finish();
    eprintln!("kills from seed {seed}");
    let mut state = seed | 1;
    let mut random = |most: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap() % most
    };
    if !needs::tools(&["nft"]) {
        return;
    }
    let ids = create(&env);
    for _ in 0..3 {
        // Commands that start all of them, some of which are killed on the way.
        let start = |ids: &[String]| -> Child {
            let mut command = env.command(["start"].into_iter().chain(ids.iter().map(String::as_str)));
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        };
        let mut children: Vec<Child> = ids.chunks(many().div_ceil(4)).map(start).collect();
        std::thread::sleep(std::time::Duration::from_millis(random(120) as u64));
        children[random(4)].kill().unwrap();
        for mut child in children {
            child.wait().unwrap();
        }
        let mut picked: Vec<&String> = ids.iter().collect();
        for _ in 0..many() / 6 {
            // No watcher is killed twice: a zombie is still in the state that is read here.
            let id = picked.swap_remove(random(picked.len()));
            let folder = env.home().join("containers").join(id);
            let text = std::fs::read(folder.join("state.json")).unwrap_or_default();
            let state: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
            if let Some(pid) = state["supervisor"]["pid"].as_u64() {
                match kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL) {
                    // One whose start was killed, too, may have gone by itself.
                    Ok(()) | Err(Errno::SRCH) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
        let list = env.slipway(["ps", "-a", "--no-trunc", "--format", "{{.ID}}"]).success();
        assert_eq!(list.lines().count(), many(), "every container is there, in whatever state");
    }
    env.slipway(["start"].into_iter().chain(ids.iter().map(String::as_str))).success();
    assert_eq!(env.slipway(["ps", "-q"]).success().lines().count(), many(), "all can be started again");
    let connections = Connections::of(&env, &ids);
    env.slipway(["rm", "-f"].into_iter().chain(ids.iter().map(String::as_str))).success();
    // What the killed ones left is swept by whoever runs something next.
    eventually(60, "nothing is left", || {
        env.slipway(["run", "--rm", "--network=none", "busybox", "sleep", "0.2"]).success();
        // The watcher of this one cleans up when its end has been told, so it is there for a moment.
        let is_clean = |_| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            traces(&env, &ids, &connections).is_empty()
        };
        (0..50).any(is_clean)
    });
}

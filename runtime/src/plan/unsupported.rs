//! What a spec may ask for that is not done: each is refused by its name, as silence would look like protection.

use crate::start_error::StartError;
use oci_spec::runtime::{Linux, Process, Spec};

/// Fails if `spec` asks for something that would be left out.
pub(super) fn refuse(spec: &Spec) -> Result<(), StartError> {
    let found =
        in_spec(spec).or_else(|| in_process(spec.process().as_ref()?)).or_else(|| in_linux(spec.linux().as_ref()?));
    match found {
        Some(what) => Err(StartError::BadSpec { what: format!("{what} of the spec is not supported yet") }),
        None => Ok(()),
    }
}

fn in_spec(spec: &Spec) -> Option<&'static str> {
    let hooks = spec.hooks().as_ref().is_some_and(|hooks| {
        let early = [hooks.prestart(), hooks.create_runtime(), hooks.create_container()];
        let late = [hooks.start_container(), hooks.poststart(), hooks.poststop()];
        let mut lists = early.into_iter().chain(late);
        lists.any(is_filled)
    });
    let mapped = spec.mounts().iter().flatten().any(|mount| {
        let named = |option: &String| option == "idmap" || option == "ridmap";
        is_filled(mount.uid_mappings())
            || is_filled(mount.gid_mappings())
            || mount.options().iter().flatten().any(named)
    });
    first(&[(hooks, "`hooks`"), (mapped, "an id-mapped mount")])
}

fn in_process(process: &Process) -> Option<&'static str> {
    let is_named = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    // What `unconfined` asks for is what there is.
    let apparmor = process.apparmor_profile().as_ref().is_some_and(|name| !name.is_empty() && name != "unconfined");
    first(&[
        (apparmor, "`process.apparmorProfile`"),
        (is_named(process.selinux_label()), "`process.selinuxLabel`"),
        (process.io_priority().is_some(), "`process.ioPriority`"),
        (process.scheduler().is_some(), "`process.scheduler`"),
        (process.exec_cpu_affinity().is_some(), "`process.execCPUAffinity`"),
    ])
}

fn in_linux(linux: &Linux) -> Option<&'static str> {
    let shared =
        linux.rootfs_propagation().as_ref().is_some_and(|kind| !["", "private", "rprivate"].contains(&kind.as_str()));
    let resources = linux.resources().as_ref();
    first(&[
        (is_filled(linux.uid_mappings()), "`linux.uidMappings`"),
        (is_filled(linux.gid_mappings()), "`linux.gidMappings`"),
        (linux.mount_label().as_ref().is_some_and(|label| !label.is_empty()), "`linux.mountLabel`"),
        (shared, "`linux.rootfsPropagation`"),
        (linux.personality().is_some(), "`linux.personality`"),
        (linux.intel_rdt().is_some(), "`linux.intelRdt`"),
        (linux.memory_policy().is_some(), "`linux.memoryPolicy`"),
        (linux.time_offsets().as_ref().is_some_and(|offsets| !offsets.is_empty()), "`linux.timeOffsets`"),
        (resources.is_some_and(|all| all.block_io().is_some()), "`linux.resources.blockIO`"),
        (resources.is_some_and(|all| is_filled(all.hugepage_limits())), "`linux.resources.hugepageLimits`"),
        (resources.is_some_and(|all| all.network().is_some()), "`linux.resources.network`"),
        (resources.is_some_and(|all| all.rdma().is_some()), "`linux.resources.rdma`"),
        (resources.is_some_and(|all| all.unified().is_some()), "`linux.resources.unified`"),
        (linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty()), "`linux.netDevices`"),
    ])
}

fn is_filled<T>(list: &Option<Vec<T>>) -> bool {
    list.as_ref().is_some_and(|list| !list.is_empty())
}

fn first(asked: &[(bool, &'static str)]) -> Option<&'static str> {
    asked.iter().find(|(asked, _)| *asked).map(|(_, what)| *what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SpecOptions, default_spec};
    use rstest::rstest;
    use serde_json::{Value, json};

    fn refused(change: &Value) -> Result<(), String> {
        fn merge(into: &mut Value, change: &Value) {
            match (into, change) {
                (Value::Object(into), Value::Object(change)) => {
                    for (name, value) in change {
                        merge(into.entry(name.clone()).or_insert(Value::Null), value);
                    }
                }
                (into, change) => *into = change.clone(),
            }
        }
        let spec = default_spec(&SpecOptions { args: vec!["true".to_owned()], ..SpecOptions::default() }).unwrap();
        let mut value = serde_json::to_value(spec).unwrap();
        merge(&mut value, change);
        refuse(&serde_json::from_value(value).unwrap()).map_err(|error| error.to_string())
    }

    #[rstest]
    #[case(json!({"hooks": {"prestart": [{"path": "/bin/hook"}]}}), "`hooks`")]
    #[case(json!({"hooks": {"poststop": [{"path": "/bin/hook"}]}}), "`hooks`")]
    #[case(json!({"mounts": [{"destination": "/x", "type": "bind", "source": "/x", "options": ["bind", "idmap"]}]}), "an id-mapped mount")]
    #[case(json!({"process": {"apparmorProfile": "docker-default"}}), "`process.apparmorProfile`")]
    #[case(json!({"process": {"selinuxLabel": "system_u:system_r:x"}}), "`process.selinuxLabel`")]
    #[case(json!({"linux": {"uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}]}}), "`linux.uidMappings`")]
    #[case(json!({"linux": {"mountLabel": "x"}}), "`linux.mountLabel`")]
    #[case(json!({"linux": {"rootfsPropagation": "shared"}}), "`linux.rootfsPropagation`")]
    #[case(json!({"linux": {"resources": {"unified": {"memory.high": "1"}}}}), "`linux.resources.unified`")]
    #[case(json!({"linux": {"personality": {"domain": "LINUX32"}}}), "`linux.personality`")]
    fn what_is_not_done_is_refused_by_name(#[case] change: Value, #[case] what: &str) {
        assert_eq!(refused(&change), Err(format!("{what} of the spec is not supported yet")));
    }

    #[test]
    fn what_asks_for_nothing_is_no_reason_to_refuse() {
        assert_eq!(refused(&json!({})), Ok(()));
        let empty = json!({"hooks": {}, "process": {"apparmorProfile": "unconfined"}, "linux": {"uidMappings": []}});
        assert_eq!(refused(&empty), Ok(()));
    }
}

//! What a spec may ask for that is not done: each is refused by its name, as silence would look like protection.

use crate::start_error::StartError;
use oci_spec::runtime::{Linux, Process, Spec};

/// Fails if `spec` asks for something that would be left out.
pub(super) fn refuse(spec: &Spec) -> Result<(), StartError> {
    let platform = first(&[
        (spec.solaris().is_some(), "`solaris`"),
        (spec.windows().is_some(), "`windows`"),
        (spec.vm().is_some(), "`vm`"),
    ]);
    answer(platform.or_else(|| in_process(spec.process().as_ref()?)).or_else(|| in_linux(spec.linux().as_ref()?)))
}

/// Fails if `process`, which joins a container, asks for something that would be left out.
pub(super) fn refuse_process(process: &Process) -> Result<(), StartError> {
    answer(in_process(process))
}

fn answer(found: Option<&str>) -> Result<(), StartError> {
    match found {
        Some(what) => Err(StartError::BadSpec { what: format!("{what} of the spec is not supported") }),
        None => Ok(()),
    }
}

fn in_process(process: &Process) -> Option<&'static str> {
    let is_named = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    // What `unconfined` asks for is what there is.
    let apparmor = process.apparmor_profile().as_ref().is_some_and(|name| !name.is_empty() && name != "unconfined");
    first(&[(apparmor, "`process.apparmorProfile`"), (is_named(process.selinux_label()), "`process.selinuxLabel`")])
}

fn in_linux(linux: &Linux) -> Option<&'static str> {
    first(&[
        (linux.mount_label().as_ref().is_some_and(|label| !label.is_empty()), "`linux.mountLabel`"),
        (linux.intel_rdt().is_some(), "`linux.intelRdt`"),
        (linux.memory_policy().is_some(), "`linux.memoryPolicy`"),
        (linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty()), "`linux.netDevices`"),
    ])
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
    #[case(json!({"process": {"apparmorProfile": "docker-default"}}), "`process.apparmorProfile`")]
    #[case(json!({"process": {"selinuxLabel": "system_u:system_r:x"}}), "`process.selinuxLabel`")]
    #[case(json!({"linux": {"mountLabel": "x"}}), "`linux.mountLabel`")]
    #[case(json!({"linux": {"intelRdt": {"closID": "x"}}}), "`linux.intelRdt`")]
    fn what_is_not_done_is_refused_by_name(#[case] change: Value, #[case] what: &str) {
        assert_eq!(refused(&change), Err(format!("{what} of the spec is not supported")));
    }

    #[test]
    fn what_asks_for_nothing_is_no_reason_to_refuse() {
        assert_eq!(refused(&json!({})), Ok(()));
        let empty = json!({"hooks": {}, "process": {"apparmorProfile": "unconfined"}, "linux": {"uidMappings": []}});
        assert_eq!(refused(&empty), Ok(()));
    }
}

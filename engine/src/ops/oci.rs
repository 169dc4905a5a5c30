//! Runs bundles, as the OCI runtime-spec has it. There is nothing to wait for but processes, so nothing here is async.

use serde_json::{Value, json};

pub use runtime::bundle::{
    Attention, BundleError, Bundles, CreateOptions, ExecOptions, Foreground, SPEC_VERSION, State, Status, load_process,
};
pub use runtime::{Container, ExitStatus, LinuxResources, Process, StartError, Warning, restart_sealed};

use runtime::{SpecOptions, default_spec};

/// Returns the `config.json` that somebody may start from: a shell with what docker gives, on `rootfs`.
///
/// # Errors
///
/// Never for these options; the type is the general one.
pub fn example(rootless: Option<(u32, u32)>) -> Result<Value, runtime::SpecError> {
    let options = SpecOptions {
        args: vec!["sh".to_owned()],
        env: vec!["TERM=xterm".to_owned()],
        hostname: "slipway".to_owned(),
        terminal: true,
        read_only: true,
        no_new_privileges: true,
        ..SpecOptions::default()
    };
    let mut spec = serde_json::to_value(default_spec(&options)?).expect("a spec has texts and numbers only");
    spec["root"]["path"] = json!("rootfs");
    if let Some((uid, gid)) = rootless {
        let linux = &mut spec["linux"];
        if let Some(namespaces) = linux["namespaces"].as_array_mut() {
            namespaces.retain(|namespace| namespace["type"] != "network");
            namespaces.push(json!({"type": "user"}));
        }
        linux["uidMappings"] = json!([{"containerID": 0, "hostID": uid, "size": 1}]);
        linux["gidMappings"] = json!([{"containerID": 0, "hostID": gid, "size": 1}]);
        linux["resources"] = json!({});
        // Without a network of its own there is no sysfs of its own, and one group is all there is.
        if let Some(mounts) = spec["mounts"].as_array_mut() {
            mounts.retain(|mount| mount["destination"] != "/sys/fs/cgroup");
            for mount in mounts {
                if mount["destination"] == "/sys" {
                    *mount = json!({
                        "destination": "/sys", "type": "none", "source": "/sys",
                        "options": ["rbind", "nosuid", "noexec", "nodev", "ro"],
                    });
                }
                if let Some(options) = mount["options"].as_array_mut() {
                    options.retain(|option| option != "gid=5");
                }
            }
        }
    }
    Ok(spec)
}

/// Returns what this runtime can do, as the runtime-spec's features structure.
pub fn features() -> Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPEC_VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": runtime::bundle::MOUNT_OPTIONS[..],
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": runtime::bundle::capabilities(),
            "cgroup": {"v1": true, "v2": true, "systemd": false, "systemdUser": false, "rdma": true},
            "seccomp": {
                "enabled": true,
                "actions": [
                    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD",
                    "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP"
                ],
                "operators": [
                    "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ",
                    "SCMP_CMP_NE"
                ],
                "archs": ["SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"],
                "knownFlags": [
                    "SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_LOG",
                    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"
                ],
                "supportedFlags": [
                    "SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_LOG",
                    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"
                ]
            },
            "apparmor": {"enabled": false},
            "selinux": {"enabled": false},
            "intelRdt": {"enabled": false},
            "mountExtensions": {"idmap": {"enabled": true}}
        }
    })
}

/// Reads limits, of which only the named ones will be set.
///
/// # Errors
///
/// When the text is not the runtime-spec's `resources`.
pub fn resources(text: &str) -> Result<LinuxResources, serde_json::Error> {
    serde_json::from_str(text)
}

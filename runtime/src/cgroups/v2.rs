//! The limits of a spec in the files of cgroup v2.

use super::{LimitError, devices, rdma_line, size_name, write, write_if_possible};
use crate::rootless;
use crate::start_error::Warning;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};
use std::path::Path;

/// Turns on, from the top down to `parent`, the controllers that the limits need.
pub(super) fn enable_controllers(
    parent: &Path,
    mount_point: &Path,
    resources: Option<&LinuxResources>,
    warnings: &mut Vec<Warning>,
) {
    let Some(resources) = resources else { return };
    let mut wanted = vec![
        // Memory and pids are also counted, so that an OOM kill is noticed.
        ("memory", resources.memory().is_some()),
        ("pids", resources.pids().is_some()),
        ("io", resources.block_io().is_some()),
        ("hugetlb", resources.hugepage_limits().is_some()),
        ("rdma", resources.rdma().is_some()),
    ];
    for file in resources.unified().iter().flatten().map(|(file, _)| file) {
        let controller = file.split('.').next().unwrap_or_default();
        const ALL: [&str; 8] = ["cpu", "cpuset", "hugetlb", "io", "memory", "misc", "pids", "rdma"];
        wanted.extend(ALL.iter().find(|known| **known == controller).map(|known| (*known, true)));
    }
    let cpu = resources.cpu().as_ref();
    wanted.push(("cpu", cpu.is_some_and(|cpu| cpu.shares().is_some() || cpu.quota().is_some())));
    wanted.push(("cpuset", cpu.is_some_and(|cpu| cpu.cpus().is_some() || cpu.mems().is_some())));
    let mut folders: Vec<&Path> = parent.ancestors().take_while(|path| path.starts_with(mount_point)).collect();
    folders.reverse();
    for folder in folders {
        let enabled = std::fs::read_to_string(folder.join("cgroup.subtree_control")).unwrap_or_default();
        for (controller, needed) in &wanted {
            if !needed || enabled.split_whitespace().any(|name| name == *controller) {
                continue;
            }
            if let Err(error) = write(folder, "cgroup.subtree_control", &format!("+{controller}")) {
                let reason = format!("`{}`: {}", folder.display(), error.source);
                let warning = Warning::LimitIgnored { limit: format!("controller {controller}"), reason };
                if !warnings.contains(&warning) {
                    warnings.push(warning);
                }
            }
        }
    }
}

/// Sets all limits.
pub(super) fn limit(path: &Path, resources: &LinuxResources, warnings: &mut Vec<Warning>) -> Result<(), LimitError> {
    // In a user namespace nobody may filter devices, and nobody makes any.
    if let Some(rules) = resources.devices().as_ref().filter(|_| !rootless::is_confined()) {
        match devices::attach(path, rules) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                let reason = error.to_string();
                warnings.push(Warning::LimitIgnored { limit: "devices".to_owned(), reason });
            }
            Err(source) => return Err(LimitError { limit: "devices".to_owned(), source }),
        }
    }
    if let Some(memory) = resources.memory() {
        limit_memory(path, memory, warnings)?;
    }
    if let Some(pids) = resources.pids() {
        let limit = if pids.limit() > 0 { pids.limit().to_string() } else { "max".to_owned() };
        write_if_possible(path, "pids.max", &limit, warnings)?;
    }
    if let Some(cpu) = resources.cpu() {
        limit_cpu(path, cpu, warnings)?;
    }
    if let Some(io) = resources.block_io() {
        limit_io(path, io, warnings)?;
    }
    for page in resources.hugepage_limits().iter().flatten() {
        let file = format!("hugetlb.{}.max", size_name(page)?);
        write_if_possible(path, &file, &page.limit().to_string(), warnings)?;
    }
    for (device, limits) in resources.rdma().iter().flatten() {
        write_if_possible(path, "rdma.max", &rdma_line(device, limits), warnings)?;
    }
    // Last, as they are the most exact words; and who uses them wants them, so nothing is left out.
    for (file, value) in resources.unified().iter().flatten() {
        if file.contains('/') || file.starts_with("cgroup.") {
            let source = std::io::Error::from(std::io::ErrorKind::InvalidInput);
            return Err(LimitError { limit: file.clone(), source });
        }
        write(path, file, value)?;
    }
    Ok(())
}

fn limit_io(path: &Path, io: &LinuxBlockIo, warnings: &mut Vec<Warning>) -> Result<(), LimitError> {
    if let Some(weight) = io.weight().filter(|&weight| weight != 0) {
        if path.join("io.bfq.weight").exists() {
            write_if_possible(path, "io.bfq.weight", &weight.to_string(), warnings)?;
        } else {
            // From 10 to 1000 there, to 1 to 10000 here.
            let weight = 1 + (u64::from(weight).clamp(10, 1000) - 10) * 9999 / 990;
            write_if_possible(path, "io.weight", &weight.to_string(), warnings)?;
        }
    }
    for device in io.weight_device().iter().flatten() {
        if let Some(weight) = device.weight().filter(|&weight| weight != 0) {
            let line = format!("{}:{} {weight}", device.major(), device.minor());
            write_if_possible(path, "io.bfq.weight", &line, warnings)?;
        }
    }
    for (word, list) in [
        ("rbps", io.throttle_read_bps_device()),
        ("wbps", io.throttle_write_bps_device()),
        ("riops", io.throttle_read_iops_device()),
        ("wiops", io.throttle_write_iops_device()),
    ] {
        for device in list.iter().flatten() {
            let line = format!("{}:{} {word}={}", device.major(), device.minor(), device.rate());
            write_if_possible(path, "io.max", &line, warnings)?;
        }
    }
    Ok(())
}

fn limit_memory(path: &Path, memory: &LinuxMemory, warnings: &mut Vec<Warning>) -> Result<(), LimitError> {
    let text = |value: i64| if value < 0 { "max".to_owned() } else { value.to_string() };
    let limit = memory.limit().filter(|&limit| limit != 0);
    if let Some(limit) = limit {
        write_if_possible(path, "memory.max", &text(limit), warnings)?;
    }
    // The spec's number is memory and swap together, the file's is swap alone.
    if let Some(both) = memory.swap().filter(|&swap| swap != 0) {
        let swap = if both < 0 { -1 } else { (both - limit.unwrap_or(0)).max(0) };
        write_if_possible(path, "memory.swap.max", &text(swap), warnings)?;
    }
    if let Some(reservation) = memory.reservation().filter(|&reservation| reservation != 0) {
        write_if_possible(path, "memory.low", &text(reservation), warnings)?;
    }
    Ok(())
}

fn limit_cpu(path: &Path, cpu: &LinuxCpu, warnings: &mut Vec<Warning>) -> Result<(), LimitError> {
    if let Some(shares) = cpu.shares().filter(|&shares| shares != 0) {
        write_if_possible(path, "cpu.weight", &weight(shares).to_string(), warnings)?;
    }
    if let Some(quota) = cpu.quota().filter(|&quota| quota != 0) {
        let quota = if quota < 0 { "max".to_owned() } else { quota.to_string() };
        let period = cpu.period().filter(|&period| period != 0).unwrap_or(100_000);
        write_if_possible(path, "cpu.max", &format!("{quota} {period}"), warnings)?;
    }
    if let Some(burst) = cpu.burst() {
        write_if_possible(path, "cpu.max.burst", &burst.to_string(), warnings)?;
    }
    if let Some(idle) = cpu.idle() {
        write_if_possible(path, "cpu.idle", &idle.to_string(), warnings)?;
    }
    if let Some(cpus) = cpu.cpus().as_ref().filter(|cpus| !cpus.is_empty()) {
        write_if_possible(path, "cpuset.cpus", cpus, warnings)?;
    }
    if let Some(mems) = cpu.mems().as_ref().filter(|mems| !mems.is_empty()) {
        write_if_possible(path, "cpuset.mems", mems, warnings)?;
    }
    Ok(())
}

/// Turns shares (2 to 262144) into a weight (1 to 10000).
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sets limits in a folder that has the files of every controller; gives what was written, and the warnings.
    fn written(resources: &str, missing: &[&str]) -> (Vec<(String, String)>, Vec<Warning>) {
        const FILES: [&str; 16] = [
            "cpu.idle",
            "cpu.max",
            "cpu.max.burst",
            "cpu.weight",
            "cpuset.cpus",
            "cpuset.mems",
            "hugetlb.2MB.max",
            "io.bfq.weight",
            "io.max",
            "io.weight",
            "memory.high",
            "memory.low",
            "memory.max",
            "memory.swap.max",
            "pids.max",
            "rdma.max",
        ];
        let folder = tempfile::tempdir().unwrap();
        for file in FILES.iter().filter(|file| !missing.contains(file)) {
            std::fs::File::create(folder.path().join(file)).unwrap();
        }
        let mut warnings = Vec::new();
        limit(folder.path(), &serde_json::from_str(resources).unwrap(), &mut warnings).unwrap();
        let content = |file: &str| std::fs::read_to_string(folder.path().join(file)).unwrap_or_default();
        let all = FILES.iter().map(|file| ((*file).to_owned(), content(file)));
        (all.filter(|(_, text)| !text.is_empty()).collect(), warnings)
    }

    #[test]
    fn limits_are_called_otherwise_here() {
        let devices = r#"[{"major": 8, "minor": 0, "rate": 1048576}]"#;
        let throttled = format!(r#"{{"blockIO": {{"throttleReadBpsDevice": {devices}}}}}"#);
        for (resources, files) in [
            (r#"{"memory": {"limit": 67108864}}"#, &[("memory.max", "67108864")][..]),
            (
                r#"{"memory": {"limit": 67108864, "swap": 100663296, "reservation": 1048576}}"#,
                &[("memory.low", "1048576"), ("memory.max", "67108864"), ("memory.swap.max", "33554432")],
            ),
            (r#"{"memory": {"limit": -1, "swap": -1}}"#, &[("memory.max", "max"), ("memory.swap.max", "max")]),
            (r#"{"memory": {"limit": 9, "swap": 9}}"#, &[("memory.max", "9"), ("memory.swap.max", "0")]),
            (r#"{"pids": {"limit": 50}}"#, &[("pids.max", "50")]),
            (r#"{"pids": {"limit": 0}}"#, &[("pids.max", "max")]),
            (r#"{"cpu": {"quota": 150000, "period": 50000}}"#, &[("cpu.max", "150000 50000")]),
            (r#"{"cpu": {"quota": -1}}"#, &[("cpu.max", "max 100000")]),
            (
                r#"{"cpu": {"shares": 1024, "cpus": "0-1", "mems": "0", "idle": 1, "burst": 7}}"#,
                &[
                    ("cpu.idle", "1"),
                    ("cpu.max.burst", "7"),
                    ("cpu.weight", "39"),
                    ("cpuset.cpus", "0-1"),
                    ("cpuset.mems", "0"),
                ],
            ),
            (r#"{"blockIO": {"weight": 1000}}"#, &[("io.bfq.weight", "1000")]),
            (&throttled, &[("io.max", "8:0 rbps=1048576")]),
            (r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]}"#, &[("hugetlb.2MB.max", "4194304")]),
            (r#"{"rdma": {"mlx": {"hcaHandles": 3}}}"#, &[("rdma.max", "mlx hca_handle=3")]),
            // The own words of this interface go over the others.
            (r#"{"unified": {"memory.high": "1G"}}"#, &[("memory.high", "1G")]),
        ] {
            let files: Vec<_> = files.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect();
            assert_eq!(written(resources, &[]), (files, Vec::new()), "{resources}");
        }
        let (files, _) = written(r#"{"blockIO": {"weight": 1000}}"#, &["io.bfq.weight"]);
        assert_eq!(files, [("io.weight".to_owned(), "10000".to_owned())]);
    }

    #[test]
    fn what_the_kernel_does_not_offer_is_told() {
        let (files, warnings) = written(r#"{"memory": {"limit": 9}, "pids": {"limit": 5}}"#, &["memory.max"]);
        assert_eq!(files, [("pids.max".to_owned(), "5".to_owned())]);
        let told = "the limit `memory.max` is off: this kernel does not offer it here";
        assert_eq!(warnings.iter().map(ToString::to_string).collect::<Vec<_>>(), [told]);
    }

    #[test]
    fn who_speaks_the_interfaces_own_words_reaches_no_other_file() {
        for file in ["cgroup.procs", "../memory.max"] {
            let resources = serde_json::from_str(&format!(r#"{{"unified": {{"{file}": "1"}}}}"#)).unwrap();
            let refused = limit(Path::new("/nonexistent"), &resources, &mut Vec::new()).unwrap_err();
            assert_eq!(refused.source.kind(), std::io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn controllers_are_turned_on_from_the_top_down_to_the_parent() {
        let top = tempfile::tempdir().unwrap();
        let parent = top.path().join("one/two");
        std::fs::create_dir_all(&parent).unwrap();
        let folders = [top.path(), &top.path().join("one"), &parent];
        for folder in folders {
            std::fs::File::create(folder.join("cgroup.subtree_control")).unwrap();
        }
        let resources = serde_json::from_str(r#"{"pids": {"limit": 5}}"#).unwrap();
        let mut warnings = Vec::new();
        enable_controllers(&parent, top.path(), Some(&resources), &mut warnings);
        let text = |folder: &Path| std::fs::read_to_string(folder.join("cgroup.subtree_control")).unwrap();
        assert_eq!(folders.map(text), ["+pids"; 3]);
        assert_eq!(warnings, []);
    }

    #[test]
    fn shares_become_weights_from_end_to_end() {
        assert_eq!([weight(0), weight(2), weight(1024), weight(262_144), weight(u64::MAX)], [1, 1, 39, 10_000, 10_000]);
    }
}

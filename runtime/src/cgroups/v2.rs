//! The limits of a spec in the files of cgroup v2.

use super::{LimitError, devices, rdma_line, size_name, write, write_if_possible};
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
    if let Some(rules) = resources.devices() {
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
    use super::weight;

    #[test]
    fn shares_become_weights_from_end_to_end() {
        assert_eq!([weight(0), weight(2), weight(1024), weight(262_144), weight(u64::MAX)], [1, 1, 39, 10_000, 10_000]);
    }
}

//! The limits of a spec in the files of cgroup v1.

use super::hierarchy::Hierarchy;
use super::{LimitError, rdma_line, size_name, write, write_if_possible};
use crate::start_error::Warning;
use oci_spec::runtime::{LinuxBlockIo, LinuxDeviceCgroup, LinuxDeviceType, LinuxMemory, LinuxResources};
use std::io;
use std::path::Path;

/// Makes sure that cgroups below `parent` can be used: a cpuset without processors takes no process.
pub(super) fn prepare_parent(parent: &Path, hierarchy: &Hierarchy) -> io::Result<()> {
    if hierarchy.has("cpuset")
        && std::fs::read_to_string(parent.join("cpuset.cpus"))?.trim().is_empty()
        && let Some(grandparent) = parent.parent().filter(|_| parent != hierarchy.mount_point)
    {
        prepare_parent(grandparent, hierarchy)?;
        inherit_cpuset(grandparent, parent)?;
    }
    Ok(())
}

/// Gives a new cgroup what it needs to take processes.
pub(super) fn prepare(path: &Path, hierarchy: &Hierarchy) -> io::Result<()> {
    match path.parent() {
        Some(parent) if hierarchy.has("cpuset") => inherit_cpuset(parent, path),
        _ => Ok(()),
    }
}

fn inherit_cpuset(from: &Path, to: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let value = std::fs::read_to_string(from.join(file))?;
        write(to, file, value.trim()).map_err(|error| error.source)?;
    }
    Ok(())
}

/// Sets the limits that this hierarchy is about.
pub(super) fn limit(
    path: &Path,
    hierarchy: &Hierarchy,
    resources: &LinuxResources,
    warnings: &mut Vec<Warning>,
) -> Result<(), LimitError> {
    if resources.unified().as_ref().is_some_and(|files| !files.is_empty()) {
        let source = io::Error::new(io::ErrorKind::Unsupported, "this machine has cgroups of version 1");
        return Err(LimitError { limit: "unified".to_owned(), source });
    }
    if hierarchy.has("devices") {
        limit_devices(path, resources.devices().as_deref().unwrap_or_default())?;
    }
    if let Some(memory) = resources.memory().as_ref().filter(|_| hierarchy.has("memory")) {
        limit_memory(path, memory, warnings)?;
    }
    if let Some(pids) = resources.pids().as_ref().filter(|_| hierarchy.has("pids")) {
        let limit = if pids.limit() > 0 { pids.limit().to_string() } else { "max".to_owned() };
        write_if_possible(path, "pids.max", &limit, warnings)?;
    }
    if let Some(io) = resources.block_io().as_ref().filter(|_| hierarchy.has("blkio")) {
        limit_io(path, io, warnings)?;
    }
    for page in resources.hugepage_limits().iter().flatten().filter(|_| hierarchy.has("hugetlb")) {
        let file = format!("hugetlb.{}.limit_in_bytes", size_name(page)?);
        write_if_possible(path, &file, &page.limit().to_string(), warnings)?;
    }
    if let Some(network) = resources.network() {
        if let Some(class) = network.class_id().filter(|_| hierarchy.has("net_cls")) {
            write_if_possible(path, "net_cls.classid", &class.to_string(), warnings)?;
        }
        for one in network.priorities().iter().flatten().filter(|_| hierarchy.has("net_prio")) {
            write_if_possible(path, "net_prio.ifpriomap", &format!("{} {}", one.name(), one.priority()), warnings)?;
        }
    }
    for (device, limits) in resources.rdma().iter().flatten().filter(|_| hierarchy.has("rdma")) {
        write_if_possible(path, "rdma.max", &rdma_line(device, limits), warnings)?;
    }
    let Some(cpu) = resources.cpu() else { return Ok(()) };
    if hierarchy.has("cpu") {
        if let Some(period) = cpu.realtime_period().filter(|&period| period != 0) {
            write_if_possible(path, "cpu.rt_period_us", &period.to_string(), warnings)?;
        }
        if let Some(runtime) = cpu.realtime_runtime().filter(|&runtime| runtime != 0) {
            write_if_possible(path, "cpu.rt_runtime_us", &runtime.to_string(), warnings)?;
        }
        if let Some(idle) = cpu.idle() {
            write_if_possible(path, "cpu.idle", &idle.to_string(), warnings)?;
        }
        if let Some(shares) = cpu.shares().filter(|&shares| shares != 0) {
            write_if_possible(path, "cpu.shares", &shares.to_string(), warnings)?;
        }
        if let Some(period) = cpu.period().filter(|&period| period != 0) {
            write_if_possible(path, "cpu.cfs_period_us", &period.to_string(), warnings)?;
        }
        if let Some(quota) = cpu.quota().filter(|&quota| quota != 0) {
            write_if_possible(path, "cpu.cfs_quota_us", &quota.to_string(), warnings)?;
        }
        if let Some(burst) = cpu.burst() {
            write_if_possible(path, "cpu.cfs_burst_us", &burst.to_string(), warnings)?;
        }
    }
    if hierarchy.has("cpuset") {
        if let Some(cpus) = cpu.cpus().as_ref().filter(|cpus| !cpus.is_empty()) {
            write(path, "cpuset.cpus", cpus)?;
        }
        if let Some(mems) = cpu.mems().as_ref().filter(|mems| !mems.is_empty()) {
            write(path, "cpuset.mems", mems)?;
        }
    }
    Ok(())
}

fn limit_io(path: &Path, io: &LinuxBlockIo, warnings: &mut Vec<Warning>) -> Result<(), LimitError> {
    // Which files there are depends on the kernel's scheduler of requests.
    let weights = |plain: &'static str, bfq: &'static str| if path.join(plain).exists() { plain } else { bfq };
    if let Some(weight) = io.weight().filter(|&weight| weight != 0) {
        write_if_possible(path, weights("blkio.weight", "blkio.bfq.weight"), &weight.to_string(), warnings)?;
    }
    if let Some(weight) = io.leaf_weight().filter(|&weight| weight != 0) {
        write_if_possible(path, "blkio.leaf_weight", &weight.to_string(), warnings)?;
    }
    for device in io.weight_device().iter().flatten() {
        let line = |weight: u16| format!("{}:{} {weight}", device.major(), device.minor());
        if let Some(weight) = device.weight().filter(|&weight| weight != 0) {
            let file = weights("blkio.weight_device", "blkio.bfq.weight_device");
            write_if_possible(path, file, &line(weight), warnings)?;
        }
        if let Some(weight) = device.leaf_weight().filter(|&weight| weight != 0) {
            write_if_possible(path, "blkio.leaf_weight_device", &line(weight), warnings)?;
        }
    }
    for (file, list) in [
        ("blkio.throttle.read_bps_device", io.throttle_read_bps_device()),
        ("blkio.throttle.write_bps_device", io.throttle_write_bps_device()),
        ("blkio.throttle.read_iops_device", io.throttle_read_iops_device()),
        ("blkio.throttle.write_iops_device", io.throttle_write_iops_device()),
    ] {
        for device in list.iter().flatten() {
            let line = format!("{}:{} {}", device.major(), device.minor(), device.rate());
            write_if_possible(path, file, &line, warnings)?;
        }
    }
    Ok(())
}

fn limit_memory(path: &Path, memory: &LinuxMemory, warnings: &mut Vec<Warning>) -> Result<(), LimitError> {
    let set = |value: Option<i64>| value.filter(|&value| value != 0).map(|value| value.to_string());
    let limit = set(memory.limit()).map(|limit| ("memory.limit_in_bytes", limit));
    let swap = set(memory.swap()).map(|swap| ("memory.memsw.limit_in_bytes", swap));
    // The kernel keeps the second from falling below the first, so a higher one goes first.
    let now =
        |file: &str| std::fs::read_to_string(path.join(file)).ok().and_then(|text| text.trim().parse::<i64>().ok());
    let raises = memory
        .swap()
        .is_some_and(|swap| swap == -1 || now("memory.memsw.limit_in_bytes").is_some_and(|now| now < swap));
    let order = if raises { [swap, limit] } else { [limit, swap] };
    for (file, value) in order.into_iter().flatten() {
        write_if_possible(path, file, &value, warnings)?;
    }
    if let Some(limit) = set(memory.kernel_tcp()) {
        write_if_possible(path, "memory.kmem.tcp.limit_in_bytes", &limit, warnings)?;
    }
    if let Some(reservation) = set(memory.reservation()) {
        write_if_possible(path, "memory.soft_limit_in_bytes", &reservation, warnings)?;
    }
    if let Some(swappiness) = memory.swappiness() {
        write_if_possible(path, "memory.swappiness", &swappiness.to_string(), warnings)?;
    }
    if memory.disable_oom_killer() == Some(true) {
        write_if_possible(path, "memory.oom_control", "1", warnings)?;
    }
    Ok(())
}

fn limit_devices(path: &Path, rules: &[LinuxDeviceCgroup]) -> Result<(), LimitError> {
    for rule in rules {
        let file = if rule.allow() { "devices.allow" } else { "devices.deny" };
        let number =
            |number: Option<i64>| number.filter(|&number| number >= 0).map_or("*".to_owned(), |n| n.to_string());
        let text = match rule.typ().unwrap_or(LinuxDeviceType::A) {
            LinuxDeviceType::B => "b",
            LinuxDeviceType::C | LinuxDeviceType::U => "c",
            _ => {
                write(path, file, "a")?;
                continue;
            }
        };
        let access = rule.access().as_deref().unwrap_or("rwm");
        write(path, file, &format!("{text} {}:{} {access}", number(rule.major()), number(rule.minor())))?;
    }
    Ok(())
}

//! The limits of a spec in the files of cgroup v1.

use super::hierarchy::Hierarchy;
use super::{LimitError, write, write_if_possible};
use crate::start_error::Warning;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxMemory, LinuxResources};
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
    let Some(cpu) = resources.cpu() else { return Ok(()) };
    if hierarchy.has("cpu") {
        if let Some(shares) = cpu.shares().filter(|&shares| shares != 0) {
            write_if_possible(path, "cpu.shares", &shares.to_string(), warnings)?;
        }
        if let Some(period) = cpu.period().filter(|&period| period != 0) {
            write_if_possible(path, "cpu.cfs_period_us", &period.to_string(), warnings)?;
        }
        if let Some(quota) = cpu.quota().filter(|&quota| quota != 0) {
            write_if_possible(path, "cpu.cfs_quota_us", &quota.to_string(), warnings)?;
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

fn limit_memory(path: &Path, memory: &LinuxMemory, warnings: &mut Vec<Warning>) -> Result<(), LimitError> {
    let set = |value: Option<i64>| value.filter(|&value| value != 0).map(|value| value.to_string());
    if let Some(limit) = set(memory.limit()) {
        write_if_possible(path, "memory.limit_in_bytes", &limit, warnings)?;
    }
    if let Some(swap) = set(memory.swap()) {
        write_if_possible(path, "memory.memsw.limit_in_bytes", &swap, warnings)?;
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

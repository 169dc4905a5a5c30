//! Capabilities: their numbers, docker's default set, and the five sets of a process.

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

/// The five sets as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CapabilitySets {
    pub(crate) bounding: u64,
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    pub(crate) inheritable: u64,
    pub(crate) ambient: u64,
}

/// Every capability, at the place of its number.
pub(crate) const ALL: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// What docker gives every container.
pub(crate) const DEFAULT: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

/// The number of a capability.
pub(crate) fn number(capability: Capability) -> usize {
    ALL.iter().position(|other| *other == capability).expect("every capability has a place")
}

/// Those that this process has, and so can give; root in a container or a virtual machine may lack some.
pub(crate) fn available() -> impl Iterator<Item = Capability> {
    let bits = rustix::thread::capabilities(None).map_or(0, |sets| sets.permitted.bits());
    ALL.into_iter().enumerate().filter(move |(number, _)| bits & 1 << number != 0).map(|(_, capability)| capability)
}

/// The bits of a list.
pub(crate) fn bits(capabilities: Option<&Capabilities>) -> u64 {
    let mut bits = 0;
    for capability in capabilities.into_iter().flatten() {
        if let Some(number) = ALL.iter().position(|other| other == capability) {
            bits |= 1 << number;
        }
    }
    bits
}

/// The sets that a spec asks for, within what the kernel knows.
pub(crate) fn sets(capabilities: Option<&LinuxCapabilities>) -> CapabilitySets {
    let Some(capabilities) = capabilities else { return CapabilitySets::default() };
    CapabilitySets {
        bounding: bits(capabilities.bounding().as_ref()),
        effective: bits(capabilities.effective().as_ref()),
        permitted: bits(capabilities.permitted().as_ref()),
        inheritable: bits(capabilities.inheritable().as_ref()),
        ambient: bits(capabilities.ambient().as_ref()),
    }
}

/// The capability that a user names, with or without `CAP_`, in any case.
pub(crate) fn named(name: &str) -> Option<Capability> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    ALL.into_iter().find(|capability| capability.to_string().trim_start_matches("CAP_") == short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_set_has_the_mask_that_docker_has() {
        assert_eq!(bits(Some(&DEFAULT.into_iter().collect())), 0xa804_25fb);
    }

    #[test]
    fn a_capability_has_the_number_of_its_place() {
        assert_eq!(ALL[21], Capability::SysAdmin);
        assert_eq!(ALL[40], Capability::CheckpointRestore);
        assert_eq!(named("net_admin"), Some(Capability::NetAdmin));
        assert_eq!(named("CAP_SYS_ADMIN"), Some(Capability::SysAdmin));
        assert_eq!(named("CAP_NOTHING"), None);
    }
}

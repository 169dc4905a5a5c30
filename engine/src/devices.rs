//! Devices of the machine in a container: `--device`.

use std::io;
use std::path::PathBuf;

use oci_spec::runtime::{LinuxDeviceBuilder, LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxResources, Spec};
use rustix::fs::{FileType, major, minor, stat};

/// A device that a container gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Where it is on the machine.
    pub source: PathBuf,
    /// Where it shall be.
    pub target: String,
    /// Any of `r`, `w` and `m`.
    pub access: String,
}

/// Why a device cannot be given.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum DeviceError {
    #[error("device `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("`{}` is not a device", path.display())]
    NotADevice { path: PathBuf },
    #[error("cannot describe a device")]
    Spec(#[from] oci_spec::OciSpecError),
}

/// Adds devices, and the right to use them, to a container's description.
pub(crate) fn add(spec: &mut Spec, devices: &[Device]) -> Result<(), DeviceError> {
    let Some(linux) = spec.linux_mut().as_mut() else { return Ok(()) };
    for device in devices {
        let path = || device.source.clone();
        let found = stat(&device.source).map_err(|error| DeviceError::Read { path: path(), source: error.into() })?;
        let kind = match FileType::from_raw_mode(found.st_mode) {
            FileType::CharacterDevice => LinuxDeviceType::C,
            FileType::BlockDevice => LinuxDeviceType::B,
            _ => return Err(DeviceError::NotADevice { path: path() }),
        };
        let (major, minor) = (i64::from(major(found.st_rdev)), i64::from(minor(found.st_rdev)));
        let node = LinuxDeviceBuilder::default()
            .path(&device.target)
            .typ(kind)
            .major(major)
            .minor(minor)
            .file_mode(found.st_mode & 0o777)
            .uid(found.st_uid)
            .gid(found.st_gid)
            .build()?;
        linux.devices_mut().get_or_insert_default().push(node);
        let right = LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(kind)
            .major(major)
            .minor(minor)
            .access(&device.access)
            .build()?;
        let resources = linux.resources_mut().get_or_insert_with(LinuxResources::default);
        resources.devices_mut().get_or_insert_default().push(right);
    }
    Ok(())
}

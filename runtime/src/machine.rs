//! What this machine lets containers have.

use crate::cgroups::{self, CgroupHierarchy};
use crate::network;
use crate::sys;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What was found out.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Why layers cannot be stacked in the folder that was tried, if they cannot.
    pub no_overlay: Option<String>,
    /// Why they cannot with `userxattr`, as a plain user's are.
    pub no_user_xattr: Option<String>,
    /// The cgroup hierarchies that containers are put into.
    pub cgroups: Vec<CgroupHierarchy>,
    /// Whether the second version is mounted, be it beside the first.
    pub unified: bool,
    /// The kinds of namespaces that the kernel has.
    pub namespaces: Vec<String>,
    /// Why networks cannot be made, if they cannot.
    pub no_nftables: Option<String>,
}

/// Tries what containers need. `folder` is where layers are; something is made there for a moment.
///
/// # Errors
///
/// When nothing can be made there.
pub fn probe(folder: &Path) -> io::Result<Machine> {
    // What was made by one that was killed.
    crate::sweep::sweep_files(folder);
    let scratch = Scratch(folder.join(crate::owned_name("probe")));
    for name in ["lower", "upper", "work"] {
        std::fs::create_dir_all(scratch.0.join(name))?;
    }
    let reason = |error: i32| io::Error::from_raw_os_error(error).to_string();
    let no_overlay = overlay(&scratch.0, false).err().map(reason);
    let no_user_xattr = overlay(&scratch.0, true).err().map(reason);
    drop(scratch);
    let entries = std::fs::read_dir("/proc/self/ns").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut namespaces: Vec<_> = names.filter(|name| !name.contains("_for_children")).collect();
    namespaces.sort_unstable();
    Ok(Machine {
        no_overlay,
        no_user_xattr,
        cgroups: cgroups::hierarchies(),
        unified: std::fs::read_to_string("/proc/self/mountinfo").is_ok_and(|text| text.contains(" - cgroup2 ")),
        namespaces,
        no_nftables: network::try_nftables().err().map(|error| error.to_string()),
    })
}

/// A folder that is gone when this is dropped.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What was found out is as true when it stays.
        let _: io::Result<()> = std::fs::remove_dir_all(&self.0);
    }
}

/// Makes an overlay that is mounted nowhere.
fn overlay(folder: &Path, user_xattr: bool) -> Result<(), i32> {
    let fs = sys::fsopen(c"overlay")?;
    let path = |name: &str| CString::new(folder.join(name).as_os_str().as_bytes()).map_err(|_| libc::EINVAL);
    let made = (|| {
        for (key, name) in [(c"lowerdir", "lower"), (c"upperdir", "upper"), (c"workdir", "work")] {
            sys::fsconfig_string(fs, key, &path(name)?)?;
        }
        for (key, value) in crate::overlay_options(user_xattr) {
            match value {
                Some(value) => sys::fsconfig_string(fs, key, value)?,
                None => sys::fsconfig_flag(fs, key)?,
            }
        }
        sys::fsconfig_create(fs)?;
        sys::fsmount(fs, 0).map(sys::close)
    })();
    sys::close(fs);
    made
}

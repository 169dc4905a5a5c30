//! What the child will mount: the root, and everything in it.

use super::{c_path, c_string, in_root};
use crate::cgroups::Cgroups;
use crate::container::Rootfs;
use crate::start_error::StartError;
use crate::sys;
use oci_spec::runtime::Mount;
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where `/` comes from.
pub(crate) enum RootPlan {
    Folder(CString),
    Overlay(OverlayPlan),
}

/// An overlay for both ways of mounting one.
pub(crate) struct OverlayPlan {
    pub(crate) lower: Vec<CString>,
    pub(crate) upper: CString,
    pub(crate) work: CString,
    pub(crate) volatile: bool,
    /// For kernels before 6.5: a folder, and mount options with paths relative to it.
    pub(crate) base: CString,
    pub(crate) options: CString,
    /// Whether `options` fit in the page that the old call takes.
    pub(crate) options_fit: bool,
}

/// Whether a mount point that is missing becomes a file or a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Make {
    Folder,
    File,
}

/// One mount.
pub(crate) struct MountPlan {
    /// Relative to the root.
    pub(crate) target: CString,
    pub(crate) make: Make,
    /// Whether a link on the way to the target is refused.
    pub(crate) no_links: bool,
    pub(crate) kind: MountPlanKind,
    /// `MS_SHARED` and its like, if not private.
    pub(crate) propagation: u64,
}

/// What to mount.
pub(crate) enum MountPlanKind {
    New {
        filesystem: CString,
        options: Vec<(CString, Option<CString>)>,
        attributes: u64,
    },
    Bind {
        source: CString,
        recursive: bool,
        attributes: sys::MountAttributes,
        attributes_recursive: bool,
    },
    /// Nothing new: what is mounted at the target becomes read-only.
    Seal,
}

/// Works out how to mount what becomes `/`.
pub(crate) fn plan_root(rootfs: &Rootfs) -> Result<RootPlan, StartError> {
    match rootfs {
        Rootfs::Folder(path) => Ok(RootPlan::Folder(c_path(path)?)),
        Rootfs::Overlay { lower, upper, work, volatile } => plan_overlay(lower, upper, work, *volatile),
    }
}

fn plan_overlay(lower: &[PathBuf], upper: &Path, work: &Path, volatile: bool) -> Result<RootPlan, StartError> {
    let mut base = upper.parent().unwrap_or(Path::new("/")).to_path_buf();
    for path in lower.iter().chain([&work.to_path_buf()]) {
        while !path.starts_with(&base) && base.pop() {}
    }
    let relative = |path: &Path| escape_option(path.strip_prefix(&base).unwrap_or(path).as_os_str());
    let mut options = b"lowerdir=".to_vec();
    for (index, path) in lower.iter().enumerate() {
        if index > 0 {
            options.push(b':');
        }
        options.extend(relative(path));
    }
    // A stack without any layer has its upper folder alone, which overlayfs does not do.
    options.extend(b",upperdir=");
    options.extend(relative(upper));
    options.extend(b",workdir=");
    options.extend(relative(work));
    options.extend(b",index=off,redirect_dir=off,metacopy=off,xino=off");
    if volatile {
        options.extend(b",volatile");
    }
    if lower.is_empty() {
        return Ok(RootPlan::Folder(c_path(upper)?));
    }
    Ok(RootPlan::Overlay(OverlayPlan {
        lower: lower.iter().map(|path| c_path(path)).collect::<Result<_, _>>()?,
        upper: c_path(upper)?,
        work: c_path(work)?,
        volatile,
        base: c_path(&base)?,
        options_fit: options.len() < 4096,
        options: c_string(options, "a path")?,
    }))
}

/// Puts a backslash before what separates overlay options.
fn escape_option(path: &OsStr) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(path.len());
    for &byte in path.as_bytes() {
        if matches!(byte, b':' | b',' | b'\\') {
            escaped.push(b'\\');
        }
        escaped.push(byte);
    }
    escaped
}

/// What the options of a mount in a spec come to.
#[derive(Default)]
struct Options {
    attributes: sys::MountAttributes,
    attributes_recursive: bool,
    bind: bool,
    recursive: bool,
    propagation: u64,
    data: Vec<(CString, Option<CString>)>,
}

fn parse_options(options: &[String]) -> Result<Options, StartError> {
    let mut parsed = Options::default();
    for option in options {
        let (name, recursive_attribute) = match option.as_str() {
            "rro" | "rrw" | "rnosuid" | "rsuid" | "rnodev" | "rdev" | "rnoexec" | "rexec" => (&option[1..], true),
            other => (other, false),
        };
        parsed.attributes_recursive |= recursive_attribute;
        let attribute = match name {
            "ro" => Some((sys::MOUNT_ATTR_RDONLY, 0)),
            "rw" => Some((0, sys::MOUNT_ATTR_RDONLY)),
            "nosuid" => Some((sys::MOUNT_ATTR_NOSUID, 0)),
            "suid" => Some((0, sys::MOUNT_ATTR_NOSUID)),
            "nodev" => Some((sys::MOUNT_ATTR_NODEV, 0)),
            "dev" => Some((0, sys::MOUNT_ATTR_NODEV)),
            "noexec" => Some((sys::MOUNT_ATTR_NOEXEC, 0)),
            "exec" => Some((0, sys::MOUNT_ATTR_NOEXEC)),
            "noatime" => Some((sys::MOUNT_ATTR_NOATIME, sys::MOUNT_ATTR_ATIME_MASK)),
            "strictatime" => Some((sys::MOUNT_ATTR_STRICTATIME, sys::MOUNT_ATTR_ATIME_MASK)),
            "relatime" | "atime" => Some((0, sys::MOUNT_ATTR_ATIME_MASK)),
            "nodiratime" => Some((sys::MOUNT_ATTR_NODIRATIME, 0)),
            "diratime" => Some((0, sys::MOUNT_ATTR_NODIRATIME)),
            "nosymfollow" => Some((sys::MOUNT_ATTR_NOSYMFOLLOW, 0)),
            _ => None,
        };
        if let Some((set, clear)) = attribute {
            parsed.attributes.set = parsed.attributes.set
                & !clear
                & !(if set & sys::MOUNT_ATTR_ATIME_MASK != 0 { sys::MOUNT_ATTR_ATIME_MASK } else { 0 })
                | set;
            parsed.attributes.clear = parsed.attributes.clear & !set | clear;
            continue;
        }
        match name {
            "bind" => parsed.bind = true,
            "rbind" => (parsed.bind, parsed.recursive) = (true, true),
            "private" | "rprivate" => parsed.propagation = 0,
            "shared" | "rshared" => parsed.propagation = libc::MS_SHARED,
            "slave" | "rslave" => parsed.propagation = libc::MS_SLAVE,
            "unbindable" | "runbindable" => parsed.propagation = libc::MS_UNBINDABLE,
            "defaults" | "async" | "copyup" | "" => {}
            data => {
                let (key, value) = data.split_once('=').map_or((data, None), |(key, value)| (key, Some(value)));
                let value = value.map(|value| c_string(value, "a mount option")).transpose()?;
                parsed.data.push((c_string(key, "a mount option")?, value));
            }
        }
    }
    // The kernel wants the whole mask cleared when any of the access time modes is set.
    if parsed.attributes.set & sys::MOUNT_ATTR_ATIME_MASK != 0 {
        parsed.attributes.clear |= sys::MOUNT_ATTR_ATIME_MASK;
    }
    Ok(parsed)
}

/// Works out one mount of a spec, which may come to several.
pub(super) fn plan_mount(mount: &Mount, cgroups: &Cgroups, plans: &mut Vec<MountPlan>) -> Result<(), StartError> {
    let target = in_root(mount.destination());
    if target == Path::new(".") {
        return Err(StartError::BadSpec { what: "cannot mount over `/`".to_owned() });
    }
    let options = parse_options(mount.options().as_deref().unwrap_or_default())?;
    let kind = mount.typ().as_deref().unwrap_or("none");
    if kind == "cgroup" || kind == "cgroup2" {
        return plan_cgroup_mount(&target, &options, cgroups, plans);
    }
    if options.bind || kind == "bind" {
        let source = mount.source().as_deref().unwrap_or(Path::new(""));
        if !source.is_absolute() {
            return Err(StartError::BadSpec { what: format!("mount source `{}` is not absolute", source.display()) });
        }
        let metadata = std::fs::metadata(source).map_err(|error| StartError::Setup {
            what: format!("mount source `{}`", source.display()),
            source: error,
        })?;
        plans.push(MountPlan {
            target: c_path(&target)?,
            make: if metadata.is_dir() { Make::Folder } else { Make::File },
            no_links: false,
            kind: MountPlanKind::Bind {
                source: c_path(source)?,
                recursive: options.recursive || kind == "bind",
                attributes: options.attributes,
                attributes_recursive: options.attributes_recursive,
            },
            propagation: options.propagation,
        });
        return Ok(());
    }
    plans.push(MountPlan {
        target: c_path(&target)?,
        make: Make::Folder,
        no_links: matches!(kind, "proc" | "sysfs"),
        kind: MountPlanKind::New {
            filesystem: c_string(kind, "a filesystem type")?,
            options: options.data,
            attributes: options.attributes.set,
        },
        propagation: options.propagation,
    });
    Ok(())
}

/// Shows the container its own cgroup, and nothing above it.
fn plan_cgroup_mount(
    target: &Path,
    options: &Options,
    cgroups: &Cgroups,
    plans: &mut Vec<MountPlan>,
) -> Result<(), StartError> {
    let plan = |target: &Path, kind| {
        Ok::<_, StartError>(MountPlan {
            target: c_path(target)?,
            make: Make::Folder,
            no_links: true,
            kind,
            propagation: 0,
        })
    };
    let views = cgroups.views();
    if let [view] = views.as_slice()
        && view.name.is_none()
    {
        let kind = MountPlanKind::Bind {
            source: c_path(&view.path)?,
            recursive: false,
            attributes: options.attributes,
            attributes_recursive: false,
        };
        plans.push(plan(target, kind)?);
        return Ok(());
    }
    let data = [("mode", "755"), ("size", "65536k")];
    let tmpfs = MountPlanKind::New {
        filesystem: c"tmpfs".to_owned(),
        options: data
            .iter()
            .map(|(key, value)| Ok((c_string(*key, "an option")?, Some(c_string(*value, "an option")?))))
            .collect::<Result<_, StartError>>()?,
        attributes: options.attributes.set & !sys::MOUNT_ATTR_RDONLY,
    };
    plans.push(plan(target, tmpfs)?);
    for view in views {
        // A writable v1 hierarchy would let the container raise its own limits.
        let mut attributes = options.attributes;
        attributes.clear &= !sys::MOUNT_ATTR_RDONLY;
        let kind = MountPlanKind::Bind {
            source: c_path(&view.path)?,
            recursive: false,
            attributes,
            attributes_recursive: false,
        };
        plans.push(plan(&target.join(view.name.as_deref().unwrap_or(Path::new("unified"))), kind)?);
    }
    if options.attributes.set & sys::MOUNT_ATTR_RDONLY != 0 {
        plans.push(plan(target, MountPlanKind::Seal)?);
    }
    Ok(())
}

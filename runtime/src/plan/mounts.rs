//! What the child will mount: the root, and everything in it.

use super::copy_up;
use super::{c_path, c_string, in_root};
use crate::cgroups::Cgroups;
use crate::container::Rootfs;
use crate::rootless;
use crate::start_error::StartError;
use crate::sys;
use crate::user_namespace::{self, IdMaps};
use oci_spec::runtime::{Mount, Spec};
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
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
    /// Whether marks are in `user` attributes, which who is not the machine's root may set.
    pub(crate) user_xattr: bool,
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
    /// `MS_SHARED` and its like, and whether that goes for the mounts below, too.
    pub(crate) propagation: Vec<(u64, bool)>,
}

/// How mounts of the host and of the container tell each other of new ones.
#[derive(Debug, Default)]
pub(crate) struct PropagationPlan {
    /// For the host's mounts, as the container's mount namespace has them.
    pub(crate) flags: u64,
    /// What the root is mounted on becomes private, if it would not be.
    pub(crate) private: Option<CString>,
}

/// What the planning of a mount needs to know.
pub(super) struct MountContext<'a> {
    pub(super) spec: &'a Spec,
    pub(super) rootfs: &'a Rootfs,
    pub(super) cgroups: &'a Cgroups,
    /// Whether the child is another user, who may not reach what is mounted.
    pub(super) other_user: bool,
    /// Whether the container has a network namespace of its own.
    pub(super) new_network: bool,
    /// Whether the container sees its own cgroup as the top.
    pub(super) new_cgroup_namespace: bool,
}

/// What to mount.
pub(crate) enum MountPlanKind {
    New {
        filesystem: CString,
        source: CString,
        options: Vec<(CString, Option<CString>)>,
        attributes: u64,
    },
    Bind {
        source: CString,
        recursive: bool,
        attributes: sys::MountAttributes,
        attributes_recursive: bool,
    },
    /// A mount that is there already, detached.
    Ready {
        tree: OwnedFd,
    },
    /// No mount, but a link to another one.
    Link {
        destination: CString,
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
    let confined = rootless::is_confined();
    for (key, value) in overlay_options(confined) {
        options.push(b',');
        options.extend(key.to_bytes());
        if let Some(value) = value {
            options.push(b'=');
            options.extend(value.to_bytes());
        }
    }
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
        user_xattr: confined,
        base: c_path(&base)?,
        options_fit: options.len() < 4096,
        options: c_string(options, "a path")?,
    }))
}

/// The options of every overlay besides its folders: the layers are what they say, whatever the kernel's defaults are.
///
/// What has no value is a flag.
pub fn overlay_options(user_xattr: bool) -> [(&'static CStr, Option<&'static CStr>); 4] {
    let off = Some(c"off");
    // With the one, the other is off and cannot be spoken of.
    let last = if user_xattr { (c"userxattr", None) } else { (c"redirect_dir", off) };
    [(c"index", off), (c"metacopy", off), (c"xino", off), last]
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

/// Works out who is told of new mounts. As in runc, the host's are seen by default, and not the other way around.
pub(super) fn plan_propagation(spec: &Spec, rootfs: &Rootfs) -> Result<PropagationPlan, StartError> {
    let wanted = spec.linux().as_ref().and_then(|linux| linux.rootfs_propagation().as_deref()).unwrap_or_default();
    let flags = match wanted {
        "" => libc::MS_SLAVE | libc::MS_REC,
        wanted => {
            let (flag, recursive) = propagation(wanted)
                .ok_or_else(|| StartError::BadSpec { what: format!("`rootfsPropagation` cannot be `{wanted}`") })?;
            if recursive { flag | libc::MS_REC } else { flag }
        }
    };
    let shared = flags & libc::MS_SHARED != 0;
    let path = match rootfs {
        Rootfs::Folder(path) => path,
        Rootfs::Overlay { upper, .. } => upper,
    };
    Ok(PropagationPlan { flags, private: if shared { Some(c_path(&mount_point_of(path)?)?) } else { None } })
}

/// Finds what a path is mounted on.
fn mount_point_of(path: &Path) -> Result<PathBuf, StartError> {
    let failed = |source: io::Error| StartError::Setup { what: format!("root `{}`", path.display()), source };
    let path = path.canonicalize().map_err(failed)?;
    let identity = |path: &Path| {
        let flags = rustix::fs::StatxFlags::MNT_ID;
        rustix::fs::statx(rustix::fs::CWD, path, rustix::fs::AtFlags::empty(), flags).map(|stat| stat.stx_mnt_id)
    };
    let own = identity(&path).map_err(|error| failed(error.into()))?;
    let ancestors = path.ancestors().take_while(|ancestor| identity(ancestor) == Ok(own));
    Ok(ancestors.last().unwrap_or(Path::new("/")).to_path_buf())
}

/// The kernel's flag for a word, and whether it goes for the mounts below.
fn propagation(word: &str) -> Option<(u64, bool)> {
    let (word, recursive) = match word.strip_prefix('r') {
        Some(word) => (word, true),
        None => (word, false),
    };
    let flag = match word {
        "private" => libc::MS_PRIVATE,
        "shared" => libc::MS_SHARED,
        "slave" => libc::MS_SLAVE,
        "unbindable" => libc::MS_UNBINDABLE,
        _ => return None,
    };
    Some((flag, recursive))
}

/// What the options of a mount in a spec come to.
#[derive(Default)]
struct Options {
    attributes: sys::MountAttributes,
    attributes_recursive: bool,
    bind: bool,
    recursive: bool,
    propagation: Vec<(u64, bool)>,
    data: Vec<(CString, Option<CString>)>,
    copy_up: bool,
    /// Whether users are mapped, and in the mounts below, too.
    map_ids: Option<bool>,
}

/// The options that mean something here; others are the filesystem's own.
pub const MOUNT_OPTIONS: [&str; 54] = [
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "idmap",
    "lazytime",
    "mand",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "slave",
    "strictatime",
    "suid",
    "sync",
    "symfollow",
    "tmpcopyup",
];

fn parse_options(options: &[String]) -> Result<Options, StartError> {
    let mut parsed = Options::default();
    for option in options {
        let (name, recursive_attribute) = match option.as_str() {
            "rro" | "rrw" | "rnosuid" | "rsuid" | "rnodev" | "rdev" | "rnoexec" | "rexec" | "rnodiratime"
            | "rdiratime" | "rrelatime" | "rnoatime" | "ratime" | "rstrictatime" | "rnosymfollow" | "rsymfollow" => {
                (&option[1..], true)
            }
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
            "relatime" | "atime" | "norelatime" | "nostrictatime" => Some((0, sys::MOUNT_ATTR_ATIME_MASK)),
            "nodiratime" => Some((sys::MOUNT_ATTR_NODIRATIME, 0)),
            "diratime" => Some((0, sys::MOUNT_ATTR_NODIRATIME)),
            "nosymfollow" => Some((sys::MOUNT_ATTR_NOSYMFOLLOW, 0)),
            "symfollow" => Some((0, sys::MOUNT_ATTR_NOSYMFOLLOW)),
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
            word if propagation(word).is_some() => parsed.propagation.extend(propagation(word)),
            "tmpcopyup" => parsed.copy_up = true,
            "idmap" => parsed.map_ids = Some(false),
            "ridmap" => parsed.map_ids = Some(true),
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
pub(super) fn plan_mount(
    mount: &Mount,
    context: &MountContext<'_>,
    plans: &mut Vec<MountPlan>,
) -> Result<(), StartError> {
    let target = in_root(mount.destination());
    if target == Path::new(".") {
        return Err(StartError::BadSpec { what: "cannot mount over `/`".to_owned() });
    }
    let options = parse_options(mount.options().as_deref().unwrap_or_default())?;
    let kind = mount.typ().as_deref().unwrap_or("none");
    let bind = options.bind || kind == "bind";
    let maps = mapped_ids(mount, &options, context)?;
    if maps.is_some() && !bind {
        return Err(StartError::BadSpec {
            what: format!("users can be mapped in a bind mount alone, and `{}` is none", mount.destination().display()),
        });
    }
    if kind == "cgroup" || kind == "cgroup2" {
        return plan_cgroup_mount(&target, &options, context, plans);
    }
    if bind {
        plans.push(plan_bind(mount, kind, &target, options, maps, context)?);
        return Ok(());
    }
    if kind == "sysfs" && rootless::is_confined() && !context.new_network {
        // It tells of the network, which is the machine's: only its root may mount that anew.
        let mut bound = mount.clone();
        bound.set_typ(Some("none".to_owned()));
        bound.set_source(Some("/sys".into()));
        let options = Options { bind: true, recursive: true, attributes_recursive: true, ..options };
        plans.push(plan_bind(&bound, "none", &target, options, None, context)?);
        return Ok(());
    }
    let mut options = options;
    if rootless::is_confined() {
        match kind {
            "overlay" => options.data.push((c"userxattr".to_owned(), None)),
            // A group that is nobody here owns no terminals.
            "devpts" => options.data.retain(|(key, value)| {
                let group = value.as_ref().and_then(|value| value.to_str().ok()?.parse().ok());
                key.as_c_str() != c"gid" || group.is_none_or(rootless::has_group)
            }),
            _ => {}
        }
    }
    let source = mount.source().as_deref().filter(|source| !source.as_os_str().is_empty());
    let kind_of_mount = if options.copy_up && kind == "tmpfs" {
        let Rootfs::Folder(root) = context.rootfs else {
            return Err(StartError::BadSpec { what: "`tmpcopyup` needs a root that is a folder".to_owned() });
        };
        copy_up::tmpfs_with(root, &target, &options.data, options.attributes.set).map_err(|error| StartError::Setup {
            what: format!("copy into the tmpfs on `/{}`", target.display()),
            source: error,
        })
    } else {
        Ok(MountPlanKind::New {
            filesystem: c_string(kind, "a filesystem type")?,
            source: c_path(source.unwrap_or(Path::new(kind)))?,
            options: options.data,
            attributes: options.attributes.set,
        })
    };
    plans.push(MountPlan {
        target: c_path(&target)?,
        make: Make::Folder,
        no_links: matches!(kind, "proc" | "sysfs"),
        kind: kind_of_mount?,
        propagation: options.propagation,
    });
    Ok(())
}

/// Which users are which in a mount, if they are others than outside.
fn mapped_ids(mount: &Mount, options: &Options, context: &MountContext<'_>) -> Result<Option<IdMaps>, StartError> {
    let list = |list: &Option<Vec<_>>| list.clone().unwrap_or_default();
    let own = IdMaps::new(&list(mount.uid_mappings()), &list(mount.gid_mappings()))?;
    match (own, options.map_ids) {
        (Some(own), _) => Ok(Some(own)),
        (None, None) => Ok(None),
        // The option alone means those of the container.
        (None, Some(_)) => match user_namespace::maps_of_spec(context.spec)? {
            Some(maps) => Ok(Some(maps)),
            None => Err(StartError::BadSpec {
                what: format!("the mount `{}` has no mappings of users", mount.destination().display()),
            }),
        },
    }
}

fn plan_bind(
    mount: &Mount,
    kind: &str,
    target: &Path,
    options: Options,
    maps: Option<IdMaps>,
    context: &MountContext<'_>,
) -> Result<MountPlan, StartError> {
    let source = mount.source().as_deref().unwrap_or(Path::new(""));
    if !source.is_absolute() {
        return Err(StartError::BadSpec { what: format!("mount source `{}` is not absolute", source.display()) });
    }
    let failed =
        |error: io::Error| StartError::Setup { what: format!("mount source `{}`", source.display()), source: error };
    let metadata = std::fs::metadata(source).map_err(failed)?;
    let recursive = options.recursive || (kind == "bind" && !options.bind);
    let kind = MountPlanKind::Bind {
        source: c_path(source)?,
        recursive,
        attributes: options.attributes,
        attributes_recursive: options.attributes_recursive,
    };
    let kind = match maps {
        None if context.other_user => taken_here(kind, context)?,
        None => kind,
        Some(maps) => {
            let kind = taken_here(kind, context)?;
            if let MountPlanKind::Ready { tree } = &kind {
                let namespace = maps.namespace()?;
                let attributes = sys::MountAttributes {
                    set: sys::MOUNT_ATTR_IDMAP,
                    userns: namespace.as_raw_fd() as u64,
                    ..Default::default()
                };
                sys::mount_setattr(tree.as_raw_fd(), &attributes, options.map_ids == Some(true)).map_err(|error| {
                    StartError::Setup {
                        what: format!("map users in the mount `{}`", source.display()),
                        source: io::Error::from_raw_os_error(error),
                    }
                })?;
            }
            kind
        }
    };
    Ok(MountPlan {
        target: c_path(target)?,
        make: if metadata.is_dir() { Make::Folder } else { Make::File },
        no_links: false,
        kind,
        propagation: options.propagation,
    })
}

/// Makes a bind mount here, detached, because the child may not reach what is bound, or may not change it so.
fn taken_here(kind: MountPlanKind, context: &MountContext<'_>) -> Result<MountPlanKind, StartError> {
    let MountPlanKind::Bind { source, recursive, attributes, attributes_recursive } = kind else { return Ok(kind) };
    let quiet = plan_propagation(context.spec, context.rootfs)?.flags & !libc::MS_REC;
    let made = || {
        let tree = sys::open_tree(sys::AT_FDCWD, &source, recursive)?;
        // SAFETY: the kernel has just made it.
        let tree = unsafe { OwnedFd::from_raw_fd(tree) };
        // What the child does to the host's mounts in its own mount namespace.
        let propagation = sys::MountAttributes { propagation: quiet, ..Default::default() };
        sys::mount_setattr(tree.as_raw_fd(), &propagation, true)?;
        if attributes.set != 0 || attributes.clear != 0 {
            sys::mount_setattr(tree.as_raw_fd(), &attributes, attributes_recursive)?;
        }
        Ok(tree)
    };
    match made() {
        Ok(tree) => Ok(MountPlanKind::Ready { tree }),
        Err(error) => Err(StartError::Setup {
            what: format!("mount source `{}`", source.to_string_lossy()),
            source: io::Error::from_raw_os_error(error),
        }),
    }
}

/// Shows the container its own cgroup, and nothing above it.
fn plan_cgroup_mount(
    target: &Path,
    options: &Options,
    context: &MountContext<'_>,
    plans: &mut Vec<MountPlan>,
) -> Result<(), StartError> {
    // The host's own cgroup mounts are not to be reached, even when others are.
    let shared = plan_propagation(context.spec, context.rootfs)?.flags & libc::MS_SHARED != 0;
    let plan = |target: &Path, kind| {
        Ok::<_, StartError>(MountPlan {
            target: c_path(target)?,
            make: Make::Folder,
            no_links: true,
            kind,
            propagation: if shared { vec![(libc::MS_PRIVATE, false)] } else { options.propagation.clone() },
        })
    };
    let bind = |path: &Path, attributes| {
        let kind =
            MountPlanKind::Bind { source: c_path(path)?, recursive: false, attributes, attributes_recursive: false };
        if context.other_user { taken_here(kind, context) } else { Ok(kind) }
    };
    let views = context.cgroups.views();
    if let [view] = views.as_slice()
        && view.name.is_none()
    {
        // Who sees the whole of the host's hierarchies by itself may as well see it here.
        let path = if context.new_cgroup_namespace { &view.path } else { &view.top };
        plans.push(plan(target, bind(path, options.attributes)?)?);
        return Ok(());
    }
    let data = [("mode", "755"), ("size", "65536k")];
    let tmpfs = MountPlanKind::New {
        filesystem: c"tmpfs".to_owned(),
        source: c"tmpfs".to_owned(),
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
        let name = view.name.as_deref().unwrap_or(Path::new("unified"));
        plans.push(plan(&target.join(name), bind(&view.path, attributes)?)?);
        for link in &view.links {
            let destination = MountPlanKind::Link { destination: c_path(name)? };
            plans.push(plan(&target.join(link), destination)?);
        }
    }
    if options.attributes.set & sys::MOUNT_ATTR_RDONLY != 0 {
        plans.push(plan(target, MountPlanKind::Seal)?);
    }
    Ok(())
}

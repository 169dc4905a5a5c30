//! The mounts of a container, each attached by descriptor, and the change of root.

use super::message::{Failure, Outbox, Step};
use super::target;
use crate::plan::{
    DevicePlan, Make, MountPlan, MountPlanKind, OverlayPlan, PropagationPlan, RootPlan, overlay_options,
};
use crate::stdio::Size;
use crate::sys::{self, Fd, MountAttributes};
use std::ffi::{CStr, CString};
use std::os::fd::AsRawFd;

const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;
const PROC_SUPER_MAGIC: i64 = 0x9fa0;
const PROC_ROOT_INODE: u64 = 1;

/// Mounts what becomes `/`, and gives a descriptor of it. Mounts of the host that are below tell each other as planned.
pub(super) fn root(plan: &RootPlan, propagation: &PropagationPlan) -> Result<Fd, Failure> {
    sys::mount(c"none", c"/", c"", propagation.flags, None).map_err(Step::PrivateMounts.fails())?;
    if let Some(parent) = &propagation.private {
        // The root is mounted on it, and nobody else shall see that.
        sys::mount(c"none", parent, c"", libc::MS_PRIVATE, None).map_err(Step::PrivateMounts.fails())?;
    }
    let root = match plan {
        RootPlan::Folder(path) => folder_root(path).map_err(Step::RootFolder.fails()),
        RootPlan::Overlay(overlay) => match new_overlay(overlay) {
            // Before Linux 6.5 overlayfs knows no `lowerdir+`.
            Err(libc::EINVAL | libc::ENOSYS) if overlay.options_fit => old_overlay(overlay),
            other => other,
        }
        .map_err(Step::RootOverlay.fails()),
    }?;
    if propagation.private.is_some() {
        // A shared one cannot become the root.
        let private = MountAttributes { propagation: libc::MS_PRIVATE, ..Default::default() };
        sys::mount_setattr(root, &private, false).map_err(Step::PrivateMounts.fails())?;
    }
    Ok(root)
}

fn folder_root(path: &CStr) -> Result<Fd, i32> {
    let mount = sys::open_tree(sys::AT_FDCWD, path, true)?;
    let place = sys::open(path, libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC)?;
    sys::move_mount(mount, place)?;
    sys::close(place);
    Ok(mount)
}

fn new_overlay(plan: &OverlayPlan) -> Result<Fd, i32> {
    let fs = sys::fsopen(c"overlay")?;
    let mount = configure_overlay(fs, plan);
    sys::close(fs);
    let mount = mount?;
    // It hides its own upper folder, in this mount namespace only.
    let place = sys::open(&plan.upper, libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC)?;
    sys::move_mount(mount, place)?;
    sys::close(place);
    Ok(mount)
}

fn configure_overlay(fs: Fd, plan: &OverlayPlan) -> Result<Fd, i32> {
    for lower in &plan.lower {
        sys::fsconfig_string(fs, c"lowerdir+", lower)?;
    }
    sys::fsconfig_string(fs, c"upperdir", &plan.upper)?;
    sys::fsconfig_string(fs, c"workdir", &plan.work)?;
    for (key, value) in overlay_options(plan.user_xattr) {
        match value {
            Some(value) => sys::fsconfig_string(fs, key, value)?,
            None => sys::fsconfig_flag(fs, key)?,
        }
    }
    if plan.volatile {
        sys::fsconfig_flag(fs, c"volatile")?;
    }
    sys::fsconfig_create(fs)?;
    sys::fsmount(fs, 0)
}

fn old_overlay(plan: &OverlayPlan) -> Result<Fd, i32> {
    sys::chdir(&plan.base)?;
    sys::mount(c"overlay", &plan.upper, c"overlay", 0, Some(&plan.options))?;
    sys::open(&plan.upper, libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC)
}

/// Mounts everything in order.
pub(super) fn all(root: Fd, plans: &[MountPlan], outbox: &Outbox) -> Result<(), Failure> {
    for (index, plan) in plans.iter().enumerate() {
        one(root, plan, index, outbox)?;
    }
    Ok(())
}

fn one(root: Fd, plan: &MountPlan, index: usize, outbox: &Outbox) -> Result<(), Failure> {
    let mount = match &plan.kind {
        MountPlanKind::New { filesystem, source, options, attributes } => {
            new_mount(filesystem, source, options, *attributes).map_err(Step::Mount.at(index))?
        }
        MountPlanKind::Bind { source, recursive, attributes, attributes_recursive } => {
            let mount = sys::open_tree(sys::AT_FDCWD, source, *recursive).map_err(Step::MountSource.at(index))?;
            if attributes.set != 0 || attributes.clear != 0 {
                sys::mount_setattr(mount, attributes, *attributes_recursive).map_err(Step::Mount.at(index))?;
            }
            mount
        }
        MountPlanKind::Ready { tree, .. } => tree.as_raw_fd(),
        MountPlanKind::Link { destination } => {
            let mut parent = Parent::new(root);
            let made = link(&mut parent, destination, &plan.target).map_err(Step::Mount.at(index));
            parent.close();
            return made;
        }
        MountPlanKind::Seal => return seal(root, &plan.target, index),
    };
    let place = target::open_or_make(root, plan.target.as_bytes(), plan.make, plan.no_links, outbox)
        .map_err(Step::MountTarget.at(index))?;
    sys::move_mount(mount, place).map_err(Step::Mount.at(index))?;
    sys::close(place);
    for &(propagation, recursive) in &plan.propagation {
        let attributes = MountAttributes { propagation, ..Default::default() };
        sys::mount_setattr(mount, &attributes, recursive).map_err(Step::Mount.at(index))?;
    }
    sys::close(mount);
    Ok(())
}

fn seal(root: Fd, target: &CStr, index: usize) -> Result<(), Failure> {
    let place = target::open(root, target.to_bytes(), libc::O_PATH, sys::RESOLVE_NO_SYMLINKS)
        .map_err(Step::MountTarget.at(index))?;
    let attributes = MountAttributes { set: sys::MOUNT_ATTR_RDONLY, ..Default::default() };
    sys::mount_setattr(place, &attributes, false).map_err(Step::Mount.at(index))?;
    sys::close(place);
    Ok(())
}

fn new_mount(
    filesystem: &CStr,
    source: &CStr,
    options: &[(CString, Option<CString>)],
    attributes: u64,
) -> Result<Fd, i32> {
    let fs = sys::fsopen(filesystem)?;
    let mount = configure(fs, source, options).and_then(|()| sys::fsmount(fs, attributes));
    sys::close(fs);
    mount
}

fn configure(fs: Fd, source: &CStr, options: &[(CString, Option<CString>)]) -> Result<(), i32> {
    // What /proc/self/mounts shows.
    sys::fsconfig_string(fs, c"source", source)?;
    for (key, value) in options {
        match value {
            Some(value) => sys::fsconfig_string(fs, key, value)?,
            None => sys::fsconfig_flag(fs, key)?,
        }
    }
    sys::fsconfig_create(fs)
}

/// The folder that a path is in, open; most of what is made is in the same one.
struct Parent<'a> {
    root: Fd,
    path: &'a [u8],
    folder: Option<Fd>,
}

impl<'a> Parent<'a> {
    fn new(root: Fd) -> Parent<'a> {
        Parent { root, path: b"", folder: None }
    }

    /// Opens the folder that a path is in, and gives the path's last name with its zero.
    fn open(&mut self, path: &'a CStr) -> Result<(Fd, *const u8), i32> {
        let bytes = path.to_bytes();
        let (parent, start) = match bytes.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (&bytes[..slash], slash + 1),
            None => (&b"."[..], 0),
        };
        let name = path.to_bytes_with_nul()[start..].as_ptr();
        if let Some(folder) = self.folder.filter(|_| self.path == parent) {
            return Ok((folder, name));
        }
        let folder = target::open(self.root, parent, libc::O_PATH | libc::O_DIRECTORY, sys::RESOLVE_NO_SYMLINKS)?;
        self.close();
        (self.path, self.folder) = (parent, Some(folder));
        Ok((folder, name))
    }

    fn close(&mut self) {
        if let Some(folder) = self.folder.take() {
            sys::close(folder);
        }
    }
}

/// Makes device nodes in the new `/dev`.
pub(super) fn devices(root: Fd, plans: &[DevicePlan]) -> Result<(), Failure> {
    let mut parent = Parent::new(root);
    for (index, plan) in plans.iter().enumerate() {
        device(&mut parent, plan).map_err(Step::Device.at(index))?;
    }
    parent.close();
    Ok(())
}

fn device<'a>(parent: &mut Parent<'a>, plan: &'a DevicePlan) -> Result<(), i32> {
    if let Some(source) = &plan.bind {
        let mount = sys::open_tree(sys::AT_FDCWD, source, false)?;
        let nobody = Outbox { socket: -1, root_device: None };
        let place = target::open_or_make(parent.root, plan.path.as_bytes(), Make::File, true, &nobody)?;
        let moved = sys::move_mount(mount, place);
        sys::close(place);
        sys::close(mount);
        return moved;
    }
    let (folder, name) = match parent.open(&plan.path) {
        Err(libc::ENOENT) => {
            make_parents(parent.root, plan.path.to_bytes())?;
            parent.open(&plan.path)?
        }
        other => other?,
    };
    let made = sys::mknodat(folder, name, plan.mode, plan.device).and_then(|()| {
        if plan.uid != 0 || plan.gid != 0 { sys::fchownat(folder, name, plan.uid, plan.gid) } else { Ok(()) }
    });
    match made {
        Err(libc::EEXIST) => Ok(()),
        other => other,
    }
}

/// Makes the folders of a device such as `dev/net/tun`; these are in the new `/dev`, so nobody cleans up.
fn make_parents(root: Fd, path: &[u8]) -> Result<(), i32> {
    let end = path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
    let nobody = Outbox { socket: -1, root_device: None };
    let folder = target::open_or_make(root, &path[..end], Make::Folder, true, &nobody)?;
    sys::close(folder);
    Ok(())
}

/// Makes the links that every `/dev` has.
pub(super) fn links(root: Fd, links: &[(CString, CString)]) -> Result<(), Failure> {
    let mut parent = Parent::new(root);
    for (index, (destination, path)) in links.iter().enumerate() {
        link(&mut parent, destination, path).map_err(Step::Link.at(index))?;
    }
    parent.close();
    Ok(())
}

/// Makes a link, unless something is there.
fn link<'a>(parent: &mut Parent<'a>, destination: &CStr, path: &'a CStr) -> Result<(), i32> {
    let (folder, name) = parent.open(path)?;
    match sys::symlinkat(destination, folder, name) {
        Err(libc::EEXIST) => Ok(()),
        other => other,
    }
}

/// Opens a terminal of the container's own devpts, hands the master over, and gives the other side, which is
/// `/dev/console`, too.
pub(super) fn terminal(root: Fd, size: Option<Size>, uid: u32, outbox: &Outbox) -> Result<Fd, Failure> {
    let opened = open_terminal(root, size, uid, outbox).and_then(|console| {
        let mount = sys::open_tree(console, c"", false)?;
        let nobody = Outbox { socket: -1, root_device: None };
        let place = target::open_or_make(root, b"dev/console", Make::File, true, &nobody)?;
        sys::move_mount(mount, place)?;
        sys::close(place);
        sys::close(mount);
        Ok(console)
    });
    opened.map_err(Step::Terminal.fails())
}

/// Opens one more terminal of the container that this process is in.
pub(super) fn terminal_inside(size: Option<Size>, uid: u32, outbox: &Outbox) -> Result<Fd, Failure> {
    let opened = sys::open(c"/", libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC).and_then(|root| {
        let console = open_terminal(root, size, uid, outbox);
        sys::close(root);
        console
    });
    opened.map_err(Step::Terminal.fails())
}

fn open_terminal(root: Fd, size: Option<Size>, uid: u32, outbox: &Outbox) -> Result<Fd, i32> {
    let flags = libc::O_RDWR | libc::O_NOCTTY;
    // What a container put there instead does not keep us waiting.
    let resolve = sys::RESOLVE_NO_SYMLINKS;
    let master = target::open(root, b"dev/pts/ptmx", flags | libc::O_NONBLOCK, resolve)?;
    if sys::filesystem(master)? != DEVPTS_SUPER_MAGIC {
        sys::close(master);
        return Err(libc::ENODEV);
    }
    sys::set_blocking(master)?;
    let unlocked = 0i32;
    sys::ioctl(master, sys::TIOCSPTLCK, &raw const unlocked as usize)?;
    let console = sys::ioctl(master, sys::TIOCGPTPEER, (flags | libc::O_CLOEXEC) as usize)? as Fd;
    if uid != 0 {
        sys::fchown(console, uid, u32::MAX)?;
    }
    if let Some(size) = size {
        let size = libc::winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        sys::ioctl(master, sys::TIOCSWINSZ, &raw const size as usize)?;
    }
    outbox.terminal(master)?;
    sys::close(master);
    Ok(console)
}

/// Opens `path`, which starts with `proc/`, and makes sure that it is on the real procfs.
fn open_on_proc(root: Fd, path: &[u8], flags: i32) -> Result<Fd, i32> {
    let fd = target::open(root, path, flags, sys::RESOLVE_NO_SYMLINKS)?;
    if sys::filesystem(fd)? != PROC_SUPER_MAGIC {
        sys::close(fd);
        return Err(libc::EXDEV);
    }
    Ok(fd)
}

/// Writes a kernel setting (CVE-2025-52881: only where procfs really is).
pub(super) fn write_sysctl(root: Fd, path: &CStr, value: &[u8]) -> Result<(), i32> {
    let file = open_on_proc(root, path.to_bytes(), libc::O_WRONLY)?;
    let written = sys::write(file, value);
    sys::close(file);
    written.map(drop)
}

/// Makes the working directory when it is missing, as root, as docker does.
pub(super) fn working_directory(root: Fd, path: &CStr) -> Result<(), Failure> {
    // What is made here stays: it was asked for by name, so nobody is told.
    let nobody = Outbox { socket: -1, root_device: None };
    let folder = target::open_or_make(root, path.to_bytes(), Make::Folder, false, &nobody)
        .map_err(Step::WorkingDirectory.fails())?;
    sys::close(folder);
    Ok(())
}

/// Makes sure that `/proc`, if the container has one, is a procfs's root and nothing else (CVE-2025-52881).
fn check_proc(root: Fd) -> Result<(), i32> {
    match target::open(root, b"proc", libc::O_PATH, sys::RESOLVE_NO_SYMLINKS) {
        Ok(proc) => {
            let real = sys::filesystem(proc)? == PROC_SUPER_MAGIC && sys::stat(proc)?.stx_ino == PROC_ROOT_INODE;
            sys::close(proc);
            if real { Ok(()) } else { Err(libc::EXDEV) }
        }
        Err(libc::ENOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Hides files behind `/dev/null` and folders behind an empty one.
pub(super) fn mask(root: Fd, paths: &[CString]) -> Result<(), Failure> {
    if paths.is_empty() {
        return Ok(());
    }
    check_proc(root).map_err(Step::NotProc.fails())?;
    let null = open_null(root).map_err(Step::Mask.fails())?;
    let mut empty = None;
    for (index, path) in paths.iter().enumerate() {
        mask_one(root, path, null, &mut empty).map_err(Step::Mask.at(index))?;
    }
    if let Some(empty) = empty {
        sys::close(empty);
    }
    sys::close(null);
    Ok(())
}

/// Opens `/dev/null` and makes sure that it is the one (CVE-2025-31133).
fn open_null(root: Fd) -> Result<Fd, i32> {
    let null = target::open(root, b"dev/null", libc::O_PATH, sys::RESOLVE_NO_SYMLINKS)?;
    let stat = sys::stat(null)?;
    let device = stat.stx_mode as u32 & libc::S_IFMT == libc::S_IFCHR;
    if !device || (stat.stx_rdev_major, stat.stx_rdev_minor) != (1, 3) {
        sys::close(null);
        return Err(libc::ENODEV);
    }
    Ok(null)
}

/// `empty` is the folder that hid the first folder; it hides the others too, as nobody can write there.
fn mask_one(root: Fd, path: &CStr, null: Fd, empty: &mut Option<Fd>) -> Result<(), i32> {
    let place = match target::open(root, path.to_bytes(), libc::O_PATH, sys::RESOLVE_NO_SYMLINKS) {
        Err(libc::ENOENT | libc::ENOTDIR) => return Ok(()),
        other => other?,
    };
    let folder = sys::stat(place)?.stx_mode as u32 & libc::S_IFMT == libc::S_IFDIR;
    let mount = match *empty {
        _ if !folder => sys::open_tree(null, c"", false)?,
        // A copy of a mount has its options.
        Some(empty) => sys::open_tree(empty, c"", false)?,
        None => {
            let options =
                sys::MOUNT_ATTR_RDONLY | sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NODEV | sys::MOUNT_ATTR_NOEXEC;
            new_mount(c"tmpfs", c"tmpfs", &[], options)?
        }
    };
    let moved = sys::move_mount(mount, place);
    if folder && empty.is_none() {
        *empty = Some(mount);
    } else {
        sys::close(mount);
    }
    sys::close(place);
    moved
}

/// Makes paths read-only by mounting each on itself.
pub(super) fn read_only(root: Fd, paths: &[CString]) -> Result<(), Failure> {
    for (index, path) in paths.iter().enumerate() {
        read_only_one(root, path).map_err(Step::ReadOnly.at(index))?;
    }
    Ok(())
}

fn read_only_one(root: Fd, path: &CStr) -> Result<(), i32> {
    let place = match target::open(root, path.to_bytes(), libc::O_PATH, sys::RESOLVE_NO_SYMLINKS) {
        Err(libc::ENOENT | libc::ENOTDIR) => return Ok(()),
        other => other?,
    };
    let mount = sys::open_tree(place, c"", true)?;
    let attributes = MountAttributes { set: sys::MOUNT_ATTR_RDONLY, ..Default::default() };
    sys::mount_setattr(mount, &attributes, true)?;
    let moved = sys::move_mount(mount, place);
    sys::close(mount);
    sys::close(place);
    moved
}

/// Makes `root` the root, and lets go of the old one.
pub(super) fn pivot(root: Fd) -> Result<(), Failure> {
    let pivoted = sys::fchdir(root)
        .and_then(|()| sys::pivot_root(c".", c"."))
        .and_then(|()| sys::umount_detached(c"."))
        .and_then(|()| sys::chdir(c"/"));
    sys::close(root);
    pivoted.map_err(Step::Pivot.fails())
}

/// Moves `root` over the old root, for a root that cannot be pivoted from, such as an initramfs.
pub(super) fn move_to_root(root: Fd) -> Result<(), Failure> {
    let moved = sys::open(c"/", libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC).and_then(|place| {
        sys::fchdir(root)?;
        sys::move_mount(root, place)?;
        sys::close(place);
        sys::chroot(c".")?;
        sys::chdir(c"/")
    });
    sys::close(root);
    moved.map_err(Step::Pivot.fails())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rootfs;
    use crate::plan::plan_root;
    use std::path::Path;

    /// Makes an overlay in a mount namespace of a thread, and gives what the files in it say.
    fn mounted(make: fn(&OverlayPlan) -> Result<Fd, i32>, layers: &'static [&'static str]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for layer in layers {
            std::fs::create_dir_all(path(layer)).unwrap();
            symlink(layer, &path(layer).join("top"));
            symlink(layer, &path(layer).join(layer));
        }
        for name in ["up,per", "work"] {
            std::fs::create_dir(path(name)).unwrap();
        }
        let lower = layers.iter().map(|layer| path(layer)).collect();
        let rootfs = Rootfs::Overlay { lower, upper: path("up,per"), work: path("work"), volatile: true };
        let upper = path("up,per");
        let seen = std::thread::spawn(move || {
            // SAFETY: only this thread gets another mount namespace and working directory.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
            let Ok(RootPlan::Overlay(plan)) = plan_root(&rootfs) else { panic!("no overlay") };
            assert!(plan.options_fit);
            sys::mount(c"none", c"/", c"", libc::MS_REC | libc::MS_PRIVATE, None).unwrap();
            let root = make(&plan).unwrap();
            let mut seen: Vec<_> = std::fs::read_dir(&upper)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            seen.sort();
            seen.push(std::fs::read_link(upper.join("top")).unwrap().to_str().unwrap().to_owned());
            sys::close(root);
            seen
        });
        seen.join().unwrap()
    }

    fn symlink(target: &str, path: &Path) {
        std::os::unix::fs::symlink(target, path).unwrap();
    }

    #[test]
    fn both_ways_of_mounting_an_overlay_give_the_same() {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "this test needs root");
            eprintln!("skipped: this test needs root");
            return;
        }
        let layers = &["a:b", "c,d", "e\\f"];
        let expected = ["a:b", "c,d", "e\\f", "top", "a:b"];
        assert_eq!(mounted(old_overlay, layers), expected);
        // Linux 6.5 is where `lowerdir+` came; before it there is one way only.
        if let Err(libc::EINVAL) =
            sys::fsopen(c"overlay").and_then(|fs| sys::fsconfig_string(fs, c"lowerdir+", c"/tmp"))
        {
            return;
        }
        assert_eq!(mounted(new_overlay, layers), expected);
    }
}

//! What child and parent say to each other before exec, over a socket that keeps messages apart.
//!
//! ```text
//! child  -> parent   F step index errno     it failed, and ends
//!                    W step index errno     it goes on without
//!                    S seconds nanos kind path   a mount point was made; the folder's time before that
//!                    T (descriptor)         the terminal's master side
//!                    L (descriptor)         the seccomp listener
//!                    C pid (descriptor)     it has made the child that goes on; a handle of that one
//!                    U                      its users shall be mapped; it waits
//!                    H                      its mounts are there, hooks shall run; it waits
//!                    R                      all is ready; it waits to be started, by somebody else
//!                    X                      exec is next
//!                    end of file            exec happened, or after no X: it died
//! parent -> child    G                      go on
//! ```

use crate::sys::{self, Fd};

/// What the child was doing; the parent has a sentence for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Step {
    JoinCgroup,
    CgroupNamespace,
    Session,
    PrivateMounts,
    RootOverlay,
    RootFolder,
    MountSource,
    MountTarget,
    Mount,
    Device,
    Link,
    Terminal,
    Sysctl,
    NotProc,
    Mask,
    ReadOnly,
    ReadOnlyRoot,
    Pivot,
    Hostname,
    Limit,
    OomScore,
    Streams,
    Parent,
    Network,
    Capabilities,
    Seccomp,
    User,
    WorkingDirectory,
    Descriptors,
    Exec,
    Join,
    UserNamespace,
    TimeNamespace,
    Clone,
    Priority,
    CreateHook,
    StartHook,
    Wait,
    Listener,
}

impl Step {
    /// Every step, at the place of its number.
    pub(crate) const ALL: [Step; 39] = [
        Step::JoinCgroup,
        Step::CgroupNamespace,
        Step::Session,
        Step::PrivateMounts,
        Step::RootOverlay,
        Step::RootFolder,
        Step::MountSource,
        Step::MountTarget,
        Step::Mount,
        Step::Device,
        Step::Link,
        Step::Terminal,
        Step::Sysctl,
        Step::NotProc,
        Step::Mask,
        Step::ReadOnly,
        Step::ReadOnlyRoot,
        Step::Pivot,
        Step::Hostname,
        Step::Limit,
        Step::OomScore,
        Step::Streams,
        Step::Parent,
        Step::Network,
        Step::Capabilities,
        Step::Seccomp,
        Step::User,
        Step::WorkingDirectory,
        Step::Descriptors,
        Step::Exec,
        Step::Join,
        Step::UserNamespace,
        Step::TimeNamespace,
        Step::Clone,
        Step::Priority,
        Step::CreateHook,
        Step::StartHook,
        Step::Wait,
        Step::Listener,
    ];

    /// For `map_err`: this step failed.
    pub(crate) fn fails(self) -> impl Fn(i32) -> Failure {
        self.at(0)
    }

    /// For `map_err`: this step failed at a member of its list.
    pub(crate) fn at(self, index: usize) -> impl Fn(i32) -> Failure {
        move |errno| Failure { step: self, index: index as u32, errno }
    }
}

/// A step, which member of its list, and the kernel's error.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure {
    pub(crate) step: Step,
    pub(crate) index: u32,
    pub(crate) errno: i32,
}

/// The child's end.
pub(crate) struct Outbox {
    pub(crate) socket: Fd,
    /// The device of the root's files, once it is known: what is made on another goes away with that one's mount.
    pub(crate) root_device: Option<(u32, u32)>,
}

/// Longer than any path.
pub(crate) const LONGEST: usize = 4096 + 32;

impl Outbox {
    fn send(&self, bytes: &[u8]) {
        // When the parent is gone nobody needs the news.
        let _ = sys::write(self.socket, bytes);
    }

    fn report(&self, kind: u8, failure: Failure) {
        let mut bytes = [0u8; 10];
        bytes[0] = kind;
        bytes[1] = failure.step as u8;
        bytes[2..6].copy_from_slice(&failure.index.to_ne_bytes());
        bytes[6..10].copy_from_slice(&failure.errno.to_ne_bytes());
        self.send(&bytes);
    }

    pub(crate) fn failure(&self, failure: Failure) {
        self.report(b'F', failure);
    }

    pub(crate) fn warning(&self, failure: Failure) {
        self.report(b'W', failure);
    }

    pub(crate) fn about_to_exec(&self) {
        self.send(b"X");
    }

    /// A mount point was made at `path`; its folder had been changed at `seconds` and `nanos`.
    pub(crate) fn made(&self, path: &[u8], folder: bool, seconds: i64, nanos: u32) {
        let mut bytes = [0u8; LONGEST];
        bytes[0] = b'S';
        bytes[1..9].copy_from_slice(&seconds.to_ne_bytes());
        bytes[9..13].copy_from_slice(&nanos.to_ne_bytes());
        bytes[13] = u8::from(folder);
        let length = path.len().min(LONGEST - 14);
        bytes[14..14 + length].copy_from_slice(&path[..length]);
        self.send(&bytes[..14 + length]);
    }

    /// Hands the terminal's master over.
    pub(crate) fn terminal(&self, master: Fd) -> Result<(), i32> {
        self.send_with(b"T", master)
    }

    /// Hands the listener of a seccomp filter over.
    pub(crate) fn listener(&self, listener: Fd) -> Result<(), i32> {
        self.send_with(b"L", listener)
    }

    /// Says which process goes on in place of this one.
    pub(crate) fn child(&self, pid: u32, handle: Fd) -> Result<(), i32> {
        let mut bytes = [b'C', 0, 0, 0, 0];
        bytes[1..].copy_from_slice(&pid.to_ne_bytes());
        self.send_with(&bytes, handle)
    }

    /// Waits until the parent has mapped the users of a new user namespace.
    pub(crate) fn ask_for_ids(&self) -> Result<(), Failure> {
        self.send(b"U");
        self.wait_for_go()
    }

    /// Waits until the parent has done its part: hooks, and the network.
    pub(crate) fn ask_for_hooks(&self) -> Result<(), Failure> {
        self.send(b"H");
        self.wait_for_go()
    }

    pub(crate) fn ready(&self) {
        self.send(b"R");
    }

    fn send_with(&self, bytes: &[u8], fd: Fd) -> Result<(), i32> {
        #[repr(C, align(8))]
        struct Control {
            header: libc::cmsghdr,
            fd: Fd,
            _padding: u32,
        }
        let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        // SAFETY: all zeros is valid for these structs of the kernel's.
        let mut control: Control = unsafe { std::mem::zeroed() };
        let length = size_of::<libc::cmsghdr>() + size_of::<Fd>();
        control.header.cmsg_len = length as _;
        control.header.cmsg_level = libc::SOL_SOCKET;
        control.header.cmsg_type = libc::SCM_RIGHTS;
        control.fd = fd;
        // SAFETY: as above.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut vector;
        message.msg_iovlen = 1;
        message.msg_control = (&raw mut control).cast();
        message.msg_controllen = size_of::<Control>() as _;
        sys::sendmsg(self.socket, &message).map(drop)
    }

    /// Waits until the parent says go; fails when it is gone.
    pub(crate) fn wait_for_go(&self) -> Result<(), Failure> {
        let mut answer = [0u8; 1];
        match sys::read(self.socket, &mut answer) {
            Ok(1) => Ok(()),
            Ok(_) => Err(Step::Parent.fails()(libc::ESRCH)),
            Err(error) => Err(Step::Parent.fails()(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_at_the_place_of_its_number() {
        for (number, step) in Step::ALL.into_iter().enumerate() {
            assert_eq!(step as usize, number);
        }
    }
}

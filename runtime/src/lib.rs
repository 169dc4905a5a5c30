//! From a bundle to a process: namespaces, mounts, cgroups, capabilities and seccomp, by our own code.
//!
//! ```text
//! spec.rs        what docker would do by default, as a runtime `Spec`
//! plan.rs        what the child will do, worked out beforehand
//! child/         between clone and exec: raw system calls alone
//! cgroups/       limits, on v1, v2 and hybrid machines
//! seccomp/       docker's profile, and a compiler to BPF
//! etc_files.rs   the texts of /etc/hosts, /etc/hostname and /etc/resolv.conf
//! container.rs   start: what a caller holds, and how it ends
//! stack.rs       what a child stands on that shares our memory
//! bundle/        the operations of the OCI runtime-spec, on bundles with a life
//! exec.rs        one more program in a container that runs
//! rootless.rs    where a plain user is root
//! user_namespace.rs who is who in a container with users of its own
//! stdio.rs       what it reads from and writes to
//! start_error.rs why it did not start
//! mount_point.rs what was made only to be mounted on goes away again
//! pool.rs        what an ended container of a build leaves for the next one
//! machine.rs     what this machine lets containers have
//! network/       none, host or a bridge with addresses and NAT; published ports
//! owner.rs       whose something is, told by its name
//! sealed.rs      this program where no container can write to it
//! sweep.rs       what a killed process of ours left behind goes away here
//! ```
//!
//! Nothing here waits asynchronously, prints, or reads the environment.
//! One thread starts a container and waits for it: the kernel sends the parent-death signal when
//! the *thread* that started the container ends.

pub mod bundle;
mod capabilities;
mod cgroups;
mod child;
mod container;
pub mod etc_files;
mod exec;
pub mod machine;
mod mount_point;
pub mod network;
mod owner;
mod plan;
mod pool;
pub mod rootless;
mod sealed;
mod seccomp;
mod spec;
mod stack;
mod start_error;
mod stdio;
mod sweep;
mod sys;
mod user_namespace;

pub use cgroups::{CgroupFolders, CgroupHierarchy};
pub use container::{
    Container, ContainerConfig, Controls, ExitStatus, Launched, Rootfs, RunError, WaitError, launch_in_pool, start,
    start_in_pool,
};
pub use exec::{ExecConfig, exec};
pub use oci_spec::runtime::{LinuxResources, LinuxSeccomp, Process, Spec};
pub use owner::name as owned_name;
pub use plan::overlay_options;
pub use pool::Pool;
pub use sealed::restart_sealed;
pub use spec::{MountKind, MountPoint, Seccomp, SpecError, SpecOptions, Ulimit, UserIds, default_spec};
pub use start_error::{StartError, Warning};
pub use stdio::{Size, Stdio, Stream};
pub use sweep::{Places, Swept, sweep};

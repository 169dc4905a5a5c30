//! Seccomp: docker's default profile, and a compiler from profiles to BPF.

mod arch;
mod compile;
mod profile;

pub(crate) use compile::{Filter, compiled};
pub(crate) use profile::default_profile;

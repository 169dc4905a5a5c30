//! Containers that outlive the command: their records, and the process that watches each.
//!
//! | File | Owns |
//! | --- | --- |
//! | [`containers`] | [`Containers`]: the folders and records of all, locks, names, and the repair of what died |
//! | [`record`] | [`Record`] and [`State`]: what a container is, and what it is doing |
//! | [`config`] | docker's `Config` and `HostConfig` |
//! | [`process`] | processes that are never mistaken for others |
//! | [`start`] | from a record to a running program |
//! | [`networks`] | [`Networks`]: what networks there are |
//! | [`volumes`] | [`Volumes`]: folders that outlive containers |
//! | [`network`] | the networks of a container, and its ports |
//! | [`watch`] | the process that watches one container |
//! | [`frames`], [`client`] | what is said over its socket, and the other end |
//! | [`log`] | what a container printed |
//! | [`signals`] | signals by name and number
//! | [`events`] | what happens, for those who listen |
//!
//! Nothing here has tokio: the watcher is one thread and stays small. Nothing here asks for the time; it is told how.

pub mod client;
pub mod config;
pub mod containers;
pub mod events;
mod files;
pub mod frames;
pub mod log;
pub mod network;
pub mod networks;
pub mod process;
pub mod record;
pub mod signals;
pub mod start;
pub mod volumes;
pub mod watch;

pub use containers::{Claim, Container, ContainerError, Containers, NewContainer, is_name};
pub use networks::Networks;
pub use record::{Record, State, Status};
pub use volumes::Volumes;

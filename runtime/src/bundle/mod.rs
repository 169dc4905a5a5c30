//! Bundles with a life: the operations of the OCI runtime-spec, on a folder of states that processes share.
//!
//! ```text
//! ROOT/ID/             one container; making it decides who has the name
//!   config.json        the spec, as it was when the container was created
//!   state.json         what else is known; not there while the container is being created
//!   start.sock         where the created process waits; gone when it was started
//!   lock               held by whoever changes the container
//! ```
//!
//! | File | Owns |
//! | --- | --- |
//! | `record` | the folder, and what is written there |
//! | `config` | `config.json`, and what it must have |
//! | `hooks` | hooks in the namespace of this process |
//! | `console` | sending a terminal, or a listener, to a socket |
//! | `attend` | a program in the foreground: its terminal, and signals for it |
//! | `life` | create, start, run, kill, pause, delete, exec |

mod attend;
mod config;
mod console;
mod hooks;
mod life;
mod record;

pub use attend::{Attended, Attention};
pub use config::load_process;
pub use life::{Bundles, CreateOptions, ExecOptions, Foreground};
pub use record::{State, Status};

use crate::start_error::StartError;
use std::io;
use std::path::PathBuf;

/// The version of the runtime-spec that this is.
pub const SPEC_VERSION: &str = "1.2.1";

pub use crate::plan::MOUNT_OPTIONS;

/// The capabilities that this kernel and this runtime know, by name.
pub fn capabilities() -> Vec<String> {
    crate::capabilities::ALL.iter().map(ToString::to_string).collect()
}

/// Why an operation on a bundle was not done.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum BundleError {
    #[error("container `{id}` does not exist")]
    NoContainer { id: String },
    #[error("container with id `{id}` exists already")]
    Exists { id: String },
    #[error("container `{id}` is {status}, so it cannot be {verb}")]
    WrongStatus { id: String, status: Status, verb: &'static str },
    #[error("`{}`", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("`{}` does not hold what it should", path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("hook `{}`: {what}", path.display())]
    Hook { path: PathBuf, what: String },
    #[error("{what}")]
    Console { what: &'static str },
    #[error("cannot {what}")]
    Signal { what: String, source: io::Error },
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Wait(#[from] crate::WaitError),
}

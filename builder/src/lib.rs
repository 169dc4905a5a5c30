//! Dockerfile to image.
//!
//! | File | Owns |
//! | --- | --- |
//! | [`request`] | [`BuildRequest`], and the [`Built`] that comes of it |
//! | [`dockerfile`] | text to typed instructions with their places; variables and quotes |
//! | [`ignore`] | `.dockerignore`, `--exclude`, and wildcards of `COPY` |
//! | [`context`] | [`Context`]: the files that a build may use |
//! | [`executor`] | [`Executor`]: how a `RUN` step becomes a process (the engine fills it in) |
//! | [`source`] | [`ImageSource`]: where `FROM` finds images (the engine fills it in) |
//! | [`remote`], [`git`] | [`Remote`]: how URLs and git repositories are fetched (the engine fills it in) |
//! | [`materials`] | [`Materials`]: what a build took from elsewhere |
//! | [`events`] | [`BuildEvents`]: what a build tells while it goes on |
//! | [`cancel`] | [`Cancel`]: how a build is stopped |
//! | [`mod@check`], [`mod@outline`] | questions about a Dockerfile that are answered without a build |
//! | `lint`, `place` | which findings are told; from a fault to an error with its lines |
//! | `plan` | the stages, and finding one by what the user calls it |
//! | `evaluate`, `image_state` | instructions to steps and image configs: variables, images, triggers |
//! | `graph` | the steps, of the kinds that LLB has |
//! | [`remote_cache`] | [`RemoteCache`]: a build cache somewhere else, and its records as JSON (the engine fills it in) |
//! | `cache_key`, `cache`, `stat_cache` | what a step's result is filed under; what need not be read again |
//! | [`explain`] | why a step was not in the cache |
//! | [`solve`] | [`build`]: runs the steps, several at once |
//! | `steps` | what each kind of step does |
//! | `files` | from sources to a layer in one pass, without a mount |
//! | `layers`, `sink` | what a step makes: unpacked only when somebody must see it |
//! | `assemble` | layers and config to an image in the store |
//! | [`error`] | [`BuildError`], with the lines of the Dockerfile |
//!
//! **Invariant:** nothing here prints, reads the environment or asks for the time.

pub mod context;
pub mod request;
mod stat_cache;

pub mod dockerfile;
pub mod ignore;

pub mod check;
mod evaluate;
mod graph;
mod image_state;
mod lint;
pub mod outline;
mod place;
mod plan;
mod ports;

mod cache;
mod cache_key;
pub mod explain;
pub mod remote_cache;
pub mod solve;
mod steps;

mod files;
mod layers;
mod sink;

mod assemble;

#[cfg(test)]
mod tests;

pub mod cancel;
pub mod error;
pub mod events;
pub mod executor;
mod fault;
pub mod git;
mod go;
pub mod materials;
pub mod remote;
pub mod source;

pub use cancel::{Cancel, CancelGuard};
pub use check::{Checked, check, outline, targets};
pub use context::Context;
pub use error::{BuildError, Diagnostic};
pub use events::{BuildEvent, BuildEvents, Outcome, PlannedMount, PlannedMountKind, PlannedStep, StepId, Surroundings};
pub use executor::{
    AddedHost, ExecStep, ExecuteError, Executor, ExitStatus, MountKind, Network, Overlay, Security, StepMount, Stream,
    Ulimit,
};
pub use explain::{Difference, DifferenceKind, Miss, Nearest};
pub use git::{GitSource, GitSourceError};
pub use materials::{Material, Materials};
pub use outline::{Argument, Outline, SecretUse, Target};
pub use remote::{GitCommit, HttpAnswer, HttpContent, HttpRequest, NoRemote, Remote, RemoteError};
pub use remote_cache::{CacheTransfer, RemoteCache};
pub use request::{
    Allowed, BuildRequest, Built, BuiltImage, ContextModes, DockerfileSource, NamedContext, OciLayout, PullPolicy,
    SecretSource,
};
pub use solve::build;
pub use source::{ImageSource, ImageSourceError};

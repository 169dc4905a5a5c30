//! The client side: images pulled from, and pushed to, any registry.
//!
//! ```text
//! login  pull  push        what a user asks for           login.rs  pull.rs  push.rs
//!                          what is beside images          artifact.rs
//!         |     |
//!   download  upload       one blob, carried on when      download.rs  upload.rs  sources.rs
//!         |     |          the connection breaks
//!        Session           a repository: requests are     session.rs
//!           |              authorized and tried again
//!        Registry          how to reach it, and as whom   registry.rs  endpoint.rs  challenge.rs
//!           |                                             auth.rs  credentials.rs
//!         Client           one request, redirects and     request.rs  options.rs
//!                          standstill included
//! ```
//!
//! **Invariant:** credentials go to the registry that they are for, and to the token server that it names over HTTPS;
//! no redirect and no `Location` takes them anywhere else.
//!
//! **Invariant:** nothing that a registry sends is visible in the store before its digest was compared, and the name
//! comes last.
//!
//! **Invariant:** the client reads neither the environment nor the clock of the day: proxies, credential files and
//! certificates come in through [`ClientOptions`]. (A credential helper that is run sees the environment, as docker's
//! do.)

pub mod artifact;
mod login;
mod pull;
mod push;

mod download;
mod sources;
mod upload;

mod auth;
mod challenge;
pub mod credentials;
mod endpoint;
mod registry;
mod session;

mod options;
mod request;

mod error;
mod events;

pub use credentials::{Credential, CredentialError, CredentialStore, StoredIn};
pub use error::{Cause, LoginError, PullError, PushError, RequestError, ServerError};
pub use events::{BlobState, NoEvents, TransferEvents};
pub use login::{LoggedIn, login, logout};
pub use options::{ClientOptions, ProxySettings};
pub use pull::{Pulled, Wanted, best, pull, resolve};
pub use push::{Pushed, push};
pub use request::Client;

#[cfg(test)]
mod tests;

//! Images to registries and back: the server that keeps them, and the client that talks to any of them.
//!
//! | File | Owns |
//! | --- | --- |
//! | [`server`] | `slipway serve`: distribution-spec 1.1 over HTTP, kept in a `store` |
//! | [`storage`] | what a registry keeps, on a disk or in a bucket, and how |
//! | [`client`] | push, pull, login and logout, for any registry |
//! | [`home`] | how a client proves to a registry that both work in the same home |
//!
//! Client and server share no code beyond the words of `oci` and that proof, so that a mistake in one
//! is not hidden by the same mistake in the other.

pub mod client;
pub mod home;
pub mod server;
pub mod storage;

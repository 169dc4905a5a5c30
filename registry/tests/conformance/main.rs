//! A black-box suite for registries, written from distribution-spec and named by its sections.
//!
//! It speaks HTTP over a socket of its own and shares no code with the server, so that it tests the specification
//! and not us. `REGISTRY_CONFORMANCE=HOST:PORT` points it at another registry; without that, it starts ours.
//!
//! Where the specification leaves a choice, the check takes every permitted answer, and says so. What only we
//! promise is in `ours`, and is left out for other registries.

#![expect(clippy::print_stderr, reason = "a test that is left out says so")]

#[path = "../http/mod.rs"]
mod http;
#[path = "../kept/mod.rs"]
mod kept;
mod support;

mod bad_input;
mod content_discovery;
mod content_management;
mod extensions;
mod ours;
mod peer;
mod pull;
mod push_blobs;
mod push_manifests;

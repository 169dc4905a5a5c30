//! All that is kept on this machine: blobs, images, layers, snapshots, and the build cache.
//!
//! | File | Owns |
//! | --- | --- |
//! | [`layout`] | every path on disk, drawn as a tree |
//! | [`blobs`] | [`Blobs`]: immutable bytes, found by their digest |
//! | [`images`] | [`Images`]: what references name, and reading a whole [`Image`] |
//! | [`layers`] | [`Layers`]: in which forms (plain, gzip, zstd) each layer's tar is here |
//! | [`snapshots`] | [`Snapshots`]: layers unpacked to folders that overlayfs stacks, and writable ones on top |
//! | [`build_cache`] | [`BuildCache`]: small records that the builder finds again by key |
//! | [`builds`] | [`Builds`]: what is remembered of builds, with the logs of their steps |
//! | [`outlines`] | [`Outlines`]: where files lie in the layers of `COPY`, so that the next takes them from there |
//! | [`collect`] | throwing away what nothing refers to |
//! | [`session`] | who is at work in the store, and sweeping up after those who died |
//! | `later.rs` | what is written and synced while a build goes on |
//! | [`atomic_file`] | files that are there whole or not at all |
//! | [`file_error`] | [`FileError`]: what went wrong with which path |
//! | [`blocking`] | the one door from async code to all of this |
//!
//! Any number of processes may have the same store open. There is no daemon: a file appears by rename, a claim
//! is a file lock that the kernel drops with its process, and whoever opens the store next sweeps up after
//! processes that were killed.
//!
//! **Invariant:** what a reader can see is whole. A crash, even of the machine, leaves at worst files that
//! nothing refers to.

pub mod layout;

pub mod blobs;
pub mod build_cache;
pub mod builds;
pub mod collect;
pub mod images;
pub mod layers;
pub mod outlines;
mod pins;
pub mod prune;
pub mod session;
pub mod snapshots;
pub mod usage;

pub mod atomic_file;
pub mod blocking;
pub mod file_error;

mod later;
mod open;

pub use blobs::{Blob, BlobError, BlobWriter, Blobs, Marks, PatchWriter};
pub use build_cache::{BuildCache, BuildCacheError, Keeps, Peeked};
pub use builds::{BuildId, BuildLimits, BuildWriter, Builds};
pub use collect::{CollectError, Reclaimed};
pub use file_error::FileError;
pub use images::{FindError, Found, Image, ImageError, Images, MAX_CONFIG, PublishError, TaggedImage, UntaggedImage};
pub use layers::{LayerError, Layers};
pub use layout::Layout;
pub use open::{OpenStoreError, Store};
pub use outlines::Outlines;
pub use prune::{PruneError, Pruned, Pruning};
pub use snapshots::{Active, Snapshot, SnapshotError, Snapshots, UnpackEvent};
pub use usage::{CacheEntry, CacheKind, cache_contents, last_cache_mount};

#[cfg(test)]
mod crash_tests;

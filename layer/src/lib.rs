//! Files to tar to compressed bytes, and back.
//!
//! ```text
//! pack:   upper folder --diff--> Entry… --tar::Writer--> tar --compress::Encoder--> blob
//! apply:  blob --compress::decoder--> tar --tar::Reader--> Entry… --apply--> layer folder
//! read:   layer folders --Tree--> one merged view
//! ```
//!
//! | File | Owns |
//! | --- | --- |
//! | [`entry`] | [`Entry`]: one file of a layer as tar tells it, without its bytes |
//! | [`tar`] | [`tar::Reader`] and [`tar::Writer`]: entries to tar bytes and back |
//! | [`hashing`] | digest and size of bytes while they move |
//! | [`compress`] | gzip and zstd with the same bytes everywhere; every decompressor |
//! | [`tree`] | [`Tree`]: a read-only merged view of layer folders, or of one folder |
//! | [`mod@apply`] | a layer's tar onto a folder that it cannot leave |
//! | [`mod@diff`] | what an overlay upper folder changed |
//! | `fold` | a layer folder that takes in those below it |
//! | [`pack`] | changes, or a whole tree, to tar bytes with their digest |
//! | [`rights`] | what this process may do to files |
//! | `remove` | removing folders whose content somebody else chose |
//!
//! **Invariant:** nothing here asks what time it is, and the bytes that come out depend on the input alone:
//! not on the number of threads, the sizes of writes, the order of a folder on disk or the holes of a file.

pub mod apply;
mod beneath;
pub mod compress;
pub mod diff;
pub mod entry;
mod fold;
pub mod hashing;
pub mod pack;
mod remove;
pub mod rights;
pub mod tar;
pub mod tree;

#[cfg(test)]
mod testing;

pub use apply::{Applied, ApplyError, ApplyOptions, Devices, Whiteouts, apply};
pub use compress::{Compression, Encoder, Format};
pub use diff::{DiffError, diff};
pub use entry::{Entry, EntryKind, Timestamp};
pub use fold::{count, fold};
pub use pack::{PackError, PackOptions, PackedTar, pack_diff, pack_tree, write_diff, write_tree, write_trees};
pub use remove::remove_tree;
pub use tree::{Children, Follow, Node, NodeKind, Tree, TreeError};

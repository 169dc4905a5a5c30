//! File work without a mount: looking at layers, and writing a layer straight from its sources.
//!
//! ```text
//! source.rs    where files come from: the context less what is ignored, a stage, an image
//! view.rs      where they go: what the layers below show at a path
//! copy.rs      source + view -> changes, by the rules of COPY        unpack.rs   archive -> changes
//! bulk.rs      a whole folder as changes, without all of them in memory
//! changes.rs   changes -> tar, in one pass
//! outline.rs   where files lie in the tar before, so that the same need not be read again
//! spool.rs     what is known of each file, on the disk when it is much
//! content.rs   source -> digest, for cache keys
//! ```

pub(crate) mod bulk;
pub(crate) mod changes;
pub(crate) mod content;
pub(crate) mod copy;
pub(crate) mod index;
pub(crate) mod mode;
pub(crate) mod outline;
pub(crate) mod path;
pub(crate) mod source;
pub(crate) mod spool;
pub(crate) mod unpack;
pub(crate) mod view;

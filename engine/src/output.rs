//! Where `build -o` puts its result.
//!
//! | Kind | What | File |
//! | --- | --- | --- |
//! | `image` | a name in the store, and from there a registry | `ops/build.rs` |
//! | `oci`, `docker` | an archive | [`crate::archive`] |
//! | `tar`, `local` | the files of the image, as a tar or in a folder | [`files`] |

pub mod files;

use std::io::{self, Write};
use std::path::PathBuf;

use layer::Compression;
use oci::Reference;

pub use files::FilesError;

/// One output of a build.
pub enum Output {
    /// Names in the store; [`crate::ops::build::BuildOptions::tags`] when there are none here.
    Image {
        /// Further names.
        names: Vec<Reference>,
        /// Send it to the registry of each name.
        push: bool,
    },
    /// An archive with OCI's lists, or with docker's as well.
    Archive {
        /// Whether docker's list is in it.
        format: crate::archive::ArchiveFormat,
        /// The names in it.
        names: Vec<Reference>,
        /// How layers are compressed.
        compression: Compression,
        /// Gives the sink, once there is something to write.
        sink: Sink,
    },
    /// The files of the image as a tar.
    Tar {
        /// Gives the sink, once there is something to write.
        sink: Sink,
    },
    /// The files of the image in a folder.
    Local {
        /// The folder; it is made when it is missing.
        folder: PathBuf,
    },
}

/// Opens where bytes go. What it gives is finished, renamed to its place for a file, by [`Finish::finish`].
pub type Sink = Box<dyn FnOnce() -> io::Result<Box<dyn Finish>> + Send>;

/// A sink that is told when all bytes were written.
pub trait Finish: Write + Send {
    /// Makes what was written visible. A sink that is dropped before shall leave nothing behind.
    ///
    /// # Errors
    ///
    /// When the last bytes cannot be written.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Image { names, push } => f.debug_struct("Image").field("names", names).field("push", push).finish(),
            Self::Archive { format, names, compression, .. } => {
                let mut archive = f.debug_struct("Archive");
                archive.field("format", format).field("names", names).field("compression", compression);
                archive.finish_non_exhaustive()
            }
            Self::Tar { .. } => f.debug_struct("Tar").finish_non_exhaustive(),
            Self::Local { folder } => f.debug_struct("Local").field("folder", folder).finish(),
        }
    }
}

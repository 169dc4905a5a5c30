//! Where `build -o` puts its result.
//!
//! | Kind | What | File |
//! | --- | --- | --- |
//! | `image` | a name in the store, and from there a registry | `ops/build.rs` |
//! | `oci`, `docker` | an archive | [`crate::archive`] |
//! | notes on either | `--annotation` | [`annotations`] |
//! | `tar`, `local` | the files of the image, as a tar or in a folder | [`files`] |

pub mod annotations;
pub mod files;

use std::io::{self, Write};
use std::path::PathBuf;

use oci::Reference;

pub use crate::publish::Form;
pub use annotations::Annotation;
pub use files::FilesError;

/// One output of a build.
#[derive(Debug)]
pub enum Output {
    /// Names in the store, and from there in registries.
    Image(ImageOutput),
    /// An archive with OCI's lists, or with docker's as well.
    Archive {
        /// Whether docker's list is in it.
        format: crate::archive::ArchiveFormat,
        /// The names in it.
        names: Vec<Reference>,
        /// In which form images are in it.
        form: Form,
        /// Notes that the images get here.
        annotations: Vec<Annotation>,
        /// Where it goes.
        sink: ArchiveSink,
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
        /// Whether each platform has a folder of its own in it; `None` for when there are several.
        split: Option<bool>,
    },
    /// Nothing: only the build cache has what was built.
    CacheOnly,
}

/// An image in the store, and from there in registries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageOutput {
    /// Names beside [`crate::ops::build::BuildOptions::tags`].
    pub names: Vec<Reference>,
    /// Send it to the registry of each name.
    pub push: bool,
    /// Send it without its tags: it is found by its digest only.
    pub by_digest: bool,
    /// Whether the store keeps it.
    pub keep: bool,
    /// In which form it leaves. Any but the usual one is what the store's names stand for too.
    pub form: Form,
    /// Notes that the images get.
    pub annotations: Vec<Annotation>,
}

impl Default for ImageOutput {
    fn default() -> Self {
        let (names, annotations) = (Vec::new(), Vec::new());
        Self { names, push: false, by_digest: false, keep: true, form: Form::default(), annotations }
    }
}

/// Where an archive goes.
pub enum ArchiveSink {
    /// Into one file; gives the sink, once there is something to write.
    File(Sink),
    /// Into a folder, as an OCI layout.
    Folder(PathBuf),
}

impl std::fmt::Debug for ArchiveSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(_) => f.write_str("File(..)"),
            Self::Folder(folder) => f.debug_tuple("Folder").field(folder).finish(),
        }
    }
}

/// Opens where bytes go. What it gives is finished, renamed to its place for a file, by [`Finish::finish`].
pub struct Sink(pub Box<dyn FnOnce() -> io::Result<Box<dyn Finish>> + Send>);

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sink(..)")
    }
}

/// A sink that is told when all bytes were written.
pub trait Finish: Write + Send {
    /// Makes what was written visible. A sink that is dropped before shall leave nothing behind.
    ///
    /// # Errors
    ///
    /// When the last bytes cannot be written.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

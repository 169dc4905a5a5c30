//! Entries to tar bytes and back.
//!
//! | File | Owns |
//! | --- | --- |
//! | [`reader`] | [`Reader`]: any tar that tools write, to entries |
//! | [`writer`] | [`Writer`]: entries to the one tar that we write |
//! | `pax` | the records of PAX headers |
//! | `sparse` | files with holes |
//! | `field` | the fields of a header |

mod field;
mod pax;
pub mod reader;
mod sparse;
#[cfg(test)]
mod tests;
pub mod writer;

pub use reader::{Limits, Reader, TarError};
pub use writer::{TarWriteError, Writer};

/// Bytes that one PAX header may have, as in Go.
const MAX_PAX: usize = 1 << 20;

/// Bytes that all global headers may say together. Each entry takes them over, so a few make a large tar slow; git
/// writes 52.
const MAX_GLOBAL_PAX: usize = 8 << 10;

/// Bytes that a path or a link's target may have: the kernel's `PATH_MAX`.
const MAX_PATH: usize = 4096;

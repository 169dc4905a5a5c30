//! What the servers of tests keep things in.

use std::path::Path;

use registry::storage::objects::memory::Memory;
use registry::storage::{Storage, StorageOptions};

/// Opens what is kept in a folder.
pub(crate) fn open(_root: &Path) -> Storage {
    Storage::new(Memory::default().backend(), StorageOptions::default())
}

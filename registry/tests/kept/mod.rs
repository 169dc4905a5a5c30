//! What the servers of tests keep things in.

use std::path::Path;

use jiff::Timestamp;
use registry::storage::objects::disk::{Disk, DiskOptions};
use registry::storage::objects::memory::Memory;
use registry::storage::{Backend, Storage, StorageOptions};

/// Opens what is kept in a folder, or a new memory if `REGISTRY_TEST_STORAGE` is `memory`.
pub(crate) fn open(folder: &Path) -> Storage {
    Storage::new(backend(folder), StorageOptions::default())
}

fn backend(folder: &Path) -> Backend {
    match std::env::var("REGISTRY_TEST_STORAGE").as_deref() {
        Ok("memory") => Memory::default().backend(),
        _ => Disk::open(folder, DiskOptions::new(Timestamp::now)).expect("a folder").backend(),
    }
}

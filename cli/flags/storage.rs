//! `--storage`: where a registry keeps its things.

use engine::storage::{Location, OpenStorageError, open};
use registry::storage::{Storage, StorageOptions};

use crate::clock;
use crate::failure::Failure;
use crate::session::Session;

/// The flag of commands that look into a registry's storage.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct StorageArgs {
    /// Folder in which the registry keeps its things [default: `registry` in the home folder]
    #[arg(long, value_name = "DIR")]
    storage: Option<Location>,
}

impl StorageArgs {
    /// Returns the place that was named.
    pub(crate) fn named(self) -> Option<Location> {
        self.storage
    }

    /// Opens the storage of a registry that is there.
    pub(crate) fn open(self, session: &Session, options: StorageOptions) -> anyhow::Result<Storage> {
        let location = match self.storage {
            Some(location) => location,
            None => Location::of_home(&session.home()?),
        };
        open(&location, false, options, clock::now).map_err(explain)
    }
}

/// Says what can be done when a storage does not open.
pub(crate) fn explain(error: OpenStorageError) -> anyhow::Error {
    let hint = match &error {
        OpenStorageError::NoRegistry { .. } => "`slipway serve` makes one; --storage or --home names another",
        OpenStorageError::Folder { .. } => "choose another folder with --storage, or see who may write there",
    };
    Failure::new(error).hint(hint).into()
}

//! `--storage`: where a registry keeps its things.

use std::path::PathBuf;

use engine::storage::{Access, Location, OpenStorageError, open};
use registry::storage::objects::bucket::BucketOptions;
use registry::storage::{Storage, StorageOptions};

use crate::clock;
use crate::failure::Failure;
use crate::session::Session;

/// The flag of commands that look into a registry's storage.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct StorageArgs {
    /// Folder or bucket in which the registry keeps its things [default: `registry` in the home folder]
    #[arg(long, value_name = "DIR|URL")]
    storage: Option<Location>,
    /// Nobody else writes there: for buckets that do not know conditional writes
    #[arg(long)]
    single_writer: bool,
}

impl StorageArgs {
    /// Returns the place that was named.
    pub(crate) fn named(&self) -> Option<Location> {
        self.storage.clone()
    }

    /// Returns how it is reached.
    pub(crate) fn access(&self) -> Access {
        let secrets = ["AWS_", "GOOGLE_", "AZURE_"];
        let variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        let ours = variables.filter(|(name, _)| secrets.iter().any(|start| name.starts_with(start)));
        let environment = ours.filter_map(|(name, value)| Some((name, value.into_string().ok()?))).collect();
        let file = std::env::var_os("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from);
        let file = file.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".aws/credentials")));
        // Who has none may have said it in the environment.
        let credentials_file = file.and_then(|file| std::fs::read_to_string(file).ok());
        Access { bucket: BucketOptions { environment, credentials_file }, single_writer: self.single_writer }
    }

    /// Opens the storage of a registry that is there.
    pub(crate) fn open(self, session: &Session, options: StorageOptions) -> anyhow::Result<Storage> {
        let location = match self.named() {
            Some(location) => location,
            None => Location::of_home(&session.home()?),
        };
        open(&location, &self.access(), false, options, clock::now).map_err(explain)
    }
}

/// Says what can be done when a storage does not open.
pub(crate) fn explain(error: OpenStorageError) -> anyhow::Error {
    let hint = match &error {
        OpenStorageError::NoRegistry { .. } => "`slipway serve` makes one; --storage or --home names another",
        OpenStorageError::Folder { .. } => "choose another folder with --storage, or see who may write there",
        OpenStorageError::Bucket(_) => {
            "an address is s3://BUCKET/PREFIX?endpoint=URL&region=NAME, gs://BUCKET or az://CONTAINER?account=NAME; \
             credentials come from the environment, or from ~/.aws/credentials"
        }
    };
    Failure::new(error).hint(hint).into()
}

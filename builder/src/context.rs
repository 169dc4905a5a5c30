//! [`Context`]: the files that a build may use.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use layer::Tree;
use store::Store;

use crate::fault::Fault;
use crate::files::source::{Appearance, SourceTree};
use crate::ignore::Ignore;
use crate::stat_cache::{self, Digests};

/// The build context.
#[derive(Clone, Debug)]
pub enum Context {
    /// A folder of this machine.
    Folder(PathBuf),
    /// A folder that was filled for this build alone, with what was fetched or came in a tar. Files keep the owners that
    /// they have there, and no `.dockerignore` speaks of them, as with BuildKit.
    Fetched(PathBuf),
    /// A commit that was checked out for this build alone. As a folder of this machine, but nothing of it is remembered.
    Checkout {
        /// The folder that is wanted of it.
        folder: PathBuf,
        /// When the commit was made, in seconds since 1970.
        committed: i64,
    },
    /// No files at all: only a Dockerfile.
    None,
}

/// The longest `.dockerignore` that is read, in bytes.
pub(crate) const MAX_IGNORE: u64 = 16 << 20;

/// A context that is opened when a step first asks for it: a build that copies nothing does not even look at it.
#[derive(Debug)]
pub(crate) struct LazyContext {
    context: Context,
    /// `<Dockerfile>.dockerignore`, which wins over the context's own.
    ignore: Option<Vec<u8>>,
    appearance: Appearance,
    opened: Mutex<Option<Arc<SourceTree>>>,
}

impl LazyContext {
    pub(crate) fn new(context: Context, ignore: Option<Vec<u8>>, appearance: Appearance) -> Self {
        Self { context, ignore, appearance, opened: Mutex::new(None) }
    }

    /// Returns the files, less what is ignored.
    pub(crate) fn open(&self, store: &Store) -> Result<Arc<SourceTree>, Fault> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(source) = &*opened {
            return Ok(source.clone());
        }
        let source = Arc::new(match &self.context {
            Context::None => {
                SourceTree::of_folder(Tree::of_layers(Vec::new())?, Ignore::default(), Digests::new(store.home()))
            }
            Context::Fetched(folder) => SourceTree::of_fetched(
                Tree::of_folder(folder)
                    .map_err(|error| Fault::because("cannot read the files of the build context", &error))?,
                store.home(),
            )
            .appearing(self.appearance),
            Context::Folder(folder) | Context::Checkout { folder, .. } => {
                let tree = Tree::of_folder(folder).map_err(|error| {
                    Fault::because(format!("cannot read the build context `{}`", folder.display()), &error)
                })?;
                let (name, text) = match &self.ignore {
                    Some(text) => ("the Dockerfile's .dockerignore", Some(text.clone())),
                    None => (".dockerignore", tree.read_small(".dockerignore", MAX_IGNORE)?),
                };
                let ignore = Ignore::parse(&text.unwrap_or_default())
                    .map_err(|error| Fault::because(format!("cannot use {name}"), &error))?;
                let known = match &self.context {
                    Context::Folder(folder) => stat_cache::load(store, folder),
                    _ => Digests::new(store.home()),
                };
                SourceTree::of_folder(tree, ignore, known).appearing(self.appearance)
            }
        });
        *opened = Some(source.clone());
        Ok(source)
    }

    /// Keeps what was learned of the files for the next build.
    pub(crate) fn save(&self, store: &Store, now: jiff::Timestamp) -> Result<(), Fault> {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*opened, &self.context) {
            (Some(source), Context::Folder(folder)) => {
                source.with_digests(|digests| stat_cache::save(store, folder, digests, now))
            }
            _ => Ok(()),
        }
    }
}

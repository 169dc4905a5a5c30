//! Going through everything that begins with a prefix, a page at a time.

use futures_util::Stream;
use futures_util::stream::try_unfold;

use super::keys::{Key, Prefix};
use super::objects::Entry;
use super::{Storage, StorageError};

/// How many objects are asked for at once.
const PAGE: usize = 1000;

impl Storage {
    /// Lists all that begins with a prefix and comes after `after`, in pages and in byte order.
    pub(super) fn pages(
        &self,
        prefix: Prefix,
        after: Option<Key>,
    ) -> impl Stream<Item = Result<Vec<Entry>, StorageError>> + '_ {
        try_unfold(Some((prefix, after)), move |state| async move {
            let Some((prefix, after)) = state else { return Ok(None) };
            let page = self.objects().list(&prefix, after.as_ref(), PAGE).await?;
            let next = page.entries.last().filter(|_| page.more).map(|last| (prefix, Some(last.key.clone())));
            Ok(Some((page.entries, next)))
        })
    }
}

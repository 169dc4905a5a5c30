//! Whether the store is fit for a registry at all.

use bytes::Bytes;

use super::Storage;
use super::keys::{self, Key};
use super::objects::{Condition, ObjectError, Put};

/// Why a store is not fit for a registry.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum ProbeError {
    #[error(
        "the store does not honor conditional writes ({what}), so no two may write to it; serve it with `--single-writer` from one process, or keep the registry elsewhere"
    )]
    Dishonest { what: &'static str },
    #[error(transparent)]
    Object(#[from] ObjectError),
}

impl Storage {
    /// Makes sure that the store honors conditional writes: of those who race one wins, and nobody replaces what they did
    /// not read.
    pub async fn probe(&self) -> Result<(), ProbeError> {
        let key = keys::probes().key(&self.draw().to_string());
        let probed = self.probe_at(&key).await;
        self.objects().delete(&key).await?;
        probed
    }

    async fn probe_at(&self, key: &Key) -> Result<(), ProbeError> {
        let dishonest = |what| ProbeError::Dishonest { what };
        let body = |number: usize| Bytes::from(format!("probe {number} {}", self.draw()));
        let put = |number, condition| self.objects().put(key, body(number), condition);
        let Put::Done(first) = put(0, Condition::Absent).await? else {
            return Err(dishonest("a new object cannot be created"));
        };
        if put(1, Condition::Absent).await? != Put::Lost {
            return Err(dishonest("an object can be created twice"));
        }
        let Put::Done(second) = put(2, Condition::Is(first.clone())).await? else {
            return Err(dishonest("an object cannot be replaced by who read it"));
        };
        if put(3, Condition::Is(first)).await? != Put::Lost {
            return Err(dishonest("an object can be replaced by who did not read it"));
        }
        let race = (0..16).map(|number| put(number, Condition::Is(second.clone())));
        let puts = futures_util::future::try_join_all(race).await?;
        match puts.iter().filter(|put| **put != Put::Lost).count() {
            1 => Ok(()),
            _ => Err(dishonest("of those who race not exactly one wins")),
        }
    }
}

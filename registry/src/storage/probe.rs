//! Whether the store is fit for a registry at all.

use bytes::Bytes;

use super::Storage;
use super::keys::{self, Key};
use super::objects::{Condition, ObjectError, Put, Version};

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
        let Some(first) = self.write_probe(key, Condition::Absent).await? else {
            return Err(dishonest("a new object cannot be created"));
        };
        if self.write_probe(key, Condition::Absent).await?.is_some() {
            return Err(dishonest("an object can be created twice"));
        }
        let Some(second) = self.write_probe(key, Condition::Is(first.clone())).await? else {
            return Err(dishonest("an object cannot be replaced by who read it"));
        };
        if self.write_probe(key, Condition::Is(first)).await?.is_some() {
            return Err(dishonest("an object can be replaced by who did not read it"));
        }
        let race = (0..16).map(|_| async {
            let body = self.probe_body();
            let put = self.objects().put(key, body.clone(), Condition::Is(second.clone())).await?;
            Ok::<_, ObjectError>((body, put))
        });
        let raced = futures_util::future::try_join_all(race).await?;
        let stayed = self.objects().get(key).await?.map(|object| object.bytes);
        let is_there = |body: &Bytes| stayed.as_ref() == Some(body);
        let won = raced.iter().any(|(body, _)| is_there(body));
        match won && raced.iter().all(|(body, put)| *put == Put::Lost || is_there(body)) {
            true => Ok(()),
            false => Err(dishonest("of those who race not exactly one wins")),
        }
    }

    fn probe_body(&self) -> Bytes {
        Bytes::from(format!("probe {}", self.draw()))
    }

    /// Writes something new, and returns its version if it won. A request that is sent again because its answer was lost
    /// loses against itself, so what is there then tells.
    async fn write_probe(&self, key: &Key, condition: Condition) -> Result<Option<Version>, ObjectError> {
        let body = self.probe_body();
        if let Put::Done(version) = self.objects().put(key, body.clone(), condition).await? {
            return Ok(Some(version));
        }
        let there = self.objects().get(key).await?;
        Ok(there.filter(|object| object.bytes == body).map(|object| object.version))
    }
}

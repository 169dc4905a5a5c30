//! Referrers: the manifests that are about another one.

use std::collections::BTreeMap;

use oci::{Algorithm, Descriptor, Digest, Index, Parsed, Tag};

use super::keys;
use super::manifests::ManifestRecord;
use super::objects::Content;
use super::{Repository, StorageError};

/// The longest index that a fallback tag is read for.
const MAX_FALLBACK: u64 = 4 * 1024 * 1024;

/// How many referrers are wanted at once.
#[derive(Clone, Copy, Debug)]
pub struct ReferrersLimit {
    /// At most so many.
    pub count: usize,
    /// Not much more than so many bytes of them, but at least one.
    pub bytes: usize,
    /// So many are looked at, whether they are wanted or not.
    pub looks: usize,
}

/// Where a referrer is known from.
enum Known {
    /// It said so itself when it was pushed, in this object.
    Pushed(keys::Key),
    /// A client noted it under the fallback tag, with this artifact type.
    Noted(Option<String>),
}

impl Repository {
    /// Returns manifests that are about `subject`, sorted by digest: those after `after`, with a given artifact type if
    /// one is given, and the one after which to go on if there may be more.
    ///
    /// Beside those that we know of, these are the ones that a client noted under the fallback tag because some registry
    /// did not. Only what is returned is kept in memory: each may have annotations of megabytes.
    pub async fn referrers(
        &self,
        subject: &Digest,
        artifact_type: Option<&str>,
        after: Option<&Digest>,
        limit: ReferrersLimit,
    ) -> Result<(Vec<Descriptor>, Option<Digest>), StorageError> {
        let noted = self.fallback_index(subject).await?;
        let noted: BTreeMap<Digest, Option<String>> =
            noted.into_iter().flat_map(|index| index.manifests).map(|it| (it.digest, it.artifact_type)).collect();
        let prefix = keys::referrers(&self.name, subject);
        let (mut found, mut bytes, mut looks) = (Vec::new(), 0, 0);
        let mut from = after.cloned();
        let mut seen = from.clone();
        loop {
            let start = from.as_ref().map(|digest| keys::referrers_after(&self.name, subject, digest));
            let listed = self.storage.objects().list(&prefix, start.as_ref(), 1000).await?;
            let pushed = listed.entries.iter();
            let pushed: Vec<_> = pushed
                .filter_map(|entry| Some((keys::parse_referrer(&prefix, &entry.key)?.0, entry.key.clone())))
                .collect();
            let last = pushed.last().map(|(digest, _)| digest.clone()).filter(|_| listed.more);
            let mut candidates: BTreeMap<Digest, Known> = BTreeMap::new();
            for (digest, artifact_type) in &noted {
                let in_page =
                    from.as_ref().is_none_or(|from| digest > from) && last.as_ref().is_none_or(|last| digest <= last);
                if in_page {
                    candidates.insert(digest.clone(), Known::Noted(artifact_type.clone()));
                }
            }
            candidates.extend(pushed.into_iter().map(|(digest, key)| (digest, Known::Pushed(key))));
            for (digest, known) in candidates {
                if looks == limit.looks {
                    return Ok((found, seen));
                }
                looks += 1;
                let before = seen.replace(digest.clone());
                let Some(descriptor) = self.referrer(&digest, known).await? else { continue };
                if artifact_type.is_some_and(|wanted| descriptor.artifact_type.as_deref() != Some(wanted)) {
                    continue;
                }
                let of_annotations = |(key, value): (&String, &String)| key.len() + value.len() + 8;
                bytes += 512 + descriptor.annotations.iter().map(of_annotations).sum::<usize>();
                if found.len() == limit.count || (bytes > limit.bytes && !found.is_empty()) {
                    return Ok((found, before));
                }
                found.push(descriptor);
            }
            match last {
                Some(last) => from = Some(last),
                None => return Ok((found, None)),
            }
        }
    }

    /// Describes a manifest as a list of referrers does, if it is here. What is left of one that is gone is passed over.
    async fn referrer(&self, digest: &Digest, known: Known) -> Result<Option<Descriptor>, StorageError> {
        let Some(record) = self.manifest(digest).await? else { return Ok(None) };
        match known {
            Known::Pushed(key) => {
                let bytes = self.storage.intact(&key).await?;
                // What is damaged, the manifest itself says again.
                match bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
                    Some(descriptor) => Ok(Some(descriptor)),
                    None => self.describe(digest, &record, None).await.map(Some),
                }
            }
            Known::Noted(artifact_type) => self.describe(digest, &record, artifact_type).await.map(Some),
        }
    }

    /// Describes a manifest as it does itself, as far as it can be read.
    async fn describe(
        &self,
        digest: &Digest,
        record: &ManifestRecord,
        artifact_type: Option<String>,
    ) -> Result<Descriptor, StorageError> {
        let mut descriptor = Descriptor::new(&record.media_type, digest.clone(), record.size);
        let bytes = self.manifest_bytes(digest, MAX_FALLBACK).await?;
        if let Some(Ok(parsed)) = bytes.map(|bytes| Parsed::parse(&bytes, Some(&record.media_type))) {
            descriptor.artifact_type = parsed.artifact_type().map(str::to_owned);
            descriptor.annotations = parsed.annotations().clone();
        }
        descriptor.artifact_type = descriptor.artifact_type.or(artifact_type);
        Ok(descriptor)
    }

    /// Reads a manifest's bytes, if there are no more than `max`.
    pub async fn manifest_bytes(&self, digest: &Digest, max: u64) -> Result<Option<bytes::Bytes>, StorageError> {
        let Some(blob) = self.manifest_blob(digest).await?.filter(|blob| blob.size() <= max) else { return Ok(None) };
        match blob.read(0..blob.size()).await? {
            Some(content) => Ok(Some(gather(content, blob.size()).await?)),
            None => Ok(None),
        }
    }

    async fn fallback_index(&self, subject: &Digest) -> Result<Option<Index>, StorageError> {
        let Some(named) = self.tag(&fallback_tag(subject)).await? else { return Ok(None) };
        let bytes = self.manifest_bytes(&named.digest, MAX_FALLBACK).await?;
        // Anyone may push anything under that tag; what is no index says nothing about referrers.
        Ok(match bytes.map(|bytes| Parsed::parse(&bytes, None)) {
            Some(Ok(Parsed::Index(index))) => Some(index),
            Some(Ok(Parsed::Manifest(_)) | Err(_)) | None => None,
        })
    }
}

/// Gathers content that is known to be short.
pub(super) async fn gather(content: Content, size: u64) -> Result<bytes::Bytes, StorageError> {
    use futures_util::StreamExt as _;
    match content {
        Content::Bytes(bytes) => Ok(bytes),
        Content::File { file, offset, length } => Ok(store::blocking::run(move || {
            let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, offset).map(|()| bytes.into())
        })
        .await
        .map_err(|source| super::ObjectError::Failed {
            action: "read",
            what: "data".into(),
            source: source.into(),
        })?),
        Content::Stream(mut stream) => {
            let mut bytes = bytes::BytesMut::with_capacity(usize::try_from(size).unwrap_or(0));
            while let Some(piece) = stream.next().await {
                bytes.extend_from_slice(&piece?);
            }
            Ok(bytes.freeze())
        }
    }
}

/// Returns the tag under which clients note referrers (distribution-spec, "Referrers Tag Schema").
fn fallback_tag(subject: &Digest) -> Tag {
    let algorithm = match subject.algorithm() {
        Algorithm::Sha256 => "sha256",
        Algorithm::Sha512 => "sha512",
    };
    let tag = format!("{algorithm}-{}", &subject.hex()[..64]);
    tag.parse().expect("letters, digits and `-` make a tag")
}

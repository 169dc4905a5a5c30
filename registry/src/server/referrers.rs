//! Referrers: the manifests that are about another one.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::http::Response;
use oci::{Algorithm, Descriptor, Digest, Index, Parsed, RepositoryName, Tag, media_type};
use store::{BlobError, Repository, Store};

use super::App;
use super::error::RequestError;
use super::response::{self, encoded, set_next};
use super::routes::Paging;

/// The most referrers in one answer.
const MAX_PAGE: usize = 1000;
/// How long an answer may get before the rest is left to the next page: clients take manifests of 4 MiB.
const MAX_BYTES: usize = 3 * 1024 * 1024;
/// The longest index that a fallback tag is read for.
const MAX_FALLBACK: u64 = 4 * 1024 * 1024;

/// Answers `GET /v2/NAME/referrers/DIGEST` (distribution-spec, "Listing Referrers").
pub(crate) async fn list(
    app: &App,
    repository: &RepositoryName,
    subject: Digest,
    artifact_type: Option<String>,
    paging: Paging,
) -> Result<Response<Body>, RequestError> {
    let artifact_type = artifact_type.filter(|text| !text.is_empty());
    let limit = paging.limit.unwrap_or(MAX_PAGE).clamp(1, MAX_PAGE);
    let (store, here, asked) = (app.store().clone(), app.repository(repository), subject.clone());
    let (wanted, after) = (artifact_type.clone(), paging.after);
    let (referrers, more) =
        store::blocking::run(move || page(&store, &here, &asked, wanted.as_deref(), after.as_deref(), limit)).await?;
    let next = referrers.last().filter(|_| more).map(|last| last.digest.to_string());
    let index = serde_json::to_value(Index::new(referrers)).map_err(|error| RequestError::Storage(error.into()))?;
    let mut answer = response::json(media_type::OCI_INDEX, &index);
    if artifact_type.is_some() {
        response::set(&mut answer, response::OCI_FILTERS_APPLIED, "artifactType");
    }
    if let Some(last) = next {
        let mut url = format!("/v2/{}/referrers/{subject}?n={limit}&last={last}", repository.as_str());
        if let Some(artifact_type) = &artifact_type {
            url.push_str(&format!("&artifactType={}", encoded(artifact_type)));
        }
        set_next(&mut answer, &url);
    }
    Ok(answer)
}

/// Collects the referrers that go into one answer, at least one, and tells whether more would follow.
///
/// Beside those that we know of, these are the ones that a client noted under the fallback tag because some registry
/// did not. Only what goes into the answer is kept in memory.
fn page(
    store: &Store,
    repository: &Repository,
    subject: &Digest,
    artifact_type: Option<&str>,
    after: Option<&str>,
    limit: usize,
) -> Result<(Vec<Descriptor>, bool), RequestError> {
    // What the fallback tag says, for those that are there only.
    let mut candidates: BTreeMap<Digest, Option<Noted>> = BTreeMap::new();
    for noted in fallback_index(store, repository, subject)?.into_iter().flat_map(|index| index.manifests) {
        candidates.insert(noted.digest, Some(Noted { artifact_type: noted.artifact_type }));
    }
    candidates.extend(repository.referrers(subject)?.into_iter().map(|digest| (digest, None)));
    let (mut referrers, mut bytes) = (Vec::new(), 0);
    for (digest, noted) in candidates {
        if after.is_some_and(|after| digest.to_string().as_str() <= after) {
            continue;
        }
        let descriptor = match noted {
            None => repository.referrer(subject, &digest)?,
            Some(noted) => repository.manifest(&digest)?.map(|record| {
                let mut descriptor = record.descriptor(&digest);
                descriptor.artifact_type = descriptor.artifact_type.or(noted.artifact_type);
                descriptor
            }),
        };
        // An entry whose manifest is gone is stale.
        let Some(descriptor) = descriptor else { continue };
        if artifact_type.is_some_and(|wanted| descriptor.artifact_type.as_deref() != Some(wanted)) {
            continue;
        }
        let annotations: usize = descriptor.annotations.iter().map(|(key, value)| key.len() + value.len() + 8).sum();
        bytes += 512 + annotations;
        if referrers.len() == limit || (bytes > MAX_BYTES && !referrers.is_empty()) {
            return Ok((referrers, true));
        }
        referrers.push(descriptor);
    }
    Ok((referrers, false))
}

/// What an entry of a fallback tag adds to what the manifest itself says.
struct Noted {
    artifact_type: Option<String>,
}

fn fallback_index(store: &Store, repository: &Repository, subject: &Digest) -> Result<Option<Index>, RequestError> {
    let Some(named) = repository.tag(&fallback_tag(subject))? else { return Ok(None) };
    match store.blobs().read(&named.digest, MAX_FALLBACK) {
        // Anyone may push anything under that tag; what is no index says nothing about referrers.
        Ok(bytes) => Ok(match Parsed::parse(&bytes, None) {
            Ok(Parsed::Index(index)) => Some(index),
            Ok(Parsed::Manifest(_)) | Err(_) => None,
        }),
        Err(BlobError::NotFound { .. } | BlobError::Damaged { .. } | BlobError::TooLarge { .. }) => Ok(None),
        Err(error) => Err(error.into()),
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

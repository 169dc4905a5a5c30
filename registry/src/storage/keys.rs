//! Every key of the registry, in a bucket or on a disk.
//!
//! ```text
//! f1/                                  the version of all this
//! ├── b/ALG/HH/HEX                     blob RECORD: its state, its size, where its bytes are (or they themselves)
//! ├── d/ID                             blob DATA, written once
//! ├── e/ALG/HEX/INC.KIND.REPO          EDGE, empty: REPO relies on a blob; KIND is `own` or `m-ALG-HEX`
//! ├── o/REPO/ALG/HEX                   OWN record: REPO has the blob, so it may be pulled from there
//! ├── m/REPO/ALG/HEX                   MANIFEST record: media type, what it names
//! ├── r/REPO/ALG-HEX/INC.TAG           empty: a tag that named, or was about to name, the manifest
//! ├── t/REPO/TAG                       TAG record: which manifest, which change
//! ├── h/REPO/TAG/SEQ-ID                HISTORY of a tag, one object per change
//! ├── s/REPO/ALG-HEX/ALG-HEX.INC       REFERRER: descriptor of a manifest (second) about a subject (first)
//! ├── c/REPO                           CATALOG record: REPO has manifests
//! ├── u/ID                             UPLOAD record: how far it came
//! └── g/
//!     ├── immutable                    which tags are immutable, said the last server that said so
//!     ├── key                          the secret that signs the locations of uploads
//!     ├── b/ALG-HEX                    empty: the blob turned out to be bad
//!     ├── d/KEY                        empty: the record under the key turned out to be damaged
//!     ├── q/ID                         blobs that lost an edge: what the collector looks at first
//!     ├── p/REPO/ALG-HEX               empty: as old as the last pull of the manifest, by the hour
//!     └── x/ID                         made and deleted at once: what time it is for the store, and is it honest
//!
//! INC, ID    32 characters of 0-9a-f that nobody used before
//! REPO       a repository name, `/` written as `!`, which sorts below all that names have
//! SEQ        16 characters of 0-9a-f
//! ```
//!
//! **Invariant:** a RECORD changes only by compare-and-swap and is never deleted: what is gone is a tombstone, of
//! [`TOMBSTONE`] bytes, so that a list tells it from what is there. What is deleted has an ID in its key, and never
//! comes back. The exceptions are `r`, `g/b`, `g/d` and `g/p`, which are hints, and tombstones below `u` that are a day old.

use oci::{Digest, RepositoryName, Tag};

use super::id::Id;

/// So long is the body of a tombstone, and longer is that of any record that lives.
pub const TOMBSTONE: u64 = 48;

/// The version of the layout, before all keys.
pub const VERSION: &str = "f1";

/// Names one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Box<str>);

impl Key {
    /// Returns the key as text, without the version before it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Takes a key that a store listed. What was not written by us parses as nothing later.
    pub(crate) fn listed(text: &str) -> Self {
        Self(text.into())
    }
}

/// What all keys of a list begin with; ends in `/`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Prefix(Box<str>);

impl Prefix {
    /// Returns the prefix as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the key below this prefix, for where a list goes on.
    pub fn key(&self, rest: &str) -> Key {
        Key(format!("{}{rest}", self.0).into())
    }

    /// Returns what stands after this prefix in a key.
    pub fn rest<'a>(&self, key: &'a Key) -> Option<&'a str> {
        key.as_str().strip_prefix(&*self.0)
    }
}

/// Why a repository relies on a blob.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EdgeKind {
    /// It has the blob.
    Own,
    /// It has this manifest, which names the blob or is it.
    Manifest(Digest),
}

/// That a repository relies on a blob, since the incarnation of a record that says so.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Edge {
    /// The blob.
    pub blob: Digest,
    /// The repository.
    pub repository: RepositoryName,
    /// The incarnation of the own or manifest record.
    pub incarnation: Id,
    /// Which record.
    pub kind: EdgeKind,
}

impl Edge {
    /// Returns where the edge is.
    pub fn key(&self) -> Key {
        let kind = match &self.kind {
            EdgeKind::Own => "own".to_owned(),
            EdgeKind::Manifest(digest) => format!("m-{}", flat(digest)),
        };
        edges(&self.blob).key(&format!("{}.{kind}.{}", self.incarnation, repo(&self.repository)))
    }

    /// Reads the key of an edge; `None` when it is none.
    pub fn parse(key: &Key) -> Option<Self> {
        let mut parts = key.as_str().strip_prefix("e/")?.splitn(3, '/');
        let blob = digest(parts.next()?, parts.next()?)?;
        let mut parts = parts.next()?.splitn(3, '.');
        let incarnation = parts.next()?.parse().ok()?;
        let kind = match parts.next()? {
            "own" => EdgeKind::Own,
            other => EdgeKind::Manifest(unflat(other.strip_prefix("m-")?)?),
        };
        let repository = unrepo(parts.next()?)?;
        Some(Self { blob, repository, incarnation, kind })
    }

    /// Returns the record that the edge belongs to.
    pub fn owner(&self) -> Key {
        match &self.kind {
            EdgeKind::Own => own(&self.repository, &self.blob),
            EdgeKind::Manifest(digest) => manifest(&self.repository, digest),
        }
    }
}

fn repo(name: &RepositoryName) -> String {
    name.as_str().replace('/', "!")
}

fn unrepo(text: &str) -> Option<RepositoryName> {
    text.replace('!', "/").parse().ok()
}

fn flat(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm().as_str(), digest.hex())
}

fn unflat(text: &str) -> Option<Digest> {
    text.split_once('-').and_then(|(algorithm, hex)| digest(algorithm, hex))
}

fn digest(algorithm: &str, hex: &str) -> Option<Digest> {
    format!("{algorithm}:{hex}").parse().ok()
}

fn prefix(text: String) -> Prefix {
    Prefix(text.into())
}

/// The record of a blob.
pub fn blob(digest: &Digest) -> Key {
    Key(format!("b/{}/{}/{}", digest.algorithm().as_str(), &digest.hex()[..2], digest.hex()).into())
}

/// The records of all blobs.
pub fn blobs() -> Prefix {
    prefix("b/".to_owned())
}

/// Reads the key of a blob's record.
pub fn parse_blob(key: &Key) -> Option<Digest> {
    let mut parts = key.as_str().strip_prefix("b/")?.split('/');
    let (algorithm, shard, hex) = (parts.next()?, parts.next()?, parts.next()?);
    digest(algorithm, hex).filter(|_| hex.starts_with(shard) && parts.next().is_none())
}

/// The data objects.
pub fn data() -> Prefix {
    prefix("d/".to_owned())
}

/// The edges of a blob.
pub fn edges(blob: &Digest) -> Prefix {
    prefix(format!("e/{}/{}/", blob.algorithm().as_str(), blob.hex()))
}

/// The edges of all blobs.
pub fn all_edges() -> Prefix {
    prefix("e/".to_owned())
}

/// The record that a repository has a blob.
pub fn own(repository: &RepositoryName, blob: &Digest) -> Key {
    Key(format!("o/{}/{}/{}", repo(repository), blob.algorithm().as_str(), blob.hex()).into())
}

/// The records that repositories have blobs.
pub fn all_owns() -> Prefix {
    prefix("o/".to_owned())
}

/// Reads the key of the record that a repository has a blob.
pub fn parse_own(key: &Key) -> Option<(RepositoryName, Digest)> {
    let mut parts = key.as_str().strip_prefix("o/")?.splitn(3, '/');
    Some((unrepo(parts.next()?)?, digest(parts.next()?, parts.next()?)?))
}

/// The record of a manifest.
pub fn manifest(repository: &RepositoryName, digest: &Digest) -> Key {
    Key(format!("m/{}/{}/{}", repo(repository), digest.algorithm().as_str(), digest.hex()).into())
}

/// The records of a repository's manifests.
pub fn manifests(repository: &RepositoryName) -> Prefix {
    prefix(format!("m/{}/", repo(repository)))
}

/// The manifest records of all repositories.
pub fn all_manifests() -> Prefix {
    prefix("m/".to_owned())
}

/// Reads the key of a manifest's record.
pub fn parse_manifest(key: &Key) -> Option<(RepositoryName, Digest)> {
    let mut parts = key.as_str().strip_prefix("m/")?.splitn(3, '/');
    Some((unrepo(parts.next()?)?, digest(parts.next()?, parts.next()?)?))
}

/// The hint that a tag named an incarnation of a manifest.
pub fn named(repository: &RepositoryName, digest: &Digest, incarnation: Id, tag: &Tag) -> Key {
    named_by(repository, digest, incarnation).key(tag.as_str())
}

/// The hints which tags named an incarnation of a manifest. This prefix ends in `.`.
pub fn named_by(repository: &RepositoryName, digest: &Digest, incarnation: Id) -> Prefix {
    prefix(format!("r/{}/{}/{incarnation}.", repo(repository), flat(digest)))
}

/// The hints which tags named a manifest, in any incarnation.
pub fn named_ever(repository: &RepositoryName, digest: &Digest) -> Prefix {
    prefix(format!("r/{}/{}/", repo(repository), flat(digest)))
}

/// Reads the key of such a hint, without its manifest.
pub fn parse_named(prefix: &Prefix, key: &Key) -> Option<(Id, Tag)> {
    let (incarnation, tag) = prefix.rest(key)?.split_once('.')?;
    Some((incarnation.parse().ok()?, tag.parse().ok()?))
}

/// The record of a tag.
pub fn tag(repository: &RepositoryName, tag: &Tag) -> Key {
    tags(repository).key(tag.as_str())
}

/// The records of a repository's tags.
pub fn tags(repository: &RepositoryName) -> Prefix {
    prefix(format!("t/{}/", repo(repository)))
}

/// Tells whether a key is that of a tag's record.
pub(crate) fn is_tag(key: &Key) -> bool {
    key.as_str().starts_with("t/")
}

/// The tag records of all repositories.
pub fn all_tags() -> Prefix {
    prefix("t/".to_owned())
}

/// Reads the key of a tag's record.
pub fn parse_tag(key: &Key) -> Option<(RepositoryName, Tag)> {
    let (name, tag) = key.as_str().strip_prefix("t/")?.split_once('/')?;
    Some((unrepo(name)?, tag.parse().ok()?))
}

/// The changes of a tag.
pub fn history(repository: &RepositoryName, tag: &Tag) -> Prefix {
    prefix(format!("h/{}/{}/", repo(repository), tag.as_str()))
}

/// One change of a tag.
pub fn change(repository: &RepositoryName, tag: &Tag, sequence: u64, nonce: Id) -> Key {
    history(repository, tag).key(&format!("{sequence:016x}-{nonce}"))
}

/// The referrers of a subject.
pub fn referrers(repository: &RepositoryName, subject: &Digest) -> Prefix {
    prefix(format!("s/{}/{}/", repo(repository), flat(subject)))
}

/// One referrer of a subject.
pub fn referrer(repository: &RepositoryName, subject: &Digest, digest: &Digest, incarnation: Id) -> Key {
    referrers(repository, subject).key(&format!("{}.{incarnation}", flat(digest)))
}

/// Where a list of referrers goes on after a manifest.
pub fn referrers_after(repository: &RepositoryName, subject: &Digest, digest: &Digest) -> Key {
    // Above all that `referrer` makes of this digest: `/` comes after `.`.
    referrers(repository, subject).key(&format!("{}/", flat(digest)))
}

/// Reads the key of a referrer, without its subject.
pub fn parse_referrer(prefix: &Prefix, key: &Key) -> Option<(Digest, Id)> {
    let (digest, incarnation) = prefix.rest(key)?.split_once('.')?;
    Some((unflat(digest)?, incarnation.parse().ok()?))
}

/// The record that a repository has manifests.
pub fn catalog_entry(repository: &RepositoryName) -> Key {
    catalog().key(&repo(repository))
}

/// Where the catalog goes on after some text that a client sent, which need not be a name.
pub fn catalog_after(text: &str) -> Key {
    catalog().key(&text.replace('/', "!"))
}

/// The records of all repositories.
pub fn catalog() -> Prefix {
    prefix("c/".to_owned())
}

/// Reads the key of a repository's record.
pub fn parse_catalog(key: &Key) -> Option<RepositoryName> {
    unrepo(key.as_str().strip_prefix("c/")?)
}

/// The record of an upload.
pub fn upload(id: Id) -> Key {
    uploads().key(&id.to_string())
}

/// Reads the key of an upload's record.
pub fn parse_upload(key: &Key) -> Option<Id> {
    key.as_str().strip_prefix("u/")?.parse().ok()
}

/// The records of all uploads.
pub fn uploads() -> Prefix {
    prefix("u/".to_owned())
}

/// The patterns of immutable tags.
pub fn immutable() -> Key {
    Key("g/immutable".into())
}

/// The secret that signs the locations of uploads.
pub fn secret() -> Key {
    Key("g/key".into())
}

/// Blobs that lost an edge.
pub fn candidates() -> Prefix {
    prefix("g/q/".to_owned())
}

/// The hint when a manifest was pulled last: as old as that.
pub fn pull(repository: &RepositoryName, digest: &Digest) -> Key {
    pulls().key(&format!("{}/{}", repo(repository), flat(digest)))
}

/// The hints when manifests were pulled last.
pub fn pulls() -> Prefix {
    prefix("g/p/".to_owned())
}

/// The hint that a blob turned out to be bad.
pub fn bad(digest: &Digest) -> Key {
    bad_blobs().key(&flat(digest))
}

/// The hints which blobs turned out to be bad.
pub fn bad_blobs() -> Prefix {
    prefix("g/b/".to_owned())
}

/// Reads the key of a hint that a blob turned out to be bad.
pub fn parse_bad(key: &Key) -> Option<Digest> {
    unflat(key.as_str().strip_prefix("g/b/")?)
}

/// The hint that a record turned out to be damaged.
pub fn damaged(record: &Key) -> Key {
    all_damaged().key(record.as_str())
}

/// The hints which records turned out to be damaged.
pub fn all_damaged() -> Prefix {
    prefix("g/d/".to_owned())
}

/// Reads the key of a hint that a record turned out to be damaged.
pub fn parse_damaged(key: &Key) -> Option<Key> {
    key.as_str().strip_prefix("g/d/").map(Key::listed)
}

/// Objects that are made to learn something about the store.
pub fn probes() -> Prefix {
    prefix("g/x/".to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::id::Ids;
    use super::*;

    #[test]
    fn keys_can_be_read_back() {
        let blob_ = Digest::sha256(b"x");
        let long = Digest::of(oci::Algorithm::Sha512, b"x");
        let repository: RepositoryName = "a/b-c.d/e__f".parse().expect("a name");
        for kind in [EdgeKind::Own, EdgeKind::Manifest(blob_.clone()), EdgeKind::Manifest(long.clone())] {
            let edge =
                Edge { blob: long.clone(), repository: repository.clone(), incarnation: Ids::Random.draw(), kind };
            assert_eq!(Edge::parse(&edge.key()), Some(edge));
        }
        assert_eq!(parse_blob(&blob(&long)), Some(long.clone()));
        assert_eq!(parse_manifest(&manifest(&repository, &long)), Some((repository.clone(), long.clone())));
        assert_eq!(parse_bad(&bad(&long)), Some(long.clone()));
        assert_eq!(parse_own(&own(&repository, &long)), Some((repository.clone(), long.clone())));
        assert_eq!(parse_catalog(&catalog_entry(&repository)), Some(repository.clone()));
        let id = Ids::Random.draw();
        let all = referrers(&repository, &blob_);
        assert_eq!(parse_referrer(&all, &referrer(&repository, &blob_, &long, id)), Some((long.clone(), id)));
    }

    #[test]
    fn what_we_did_not_write_parses_as_nothing() {
        for text in ["", "e/", "e/sha256/00/x", "b/sha256/00/../x", "d/x", "e/sha256", "u/ü"] {
            assert!(Edge::parse(&Key::listed(text)).is_none());
            assert!(parse_blob(&Key::listed(text)).is_none());
        }
    }

    #[test]
    fn a_repository_sorts_below_those_in_it() {
        let entry = |name: &str| catalog_entry(&name.parse().expect("a name"));
        let mut keys = ["a", "a-b", "a/b", "a.b", "a0", "a/b/c"].map(entry);
        keys.sort();
        assert_eq!(keys, ["a", "a/b", "a/b/c", "a-b", "a.b", "a0"].map(entry));
    }
}

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use oci::{Algorithm, Descriptor, Digest, Index, Manifest, Parsed, RepositoryName, Tag, media_type};

use super::collector::CollectOptions;
use super::fsck::{Fault, FsckOptions, Mending};
use super::inspect::{Reason, Sum};
use super::objects::memory::{Fate, Gate, Memory};
use super::referrers::ReferrersLimit;
use super::retention::{RetentionRules, Retired};
use super::tags::TagTest;
use super::*;

/// Runs a test against the protocol on a store in memory.
fn on_memory<F: Future<Output = ()>>(options: StorageOptions, test: impl FnOnce(Memory, Storage) -> F) {
    let memory = Memory::default();
    let storage = Storage::new(memory.backend(), options);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("built");
    runtime.block_on(test(memory, storage));
}

fn without_grace() -> StorageOptions {
    StorageOptions { grace: Duration::ZERO, ..StorageOptions::default() }
}

fn name(text: &str) -> RepositoryName {
    text.parse().expect("a name")
}

fn tag(text: &str) -> Tag {
    text.parse().expect("a tag")
}

fn image(layers: &[&[u8]]) -> (Bytes, Parsed, Digest) {
    let config = Descriptor::of(media_type::OCI_CONFIG, b"{}");
    let layers = layers.iter().map(|layer| Descriptor::of(media_type::OCI_LAYER, layer)).collect();
    parsed(&Manifest::new(config, layers))
}

fn parsed(manifest: &impl serde::Serialize) -> (Bytes, Parsed, Digest) {
    let bytes = Bytes::from(serde_json::to_vec(manifest).expect("JSON"));
    let parsed = Parsed::parse(&bytes, None).expect("a manifest");
    let digest = Digest::sha256(&bytes);
    (bytes, parsed, digest)
}

async fn push(repository: &Repository, layers: &[&[u8]], tags: &[Tag]) -> Result<Digest, PutManifestError> {
    for layer in layers.iter().chain([&b"{}".as_slice()]) {
        repository.put_blob(&Digest::sha256(layer), Bytes::copy_from_slice(layer)).await.expect("stored");
    }
    let (bytes, parsed, digest) = image(layers);
    put(repository, &bytes, &parsed, &digest, tags, None).await.map(|()| digest)
}

async fn put(
    repository: &Repository,
    bytes: &Bytes,
    parsed: &Parsed,
    digest: &Digest,
    tags: &[Tag],
    holds: Option<TagTest<'_>>,
) -> Result<(), PutManifestError> {
    let new = NewManifest {
        digest,
        bytes,
        parsed,
        media_type: parsed.media_type(),
        tags,
        holds,
        sparse: false,
        by: Some("me"),
    };
    repository.put_manifest(&new).await
}

/// Reads everything, at once.
const LOOK: FsckOptions = FsckOptions { repair: false, verify: true, sparse: false, settle: Duration::ZERO };

async fn read(repository: &Repository, digest: &Digest) -> Option<Bytes> {
    let blob = repository.blob(digest).await.expect("read")?;
    let content = blob.read(0..blob.size()).await.expect("read")?;
    Some(referrers::gather(content, blob.size()).await.expect("read"))
}

#[test]
fn an_image_is_pushed_pulled_deleted_and_collected() {
    on_memory(without_grace(), async |memory, storage| {
        let repository = storage.repository(&name("a/b"));
        let large = vec![7; 200_000];
        let digest = push(&repository, &[b"layer", &large], &[tag("v1"), tag("latest")]).await.expect("pushed");
        for layer in [b"layer".as_slice(), &large] {
            assert_eq!(read(&repository, &Digest::sha256(layer)).await.as_deref(), Some(layer));
        }
        assert_eq!(read(&storage.repository(&name("other")), &Digest::sha256(b"layer")).await, None);
        assert_eq!(repository.tag(&tag("v1")).await.expect("read").expect("there").digest, digest);
        assert_eq!(repository.tags(None, 10).await.expect("listed").entries, ["latest", "v1"]);
        assert_eq!(storage.catalog(None, 10).await.expect("listed").entries, [name("a/b")]);
        let all = CollectOptions { scan: true, ..CollectOptions::default() };
        assert_eq!(storage.collect(all).await.expect("collected").blobs, 0);
        assert!(repository.delete_manifest(&digest, None).await.expect("deleted"));
        assert!(!repository.delete_manifest(&digest, None).await.expect("not there"));
        assert_eq!(repository.tags(None, 10).await.expect("listed").entries, Vec::<String>::new());
        assert!(storage.catalog(None, 10).await.expect("listed").entries.is_empty());
        let dry = CollectOptions { dry_run: true, ..CollectOptions::default() };
        assert_eq!(storage.collect(dry).await.expect("looked").blobs, 4);
        let collected = storage.collect(CollectOptions::default()).await.expect("collected");
        assert_eq!((collected.blobs, collected.young), (4, 0), "two layers, a config and the manifest");
        assert_eq!(read(&repository, &Digest::sha256(b"layer")).await, None);
        assert!(memory.data_ids().is_empty());
        let left: Vec<_> = memory.keys().into_iter().filter(|key| key.as_str().starts_with("e/")).collect();
        assert!(left.is_empty(), "{left:?}");
        push(&repository, &[b"layer", &large], &[tag("v1")]).await.expect("pushed again");
        assert_eq!(read(&repository, &Digest::sha256(&large)).await.as_deref(), Some(&*large));
    });
}

#[test]
fn a_delete_that_stopped_half_way_is_finished_by_the_next() {
    on_memory(without_grace(), async |_, storage| {
        let repository = storage.repository(&name("a"));
        let digest = push(&repository, &[b"layer"], &[tag("old")]).await.expect("pushed");
        let key = keys::manifest(&name("a"), &digest);
        let bury = async || storage.bury(&key, 0, objects::Condition::Always).await.expect("buried");
        bury().await;
        assert!(!repository.delete_manifest(&digest, None).await.expect("finished"));
        assert!(repository.tags(None, 10).await.expect("listed").entries.is_empty());
        assert!(storage.catalog(None, 10).await.expect("listed").entries.is_empty());
        // What was pushed again meanwhile keeps the tags that name it now.
        push(&repository, &[b"layer"], &[tag("old")]).await.expect("pushed");
        bury().await;
        push(&repository, &[b"layer"], &[tag("new")]).await.expect("pushed");
        repository.forget_tags(&digest, None).await.expect("finished");
        assert_eq!(repository.tags(None, 10).await.expect("listed").entries, ["new"]);
    });
}

#[test]
fn what_nobody_relies_on_has_its_grace() {
    on_memory(StorageOptions::default(), async |memory, storage| {
        let repository = storage.repository(&name("a"));
        let digest = push(&repository, &[b"layer"], &[]).await.expect("pushed");
        repository.delete_manifest(&digest, None).await.expect("deleted");
        let collected = storage.collect(CollectOptions::default()).await.expect("collected");
        assert_eq!((collected.blobs, collected.young), (0, 3));
        memory.pass_time(Duration::from_secs(13 * 60 * 60));
        // A client that asks is about to push something that names it.
        assert_eq!(repository.blob_size(&Digest::sha256(b"layer")).await.expect("asked"), Some(5));
        memory.pass_time(Duration::from_secs(12 * 60 * 60));
        let collected = storage.collect(CollectOptions::default()).await.expect("collected");
        assert_eq!((collected.blobs, collected.young), (2, 1));
        memory.pass_time(Duration::from_secs(24 * 60 * 60));
        assert_eq!(storage.collect(CollectOptions::default()).await.expect("collected").blobs, 1);
    });
}

/// Does one thing each time that a call comes that it waits for.
struct Meanwhile {
    call: (&'static str, &'static str),
    acts: std::sync::Mutex<VecDeque<Box<dyn FnOnce() + Send>>>,
}

impl Gate for Meanwhile {
    fn pass(&self, call: &'static str, what: &str) -> BoxFuture<'static, Fate> {
        if call == self.call.0 && what.starts_with(self.call.1) {
            let act = self.acts.lock().expect("not poisoned").pop_front();
            act.into_iter().for_each(|act| act());
        }
        std::future::ready(Fate::Done).boxed()
    }
}

/// Opens the store with something that happens just before a call to it.
fn meanwhile(memory: &Memory, call: (&'static str, &'static str), act: impl FnOnce() + Send + 'static) -> Storage {
    let gate = Meanwhile { call, acts: std::sync::Mutex::new([Box::new(act) as Box<dyn FnOnce() + Send>].into()) };
    Storage::new(memory.behind(std::sync::Arc::new(gate)).backend(), StorageOptions::default())
}

#[test]
fn a_blob_that_goes_while_a_client_asks_for_it_is_not_promised() {
    on_memory(StorageOptions::default(), async |memory, storage| {
        let repository = storage.repository(&name("a"));
        let digest = Digest::sha256(b"x");
        repository.put_blob(&digest, Bytes::from_static(b"x")).await.expect("stored");
        // So old that to ask for it is noted in its record.
        memory.pass_time(Duration::from_secs(13 * 60 * 60));
        let (other, gone) = (repository.clone(), digest.clone());
        let asked = meanwhile(&memory, ("put", "o/"), move || {
            let deleted = other.delete_blob(&gone).now_or_never().expect("memory does not wait");
            assert!(deleted.expect("deleted"));
        });
        assert_eq!(asked.repository(&name("a")).blob_size(&digest).await.expect("asked"), None);
    });
}

/// What others do between a deletion and its being taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Between {
    Nothing,
    /// They push the manifest again.
    Push,
    /// They bury it again, and throw away its edges and its place in the catalog.
    Bury,
}

#[test]
fn a_manifest_that_gets_an_immutable_tag_while_it_is_deleted_stays() {
    let immutable = TagPatterns::new(["v*".to_owned()]);
    for between in [Between::Nothing, Between::Push, Between::Bury] {
        let options = StorageOptions { immutable: immutable.clone(), ..StorageOptions::default() };
        on_memory(options.clone(), async |memory, storage| {
            let repository = storage.repository(&name("a"));
            let digest = push(&repository, &[b"layer"], &[tag("other")]).await.expect("pushed");
            let first = repository.manifest(&digest).await.expect("read").expect("there");
            let (bytes, parsed, _) = image(&[b"layer"]);
            let other = repository.clone();
            let put_again = move |tags: &[Tag]| {
                let digest = Digest::sha256(&bytes);
                let put = async { put(&other, &bytes, &parsed, &digest, tags, None).await };
                put.now_or_never().expect("memory does not wait").expect("pushed");
            };
            let (storage_too, record) = (storage.clone(), first.clone());
            let gone = digest.clone();
            let bury = async move || {
                let (repository, key) = (storage_too.repository(&name("a")), keys::manifest(&name("a"), &gone));
                storage_too.bury(&key, 0, objects::Condition::Always).await.expect("buried");
                let edges = repository.manifest_edges(&gone, record.incarnation, &record.references);
                storage_too.drop_edges(&edges).await.expect("dropped");
                repository.leave_catalog().await.expect("left");
            };
            let put_tagged = put_again.clone();
            let before_bury: Box<dyn FnOnce() + Send> = Box::new(move || put_tagged(&[tag("v1")]));
            let before_undo: Box<dyn FnOnce() + Send> = Box::new(move || match between {
                Between::Nothing => {}
                Between::Push => put_again(&[]),
                Between::Bury => bury().now_or_never().expect("memory does not wait"),
            });
            let acts = std::sync::Mutex::new([before_bury, before_undo].into());
            let gate = Meanwhile { call: ("put", "m/"), acts };
            let deleting = Storage::new(memory.behind(Arc::new(gate)).backend(), options);
            let error = deleting.repository(&name("a")).delete_manifest(&digest, None).await.expect_err("it is tagged");
            assert!(matches!(error, PutManifestError::TagImmutable { .. }), "{error}");
            let manifest = repository.manifest(&digest).await.expect("read").expect("there");
            assert_eq!(manifest.incarnation != first.incarnation, between == Between::Push, "{between:?}");
            for text in ["v1", "other"] {
                let named = repository.tag(&tag(text)).await.expect("read").expect("there");
                assert_eq!((named.digest, named.incarnation), (digest.clone(), manifest.incarnation), "{text}");
            }
            let checked = storage.fsck(LOOK).await.expect("looked");
            assert!(checked.problems.is_empty() && checked.stale_edges == 0, "{between:?}: {checked:?}");
        });
    }
}

#[test]
fn a_pull_counts_for_as_long_as_it_may_not_be_noted_again() {
    on_memory(StorageOptions::default(), async |_, storage| {
        let repository = storage.repository(&name("a"));
        let digest = push(&repository, &[b"layer"], &[]).await.expect("pushed");
        repository.note_pull(&digest).await.expect("noted");
        let noted = storage.objects().now().await.expect("told");
        let hour = Duration::from_secs(PULLS_NOTED_EVERY.unsigned_abs());
        let second = Duration::from_secs(1);
        // Pulls after the one that was noted are not, for an hour.
        assert!(repository.was_pulled_since(&digest, noted + hour - second).await.expect("told"));
        assert!(!repository.was_pulled_since(&digest, noted + hour + second).await.expect("told"));
    });
}

/// Lets nothing be written below a prefix.
struct Sealed(&'static str);

impl Gate for Sealed {
    fn pass(&self, call: &'static str, what: &str) -> BoxFuture<'static, Fate> {
        let fate = if call == "put" && what.starts_with(self.0) { Fate::Refused } else { Fate::Done };
        std::future::ready(fate).boxed()
    }
}

#[test]
fn what_is_damaged_hides_nothing_else_when_that_cannot_be_noted() {
    on_memory(StorageOptions::default(), async |memory, storage| {
        let digest = push(&storage.repository(&name("a")), &[b"layer"], &[tag("t")]).await.expect("pushed");
        spoil(&memory, &keys::tag(&name("a"), &tag("t")), DAMAGE[0]);
        let sealed = Storage::new(memory.behind(Arc::new(Sealed("g/d/"))).backend(), StorageOptions::default());
        let repository = sealed.repository(&name("a"));
        assert_eq!(repository.tag(&tag("t")).await.expect("it can be read"), None);
        assert!(repository.manifest(&digest).await.expect("read").is_some());
        assert_eq!(storage.damaged_records(1).await.expect("told"), Vec::<String>::new());
        assert_eq!(storage.repository(&name("a")).tag(&tag("t")).await.expect("read"), None);
        assert_eq!(storage.damaged_records(1).await.expect("told").len(), 1);
    });
}

#[test]
fn data_of_an_upload_that_ends_while_it_is_collected_stays() {
    for moment in [("list", "u/"), ("list", "b/"), ("list data", "d/")] {
        on_memory(StorageOptions::default(), async |memory, storage| {
            let repository = storage.repository(&name("a"));
            let bytes = Bytes::from(vec![7; 300_000]);
            let digest = Digest::sha256(&bytes);
            let id = repository.begin_upload(Algorithm::Sha256).await.expect("named");
            let mut upload = repository.resume_upload(&id).await.expect("fresh");
            upload.append(vec![bytes.clone()]).await.expect("added");
            upload.pause().await.expect("noted");
            let (bucket, blob) = (memory.clone(), digest.clone());
            let collecting = meanwhile(&memory, moment, move || {
                upload.finish(&blob).now_or_never().expect("memory does not wait").expect("finished");
                bucket.age(bucket.data_ids()[0], Duration::from_secs(48 * 60 * 60));
            });
            collecting.collect(CollectOptions { scan: true, ..CollectOptions::default() }).await.expect("collected");
            assert_eq!(read(&repository, &digest).await, Some(bytes), "{moment:?}");
        });
    }
}

#[test]
fn a_manifest_needs_what_it_names() {
    on_memory(without_grace(), async |memory, storage| {
        let repository = storage.repository(&name("a"));
        let (bytes, parsed, digest) = image(&[b"nowhere"]);
        let error = put(&repository, &bytes, &parsed, &digest, &[tag("v1")], None).await.expect_err("refused");
        assert!(matches!(error, PutManifestError::MissingReference { .. }), "{error}");
        // That another repository has it does not count.
        push(&storage.repository(&name("b")), &[b"nowhere"], &[]).await.expect("pushed");
        put(&repository, &bytes, &parsed, &digest, &[tag("v1")], None).await.expect_err("refused");
        assert!(repository.manifest(&digest).await.expect("read").is_none());
        let edges = memory.keys().into_iter().filter_map(|key| keys::Edge::parse(&key));
        assert!(edges.into_iter().all(|edge| edge.repository == name("b")));
    });
}

#[test]
fn tags_are_compared_and_swapped_and_remembered() {
    on_memory(without_grace(), async |_, storage| {
        let repository = storage.repository(&name("a"));
        let one = push(&repository, &[b"1"], &[tag("t")]).await.expect("pushed");
        let two = push(&repository, &[b"2"], &[tag("t")]).await.expect("pushed");
        let (bytes, parsed, digest) = image(&[b"1"]);
        let was_one = |now: Option<&Digest>| now == Some(&one);
        let error = put(&repository, &bytes, &parsed, &digest, &[tag("t")], Some(TagTest(&was_one))).await;
        assert!(matches!(error, Err(PutManifestError::TagMoved { .. })));
        let was_two = |now: Option<&Digest>| now == Some(&two);
        put(&repository, &bytes, &parsed, &digest, &[tag("t")], Some(TagTest(&was_two))).await.expect("moved");
        assert!(repository.delete_tag(&tag("t"), Some("them")).await.expect("deleted"));
        assert!(!repository.delete_tag(&tag("t"), None).await.expect("gone"));
        let history = repository.history(&tag("t"), 0, 10).await.expect("read").entries;
        let digests: Vec<_> = history.iter().map(|change| change.digest.clone()).collect();
        assert_eq!(digests, [Some(one.clone()), Some(two.clone()), Some(one.clone()), None]);
        assert_eq!(history.iter().map(|change| change.sequence).collect::<Vec<_>>(), [1, 2, 3, 4]);
        let then = repository.tag_at(&tag("t"), history[1].at).await.expect("read");
        assert_eq!(then.and_then(|change| change.digest), Some(two));
        assert!(repository.tag_at(&tag("t"), history[3].at).await.expect("read").is_none());
        assert_eq!(repository.undelete_tag(&tag("t"), None).await.expect("back"), Some(one.clone()));
        assert_eq!(repository.tag(&tag("t")).await.expect("read").map(|it| it.digest), Some(one));
        let page = repository.history(&tag("t"), 2, 2).await.expect("read");
        assert_eq!((page.entries.len(), page.more), (2, true));
    });
}

/// Counts calls.
#[derive(Default)]
struct Counted(AtomicUsize);

impl Gate for Counted {
    fn pass(&self, _call: &'static str, _what: &str) -> BoxFuture<'static, Fate> {
        self.0.fetch_add(1, Ordering::Relaxed);
        std::future::ready(Fate::Done).boxed()
    }
}

#[test]
fn what_a_tag_named_is_found_without_reading_all_of_its_history() {
    on_memory(without_grace(), async |memory, storage| {
        let repository = storage.repository(&name("a"));
        let mut changes = Vec::new();
        for number in 0..300_u16 {
            let layer = number.to_le_bytes();
            changes.push(Some(push(&repository, &[&layer], &[tag("t")]).await.expect("pushed")));
            if number % 7 == 3 {
                repository.delete_tag(&tag("t"), None).await.expect("deleted");
                changes.push(None);
            }
        }
        let history = repository.history(&tag("t"), 0, 1000).await.expect("read").entries;
        assert_eq!(history.len(), changes.len());
        let count = Arc::new(Counted::default());
        let counted = Storage::new(memory.behind(count.clone()).backend(), without_grace());
        let looked = counted.repository(&name("a"));
        for (change, digest) in history.iter().zip(&changes) {
            count.0.store(0, Ordering::Relaxed);
            let then = looked.tag_at(&tag("t"), change.at).await.expect("read");
            assert_eq!(then.and_then(|change| change.digest), *digest);
            assert!(count.0.load(Ordering::Relaxed) < 50, "{count:?} calls", count = count.0);
        }
        let before = history[0].at - Duration::from_secs(1);
        assert_eq!(looked.tag_at(&tag("t"), before).await.expect("read"), None);
        assert_eq!(looked.changes(&tag("t")).await.expect("read"), history.len() as u64);
    });
}

#[test]
fn what_a_tag_named_is_found_beside_a_change_that_cannot_be_read() {
    on_memory(without_grace(), async |memory, storage| {
        let repository = storage.repository(&name("a"));
        let mut digests = Vec::new();
        for number in 0..9_u8 {
            digests.push(push(&repository, &[&[number]], &[tag("t")]).await.expect("pushed"));
        }
        let history = repository.history(&tag("t"), 0, 100).await.expect("read").entries;
        for (damaged, key) in records(&memory, &["h/"]).iter().enumerate() {
            let was = storage.objects().get(key).await.expect("read").expect("there").bytes;
            spoil(&memory, key, DAMAGE[0]);
            for number in (0..digests.len()).filter(|number| *number != damaged) {
                let then = repository.tag_at(&tag("t"), history[number].at).await.expect("read");
                assert_eq!(then.and_then(|it| it.digest).as_ref(), Some(&digests[number]), "{damaged} {number}");
            }
            memory.damage_object(key, was);
        }
    });
}

#[test]
fn a_tombstone_that_cannot_be_read_does_not_bring_anything_back() {
    for damage in DAMAGE {
        on_memory(StorageOptions::default(), async |memory, storage| {
            let repository = storage.repository(&name("a"));
            let digest = push(&repository, &[b"layer"], &[]).await.expect("pushed");
            repository.delete_manifest(&digest, None).await.expect("deleted");
            let blob = Digest::sha256(b"layer");
            assert!(repository.delete_blob(&blob).await.expect("deleted"));
            for key in [keys::manifest(&name("a"), &digest), keys::own(&name("a"), &blob)] {
                spoil(&memory, &key, damage);
                let checked = storage.fsck(FsckOptions { repair: true, ..LOOK }).await.expect("looked");
                assert!(!checked.is_wrong() && !checked.problems.is_empty(), "{key:?}: {checked:?}");
                assert!(!storage.has_record(&key).await.expect("looked"), "{key:?}");
            }
        });
    }
}

#[test]
fn an_immutable_tag_stays() {
    let immutable = TagPatterns::new(["v*".to_owned()]);
    on_memory(StorageOptions { immutable, ..without_grace() }, async |_, storage| {
        let repository = storage.repository(&name("a"));
        let one = push(&repository, &[b"1"], &[tag("v1"), tag("latest")]).await.expect("pushed");
        push(&repository, &[b"1"], &[tag("v1")]).await.expect("the same again");
        let error = push(&repository, &[b"2"], &[tag("v1")]).await.expect_err("refused");
        assert!(matches!(&error, PutManifestError::TagImmutable { digest, .. } if *digest == one), "{error}");
        push(&repository, &[b"2"], &[tag("latest")]).await.expect("moved");
        // What could be deleted could be set to another then.
        let error = repository.delete_tag(&tag("v1"), None).await.expect_err("refused");
        assert!(matches!(&error, PutManifestError::TagImmutable { digest, .. } if *digest == one), "{error}");
        repository.delete_manifest(&one, None).await.expect_err("refused");
        assert_eq!(repository.tag(&tag("v1")).await.expect("read").map(|it| it.digest), Some(one));
        let two = image(&[b"2"]).2;
        assert!(repository.delete_manifest(&two, None).await.expect("deleted"), "only `latest` names it");
    });
}

#[test]
fn referrers_are_those_pushed_and_those_noted() {
    on_memory(without_grace(), async |_, storage| {
        let repository = storage.repository(&name("a"));
        let subject = push(&repository, &[b"1"], &[]).await.expect("pushed");
        let mut referring = Vec::new();
        for number in 0..3_u8 {
            let mut manifest = Manifest::new(Descriptor::of("application/x", b"{}"), Vec::new());
            manifest.annotations.insert("n".into(), number.to_string());
            manifest.subject = (number < 2).then(|| Descriptor::new(media_type::OCI_MANIFEST, subject.clone(), 1));
            let (bytes, parsed, digest) = parsed(&manifest);
            put(&repository, &bytes, &parsed, &digest, &[], None).await.expect("pushed");
            referring.push(Descriptor::new(media_type::OCI_MANIFEST, digest, bytes.len() as u64));
        }
        let (bytes, parsed, digest) = parsed(&Index::new(vec![referring[2].clone()]));
        let fallback = tag(&format!("sha256-{}", subject.hex()));
        put(&repository, &bytes, &parsed, &digest, &[fallback], None).await.expect("noted");
        let limit = ReferrersLimit { count: 10, bytes: 1 << 20, looks: 100 };
        let (all, more) = repository.referrers(&subject, None, None, limit).await.expect("listed");
        let mut expected: Vec<_> = referring.iter().map(|it| it.digest.clone()).collect();
        expected.sort();
        assert_eq!(all.iter().map(|it| it.digest.clone()).collect::<Vec<_>>(), expected);
        assert!(more.is_none() && all.iter().all(|it| it.artifact_type.as_deref() == Some("application/x")));
        assert!(all.iter().all(|it| it.annotations.contains_key("n")));
        // Also when those that are looked at are not among those that are wanted.
        for (wanted, count, looks) in
            [(None, 1, 100), (None, 10, 1), (Some("application/x"), 1, 2), (Some("other"), 1, 1)]
        {
            let (mut seen, mut after) = (Vec::new(), None);
            for _ in 0..10 {
                let limit = ReferrersLimit { count, bytes: 1 << 20, looks };
                let (page, next) = repository.referrers(&subject, wanted, after.as_ref(), limit).await.expect("listed");
                assert!(page.len() <= count.min(looks));
                seen.extend(page.iter().map(|it| it.digest.clone()));
                after = next;
                if after.is_none() {
                    break;
                }
            }
            assert!(after.is_none(), "it ends");
            assert_eq!(seen, if wanted == Some("other") { Vec::new() } else { expected.clone() });
        }
        repository.delete_manifest(&referring[0].digest, None).await.expect("deleted");
        assert_eq!(
            repository.referrers(&subject, Some("application/x"), None, limit).await.expect("listed").0.len(),
            2
        );
        assert!(repository.referrers(&subject, Some("other"), None, limit).await.expect("listed").0.is_empty());
    });
}

#[test]
fn an_upload_goes_on_at_another_replica() {
    on_memory(without_grace(), async |memory, storage| {
        let other = Storage::new(memory.backend(), without_grace());
        let (here, there) = (storage.repository(&name("a")), other.repository(&name("a")));
        for size in [10, 40_000, 300_000] {
            let bytes = Bytes::from((0..size).map(|at| (at % 251) as u8).collect::<Vec<_>>());
            let digest = Digest::sha256(&bytes);
            let id = here.begin_upload(Algorithm::Sha256).await.expect("named");
            let id: UploadId = id.to_string().parse().expect("survives text");
            assert_eq!(there.upload_size(&id).await.expect("known"), 0);
            let mut upload = there.resume_upload(&id).await.expect("fresh");
            upload.append(vec![bytes.slice(..size / 3)]).await.expect("added");
            upload.pause().await.expect("noted");
            let mut late = here.resume_upload(&id).await.expect("resumed");
            late.append(vec![bytes.slice(size / 3..size / 2)]).await.expect("added");
            upload.append(vec![bytes.slice(size / 3..)]).await.expect("added");
            drop(upload);
            late.pause().await.expect("noted");
            let mut upload = there.resume_upload(&id).await.expect("resumed");
            assert_eq!(upload.size(), (size / 2) as u64);
            upload.append(vec![bytes.slice(size / 2..)]).await.expect("added");
            assert!(matches!(late.pause().await, Ok(())), "nobody else noted anything");
            assert!(matches!(upload.pause().await, Err(UploadError::Busy)), "but this one comes too late");
            let mut upload = there.resume_upload(&id).await.expect("resumed");
            upload.append(vec![bytes.slice(size / 2..)]).await.expect("added");
            assert_eq!(upload.finish(&digest).await.expect("finished"), size as u64);
            assert_eq!(read(&here, &digest).await.as_deref(), Some(&*bytes));
            if size > 10 {
                assert!(matches!(here.upload_size(&id).await, Err(UploadError::Unknown)));
            }
        }
        let foreign = storage.repository(&name("b")).begin_upload(Algorithm::Sha256).await.expect("named");
        assert!(matches!(here.resume_upload(&foreign).await, Err(UploadError::Unknown)), "of another repository");
    });
}

#[test]
fn bytes_that_are_not_what_was_said_are_not_stored() {
    on_memory(without_grace(), async |memory, storage| {
        let repository = storage.repository(&name("a"));
        for size in [10, 300_000] {
            for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
                let mut upload = repository.receive(Algorithm::Sha256);
                upload.append(vec![vec![1; size].into()]).await.expect("added");
                let error = upload.finish(&Digest::of(algorithm, b"other")).await.expect_err("refused");
                assert!(matches!(error, UploadError::DigestMismatch { .. }), "{error}");
            }
            let mut upload = repository.receive(Algorithm::Sha256);
            upload.append(vec![vec![1; size].into()]).await.expect("added");
            upload.finish(&Digest::of(Algorithm::Sha512, &vec![1; size])).await.expect("named late");
        }
        assert_eq!(memory.data_ids().len(), 1);
    });
}

#[test]
fn uploads_end_when_they_are_canceled_or_old() {
    on_memory(without_grace(), async |memory, storage| {
        let repository = storage.repository(&name("a"));
        let mut ids = Vec::new();
        for _ in 0..2 {
            let id = repository.begin_upload(Algorithm::Sha256).await.expect("named");
            let mut upload = repository.resume_upload(&id).await.expect("fresh");
            upload.append(vec![vec![1; 100_000].into()]).await.expect("added");
            upload.pause().await.expect("noted");
            ids.push(id);
        }
        repository.cancel_upload(&ids[0]).await.expect("canceled");
        assert!(matches!(repository.cancel_upload(&ids[0]).await, Err(UploadError::Unknown)));
        assert_eq!(storage.expire_uploads(Duration::from_secs(60)).await.expect("looked"), 0);
        memory.pass_time(Duration::from_secs(61));
        assert_eq!(storage.expire_uploads(Duration::from_secs(60)).await.expect("expired"), 1);
        assert!(matches!(repository.resume_upload(&ids[1]).await, Err(UploadError::Unknown)));
        memory.pass_time(Duration::from_secs(24 * 60 * 60));
        assert_eq!(storage.expire_uploads(Duration::from_secs(60)).await.expect("looked"), 0);
        let left: Vec<_> = memory.keys().into_iter().filter(|key| key.as_str().starts_with("u/")).collect();
        assert!(left.is_empty(), "{left:?}");
    });
}

/// Has one call end badly.
struct OneFault {
    /// How many calls come before it.
    left: AtomicUsize,
    fate: Fate,
}

impl Gate for OneFault {
    fn pass(&self, _call: &'static str, _what: &str) -> BoxFuture<'static, Fate> {
        let before = self.left.fetch_sub(1, Ordering::Relaxed);
        let fate = if before == 0 { self.fate } else { Fate::Done };
        async move { fate }.boxed()
    }
}

#[test]
fn an_upload_whose_end_fails_at_any_call_can_be_finished_again() {
    on_memory(without_grace(), async |_, _| {
        for fate in [Fate::Refused, Fate::LostAnswer] {
            // With all noted when it ends, and with more to come.
            for last in [0, 50_000] {
                let mut faults = 0;
                for calls in 0.. {
                    let memory = Memory::default();
                    let storage = Storage::new(memory.backend(), without_grace());
                    let repository = storage.repository(&name("a"));
                    let bytes = vec![7; 100_000];
                    let digest = Digest::sha256(&bytes);
                    let id = repository.begin_upload(Algorithm::Sha256).await.expect("named");
                    let mut upload = repository.resume_upload(&id).await.expect("fresh");
                    upload.append(vec![Bytes::copy_from_slice(&bytes[last..])]).await.expect("added");
                    upload.pause().await.expect("noted");
                    drop(upload);

                    let gate = Arc::new(OneFault { left: AtomicUsize::new(usize::MAX / 2), fate });
                    let faulty = Storage::new(memory.behind(gate.clone()).backend(), without_grace());
                    let mut upload = faulty.repository(&name("a")).resume_upload(&id).await.expect("goes on");
                    upload.append(vec![Bytes::copy_from_slice(&bytes[..last])]).await.expect("added");
                    gate.left.store(calls, Ordering::Relaxed);
                    let failed = upload.finish(&digest).await.is_err();
                    let is_over = gate.left.load(Ordering::Relaxed) < usize::MAX / 2;
                    gate.left.store(usize::MAX / 2, Ordering::Relaxed);

                    faults += usize::from(failed);
                    // What was noted before the fault is what the client is told to go on after.
                    match repository.resume_upload(&id).await {
                        Ok(mut upload) => {
                            let rest = bytes.len() - usize::try_from(upload.size()).expect("small");
                            upload.append(vec![Bytes::copy_from_slice(&bytes[..rest])]).await.expect("added");
                            upload.finish(&digest).await.expect("finished");
                        }
                        Err(UploadError::Unknown) => {}
                        Err(error) => panic!("{fate:?} at call {calls}: {error}"),
                    }
                    let there = read(&repository, &digest).await;
                    assert!(there.as_deref() == Some(&*bytes), "{fate:?} at call {calls}");
                    assert_eq!(memory.data_ids().len(), 1, "{fate:?} at call {calls}");
                    if is_over {
                        break;
                    }
                }
                assert!(faults > 5, "{faults}");
            }
        }
    });
}

#[test]
fn a_mount_needs_the_blob_where_it_is_said_to_be() {
    on_memory(without_grace(), async |_, storage| {
        let (a, b) = (storage.repository(&name("a")), storage.repository(&name("b")));
        let digest = Digest::sha256(b"x");
        a.put_blob(&digest, Bytes::from_static(b"x")).await.expect("stored");
        assert!(!b.mount(&digest, &name("c")).await.expect("asked"));
        assert!(b.mount(&digest, &name("a")).await.expect("mounted"));
        let mut owners = storage.owners(&digest, 10).await.expect("listed");
        owners.sort();
        assert_eq!(owners, [name("a"), name("b")]);
        assert!(a.delete_blob(&digest).await.expect("deleted"));
        assert!(!a.delete_blob(&digest).await.expect("gone"));
        assert_eq!(read(&b, &digest).await.as_deref(), Some(b"x".as_slice()));
        assert_eq!(read(&a, &digest).await, None);
    });
}

#[test]
fn a_blob_whose_bytes_are_lost_or_short_is_not_mounted() {
    on_memory(without_grace(), async |memory, storage| {
        let (a, b) = (storage.repository(&name("a")), storage.repository(&name("b")));
        let bytes = Bytes::from(vec![7; 300_000]);
        let digest = Digest::sha256(&bytes);
        a.put_blob(&digest, bytes.clone()).await.expect("stored");
        memory.damage(memory.data_ids()[0], bytes.slice(1..));
        assert!(!b.mount(&digest, &name("a")).await.expect("asked"));
        storage.data().delete(memory.data_ids()[0]).await.expect("lost");
        assert!(!b.mount(&digest, &name("a")).await.expect("asked"));
        a.put_blob(&digest, bytes).await.expect("healed");
        assert!(b.mount(&digest, &name("a")).await.expect("mounted"));
    });
}

#[test]
fn what_is_kept_is_explained_and_counted() {
    on_memory(without_grace(), async |_, storage| {
        let (a, b) = (storage.repository(&name("a")), storage.repository(&name("b")));
        let digest = push(&a, &[b"layer", b"mine"], &[tag("t")]).await.expect("pushed");
        push(&b, &[b"layer"], &[]).await.expect("pushed");
        let kept = storage.why(&Digest::sha256(b"layer")).await.expect("told").expect("there");
        let pushed = kept.by.iter().filter(|it| it.reason == Reason::Pushed).count();
        let named = Reason::Manifest { digest, tags: vec![tag("t")] };
        assert_eq!((kept.size, kept.bad, kept.by.len(), pushed), (5, false, 4, 2));
        assert_eq!(kept.by.iter().filter(|it| it.reason == named).count(), 1);
        assert_eq!(storage.why(&Digest::sha256(b"never")).await.expect("told"), None);
        let usage = storage.usage().await.expect("counted");
        let of_a = &usage.repositories[0];
        let size = image(&[b"layer", b"mine"]).0.len() as u64;
        assert_eq!((of_a.exclusive, of_a.shared), (Sum { blobs: 2, bytes: size + 4 }, Sum { blobs: 2, bytes: 7 }));
        assert_eq!((usage.total.blobs, usage.unreferenced.blobs), (5, 0));
    });
}

#[test]
fn a_blob_that_turned_bad_is_found_and_healed_by_the_next_push() {
    on_memory(without_grace(), async |memory, storage| {
        let repository = storage.repository(&name("a"));
        let large = vec![7; 200_000];
        push(&repository, &[&large], &[tag("t")]).await.expect("pushed");
        assert!(storage.fsck(LOOK).await.expect("looked").problems.is_empty());
        memory.damage(memory.data_ids()[0], vec![8; 200_000].into());
        let checked = storage.fsck(LOOK).await.expect("looked");
        assert_eq!((checked.problems.len(), checked.blobs.blobs, checked.tags), (1, 3, 1));
        assert_eq!(storage.scrub(None, 0).await.expect("looked").bad, [Digest::sha256(&large)]);
        assert_eq!(storage.bad_blobs(10).await.expect("told"), [Digest::sha256(&large)]);
        assert_eq!(repository.blob_size(&Digest::sha256(&large)).await.expect("asked"), None, "so clients send it");
        push(&repository, &[&large], &[tag("t")]).await.expect("pushed");
        assert_eq!(read(&repository, &Digest::sha256(&large)).await.as_deref(), Some(&*large));
        assert_eq!(storage.bad_blobs(10).await.expect("told"), []);
        assert!(storage.fsck(LOOK).await.expect("looked").problems.is_empty());
        memory.damage(memory.data_ids()[0], Bytes::from_static(b"short"));
        assert_eq!(repository.blob_size(&Digest::sha256(&large)).await.expect("asked"), None, "so clients send it");
        push(&repository, &[&large], &[tag("t")]).await.expect("pushed");
        assert_eq!(read(&repository, &Digest::sha256(&large)).await.as_deref(), Some(&*large));
        assert_eq!(memory.data_ids().len(), 1, "the bad bytes are gone");
    });
}

#[test]
fn a_blob_that_the_disk_does_not_give_back_is_healed_by_the_next_push() {
    for by_scrub in [true, false] {
        on_memory(without_grace(), async |memory, storage| {
            let repository = storage.repository(&name("a"));
            let large = vec![7; 200_000];
            push(&repository, &[&large], &[]).await.expect("pushed");
            memory.make_unreadable(memory.data_ids()[0]);
            let digest = Digest::sha256(&large);
            if by_scrub {
                tokio::time::pause();
                assert_eq!(storage.scrub(None, 0).await.expect("read").bad, std::slice::from_ref(&digest));
            } else {
                let problems = storage.fsck(LOOK).await.expect("looked").problems;
                assert_eq!(
                    problems.iter().map(|it| &it.fault).collect::<Vec<_>>(),
                    [&Fault::LostByDisk { digest: digest.clone() }]
                );
                let problems = storage.fsck(FsckOptions { repair: true, ..LOOK }).await.expect("looked").problems;
                assert_eq!(problems[0].mending, Mending::Marked);
            }
            assert_eq!(repository.blob_size(&digest).await.expect("asked"), None, "so clients send it");
            push(&repository, &[&large], &[]).await.expect("pushed");
            assert_eq!(read(&repository, &digest).await.as_deref(), Some(&*large));
            assert!(storage.fsck(LOOK).await.expect("looked").problems.is_empty());
        });
    }
}

#[test]
fn a_blob_whose_bytes_the_disk_gives_back_after_all_is_live_again() {
    for by_scrub in [true, false] {
        on_memory(without_grace(), async |memory, storage| {
            tokio::time::pause();
            let repository = storage.repository(&name("a"));
            let large = vec![7; 200_000];
            let digest = Digest::sha256(&large);
            push(&repository, &[&large], &[]).await.expect("pushed");
            memory.make_unreadable(memory.data_ids()[0]);
            assert_eq!(storage.scrub(None, 0).await.expect("read").bad, std::slice::from_ref(&digest));
            let again = async || {
                if by_scrub {
                    assert!(storage.scrub(None, 0).await.expect("read").bad.is_empty());
                } else {
                    storage.fsck(FsckOptions { repair: true, verify: false, ..LOOK }).await.expect("mended");
                }
                read(&repository, &digest).await
            };
            assert_eq!(again().await, None);
            memory.make_readable();
            assert_eq!(again().await.as_deref(), Some(&*large));
            assert!(storage.bad_blobs(10).await.expect("told").is_empty());
            assert!(storage.fsck(LOOK).await.expect("looked").problems.is_empty());
        });
    }
}

#[test]
fn a_bad_blob_that_nothing_keeps_goes_also_when_it_is_whole() {
    on_memory(without_grace(), async |memory, storage| {
        tokio::time::pause();
        let repository = storage.repository(&name("a"));
        let large = Bytes::from(vec![7; 200_000]);
        let digest = Digest::sha256(&large);
        repository.put_blob(&digest, large).await.expect("stored");
        memory.make_unreadable(memory.data_ids()[0]);
        assert_eq!(storage.scrub(None, 0).await.expect("read").bad, std::slice::from_ref(&digest));
        memory.make_readable();
        repository.delete_blob(&digest).await.expect("deleted");
        storage.scrub(None, 0).await.expect("read");
        assert_eq!(storage.bad_blobs(10).await.expect("told"), [digest]);
        storage.collect(CollectOptions::default()).await.expect("collected");
        assert!(memory.data_ids().is_empty());
    });
}

#[test]
fn a_blob_goes_from_a_repository_whose_manifests_do_not_name_it_any_more() {
    on_memory(without_grace(), async |_, storage| {
        let (gone, stays) = (storage.repository(&name("a")), storage.repository(&name("b")));
        let digest = push(&gone, &[b"layer"], &[]).await.expect("pushed");
        push(&stays, &[b"layer"], &[]).await.expect("pushed");
        gone.delete_manifest(&digest, None).await.expect("deleted");
        storage.collect(CollectOptions { scan: true, ..CollectOptions::default() }).await.expect("collected");
        let layer = Digest::sha256(b"layer");
        assert_eq!(read(&gone, &layer).await, None);
        assert_eq!(read(&stays, &layer).await.as_deref(), Some(b"layer".as_slice()));
        assert!(storage.fsck(LOOK).await.expect("looked").problems.is_empty());
    });
}

/// What becomes of records: something else, or too little.
const DAMAGE: [&str; 4] = [
    "not what was written, and longer than any tombstone",
    "not what was written, but as long as a tombstone",
    "not what was written",
    "",
];

/// Makes a record unreadable.
fn spoil(memory: &Memory, key: &keys::Key, damage: &'static str) {
    memory.damage_object(key, Bytes::from_static(damage.as_bytes()));
}

/// The keys of all records below some of the prefixes, which are of a repository that has one image.
fn records(memory: &Memory, prefixes: &[&str]) -> Vec<keys::Key> {
    let of = |key: &keys::Key| prefixes.iter().any(|prefix| key.as_str().starts_with(prefix));
    memory.keys().into_iter().filter(of).collect()
}

#[test]
fn what_cannot_be_read_is_healed_by_the_next_push_and_told() {
    for damage in DAMAGE {
        on_memory(without_grace(), async |memory, storage| {
            let repository = storage.repository(&name("a"));
            let large = vec![7; 200_000];
            let layers = [b"layer".as_slice(), &large];
            let digest = push(&repository, &layers, &[tag("t"), tag("other")]).await.expect("pushed");
            let all = records(&memory, &["b/", "o/", "m/", "t/", "c/"]);
            assert_eq!(all.len(), 4 + 3 + 1 + 2 + 1, "{all:?}");
            // Each alone, and all at once.
            for spoiled in all.iter().map(std::slice::from_ref).chain([&*all]) {
                spoiled.iter().for_each(|key| spoil(&memory, key, damage));
                storage
                    .collect(CollectOptions { scan: true, ..CollectOptions::default() })
                    .await
                    .expect("goes round it");
                storage.scrub(None, 0).await.expect("goes round it");
                storage.expire_uploads(Duration::ZERO).await.expect("goes round it");
                let faults = storage.fsck(LOOK).await.expect("goes round it").problems;
                for key in spoiled {
                    let told = |fault: &Fault| matches!(fault, Fault::DamagedRecord { key: of, .. } if of == key);
                    assert!(faults.iter().any(|it| told(&it.fault)), "{key:?}: {faults:?}");
                }
                let told = storage.damaged_records(100).await.expect("told");
                assert_eq!(told, spoiled.iter().map(keys::Key::as_str).collect::<Vec<_>>());
                push(&repository, &layers, &[tag("t")]).await.unwrap_or_else(|error| panic!("{spoiled:?}: {error}"));
                for layer in layers {
                    assert_eq!(read(&repository, &Digest::sha256(layer)).await.as_deref(), Some(layer), "{spoiled:?}");
                }
                let manifest = repository.manifest(&digest).await.expect("read").expect("there");
                let named = repository.tag(&tag("t")).await.expect("read").expect("there");
                assert_eq!((&named.digest, named.incarnation), (&digest, manifest.incarnation), "{spoiled:?}");
                // What the push did not say again, its history does.
                storage.fsck(FsckOptions { repair: true, ..LOOK }).await.expect("looked");
                let other = repository.tag(&tag("other")).await.expect("read").expect("there");
                assert_eq!((&other.digest, other.incarnation), (&digest, manifest.incarnation), "{spoiled:?}");
                assert!(storage.damaged_records(100).await.expect("told").is_empty(), "{spoiled:?}");
                assert!(storage.fsck(LOOK).await.expect("looked").problems.is_empty(), "{spoiled:?}");
            }
            let changes = repository.history(&tag("t"), 0, 100).await.expect("read").entries;
            assert!(changes.iter().enumerate().all(|(at, change)| change.sequence == at as u64 + 1), "{changes:?}");
        });
    }
}

#[test]
fn what_cannot_be_read_is_mended_from_what_else_is_known() {
    for damage in DAMAGE {
        on_memory(without_grace(), async |memory, storage| {
            let repository = storage.repository(&name("a"));
            let digest = push(&repository, &[b"layer"], &[tag("t")]).await.expect("pushed");
            for key in records(&memory, &["o/", "m/", "t/", "c/"]) {
                spoil(&memory, &key, damage);
                let checked = storage.fsck(FsckOptions { repair: true, ..LOOK }).await.expect("looked");
                assert!(!checked.is_wrong() && !checked.problems.is_empty(), "{key:?}: {checked:?}");
                let checked = storage.fsck(LOOK).await.expect("looked");
                assert!(checked.problems.is_empty(), "{key:?}: {checked:?}");
                assert_eq!(repository.tag(&tag("t")).await.expect("read").map(|it| it.digest), Some(digest.clone()));
            }
            // Of a blob only who has it knows the bytes.
            let blob = Digest::sha256(b"layer");
            spoil(&memory, &keys::blob(&blob), damage);
            let checked = storage.fsck(FsckOptions { repair: true, ..LOOK }).await.expect("looked");
            assert_eq!(checked.problems.iter().map(|it| it.mending).collect::<Vec<_>>(), [Mending::Marked]);
            assert_eq!(repository.blob_size(&blob).await.expect("asked"), None, "so clients send it");
            assert!(!storage.repository(&name("b")).mount(&blob, &name("a")).await.expect("asked"));
            let (bytes, parsed, other) = image(&[b"layer"]);
            repository.delete_manifest(&other, None).await.expect("deleted");
            let error =
                put(&repository, &bytes, &parsed, &other, &[], None).await.expect_err("it is not to be relied upon");
            assert!(matches!(error, PutManifestError::MissingReference { .. }), "{error}");
        });
    }
}

#[test]
fn nothing_is_thrown_away_that_something_unreadable_may_be_about() {
    for damage in DAMAGE {
        on_memory(without_grace(), async |memory, storage| {
            let repository = storage.repository(&name("a"));
            let large = vec![7; 200_000];
            push(&repository, &[&large], &[tag("t")]).await.expect("pushed");
            let scan = CollectOptions { scan: true, unnamed: Some(Duration::ZERO), ..CollectOptions::default() };
            let untagged = RetentionRules { untagged: Some(Duration::ZERO), ..RetentionRules::default() };
            for key in records(&memory, &["b/", "o/", "m/", "t/"]) {
                let was = storage.objects().get(&key).await.expect("read").expect("there").bytes;
                spoil(&memory, &key, damage);
                let collected = storage.collect(scan).await.expect("collected");
                assert_eq!((collected.blobs, collected.leftovers), (0, 0), "{key:?}");
                assert_eq!(collected.in_doubt, key.as_str().starts_with("b/"));
                assert_eq!(storage.retire(&untagged, false, None).await.expect("done"), [], "{key:?}");
                // Restored, it is as if nothing had been.
                memory.damage_object(&key, was);
                assert!(storage.fsck(LOOK).await.expect("looked").problems.is_empty(), "{key:?}");
            }
            assert_eq!(read(&repository, &Digest::sha256(&large)).await.as_deref(), Some(&*large));
        });
    }
}

#[test]
fn an_immutable_tag_that_cannot_be_read_stays_what_its_history_says() {
    for damage in DAMAGE {
        let immutable = TagPatterns::new(["v*".to_owned()]);
        on_memory(StorageOptions { immutable, ..without_grace() }, async |memory, storage| {
            let repository = storage.repository(&name("a"));
            let one = push(&repository, &[b"1"], &[tag("v1")]).await.expect("pushed");
            spoil(&memory, &keys::tag(&name("a"), &tag("v1")), damage);
            let error = push(&repository, &[b"2"], &[tag("v1")]).await.expect_err("refused");
            assert!(matches!(&error, PutManifestError::TagImmutable { digest, .. } if *digest == one), "{error}");
            push(&repository, &[b"1"], &[tag("v1")]).await.expect("the same again");
            assert_eq!(repository.tag(&tag("v1")).await.expect("read").map(|it| it.digest), Some(one));
        });
    }
}

#[test]
fn a_manifest_that_is_healed_half_way_keeps_its_tags() {
    for damage in DAMAGE {
        let immutable = TagPatterns::new(["v*".to_owned()]);
        let options = StorageOptions { immutable, ..without_grace() };
        on_memory(without_grace(), async |_, _| {
            for calls in 0.. {
                let memory = Memory::default();
                let storage = Storage::new(memory.backend(), options.clone());
                let repository = storage.repository(&name("a"));
                let digest = push(&repository, &[b"layer"], &[tag("v1"), tag("t")]).await.expect("pushed");
                spoil(&memory, &keys::manifest(&name("a"), &digest), damage);
                let gate = Arc::new(OneFault { left: AtomicUsize::new(calls), fate: Fate::Refused });
                let faulty = Storage::new(memory.behind(gate.clone()).backend(), options.clone());
                let (bytes, parsed, _) = image(&[b"layer"]);
                // Whether it was done makes no difference.
                let _ = put(&faulty.repository(&name("a")), &bytes, &parsed, &digest, &[], None).await;
                storage.collect(CollectOptions { scan: true, ..CollectOptions::default() }).await.expect("collected");
                storage.fsck(FsckOptions { repair: true, ..LOOK }).await.expect("looked");
                let manifest = repository.manifest(&digest).await.expect("read").expect("there");
                for name in ["v1", "t"] {
                    let named = repository.tag(&tag(name)).await.expect("read").expect("there");
                    assert_eq!((&named.digest, named.incarnation), (&digest, manifest.incarnation), "call {calls}");
                }
                assert!(storage.fsck(LOOK).await.expect("looked").problems.is_empty(), "call {calls}");
                if gate.left.load(Ordering::Relaxed) < usize::MAX / 2 {
                    assert!(calls > 5, "{calls}");
                    break;
                }
            }
        });
    }
}

#[test]
fn a_manifest_is_not_mended_with_bytes_that_are_not_its_own() {
    for damage in DAMAGE {
        let options = StorageOptions { inline: 0, ..without_grace() };
        on_memory(options, async |memory, storage| {
            let repository = storage.repository(&name("a"));
            let digest = push(&repository, &[b"layer"], &[tag("t")]).await.expect("pushed");
            let held = storage.slot::<blobs::BlobRecord>(&keys::blob(&digest)).await.expect("read").here();
            let text = String::from_utf8(image(&[b"layer"]).0.to_vec()).expect("text");
            let other = text.replace(media_type::OCI_LAYER, &media_type::OCI_LAYER.replace("v1", "v2"));
            assert!(other != text && other.len() == text.len());
            memory.damage(held.and_then(|held| held.record.data).expect("an object"), other.into());
            let key = keys::manifest(&name("a"), &digest);
            spoil(&memory, &key, damage);
            let checked = storage.fsck(FsckOptions { repair: true, verify: false, ..LOOK }).await.expect("looked");
            let problem = checked.problems.iter().find(|it| matches!(&it.fault, Fault::DamagedRecord { .. }));
            assert_eq!(problem.map(|it| it.mending), Some(Mending::Nothing), "{checked:?}");
            assert!(repository.manifest(&digest).await.expect("read").is_none());
        });
    }
}

#[test]
fn what_does_not_fit_together_is_put_right() {
    on_memory(without_grace(), async |memory, storage| {
        let repository = storage.repository(&name("a"));
        let digest = push(&repository, &[b"layer"], &[tag("t")]).await.expect("pushed");
        let lost = memory.keys().into_iter().find(|key| keys::Edge::parse(key).is_some_and(|edge| edge.blob == digest));
        storage.objects().delete(&lost.expect("an edge")).await.expect("removed");
        let repair = FsckOptions { repair: true, ..LOOK };
        let checked = storage.fsck(repair).await.expect("looked");
        assert_eq!(checked.problems.len(), 1);
        assert_eq!(checked.problems[0].mending, Mending::Done, "{checked:?}");
        assert!(storage.fsck(repair).await.expect("looked").problems.is_empty());
    });
}

#[test]
fn a_tag_of_a_manifest_that_was_deleted_and_pushed_again_dangles() {
    on_memory(without_grace(), async |_, storage| {
        let repository = storage.repository(&name("a"));
        let digest = push(&repository, &[b"layer"], &[tag("old")]).await.expect("pushed");
        // A delete that stopped half way.
        let key = keys::manifest(&name("a"), &digest);
        storage.bury(&key, 0, objects::Condition::Always).await.expect("buried");
        push(&repository, &[b"layer"], &[tag("new")]).await.expect("pushed");
        let repair = FsckOptions { repair: true, ..LOOK };
        let checked = storage.fsck(repair).await.expect("looked");
        let [problem] = &*checked.problems else { panic!("{checked:?}") };
        assert!(matches!(&problem.fault, Fault::DanglingTag { tag: of, .. } if *of == tag("old")), "{problem:?}");
        assert_eq!(repository.tags(None, 10).await.expect("listed").entries, ["new"]);
        assert!(storage.fsck(LOOK).await.expect("looked").problems.is_empty());
    });
}

#[test]
fn tags_that_no_rule_keeps_go_and_come_back() {
    on_memory(without_grace(), async |memory, storage| {
        let repository = storage.repository(&name("a"));
        let mut digests = Vec::new();
        for number in 0..5_u8 {
            digests.push(push(&repository, &[&[number]], &[tag(&format!("v{number}"))]).await.expect("pushed"));
            memory.pass_time(Duration::from_secs(24 * 60 * 60));
        }
        push(&repository, &[b"x"], &[tag("latest")]).await.expect("pushed");
        repository.note_pull(&digests[0]).await.expect("noted");
        memory.pass_time(Duration::from_secs(3 * 24 * 60 * 60));
        repository.note_pull(&digests[1]).await.expect("noted");
        let rules = RetentionRules {
            matching: Some(TagPatterns::new(["v*".to_owned()])),
            keep: Some(2),
            pulled_within: Some(Duration::from_secs(2 * 24 * 60 * 60)),
            ..RetentionRules::default()
        };
        let gone = |retired: Vec<Retired>| retired.into_iter().filter_map(|it| it.tag).collect::<Vec<_>>();
        assert_eq!(gone(storage.retire(&rules, true, None).await.expect("told")), [tag("v2"), tag("v0")]);
        assert_eq!(gone(storage.retire(&rules, false, None).await.expect("done")), [tag("v2"), tag("v0")]);
        assert_eq!(repository.tags(None, 10).await.expect("listed").entries, ["latest", "v1", "v3", "v4"]);
        assert_eq!(repository.undelete_tag(&tag("v0"), None).await.expect("back"), Some(digests[0].clone()));
    });
}

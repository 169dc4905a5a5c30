//! The contracts of [`Objects`](super::Objects) and [`Data`](super::Data), held against a backend.

use std::sync::Arc;

use bytes::Bytes;

use super::{Backend, Condition, Content, ObjectError, Put};
use crate::storage::id::Ids;
use crate::storage::keys;
use crate::storage::keys::{Key, Prefix};
use crate::storage::referrers::gather;

fn prefix(name: &str) -> Prefix {
    keys::tags(&name.parse().expect("a name"))
}

fn done(put: Put) -> super::Version {
    match put {
        Put::Done(version) => version,
        Put::Lost => panic!("not done"),
    }
}

/// Holds a backend to all of it. `other` is another handle of the same store, as another replica would have it; the store
/// is empty.
pub(crate) async fn backend(one: &Backend, other: &Backend) {
    objects_change_as_a_whole(one, other).await;
    of_those_who_race_one_wins(one, other).await;
    lists_are_sorted_and_cut(one, other).await;
    time_does_not_run_backwards(one).await;
    data_appears_at_the_end(one, other).await;
    data_goes_on_where_it_was(one, other).await;
}

async fn objects_change_as_a_whole(one: &Backend, other: &Backend) {
    let (a, b) = (&*one.objects, &*other.objects);
    let key = prefix("whole").key("x");
    assert!(a.get(&key).await.expect("read").is_none());
    assert!(b.head(&key).await.expect("asked").is_none());
    a.delete(&key).await.expect("removing nothing succeeds");
    let absent = a.put(&key, Bytes::from_static(b"1"), Condition::Absent).await.expect("written");
    let first = done(absent);
    let seen = b.get(&key).await.expect("read").expect("there");
    assert_eq!((&*seen.bytes, &seen.version), (b"1".as_slice(), &first), "the other sees it at once");
    assert_eq!(b.put(&key, Bytes::from_static(b"2"), Condition::Absent).await.expect("asked"), Put::Lost);
    let second = done(b.put(&key, Bytes::from_static(b"22"), Condition::Is(first.clone())).await.expect("written"));
    assert_ne!(first, second);
    assert_eq!(a.put(&key, Bytes::from_static(b"3"), Condition::Is(first)).await.expect("asked"), Put::Lost);
    assert_eq!(a.get(&key).await.expect("read").expect("there").bytes, "22");
    let entry = a.head(&key).await.expect("asked").expect("there");
    assert_eq!((entry.size, &entry.key), (2, &key));
    let third = done(a.put(&key, Bytes::from_static(b"333"), Condition::Always).await.expect("written"));
    assert_eq!(b.put(&key, Bytes::from_static(b"4"), Condition::Is(second)).await.expect("asked"), Put::Lost);
    a.sync().await.expect("safe");
    b.delete(&key).await.expect("removed");
    assert!(a.get(&key).await.expect("read").is_none());
    assert_eq!(a.put(&key, Bytes::from_static(b"5"), Condition::Is(third)).await.expect("asked"), Put::Lost);
    let large: Bytes = vec![9; 300_000].into();
    done(a.put(&key, large.clone(), Condition::Absent).await.expect("written"));
    assert_eq!(b.get(&key).await.expect("read").expect("there").bytes, large);
    let empty = prefix("whole").key("empty");
    done(a.put(&empty, Bytes::new(), Condition::Always).await.expect("written"));
    assert_eq!(b.get(&empty).await.expect("read").expect("there").bytes.len(), 0);
    b.sync().await.expect("safe");
}

async fn of_those_who_race_one_wins(one: &Backend, other: &Backend) {
    let key = prefix("race").key("x");
    let mut condition = Condition::Absent;
    for round in 0..4 {
        let racers = (0..16).map(|number| {
            let backend = if number % 2 == 0 { one } else { other };
            let (objects, key, condition) = (backend.objects.clone(), key.clone(), condition.clone());
            tokio::spawn(async move {
                let body = Bytes::from(format!("{round} {number}"));
                (objects.put(&key, body.clone(), condition).await.expect("asked"), body)
            })
        });
        let mut winners = Vec::new();
        for racer in racers.collect::<Vec<_>>() {
            let (put, body) = racer.await.expect("no panic");
            if let Put::Done(version) = put {
                winners.push((version, body));
            }
        }
        assert_eq!(winners.len(), 1, "{winners:?}");
        let (version, body) = winners.remove(0);
        let now = one.objects.get(&key).await.expect("read").expect("there");
        assert_eq!((&now.bytes, &now.version), (&body, &version));
        condition = Condition::Is(version);
    }
}

async fn lists_are_sorted_and_cut(one: &Backend, other: &Backend) {
    let all = prefix("list");
    let names = ["A", "a", "a-b", "a.b", "a_b", "b", "ba", &"z".repeat(300)];
    for (number, name) in names.iter().rev().enumerate() {
        let backend = if number % 2 == 0 { one } else { other };
        let key = all.key(name);
        done(backend.objects.put(&key, vec![b'x'; number].into(), Condition::Always).await.expect("written"));
    }
    // None of these is below the prefix.
    for near in ["lis", "list0", "list/x"] {
        let key = prefix(near).key("a");
        done(one.objects.put(&key, Bytes::new(), Condition::Always).await.expect("written"));
    }
    for backend in [one, other] {
        let list = async |after: Option<&str>, limit| {
            let after = after.map(|after| all.key(after));
            let page = backend.objects.list(&all, after.as_ref(), limit).await.expect("listed");
            let rest = |key: &Key| all.rest(key).expect("below").to_owned();
            (page.entries.iter().map(|entry| rest(&entry.key)).collect::<Vec<_>>(), page.more)
        };
        assert_eq!(list(None, 100).await, (names.map(str::to_owned).to_vec(), false));
        assert!(!list(None, 8).await.1);
        assert_eq!(list(None, 3).await, (["A", "a", "a-b"].map(str::to_owned).to_vec(), true));
        assert_eq!(list(Some("a-b"), 2).await, (["a.b", "a_b"].map(str::to_owned).to_vec(), true));
        assert_eq!(list(Some("a-zzz"), 1).await, (["a.b".to_owned()].to_vec(), true));
        assert_eq!(list(Some("zz"), 5).await, (["z".repeat(300)].to_vec(), false));
        assert_eq!(list(Some("~"), 5).await, (Vec::new(), false));
        assert_eq!(list(None, 0).await.0, Vec::<String>::new());
        let page = backend.objects.list(&all, None, 100).await.expect("listed");
        assert_eq!(page.entries[7].size, 0);
        assert_eq!(page.entries[0].size, 7);
    }
    one.objects.delete(&all.key("a")).await.expect("removed");
    let page = other.objects.list(&all, None, 2).await.expect("listed");
    assert_eq!(page.entries.iter().filter_map(|entry| all.rest(&entry.key)).collect::<Vec<_>>(), ["A", "a-b"]);
    // Below folders, too, and with a prefix that ends in the middle of a name.
    let everything = one.objects.list(&keys::all_tags(), None, 1000).await.expect("listed").entries;
    assert!(everything.len() > 10 && everything.is_sorted_by(|a, b| a.key < b.key));
    let mut paged = Vec::new();
    loop {
        let after = paged.last().map(|entry: &super::Entry| entry.key.clone());
        let page = one.objects.list(&keys::all_tags(), after.as_ref(), 3).await.expect("listed");
        paged.extend(page.entries);
        if !page.more {
            break;
        }
    }
    assert_eq!(paged, everything);
    let name = "named".parse().expect("a name");
    let (digest, ids) = (oci::Digest::sha256(b""), Ids::Counted(Arc::default()));
    let (mine, theirs) = (ids.draw(), ids.draw());
    for (incarnation, tag) in [(mine, "b"), (theirs, "a"), (mine, "a.c")] {
        let key = keys::named(&name, &digest, incarnation, &tag.parse().expect("a tag"));
        done(one.objects.put(&key, Bytes::new(), Condition::Always).await.expect("written"));
    }
    let mine = keys::named_by(&name, &digest, mine);
    let page = other.objects.list(&mine, None, 10).await.expect("listed");
    assert_eq!(page.entries.iter().filter_map(|entry| mine.rest(&entry.key)).collect::<Vec<_>>(), ["a.c", "b"]);
}

async fn time_does_not_run_backwards(one: &Backend) {
    let key = prefix("time").key("x");
    done(one.objects.put(&key, Bytes::from_static(b"x"), Condition::Always).await.expect("written"));
    let modified = one.objects.get(&key).await.expect("read").expect("there").modified;
    let now = one.objects.now().await.expect("asked");
    assert!(now >= modified, "{now} {modified}");
    assert!(now.duration_since(modified).as_secs() < 100, "{now} {modified}");
}

async fn data_appears_at_the_end(one: &Backend, other: &Backend) {
    let ids = Ids::Random;
    for size in [0, 1, 100_000, 9_000_000] {
        let id = ids.draw();
        let bytes: Bytes = (0..size).map(|at: u32| (at % 251) as u8).collect::<Vec<_>>().into();
        let mut writer = one.data.begin(id).await.expect("begun");
        for piece in bytes.chunks(1_000_000) {
            writer.write(&[bytes.slice_ref(piece)]).await.expect("written");
        }
        assert_eq!(other.data.size(id).await.expect("asked"), None);
        assert!(other.data.read(id, 0..0).await.expect("asked").is_none());
        assert_eq!(writer.finish().await.expect("finished"), u64::from(size));
        assert_eq!(other.data.size(id).await.expect("asked"), Some(u64::from(size)));
        let (start, end) = (u64::from(size / 3), u64::from(size));
        let content = other.data.read(id, start..end).await.expect("read").expect("there");
        if let Content::File { length, .. } = &content {
            assert_eq!(*length, end - start);
        }
        assert_eq!(gather(content, end - start).await.expect("read"), bytes.slice(start as usize..));
        let known = other.data.list(None, 1000).await.expect("listed").entries;
        assert!(known.iter().any(|(known, length, _)| *known == id && *length == end));
        one.data.delete(id).await.expect("removed");
        one.data.delete(id).await.expect("removing nothing succeeds");
        assert_eq!(other.data.size(id).await.expect("asked"), None);
    }
    let writer = one.data.begin(ids.draw()).await.expect("begun");
    writer.abort().await.expect("thrown away");
}

async fn data_goes_on_where_it_was(one: &Backend, other: &Backend) {
    for size in [10_usize, 7_000_000, 20_000_000] {
        let id = Ids::Random.draw();
        let bytes: Bytes = (0..size).map(|at| (at % 241) as u8).collect::<Vec<_>>().into();
        let (first, second) = (size / 3, size / 2);
        let mut writer = one.data.begin(id).await.expect("begun");
        writer.write(&[bytes.slice(..first)]).await.expect("written");
        let checkpoint = writer.pause().await.expect("noted");
        assert_eq!(checkpoint.size, first as u64);
        let text = serde_json::to_string(&checkpoint).expect("JSON");
        let checkpoint = serde_json::from_str(&text).expect("JSON");
        // What comes after the checkpoint is forgotten, whoever still writes it.
        writer.write(&[vec![0; size].into()]).await.expect("written");
        let resumed = match other.data.resume(&checkpoint).await {
            Err(ObjectError::Busy { .. }) => {
                drop(writer);
                other.data.resume(&checkpoint).await
            }
            resumed => resumed,
        };
        let mut writer = resumed.expect("asked").expect("there");
        writer.write(&[bytes.slice(first..second)]).await.expect("written");
        let checkpoint = writer.pause().await.expect("noted");
        drop(writer);
        let mut writer = one.data.resume(&checkpoint).await.expect("asked").expect("there");
        writer.write(&[bytes.slice(second..)]).await.expect("written");
        assert_eq!(writer.finish().await.expect("finished"), size as u64);
        let content = one.data.read(id, 0..size as u64).await.expect("read").expect("there");
        assert_eq!(gather(content, size as u64).await.expect("read"), bytes);
        assert!(other.data.resume(&checkpoint).await.expect("asked").is_none(), "it is finished");
        other.data.discard(&checkpoint).await.expect("nothing to throw away");
        one.data.delete(id).await.expect("removed");
    }
    let id = Ids::Random.draw();
    let mut writer = one.data.begin(id).await.expect("begun");
    writer.write(&[vec![1; 6_000_000].into()]).await.expect("written");
    let checkpoint = writer.pause().await.expect("noted");
    drop(writer);
    other.data.discard(&checkpoint).await.expect("thrown away");
    assert!(one.data.resume(&checkpoint).await.expect("asked").is_none());
}

#[test]
fn a_single_writer_keeps_the_contract_on_a_store_that_does_not() {
    use super::single_writer::SingleWriter;
    let dishonest = Backend {
        objects: Arc::new(Faulty(super::memory::Memory::default(), Fault::Unconditional)),
        data: super::memory::Memory::default().backend().data,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("built");
    runtime.block_on(async {
        let storage = crate::storage::Storage::new(dishonest.clone(), Default::default());
        let error = storage.probe().await.expect_err("seen through");
        assert!(error.to_string().contains("created twice"), "{error}");
        let honest = Backend { objects: Arc::new(SingleWriter::new(dishonest.objects)), data: dishonest.data };
        crate::storage::Storage::new(honest.clone(), Default::default()).probe().await.expect("honest");
        backend(&honest, &honest).await;
    });
}

#[test]
fn a_store_whose_answers_are_lost_is_honest() {
    let memory = super::memory::Memory::default();
    let backend = Backend { objects: Arc::new(Faulty(memory.clone(), Fault::LostAnswers)), ..memory.backend() };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("built");
    runtime.block_on(async {
        crate::storage::Storage::new(backend, Default::default()).probe().await.expect("honest");
    });
}

/// What a store does wrong.
#[derive(Debug)]
enum Fault {
    /// It writes whatever the condition is.
    Unconditional,
    /// Its answers to writes get lost, and they are sent again.
    LostAnswers,
}

#[derive(Debug)]
struct Faulty(super::memory::Memory, Fault);

#[async_trait::async_trait]
impl super::Objects for Faulty {
    async fn get(&self, key: &Key) -> Result<Option<super::Object>, ObjectError> {
        self.0.get(key).await
    }

    async fn head(&self, key: &Key) -> Result<Option<super::Entry>, ObjectError> {
        self.0.head(key).await
    }

    async fn put(&self, key: &Key, bytes: Bytes, condition: Condition) -> Result<Put, ObjectError> {
        match self.1 {
            Fault::Unconditional => self.0.put(key, bytes, Condition::Always).await,
            Fault::LostAnswers => {
                let _ = self.0.put(key, bytes.clone(), condition.clone()).await?;
                self.0.put(key, bytes, condition).await
            }
        }
    }

    async fn delete(&self, key: &Key) -> Result<(), ObjectError> {
        super::Objects::delete(&self.0, key).await
    }

    async fn list(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<super::Page<super::Entry>, ObjectError> {
        super::Objects::list(&self.0, prefix, after, limit).await
    }

    async fn sync(&self) -> Result<(), ObjectError> {
        Ok(())
    }

    async fn now(&self) -> Result<jiff::Timestamp, ObjectError> {
        self.0.now().await
    }
}

#[test]
fn memory_keeps_the_contract() {
    let memory = super::memory::Memory::default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("built");
    runtime.block_on(backend(&memory.backend(), &memory.backend()));
}

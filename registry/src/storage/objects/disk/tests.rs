use std::sync::atomic::{AtomicI64, Ordering};

use super::super::conformance;
use super::*;

fn clock() -> Timestamp {
    static MILLIS: AtomicI64 = AtomicI64::new(1_800_000_000_000);
    Timestamp::from_millisecond(MILLIS.fetch_add(1, Ordering::Relaxed)).expect("a time")
}

/// Parts of the journal so short that they are applied all the time.
fn short() -> DiskOptions {
    DiskOptions { clock, segment: 4096, cache: 64 * 1024 }
}

fn long() -> DiskOptions {
    DiskOptions::new(clock)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("built")
}

#[test]
fn a_disk_keeps_the_contract() {
    for options in [short(), long()] {
        let folder = tempfile::tempdir().expect("tempdir");
        // Two as if of two processes: nothing is shared but the folder.
        let one = Disk::open(folder.path(), options).expect("opened");
        let other = Disk::open(folder.path(), options).expect("opened");
        runtime().block_on(conformance::backend(&one.backend(), &other.backend()));
    }
}

#[test]
fn a_damaged_file_can_be_replaced_by_who_saw_that() {
    let damages: [fn(&mut Vec<u8>); 4] = [
        |bytes| *bytes.last_mut().expect("a body") ^= 1,
        |bytes| bytes[9] ^= 1,
        |bytes| bytes.truncate(10),
        Vec::clear,
    ];
    for damage in damages {
        let folder = tempfile::tempdir().expect("tempdir");
        let key = Key::listed("b/x");
        runtime().block_on(async {
            let disk = Disk::open(folder.path(), short()).expect("opened");
            disk.put(&key, Bytes::from_static(b"one"), Condition::Absent).await.expect("written");
            for number in 0..100 {
                let other = Key::listed(&format!("x/{number}"));
                disk.put(&other, vec![0; 100].into(), Condition::Absent).await.expect("written");
            }
            disk.sync().await.expect("synced");
            let path = folder.path().join("objects/b/x");
            while !path.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            drop(disk);
            let mut bytes = std::fs::read(&path).expect("there");
            damage(&mut bytes);
            #[expect(clippy::disallowed_methods, reason = "the test damages it")]
            std::fs::write(&path, &bytes).expect("damaged");
            let disk = Disk::open(folder.path(), short()).expect("opened");
            let error = disk.get(&key).await.expect_err("it is damaged");
            let ObjectError::Damaged { version: Some(seen), .. } = error else { panic!("{error}") };
            let put = |condition| disk.put(&key, Bytes::from_static(b"two"), condition);
            assert_eq!(put(Condition::Absent).await.expect("asked"), Put::Lost);
            let healed = put(Condition::Is(seen.clone())).await.expect("asked");
            assert!(matches!(healed, Put::Done(_)));
            assert_eq!(put(Condition::Is(seen)).await.expect("asked"), Put::Lost);
            assert_eq!(disk.get(&key).await.expect("read").map(|it| it.bytes), Some(Bytes::from_static(b"two")));
        });
    }
}

#[test]
fn nobody_waits_on_a_thread_of_others_while_somebody_writes() {
    let folder = tempfile::tempdir().expect("tempdir");
    let disk = Disk::open(folder.path(), long()).expect("opened");
    let key = Key::listed("b/x");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("built");
    runtime.block_on(disk.put(&key, Bytes::from_static(b"one"), Condition::Absent)).expect("written");
    let (over, wait) = std::sync::mpsc::channel::<()>();
    let (held, begin) = std::sync::mpsc::channel();
    let shared = disk.shared.clone();
    let writer = std::thread::spawn(move || {
        let _journal = shared.journal();
        held.send(()).expect("heard");
        // For as long as it takes; whoever waits for this on the only thread never says that it is over.
        wait.recv_timeout(Duration::from_secs(20)).is_ok()
    });
    begin.recv().expect("held");
    runtime.block_on(async {
        let all = async { tokio::join!(disk.get(&key), disk.head(&key), disk.sync(), disk.now()) };
        let mut all = std::pin::pin!(all);
        tokio::select! {
            biased;
            _ = &mut all => panic!("somebody writes"),
            () = tokio::task::yield_now() => over.send(()).expect("heard"),
        }
        let (object, entry, synced, _) = all.await;
        assert_eq!(object.expect("read").map(|it| it.bytes), Some(Bytes::from_static(b"one")));
        assert_eq!(entry.expect("read").map(|it| it.size), Some(3));
        synced.expect("synced");
    });
    assert!(writer.join().expect("no panic"), "nobody waited for it");
}

#[test]
fn that_the_journal_is_not_emptied_is_told_until_it_is() {
    let folder = tempfile::tempdir().expect("tempdir");
    let disk = Disk::open(folder.path(), short()).expect("opened");
    let (objects, aside) = (folder.path().join("objects"), folder.path().join("aside"));
    let eventually = async |wanted: bool| {
        while disk.trouble().await.expect("all is there").is_some() != wanted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let put = async |number: u32| {
        let key = Key::listed(&format!("x/{number}"));
        disk.put(&key, vec![0; 100].into(), Condition::Absent).await
    };
    runtime().block_on(async {
        assert_eq!(disk.trouble().await.expect("all is there"), None);
        std::fs::rename(&objects, &aside).expect("moved");
        File::create(&objects).expect("made");
        for number in 0..50 {
            put(number).await.expect("written");
        }
        eventually(true).await;
        let told = disk.trouble().await.expect("all is there").unwrap_or_default();
        assert!(told.contains("not moved to files") && !told.contains(folder.path().to_str().expect("text")), "{told}");
        let mut number = 50;
        while put(number).await.is_ok() {
            number += 1;
        }
        std::fs::remove_file(&objects).expect("removed");
        std::fs::rename(&aside, &objects).expect("moved back");
        eventually(false).await;
        put(number).await.expect("written");
    });
}

#[test]
fn nothing_stays_of_data_that_is_neither_finished_nor_noted() {
    let folder = tempfile::tempdir().expect("tempdir");
    let disk = Disk::open(folder.path(), long()).expect("opened");
    let data = disk.backend().data;
    let staged = || std::fs::read_dir(folder.path().join("staging")).expect("read").count();
    let ids = [(); 4].map(|()| crate::storage::id::Ids::Random.draw());
    runtime().block_on(async {
        let mut dropped = data.begin(ids[0]).await.expect("begun");
        dropped.write(&[Bytes::from_static(b"cut")]).await.expect("written");
        assert_eq!(staged(), 1);
        drop(dropped);
        assert_eq!(staged(), 0);
        // A process that ended left one, sessions know of another, and somebody writes to the third.
        let mut checkpoints = Vec::new();
        for id in &ids[1..3] {
            let mut writer = data.begin(*id).await.expect("begun");
            writer.write(&[Bytes::from_static(b"paused")]).await.expect("written");
            checkpoints.push(writer.pause().await.expect("paused"));
        }
        let _busy = data.begin(ids[3]).await.expect("begun");
        let known = [ids[2]].into();
        assert_eq!(data.sweep(Timestamp::MIN, &known).await.expect("swept"), 0, "too young");
        assert_eq!(data.sweep(Timestamp::MAX, &known).await.expect("swept"), 1);
        assert!(data.resume(&checkpoints[0]).await.expect("looked").is_none());
        assert!(data.resume(&checkpoints[1]).await.expect("looked").is_some(), "it stays when it is dropped");
        assert!(data.resume(&checkpoints[1]).await.expect("looked").is_some());
        assert_eq!(staged(), 2);
    });
}

#[test]
fn what_was_written_is_there_when_it_is_opened_again() {
    for options in [short(), long()] {
        let folder = tempfile::tempdir().expect("tempdir");
        let prefix = crate::storage::keys::tags(&"a".parse().expect("a name"));
        for round in 0..3 {
            let disk = Disk::open(folder.path(), options).expect("opened");
            runtime().block_on(async {
                for number in 0..100 {
                    let key = prefix.key(&format!("{number:03}"));
                    let condition = match disk.get(&key).await.expect("read") {
                        None => Condition::Absent,
                        Some(object) => {
                            assert_eq!(object.bytes, format!("{}", round - 1));
                            Condition::Is(object.version)
                        }
                    };
                    let put = disk.put(&key, Bytes::from(format!("{round}")), condition).await.expect("written");
                    assert!(matches!(put, Put::Done(_)));
                    if number % 10 == round {
                        disk.delete(&key).await.expect("removed");
                    }
                    if number % 10 == (round + 9) % 10 {
                        disk.put(&key, Bytes::from(format!("{round}")), Condition::Always).await.expect("written");
                    }
                }
            });
            let left = runtime().block_on(disk.list(&prefix, None, 1000)).expect("listed");
            assert_eq!(left.entries.len(), 90, "round {round}");
        }
    }
}

fn tag(number: usize) -> Key {
    crate::storage::keys::tags(&"a".parse().expect("a name")).key(&format!("{number:03}"))
}

/// Writes so much that the journal goes on in other files several times.
fn fill(disk: &Disk, numbers: std::ops::Range<usize>) -> Result<(), ObjectError> {
    runtime().block_on(async {
        for number in numbers {
            let body = Bytes::from(format!("{number:0700}"));
            assert!(matches!(disk.put(&tag(number), body, Condition::Always).await?, Put::Done(_)));
        }
        Ok(())
    })
}

fn get(disk: &Disk, number: usize) -> Result<Option<Bytes>, ObjectError> {
    Ok(runtime().block_on(disk.get(&tag(number)))?.map(|object| object.bytes))
}

fn assert_filled(disk: &Disk, numbers: std::ops::Range<usize>) {
    for number in numbers {
        assert_eq!(get(disk, number).expect("read"), Some(Bytes::from(format!("{number:0700}"))));
    }
}

fn parts(folder: &Path) -> Vec<PathBuf> {
    let listed = std::fs::read_dir(folder.join("journal")).expect("listed");
    let mut parts: Vec<_> = listed.map(|entry| entry.expect("listed").path()).collect();
    parts.sort();
    parts
}

/// Keeps everybody from moving parts of the journal to files.
fn hold_applying(folder: &Path) -> File {
    let path = folder.join("apply");
    let lock = File::options().create(true).truncate(false).write(true).open(path).expect("opened");
    lock.lock().expect("locked");
    lock
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let started = std::time::Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(60), "waited too long: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn who_was_silent_while_parts_came_and_went_goes_on_with_the_others() {
    let folder = tempfile::tempdir().expect("tempdir");
    let one = Disk::open(folder.path(), short()).expect("opened");
    let silent = Disk::open(folder.path(), short()).expect("opened");
    fill(&silent, 0..3).expect("written");
    let first = parts(folder.path());
    fill(&one, 1..40).expect("written");
    wait_for("all but the last part is applied", || parts(folder.path()).len() == 1);
    assert_ne!(parts(folder.path()), first);
    assert_filled(&silent, 0..40);
    fill(&silent, 40..60).expect("written");
    assert_filled(&one, 0..60);
    fill(&one, 60..62).expect("written");
    drop((one, silent));
    assert_filled(&Disk::open(folder.path(), short()).expect("opened"), 0..62);
}

#[test]
fn a_part_that_cannot_be_opened_now_is_not_passed_over() {
    let folder = tempfile::tempdir().expect("tempdir");
    let _held = hold_applying(folder.path());
    let one = Disk::open(folder.path(), short()).expect("opened");
    let silent = Disk::open(folder.path(), short()).expect("opened");
    fill(&one, 0..20).expect("written");
    let (second, aside) = (parts(folder.path())[1].clone(), folder.path().join("aside"));
    std::fs::rename(&second, &aside).expect("renamed");
    std::fs::create_dir(&second).expect("made");
    for _ in 0..2 {
        assert!(get(&silent, 19).is_err());
        assert!(fill(&silent, 0..1).is_err());
        // Who waits for what was seen is not kept waiting by what was not.
        silent.shared.sync_now().expect("synced");
    }
    std::fs::remove_dir(&second).expect("removed");
    std::fs::rename(&aside, &second).expect("renamed");
    fill(&silent, 20..30).expect("written");
    assert_filled(&silent, 0..30);
    assert_filled(&one, 0..30);
}

#[test]
fn damage_before_the_last_part_is_told_and_nothing_is_removed() {
    use std::os::unix::fs::FileExt as _;
    let folder = tempfile::tempdir().expect("tempdir");
    let _held = hold_applying(folder.path());
    let disk = Disk::open(folder.path(), short()).expect("opened");
    fill(&disk, 0..20).expect("written");
    drop(disk);
    let before = parts(folder.path());
    let file = File::options().write(true).open(&before[1]).expect("opened");
    file.write_all_at(b"?", 1000).expect("written");
    let error = Disk::open(folder.path(), short()).expect_err("refused");
    let said = format!("{error} {}", std::error::Error::source(&error).expect("a reason"));
    assert!(said.contains(before[1].to_str().expect("text")) && said.contains("damaged at byte"), "{said}");
    assert_eq!(parts(folder.path()), before);
    // What follows is moved away, as it says: what comes before the damage is there.
    before[2..].iter().for_each(|part| std::fs::remove_file(part).expect("removed"));
    assert_filled(&Disk::open(folder.path(), short()).expect("opened"), 0..6);
}

#[test]
fn a_journal_that_others_emptied_is_added_to_again() {
    let folder = tempfile::tempdir().expect("tempdir");
    let disk = Disk::open(folder.path(), short()).expect("opened");
    let too_long = |disk: &Disk| {
        let held = hold_applying(folder.path());
        let error = fill(disk, 0..1000).expect_err("refused");
        assert!(matches!(error, ObjectError::Unavailable { .. }), "{error}");
        // This was the last that could have woken who moves it.
        wait_for("it sleeps", || !disk.shared.work().apply);
        held
    };
    drop(too_long(&disk));
    wait_for("it is moved", || fill(&disk, 0..1).is_ok());
    let held = too_long(&disk);
    drop(held);
    let other = Disk::open(folder.path(), short()).expect("opened");
    wait_for("the other moves it", || parts(folder.path()).len() == 1);
    drop(other);
    fill(&disk, 0..1).expect("written");
    assert_filled(&disk, 0..20);
}

#[test]
fn a_disk_that_failed_is_not_believed_by_who_asks_next() {
    let folder = tempfile::tempdir().expect("tempdir");
    let disk = Disk::open(folder.path(), long()).expect("opened");
    // As if the kernel had told of it, once.
    let failed = Arc::new(io::Error::from(io::ErrorKind::Other));
    disk.shared.durable.send_modify(|durable| durable.failed = Some(failed));
    fill(&disk, 0..1).expect("written");
    runtime().block_on(async {
        disk.trouble().await.expect_err("it is told");
        disk.sync().await.expect_err("it is told");
    });
}

#[test]
fn many_who_ask_whether_there_is_trouble_make_the_disk_look_once() {
    let folder = tempfile::tempdir().expect("tempdir");
    let log = Arc::new(Mutex::new(Vec::new()));
    let disk = Disk::open_with(folder.path(), long(), Io { log: Some(log.clone()) }).expect("opened");
    let before = log.lock().expect("not poisoned").len();
    let began = Instant::now();
    runtime().block_on(async {
        let all = (0..100).map(|_| disk.trouble());
        assert!(futures_util::future::join_all(all).await.into_iter().all(|told| matches!(told, Ok(None))));
    });
    let looked = log.lock().expect("not poisoned").len() - before;
    // Once a second at most, however slow the machine is.
    assert!(looked >= 1 && looked as u64 <= 1 + began.elapsed().as_secs(), "{looked}");
}

#[test]
fn a_part_that_was_begun_and_not_used_is_removed() {
    let folder = tempfile::tempdir().expect("tempdir");
    let disk = Disk::open(folder.path(), short()).expect("opened");
    let unused = folder.path().join("journal/00000000000000000003");
    File::create(&unused).expect("made");
    fill(&disk, 0..20).expect("written");
    assert!(!unused.exists());
    let unused = folder.path().join("journal/00000000000000009999");
    File::create(&unused).expect("made");
    drop(disk);
    assert_filled(&Disk::open(folder.path(), short()).expect("opened"), 0..20);
    assert!(!unused.exists());
}

#[test]
fn a_journal_that_cannot_be_emptied_is_told_and_does_not_grow_for_ever() {
    let folder = tempfile::tempdir().expect("tempdir");
    let disk = Disk::open(folder.path(), short()).expect("opened");
    let objects = folder.path().join("objects");
    std::fs::remove_dir(&objects).expect("removed");
    File::create(&objects).expect("made");
    let error = fill(&disk, 0..500).expect_err("refused");
    assert!(error.to_string().contains("empty the journal"), "{error}");
    assert!(parts(folder.path()).len() <= MOST_WAITING + 1);
    assert_filled(&disk, 0..20);
    std::fs::remove_file(&objects).expect("removed");
    std::fs::create_dir(&objects).expect("made");
    wait_for("it is tried again", || fill(&disk, 500..501).is_ok());
    wait_for("all but the last part is applied", || parts(folder.path()).len() == 1);
    assert_filled(&disk, 0..20);
}

mod power_cut;

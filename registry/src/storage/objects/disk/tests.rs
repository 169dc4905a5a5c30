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

mod power_cut;

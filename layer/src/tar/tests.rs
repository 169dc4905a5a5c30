//! Tests of reader and writer together, against hand-made archives, and against the tar of the machine and Python's.
#![expect(clippy::disallowed_methods, reason = "tests run other implementations")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::process::Command;

use oci::Digest;
use proptest::prelude::*;

use super::field::{self, BLOCK};
use super::*;
use crate::{Entry, EntryKind, Timestamp};

fn file(path: &str, size: u64) -> Entry {
    Entry::new(path, EntryKind::File { size }, 0o644)
}

fn write(entries: &[(Entry, Vec<u8>)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (entry, data) in entries {
        writer.append(entry, &mut data.as_slice()).unwrap();
    }
    writer.finish().unwrap()
}

fn read(tar: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    read_with(tar, Limits { entries: 1000, bytes: 10_000_000 })
}

fn read_with(tar: &[u8], limits: Limits) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    let mut reader = Reader::with_limits(tar, limits);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut data = Vec::new();
        reader.read_to_end(&mut data).map_err(reader::from_io)?;
        entries.push((entry, data));
    }
    reader.drain()?;
    Ok(entries)
}

/// Makes one block of a header by hand.
fn header(name: &[u8], kind: u8, size: i64, change: impl FnOnce(&mut [u8; BLOCK])) -> Vec<u8> {
    let mut block = [0; BLOCK];
    block[..name.len()].copy_from_slice(name);
    block[field::KIND] = kind;
    field::set_octal(&mut block, field::MODE, 0o644);
    field::set_octal(&mut block, field::SIZE, size);
    block[field::MAGIC].copy_from_slice(b"ustar\x0000");
    change(&mut block);
    field::set_checksum(&mut block);
    block.to_vec()
}

fn padded(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    data.resize(data.len().next_multiple_of(BLOCK), 0);
    data
}

fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut data = String::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let length = (1..).find(|length| rest + length.to_string().len() == *length).unwrap();
        data += &format!("{length} {key}={value}\n");
    }
    [header(b"pax", b'x', data.len() as i64, |_| {}), padded(data.as_bytes())].concat()
}

/// Every kind of entry, and what only PAX can hold.
fn zoo() -> Vec<(Entry, Vec<u8>)> {
    let long = "d/".repeat(80) + "end";
    let mut capability = file("bin/ping", 3);
    capability.mode = 0o4755;
    capability.xattrs.insert(b"security.capability".into(), b"\x01\0\0\x02\n\x0a=\0".into());
    let mut owner = file("owner", 0);
    (owner.uid, owner.gid) = (3_000_000_000, 2_097_152);
    owner.mtime = Timestamp::from_seconds(-77);
    let symlink = |path: &str, target: &str| Entry::new(path, EntryKind::Symlink { target: target.into() }, 0o777);
    let mut entries = vec![
        (Entry::new("bin", EntryKind::Directory, 0o755), vec![]),
        (capability, b"abc".to_vec()),
        (Entry::new("bin/hard", EntryKind::Hardlink { target: b"bin/ping".into() }, 0o644), vec![]),
        (symlink("bin/soft", "../ping"), vec![]),
        (symlink("long-target", &"t".repeat(300)), vec![]),
        (Entry::new("null", EntryKind::CharDevice { major: 1, minor: 3 }, 0o666), vec![]),
        (Entry::new("disk", EntryKind::BlockDevice { major: 259, minor: 1_048_575 }, 0o660), vec![]),
        (Entry::new("pipe", EntryKind::Fifo, 0o600), vec![]),
        (file(&long, 1), b"x".to_vec()),
        (file(&"n".repeat(101), 0), vec![]),
        (file(&"n".repeat(100), 0), vec![]),
        (Entry::new("x".repeat(99), EntryKind::Directory, 0o700), vec![]),
        (Entry::new("x".repeat(100), EntryKind::Directory, 0o700), vec![]),
        (file("grüße", 0), vec![]),
        (file("new\nline", 512), vec![7; 512]),
        (owner, vec![]),
        (Entry::whiteout(b"bin/gone"), vec![]),
    ];
    entries.push((Entry::new(b"bad\xff\xfename".as_slice(), EntryKind::File { size: 0 }, 0o644), vec![]));
    entries
}

#[test]
fn every_kind_of_entry_comes_back() {
    let entries = zoo();
    assert_eq!(read(&write(&entries)).unwrap(), entries);
}

#[test]
fn the_bytes_stay_as_they_are() {
    // A change here changes the diff ID of every layer that is built anew: it belongs into the changelog.
    let digest = Digest::sha256(&write(&zoo()));
    assert_eq!(digest.to_string(), "sha256:25c8a51d3a21ec77f4d57ffc69e1c2cae5e44252890870c2a4d86e182360d85f");
    let plain = write(&[(Entry::new("etc", EntryKind::Directory, 0o755), vec![]), (file("etc/x", 2), b"hi".to_vec())]);
    assert_eq!(
        Digest::sha256(&plain).to_string(),
        "sha256:16df006c0e549814cc5d669545552105d4a53fff91fca54fa8b34ced03294767"
    );
    let empty = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";
    assert_eq!(Digest::sha256(&write(&[])).to_string(), empty);
}

#[test]
fn what_fits_is_ustar_and_what_does_not_gets_the_records_it_needs() {
    // A header block, and a PAX header with one block of records where it says so.
    for (path, blocks) in [
        ("a".repeat(100), 1),
        ("a".repeat(101), 3),
        (format!("{}/{}", "a".repeat(155), "b".repeat(100)), 1),
        (format!("{}/{}", "a".repeat(156), "b".repeat(100)), 3),
        (format!("{}/{}", "a".repeat(10), "b".repeat(101)), 3),
        ("ä".into(), 3),
    ] {
        assert_eq!(write(&[(file(&path, 0), vec![])]).len(), (blocks + 2) * BLOCK, "{path}");
    }
    let mut entry = file("a/b", 0);
    entry.xattrs.insert(b"user.z".into(), b"1".into());
    entry.xattrs.insert(b"user.a".into(), b"2".into());
    entry.mtime = Timestamp { seconds: 5, nanos: 999 };
    let tar = write(&[(entry, vec![])]);
    assert!(tar.starts_with(b"a/PaxHeaders.0/b\0"));
    let records = b"25 SCHILY.xattr.user.a=2\n25 SCHILY.xattr.user.z=1\n\0";
    assert_eq!(&tar[512..512 + records.len()], records);
    assert_eq!(&tar[1024 + 136..1024 + 148], b"00000000005\0");
}

#[test]
fn a_file_gives_exactly_its_bytes() {
    let mut writer = Writer::new(Vec::new());
    writer.append(&file("a", 2), &mut b"abc".as_slice()).unwrap();
    let error = writer.append(&file("b", 5), &mut b"abc".as_slice()).unwrap_err();
    assert!(matches!(error, TarWriteError::SizeChanged { expected: 5, .. }));
    let mut big = Writer::new(io::sink());
    big.append(&file("big", 5 << 20), &mut io::repeat(1).take(6 << 20)).unwrap();
    assert_eq!(big.entries(), 1);
    let nul = Entry::new("a\0b", EntryKind::Fifo, 0);
    assert!(matches!(big.append_empty(&nul), Err(TarWriteError::BadEntry { .. })));
}

#[test]
fn archives_may_lack_their_end_but_not_the_end_of_a_file() {
    let tar = write(&[(file("a", 3), b"abc".to_vec()), (file("b", 600), vec![1; 600])]);
    let whole = read(&tar).unwrap();
    for end in 0..tar.len() {
        let result = read(&tar[..end]);
        match end {
            0 => assert_eq!(result.unwrap(), []),
            515..=1024 => assert_eq!(result.unwrap(), whole[..1], "{end}"),
            2136..=2560 | 3072 => assert_eq!(result.unwrap(), whole, "{end}"),
            _ => assert!(matches!(result, Err(TarError::Truncated { .. })), "{end}: {result:?}"),
        }
    }
    assert_eq!(read(&[tar.clone(), vec![0; 10_000]].concat()).unwrap(), whole);
    let garbage = read(&[tar.clone(), vec![0; 700], vec![1]].concat());
    assert!(matches!(garbage, Err(TarError::TrailingGarbage { offset }) if offset == tar.len() as u64 + 700));
}

#[test]
fn what_is_no_tar_is_refused() {
    assert!(matches!(read(&[b'x'; 5000]), Err(TarError::BadHeader { offset: 0, .. })));
    let tar = write(&[(file("a", 0), vec![]), (file("b", 0), vec![])]);
    let mut damaged = tar.clone();
    damaged[513] ^= 1;
    assert!(matches!(read(&damaged), Err(TarError::BadHeader { offset: 512, .. })));
    let lone_zeros = [&tar[..512], &[0; 512], &tar[512..1024]].concat();
    assert!(matches!(read(&lone_zeros), Err(TarError::BadHeader { offset: 512, .. })));
    for kind in [b'7', b'M', b'N', b'Q', 0xff] {
        assert!(matches!(read(&header(b"a", kind, 0, |_| {})), Err(TarError::Unfit { .. })), "{kind}");
    }
    assert!(read(&header(b"folder/", 0, 5, |_| {})).is_err());
    let called_folder = read(&header(b"folder/", b'0', 0, |_| {})).expect("a file");
    assert_eq!(
        (&called_folder[0].0.path[..], &called_folder[0].0.kind),
        (&b"folder"[..], &EntryKind::File { size: 0 })
    );
    assert!(read(&header(b"link", b'2', 0, |_| {})).is_err());
    assert!(read(&header(b"hard", b'1', 0, |_| {})).is_err());
    for root in [b".".as_slice(), b"./", b"/", b"//."] {
        let hard = header(b"hard", b'1', 0, |block| block[field::LINK][..root.len()].copy_from_slice(root));
        assert!(matches!(read(&hard), Err(TarError::Unfit { .. })), "{root:?}");
    }
    let negative = header(b"a", b'0', 0, |block| block[field::SIZE].fill(0xff));
    assert!(read(&negative).is_err());
    let owner = header(b"a", b'0', 0, |block| block[field::UID].fill(0xff));
    assert!(read(&owner).is_err());
}

#[test]
fn old_headers_are_understood() {
    let v7 = header(b"folder/", 0, 0, |block| block[field::MAGIC].fill(0));
    let gnu = header(b"f", b'0', 0, |block| {
        block[field::MAGIC].copy_from_slice(b"ustar  \0");
        // GNU keeps times where USTAR has the prefix.
        block[field::PREFIX][..11].copy_from_slice(b"12345670123");
        block[field::UID].copy_from_slice(&[0x80, 0, 0, 0, 0xb2, 0xd0, 0x5e, 0]);
        block[field::MTIME].fill(0xff);
    });
    let star = header(b"f", b'0', 0, |block| {
        block[field::PREFIX][..3].copy_from_slice(b"dir");
        block[field::PREFIX][131..142].copy_from_slice(b"00000000001");
        block[field::STAR_TRAILER].copy_from_slice(b"tar\0");
    });
    let dump = [header(b"dump/", b'D', 10, |_| {}), padded(b"Yname\0\0\0\0\0")].concat();
    let label = header(b"the label", b'V', 0, |_| {});
    let entries = read(&[label, v7, gnu, star, dump].concat()).unwrap();
    let [v7, gnu, star, dump] = entries.as_slice() else { panic!("{entries:?}") };
    assert_eq!((v7.0.path.as_slice(), &v7.0.kind), (b"folder".as_slice(), &EntryKind::Directory));
    assert_eq!((gnu.0.path.as_slice(), gnu.0.uid, gnu.0.mtime.seconds), (b"f".as_slice(), 3_000_000_000, -1));
    assert_eq!(star.0.path, b"dir/f");
    assert_eq!((&dump.0.kind, dump.1.len()), (&EntryKind::Directory, 0));
}

#[test]
fn pax_headers_override_and_an_empty_value_does_not() {
    let tar = [
        pax(&[("path", "./dir//new"), ("size", "3"), ("uid", "4000000000"), ("mtime", "-1.5"), ("comment", "x")]),
        header(b"old", b'0', 0, |_| {}),
        padded(b"abc"),
        pax(&[("path", ""), ("linkpath", "")]),
        header(b"kept", b'0', 0, |_| {}),
    ]
    .concat();
    let entries = read(&tar).unwrap();
    let (entry, data) = &entries[0];
    assert_eq!(
        (entry.path.as_slice(), data.as_slice(), entry.uid),
        (b"dir/new".as_slice(), b"abc".as_slice(), 4_000_000_000)
    );
    assert_eq!(entry.mtime, Timestamp { seconds: -2, nanos: 500_000_000 });
    assert_eq!(entries[1].0.path, b"kept");
}

#[test]
fn a_size_in_pax_counts_for_what_is_skipped_too() {
    // Readers that skip by the header's size would see an entry in the middle of the content (CVE-2025-62518).
    let evil = header(b"evil", b'0', 0, |_| {});
    let tar = [pax(&[("size", "512")]), header(b"a", b'0', 0, |_| {}), evil, header(b"b", b'0', 0, |_| {})].concat();
    let mut reader = Reader::new(tar.as_slice());
    assert_eq!(reader.next_entry().unwrap().unwrap().path, b"a");
    assert_eq!(reader.next_entry().unwrap().unwrap().path, b"b");
    assert_eq!(reader.next_entry().unwrap(), None);
}

#[test]
fn a_value_cannot_pass_for_a_record() {
    let value = "x\n22 linkpath=/etc/evil\n17 path=evil/name\n";
    let tar = [pax(&[("SCHILY.xattr.user.x", value)]), header(b"good", b'0', 0, |_| {})].concat();
    let entries = read(&tar).unwrap();
    assert_eq!(entries[0].0.path, b"good");
    assert_eq!(entries[0].0.xattrs, BTreeMap::from([(b"user.x".to_vec(), value.as_bytes().to_vec())]));
}

#[test]
fn global_headers_hold_for_what_follows_but_cannot_name_a_file() {
    let as_global = |mut tar: Vec<u8>| {
        tar[field::KIND] = b'g';
        let mut block: [u8; BLOCK] = tar[..BLOCK].try_into().unwrap();
        field::set_checksum(&mut block);
        tar[..BLOCK].copy_from_slice(&block);
        tar
    };
    let global = as_global(pax(&[("comment", "0123"), ("mtime", "7"), ("uid", "5")]));
    let tar = [global, header(b"a", b'0', 0, |_| {}), pax(&[("mtime", "8")]), header(b"b", b'0', 0, |_| {})].concat();
    let entries = read(&tar).unwrap();
    let seen: Vec<_> = entries.iter().map(|(entry, _)| (entry.mtime.seconds, entry.uid)).collect();
    assert_eq!(seen, [(7, 5), (8, 5)]);
    for key in ["path", "linkpath", "size", "GNU.sparse.size"] {
        let tar = [as_global(pax(&[(key, "1")])), header(b"a", b'0', 0, |_| {})].concat();
        assert!(matches!(read(&tar), Err(TarError::BadEntry { .. })), "{key}");
    }
}

#[test]
fn global_headers_say_only_so_much_however_many_there_are() {
    let global = |key: &str| {
        let mut tar = pax(&[(key, &"v".repeat(1000))]);
        tar[field::KIND] = b'g';
        let mut block: [u8; BLOCK] = tar[..BLOCK].try_into().unwrap();
        field::set_checksum(&mut block);
        tar[..BLOCK].copy_from_slice(&block);
        [tar, header(b"a", b'0', 0, |_| {})].concat()
    };
    let same: Vec<u8> = (0..20).flat_map(|_| global("comment")).collect();
    assert_eq!(read(&same).unwrap().len(), 20);
    let growing: Vec<u8> = (0..20).flat_map(|number| global(&format!("comment{number}"))).collect();
    assert!(matches!(read(&growing), Err(TarError::BadEntry { .. })));
}

#[test]
fn headers_and_what_follows_the_end_count_too() {
    let limits = Limits { entries: 10, bytes: 5000 };
    let tar = write(&[(file("a", 6), vec![0; 6])]);
    assert!(read_with(&tar, limits).is_ok());
    let result = read_with(&[tar, vec![0; 5000]].concat(), limits);
    assert!(matches!(result, Err(TarError::TooManyBytes { limit: 5000 })), "zeros");
    let named = [pax(&[("comment", &"x".repeat(2000))]), header(b"a", b'0', 0, |_| {})].concat();
    assert!(read_with(&named, limits).is_ok());
    let result = read_with(&named.repeat(3), limits);
    assert!(matches!(result, Err(TarError::TooManyBytes { limit: 5000 })), "headers");
}

#[test]
fn gnu_names_win_over_pax_names() {
    let long = |kind, name: &[u8]| [header(b"././@LongLink", kind, name.len() as i64, |_| {}), padded(name)].concat();
    let tar = [
        pax(&[("path", "pax"), ("linkpath", "pax")]),
        long(b'L', b"gnu/name\0"),
        long(b'K', b"gnu/target\0"),
        header(b"short", b'2', 0, |_| {}),
        header(b"next", b'0', 0, |_| {}),
    ]
    .concat();
    let entries = read(&tar).unwrap();
    assert_eq!(entries[0].0.path, b"gnu/name");
    assert_eq!(entries[0].0.kind, EntryKind::Symlink { target: b"gnu/target".into() });
    assert_eq!(entries[1].0.path, b"next");
    let open_end = long(b'L', b"gnu/name\0");
    assert!(matches!(read(&open_end), Err(TarError::Truncated { .. })));
}

#[test]
fn what_takes_too_much_is_refused() {
    let big = header(b"x", b'x', 2 << 20, |_| {});
    assert!(matches!(read(&big), Err(TarError::BadEntry { .. })));
    let long = [header(b"x", b'L', 5000, |_| {}), padded(&[b'n'; 5000])].concat();
    assert!(matches!(read(&long), Err(TarError::BadEntry { .. })));
    let path = "n".repeat(5000);
    let tar = [pax(&[("path", &path)]), header(b"a", b'0', 0, |_| {})].concat();
    assert!(matches!(read(&tar), Err(TarError::BadEntry { .. })));
    let many = pax(&[("comment", "x")]).repeat(101);
    assert!(matches!(read(&many), Err(TarError::BadEntry { .. })));
    let tar = write(&[(file("a", 6), vec![0; 6]), (file("b", 6), vec![0; 6])]);
    let result = read_with(&tar, Limits { entries: 10, bytes: 11 });
    assert!(matches!(result, Err(TarError::TooManyBytes { limit: 11 })));
    let result = read_with(&tar, Limits { entries: 1, bytes: 100 });
    assert!(matches!(result, Err(TarError::TooManyEntries { limit: 1 })));
    // A few bytes that say they are a file of 8 EiB of holes.
    let records = [("GNU.sparse.map", ""), ("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0")];
    let size = [("GNU.sparse.realsize", "9223372036854775807")];
    let tar = [pax(&[&records[..], &size[..]].concat()), header(b"a", b'0', 512, |_| {}), padded(b"0\n")].concat();
    assert!(matches!(read(&tar), Err(TarError::TooManyBytes { .. })));
}

#[test]
fn maps_of_holes_must_fit() {
    let sparse = |map: &str, size: &str, stored: i64| {
        let records = [("GNU.sparse.map", map), ("GNU.sparse.size", size), ("GNU.sparse.name", "real")];
        let data = vec![b'x'; stored as usize];
        read(&[pax(&records), header(b"GNUSparseFile.1/real", b'0', stored, |_| {}), padded(&data)].concat())
    };
    let entries = sparse("2,3,10,2", "15", 5).unwrap();
    assert_eq!(entries[0].0.path, b"real");
    assert_eq!(entries[0].1, b"\0\0xxx\0\0\0\0\0xx\0\0\0");
    assert_eq!(sparse("0,0,4,0", "4", 0).unwrap()[0].1, [0; 4]);
    for (map, size, stored) in [
        ("2,3,4,2", "15", 5),
        ("10,2,2,3", "15", 5),
        ("2,3,10,2", "11", 5),
        ("2,3,10,2", "15", 6),
        ("2,3,10", "15", 5),
        ("2,-3", "15", 5),
        ("2,x", "15", 5),
        ("9223372036854775807,1", "9223372036854775807", 1),
        ("2,3", "-1", 3),
        ("2,3", "", 3),
    ] {
        assert!(sparse(map, size, stored).is_err(), "{map} {size} {stored}");
    }
}

/// Runs a program of the machine in a folder; `false` when it is not there.
fn run(folder: &Path, program: &str, arguments: &[&str]) -> bool {
    match Command::new(program).args(arguments).current_dir(folder).env("LC_ALL", "C").output() {
        Ok(output) => {
            assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
            true
        }
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "{program}: {error}");
            println!("skipped: no {program}");
            false
        }
    }
}

#[test]
fn every_form_of_holes_that_gnu_tar_writes_is_filled() {
    use std::os::unix::fs::FileExt;
    let folder = tempfile::tempdir().unwrap();
    let sparse = fs::File::create(folder.path().join("holes")).unwrap();
    sparse.set_len(3_000_000).unwrap();
    for part in 1..60 {
        sparse.write_all_at(&[part as u8; 700], part * 50_000).unwrap();
    }
    fs::File::create(folder.path().join("empty-holes")).unwrap().set_len(100_000).unwrap();
    let content = fs::read(folder.path().join("holes")).unwrap();
    for format in [
        &["--format=gnu"][..],
        &["--format=pax", "--sparse-version=0.0"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=1.0"],
    ] {
        let arguments = [&["-cf", "t.tar", "--sparse", "--hole-detection=raw"], format, &["holes", "empty-holes"]];
        if !run(folder.path(), "tar", &arguments.concat()) {
            return;
        }
        let tar = fs::read(folder.path().join("t.tar")).unwrap();
        assert!(tar.len() < 400_000, "{format:?} wrote no holes");
        let entries = read(&tar).unwrap();
        let paths: Vec<_> = entries.iter().map(|(entry, _)| entry.path.as_slice()).collect();
        assert_eq!(paths, [b"holes".as_slice(), b"empty-holes"], "{format:?}");
        assert!(entries[0].1 == content, "{format:?}");
        assert!(entries[1].1 == vec![0; 100_000], "{format:?}");
        // Unread content is skipped as well.
        let mut reader = Reader::new(tar.as_slice());
        reader.next_entry().unwrap();
        assert_eq!(reader.next_entry().unwrap().unwrap().path, b"empty-holes");
    }
}

#[test]
fn python_reads_what_we_write_and_we_read_what_python_writes() {
    let folder = tempfile::tempdir().unwrap();
    let ours: Vec<_> = zoo();
    fs::write(folder.path().join("ours.tar"), write(&ours)).unwrap();
    let script = r#"
import tarfile
tar = tarfile.open("ours.tar", encoding="utf-8", errors="surrogateescape")
with open("list", "wb") as out:
    for member in tar:
        line = [member.name, member.type.decode(), oct(member.mode), member.uid, member.gid, member.size,
                int(member.mtime), member.linkname, member.devmajor, member.devminor]
        out.write("|".join(map(str, line)).encode("utf-8", "surrogateescape") + b"\0")
for name, kind in [("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT)]:
    copy = tarfile.open(name + ".tar", "w", format=kind, encoding="utf-8", errors="surrogateescape")
    for member in tar:
        member.pax_headers = {}
        copy.addfile(member, tar.extractfile(member) if member.isreg() else None)
    copy.close()
"#;
    if !run(folder.path(), "python3", &["-c", script]) {
        return;
    }
    let list = fs::read(folder.path().join("list")).unwrap();
    let mut lines = list.split(|&byte| byte == 0);
    for (entry, _) in &ours {
        let (kind, link, (major, minor)) = match &entry.kind {
            EntryKind::File { .. } => ('0', &b""[..], (0, 0)),
            EntryKind::Hardlink { target } => ('1', target.as_slice(), (0, 0)),
            EntryKind::Symlink { target } => ('2', target.as_slice(), (0, 0)),
            EntryKind::CharDevice { major, minor } => ('3', &b""[..], (*major, *minor)),
            EntryKind::BlockDevice { major, minor } => ('4', &b""[..], (*major, *minor)),
            EntryKind::Directory => ('5', &b""[..], (0, 0)),
            EntryKind::Fifo => ('6', &b""[..], (0, 0)),
        };
        let numbers =
            format!("|{kind}|0o{:o}|{}|{}|{}|{}|", entry.mode, entry.uid, entry.gid, entry.size(), entry.mtime.seconds);
        let expected = [&entry.path, numbers.as_bytes(), link, format!("|{major}|{minor}").as_bytes()].concat();
        let line = lines.next().unwrap();
        assert_eq!(String::from_utf8_lossy(line), String::from_utf8_lossy(&expected));
    }
    for name in ["gnu.tar", "pax.tar"] {
        let theirs = read(&fs::read(folder.path().join(name)).unwrap()).unwrap();
        assert_eq!(theirs.len(), ours.len());
        for ((entry, data), (mut expected, expected_data)) in theirs.into_iter().zip(ours.clone()) {
            expected.xattrs.clear();
            assert_eq!((entry, data), (expected, expected_data), "{name}");
        }
    }
}

#[test]
fn the_tar_crate_reads_what_we_write() {
    let ours = zoo();
    let tar = write(&ours);
    let mut archive = ::tar::Archive::new(tar.as_slice());
    let mut count = 0;
    for (theirs, (entry, data)) in archive.entries().unwrap().zip(&ours) {
        let mut theirs = theirs.unwrap();
        let name = theirs.path_bytes().into_owned();
        assert_eq!(
            String::from_utf8_lossy(name.strip_suffix(b"/").unwrap_or(&name)),
            String::from_utf8_lossy(&entry.path)
        );
        let mut content = Vec::new();
        theirs.read_to_end(&mut content).unwrap();
        assert_eq!(&content, data);
        count += 1;
    }
    assert_eq!(count, ours.len());
}

fn any_name() -> impl Strategy<Value = Vec<u8>> {
    let letter = prop_oneof![4 => b'a'..=b'd', 1 => 1u8..=255];
    proptest::collection::vec(letter.prop_filter("no slash", |byte| *byte != b'/'), 1..40)
        .prop_filter("no dots", |name| name != b"." && name != b"..")
}

fn any_path() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any_name(), 1..8).prop_map(|names| names.join(&b'/'))
}

fn any_entry() -> impl Strategy<Value = (Entry, Vec<u8>)> {
    let kind = prop_oneof![
        4 => proptest::collection::vec(any::<u8>(), 0..2000).prop_map(|data| (EntryKind::File { size: data.len() as u64 }, data)),
        2 => Just((EntryKind::Directory, vec![])),
        1 => any_path().prop_map(|target| (EntryKind::Symlink { target }, vec![])),
        1 => any_path().prop_map(|target| (EntryKind::Hardlink { target }, vec![])),
        1 => (0u32..4096, 0u32..1 << 20).prop_map(|(major, minor)| (EntryKind::CharDevice { major, minor }, vec![])),
        1 => Just((EntryKind::Fifo, vec![])),
    ];
    let xattr_name = proptest::collection::vec((1u8..=255).prop_filter("no =", |byte| *byte != b'='), 1..20);
    let xattrs = proptest::collection::btree_map(xattr_name, proptest::collection::vec(any::<u8>(), 0..50), 0..3);
    (any_path(), kind, 0u32..0o10000, any::<u32>(), any::<u32>(), any::<i64>(), xattrs).prop_map(
        |(path, (kind, data), mode, uid, gid, seconds, xattrs)| {
            (Entry { path, kind, mode, uid, gid, mtime: Timestamp::from_seconds(seconds), xattrs }, data)
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read(entries in proptest::collection::vec(any_entry(), 0..10)) {
        prop_assert_eq!(read(&write(&entries)).unwrap(), entries);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..5000)) {
        let _ = read(&bytes);
    }

    #[test]
    fn a_damaged_archive_is_read_or_refused(
        entries in proptest::collection::vec(any_entry(), 1..5),
        changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..20),
        cut in any::<usize>(),
    ) {
        let mut tar = write(&entries);
        for (position, byte) in changes {
            let position = position % tar.len();
            tar[position] = byte;
        }
        // Make the headers right again, so that the damage is seen behind them.
        for block in tar.chunks_exact_mut(BLOCK) {
            let block: &mut [u8; BLOCK] = block.try_into().unwrap();
            if block[field::MAGIC].starts_with(b"ustar") {
                field::set_checksum(block);
            }
        }
        let _ = read(&tar);
        let _ = read(&tar[..cut % tar.len()]);
    }
}

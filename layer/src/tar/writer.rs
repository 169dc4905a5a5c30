//! [`Writer`]: entries to the one tar that we write.
//!
//! The choices are those of Go's `archive/tar` as containerd and BuildKit call it, so that a layer gets the digest
//! it would get there: USTAR while everything fits, else a PAX header with the records that are needed, sorted, named
//! `PaxHeaders.0`; whole seconds; no names of users and groups; no times but the mtime.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use super::field::{self, BLOCK};
use crate::{Entry, EntryKind};

/// Why an entry could not be written.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum TarWriteError {
    #[error("cannot write the tar")]
    Write(#[source] io::Error),
    #[error("cannot read `{path}`")]
    Read { path: String, source: io::Error },
    #[error("`{path}` became shorter than its {expected} bytes while it was read")]
    SizeChanged { path: String, expected: u64 },
    #[error("`{path}` cannot be written to a tar: {why}")]
    BadEntry { path: String, why: &'static str },
}

/// Bytes that collect before the sink sees them, and what files are read in.
const BUFFER: usize = 1 << 20;

/// Writes entries in the order they come.
///
/// The same entries give the same bytes, always. The sink sees large writes only; [`Writer::finish`] is needed.
/// After an error the tar is useless.
#[derive(Debug)]
pub struct Writer<W: Write> {
    inner: W,
    buffer: Box<[u8]>,
    filled: usize,
    /// Bytes that the sink has got.
    flushed: u64,
    entries: u64,
}

impl<W: Write> Writer<W> {
    /// Starts an empty tar.
    pub fn new(inner: W) -> Self {
        Self { inner, buffer: vec![0; BUFFER].into_boxed_slice(), filled: 0, flushed: 0, entries: 0 }
    }

    /// Writes an entry and, for a file, exactly its size of bytes from `data`.
    pub fn append(&mut self, entry: &Entry, data: &mut dyn Read) -> Result<(), TarWriteError> {
        self.header(entry)?;
        self.entries += 1;
        self.content(entry, data)
    }

    /// Writes an entry that has no bytes: anything but a file with content.
    pub fn append_empty(&mut self, entry: &Entry) -> Result<(), TarWriteError> {
        self.append(entry, &mut io::empty())
    }

    /// Returns how many bytes the tar has so far.
    pub fn position(&self) -> u64 {
        self.flushed + self.filled as u64
    }

    /// Hands out the sink so that it takes an entry of so many bytes, header and padding included, that the caller has
    /// from a tar which this wrote.
    pub fn ready_made(&mut self, size: u64) -> Result<&mut W, TarWriteError> {
        self.flush()?;
        self.flushed += size;
        self.entries += 1;
        Ok(&mut self.inner)
    }

    /// Returns how many entries were written.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Ends the tar and returns the sink.
    pub fn finish(mut self) -> Result<W, TarWriteError> {
        self.zeros(2 * BLOCK)?;
        self.flush()?;
        Ok(self.inner)
    }

    fn header(&mut self, entry: &Entry) -> Result<(), TarWriteError> {
        let bad = |why| TarWriteError::BadEntry { path: String::from_utf8_lossy(&entry.path).into_owned(), why };
        let mut header = Header::of(entry);
        if header.name.contains(&0) || header.link.contains(&0) {
            return Err(bad("its name or target contains a NUL byte"));
        }
        let records = header.records(entry);
        if records.iter().any(|(key, _)| key.contains(&b'=') || key.contains(&0)) {
            return Err(bad("an extended attribute has a name that tar cannot hold"));
        }
        if header.fits_ustar(&records) {
            let name = std::mem::take(&mut header.name);
            let (prefix, rest) = split_ustar(&name).unwrap_or((b"", &name));
            header.name = rest.to_vec();
            let mut block = header.block();
            set_text(&mut block[field::PREFIX], prefix);
            return self.block(block);
        }
        if !records.is_empty() {
            let mut data = Vec::new();
            for (key, value) in &records {
                push_record(&mut data, key, value);
            }
            if data.len() > super::MAX_PAX {
                return Err(bad("its names and extended attributes are too long"));
            }
            self.block(pax_block(&header.name, data.len()))?;
            self.put(&data)?;
            self.pad(data.len() as u64)?;
        }
        self.block(header.block())
    }

    fn content(&mut self, entry: &Entry, data: &mut dyn Read) -> Result<(), TarWriteError> {
        let path = || String::from_utf8_lossy(&entry.path).into_owned();
        let size = entry.size();
        let mut rest = size;
        while rest > 0 {
            if self.filled == self.buffer.len() {
                self.flush()?;
            }
            let room = &mut self.buffer[self.filled..];
            let want = usize::try_from(rest).map_or(room.len(), |rest| rest.min(room.len()));
            match data.read(&mut room[..want]) {
                Ok(0) => return Err(TarWriteError::SizeChanged { path: path(), expected: size }),
                Ok(count) => {
                    self.filled += count;
                    rest -= count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(TarWriteError::Read { path: path(), source }),
            }
        }
        self.pad(size)
    }

    fn block(&mut self, mut block: [u8; BLOCK]) -> Result<(), TarWriteError> {
        block[field::MAGIC].copy_from_slice(b"ustar\x0000");
        field::set_checksum(&mut block);
        self.put(&block)
    }

    fn pad(&mut self, size: u64) -> Result<(), TarWriteError> {
        self.zeros(field::padding(size) as usize)
    }

    fn zeros(&mut self, count: usize) -> Result<(), TarWriteError> {
        const ZEROS: [u8; 2 * BLOCK] = [0; 2 * BLOCK];
        self.put(&ZEROS[..count])
    }

    fn put(&mut self, mut bytes: &[u8]) -> Result<(), TarWriteError> {
        while !bytes.is_empty() {
            if self.filled == self.buffer.len() {
                self.flush()?;
            }
            let room = &mut self.buffer[self.filled..];
            let count = bytes.len().min(room.len());
            room[..count].copy_from_slice(&bytes[..count]);
            self.filled += count;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), TarWriteError> {
        self.inner.write_all(&self.buffer[..self.filled]).map_err(TarWriteError::Write)?;
        self.flushed += self.filled as u64;
        self.filled = 0;
        Ok(())
    }
}

/// What a header says, before it is known in which form.
struct Header {
    name: Vec<u8>,
    link: Vec<u8>,
    kind: u8,
    mode: i64,
    uid: i64,
    gid: i64,
    size: i64,
    mtime: i64,
    device: (i64, i64),
}

impl Header {
    fn of(entry: &Entry) -> Self {
        let mut header = Self {
            name: entry.path.clone(),
            link: Vec::new(),
            kind: b'0',
            mode: i64::from(entry.mode & 0o7777),
            uid: i64::from(entry.uid),
            gid: i64::from(entry.gid),
            size: 0,
            mtime: entry.mtime.seconds,
            device: (0, 0),
        };
        match &entry.kind {
            EntryKind::File { size } => header.size = i64::try_from(*size).unwrap_or(i64::MAX),
            EntryKind::Directory => {
                header.kind = b'5';
                header.name.extend_from_slice(if entry.path.is_empty() { b"./" } else { b"/" });
            }
            EntryKind::Hardlink { target } => {
                header.kind = b'1';
                header.link.clone_from(target);
            }
            EntryKind::Symlink { target } => {
                header.kind = b'2';
                header.link.clone_from(target);
            }
            EntryKind::CharDevice { major, minor } => {
                header.kind = b'3';
                header.device = (i64::from(*major), i64::from(*minor));
            }
            EntryKind::BlockDevice { major, minor } => {
                header.kind = b'4';
                header.device = (i64::from(*major), i64::from(*minor));
            }
            EntryKind::Fifo => header.kind = b'6',
        }
        header
    }

    /// Returns what the fields cannot hold, and the extended attributes. Sorted, because it is a `BTreeMap`.
    fn records(&self, entry: &Entry) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut records = BTreeMap::new();
        for (name, value) in &entry.xattrs {
            records.insert([b"SCHILY.xattr.", name.as_slice()].concat(), value.clone());
        }
        for (key, text, room) in [("path", &self.name, field::NAME), ("linkpath", &self.link, field::LINK)] {
            if text.len() > room.len() || !text.is_ascii() {
                records.insert(key.into(), text.clone());
            }
        }
        for (key, number, room) in [
            ("uid", self.uid, field::UID),
            ("gid", self.gid, field::GID),
            ("size", self.size, field::SIZE),
            ("mtime", self.mtime, field::MTIME),
        ] {
            if !field::fits_octal(room, number) {
                records.insert(key.into(), number.to_string().into());
            }
        }
        records
    }

    /// Whether USTAR holds it all, with a long name split in two.
    fn fits_ustar(&self, records: &BTreeMap<Vec<u8>, Vec<u8>>) -> bool {
        match records.first_key_value() {
            None => true,
            Some((key, _)) => records.len() == 1 && key == b"path" && split_ustar(&self.name).is_some(),
        }
    }

    fn block(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        set_text(&mut block[field::NAME], &self.name);
        set_text(&mut block[field::LINK], &self.link);
        block[field::KIND] = self.kind;
        for (room, number) in [
            (field::MODE, self.mode),
            (field::UID, self.uid),
            (field::GID, self.gid),
            (field::SIZE, self.size),
            (field::MTIME, self.mtime),
            (field::MAJOR, self.device.0),
            (field::MINOR, self.device.1),
        ] {
            field::set_octal(&mut block, room, number);
        }
        block
    }
}

/// Returns the header in front of PAX records, named after the folder of the entry as Go does.
fn pax_block(name: &[u8], size: usize) -> [u8; BLOCK] {
    let (folder, file) = match memchr::memrchr(b'/', name) {
        Some(slash) => (&name[..=slash], &name[slash + 1..]),
        None => (b"".as_slice(), name),
    };
    let name = crate::entry::tidy_path(&[folder, b"PaxHeaders.0/", file].concat());
    let mut name: Vec<u8> = name.into_iter().filter(u8::is_ascii).take(field::NAME.len()).collect();
    while name.last() == Some(&b'/') {
        name.pop();
    }
    let mut block = [0; BLOCK];
    set_text(&mut block[field::NAME], &name);
    block[field::KIND] = b'x';
    for (room, number) in
        [(field::MODE, 0), (field::UID, 0), (field::GID, 0), (field::SIZE, size as i64), (field::MTIME, 0)]
    {
        field::set_octal(&mut block, room, number);
    }
    block
}

/// Writes the ASCII part of a text as far as it fits. The whole of it is in a PAX record then.
fn set_text(room: &mut [u8], text: &[u8]) {
    let ascii: Vec<u8> = text.iter().copied().filter(u8::is_ascii).collect();
    let count = ascii.len().min(room.len());
    room[..count].copy_from_slice(&ascii[..count]);
    if ascii.len() > room.len() {
        // A file cut behind a `/` would look like a folder to old readers.
        while let Some(slash) = room.iter().rposition(|&byte| byte != 0).filter(|&last| room[last] == b'/') {
            room[slash] = 0;
        }
    }
}

/// Splits a name of more than 100 bytes into USTAR's prefix and name.
fn split_ustar(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= field::NAME.len() || !name.is_ascii() {
        return None;
    }
    let mut end = name.len();
    if end > field::PREFIX.len() + 1 {
        end = field::PREFIX.len() + 1;
    } else if name[end - 1] == b'/' {
        end -= 1;
    }
    let slash = memchr::memrchr(b'/', &name[..end]).filter(|&slash| slash > 0)?;
    let (prefix, rest) = (&name[..slash], &name[slash + 1..]);
    (!rest.is_empty() && rest.len() <= field::NAME.len()).then_some((prefix, rest))
}

/// Appends `LENGTH KEY=VALUE\n`, where the length counts itself.
fn push_record(data: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + rest.to_string().len();
    if length.to_string().len() > rest.to_string().len() {
        length = rest + length.to_string().len();
    }
    data.extend_from_slice(length.to_string().as_bytes());
    data.push(b' ');
    data.extend_from_slice(key);
    data.push(b'=');
    data.extend_from_slice(value);
    data.push(b'\n');
}

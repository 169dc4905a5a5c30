//! [`Reader`]: any tar that tools write, to entries.

use std::io::{self, BufReader, Read};

use super::field::{self, BLOCK};
use super::pax::Pax;
use super::sparse::{self, ContentMap, PaxSparse, Piece, Sparse};
use super::{MAX_GLOBAL_PAX, MAX_PATH, MAX_PAX};
use crate::entry::tidy_path;
use crate::{Entry, EntryKind, Timestamp};

/// How much a tar may hold before it counts as a bomb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries.
    pub entries: u64,
    /// Bytes of content of all files together, holes of sparse files included, of PAX headers, and of what follows
    /// the end.
    pub bytes: u64,
}

impl Default for Limits {
    /// Ten million entries and 1 TiB.
    fn default() -> Self {
        Self { entries: 10_000_000, bytes: 1 << 40 }
    }
}

/// Why some bytes are not a tar that can be read.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum TarError {
    #[error("cannot read the tar")]
    Read(#[source] io::Error),
    #[error("the tar ends in the middle of {what} at byte {offset}")]
    Truncated { what: &'static str, offset: u64 },
    #[error("no tar header at byte {offset}: {why}")]
    BadHeader { offset: u64, why: &'static str },
    #[error("`{path}`: {why}")]
    BadEntry { path: String, why: &'static str },
    #[error("`{path}`: {why}")]
    Unfit { path: String, why: &'static str },
    #[error("the tar holds more than {limit} entries")]
    TooManyEntries { limit: u64 },
    #[error("the tar holds more than {limit} bytes")]
    TooManyBytes { limit: u64 },
    #[error("bytes other than zero follow the end of the tar at byte {offset}")]
    TrailingGarbage { offset: u64 },
}

/// Reads a tar entry by entry; reading from it gives the bytes of the entry it stands on.
///
/// It understands USTAR, PAX (also global), GNU, star and V7 headers, and files with holes, which it fills with zeros.
/// An archive may stop without the two zero blocks of its end, but only between entries. After an error the reader
/// is useless.
#[derive(Debug)]
pub struct Reader<R> {
    inner: BufReader<R>,
    limits: Limits,
    entries: u64,
    bytes: u64,
    offset: u64,
    global: Pax,
    // What is left of the current entry in the archive: stored bytes, and the zeros behind them.
    stored: u64,
    padding: u64,
    sparse: Option<Sparse>,
    ended: bool,
}

/// Headers of PAX and GNU that may stand in front of one entry.
const MAX_HEADERS: usize = 100;

/// What is read ahead. Larger reads of file content go past it.
const BUFFER: usize = 128 << 10;

impl<R: Read> Reader<R> {
    /// Reads with the default [`Limits`].
    pub fn new(inner: R) -> Self {
        Self::with_limits(inner, Limits::default())
    }

    /// Reads, and gives up beyond the limits.
    pub fn with_limits(inner: R, limits: Limits) -> Self {
        Self {
            inner: BufReader::with_capacity(BUFFER, inner),
            limits,
            entries: 0,
            bytes: 0,
            offset: 0,
            global: Pax::default(),
            stored: 0,
            padding: 0,
            sparse: None,
            ended: false,
        }
    }

    /// Returns the next entry, or `None` at the end, passing over what was not read of the one before.
    ///
    /// Names are as they stand in the archive but tidy, see [`Entry::path`]; `..` and `.wh.` are for the caller to
    /// judge.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut pax = Pax::default();
        let mut long_name = None;
        let mut long_link = None;
        let mut pending = false;
        let mut headers = 0;
        loop {
            let Some(block) = self.header()? else {
                if pending {
                    return Err(TarError::Truncated { what: "an entry", offset: self.offset });
                }
                return Ok(None);
            };
            pending = true;
            headers += 1;
            if headers > MAX_HEADERS {
                return Err(bad_entry(&raw_name(&block), "too many headers speak of one file"));
            }
            match block[field::KIND] {
                b'x' | b'X' => {
                    pax = Pax::default();
                    let data = self.special(&block, MAX_PAX)?;
                    pax.add(&data).map_err(|why| bad_entry(&raw_name(&block), why))?;
                }
                b'g' => {
                    let data = self.special(&block, MAX_PAX)?;
                    let mut global = std::mem::take(&mut self.global);
                    global.add(&data).map_err(|why| bad_entry(&raw_name(&block), why))?;
                    if global.names_one_file() {
                        return Err(bad_entry(&raw_name(&block), "a global header sets what only one file can have"));
                    }
                    if global.size() > MAX_GLOBAL_PAX {
                        return Err(bad_entry(&raw_name(&block), "its global headers say too much"));
                    }
                    self.global = global;
                    pending = !pax.is_empty() || long_name.is_some() || long_link.is_some();
                }
                b'L' => {
                    long_name = Some(field::text(&self.special(&block, MAX_PATH + 1)?).to_vec());
                }
                b'K' => {
                    long_link = Some(field::text(&self.special(&block, MAX_PATH + 1)?).to_vec());
                }
                // The label of a volume is no file.
                b'V' => {
                    self.stored = size(&block)?;
                    self.count(self.stored)?;
                    self.padding = field::padding(self.stored);
                    (pax, long_name, long_link, pending) = (Pax::default(), None, None, false);
                }
                _ => {
                    self.entries += 1;
                    if self.entries > self.limits.entries {
                        return Err(TarError::TooManyEntries { limit: self.limits.entries });
                    }
                    let pax = if self.global.is_empty() { pax } else { pax.over(&self.global) };
                    return self.entry(&block, &pax, long_name, long_link).map(Some);
                }
            }
        }
    }

    /// Returns how many bytes of the tar were read. Right after [`Reader::next_entry`] that is where the content begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Reads on to the end of the source, so that whatever hashes it has seen every byte.
    ///
    /// Only zeros may follow the end of a tar, because a reader that ignores the end would see other files.
    pub fn drain(&mut self) -> Result<(), TarError> {
        while self.next_entry()?.is_some() {}
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = self.read_some(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            self.count(count as u64)?;
            if let Some(position) = buffer[..count].iter().position(|&byte| byte != 0) {
                return Err(TarError::TrailingGarbage { offset: self.offset - (count - position) as u64 });
            }
        }
    }

    /// Returns the source. It stands somewhat behind what was read of it.
    pub fn into_inner(self) -> R {
        self.inner.into_inner()
    }

    /// Skips what is left of the current entry and returns the next header, or `None` at the end.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        if self.ended {
            return Ok(None);
        }
        self.sparse = None;
        let stored = std::mem::take(&mut self.stored);
        if self.skip(stored)? < stored {
            return Err(TarError::Truncated { what: "a file", offset: self.offset });
        }
        let padding = std::mem::take(&mut self.padding);
        if self.skip(padding)? < padding {
            self.ended = true;
            return Ok(None);
        }
        let start = self.offset;
        let Some(block) = self.block("a header")? else {
            self.ended = true;
            return Ok(None);
        };
        if block == [0; BLOCK] {
            return match self.block("its end")? {
                Some(block) if block != [0; BLOCK] => {
                    Err(TarError::BadHeader { offset: start, why: "a block of zeros in the middle" })
                }
                _ => {
                    self.ended = true;
                    Ok(None)
                }
            };
        }
        let sum = field::number(&block[field::CHECKSUM]);
        let (unsigned, signed) = field::checksums(&block);
        if sum != Some(unsigned) && sum != Some(signed) {
            return Err(TarError::BadHeader { offset: start, why: "its checksum is wrong" });
        }
        Ok(Some(block))
    }

    /// Reads the content of a header that speaks of the next one.
    fn special(&mut self, block: &[u8; BLOCK], max: usize) -> Result<Vec<u8>, TarError> {
        let size = size(block)?;
        if size > max as u64 {
            return Err(bad_entry(&raw_name(block), "its header of names and attributes is too long"));
        }
        self.count(size)?;
        let mut data = vec![0; size as usize];
        if self.fill(&mut data)? < data.len() {
            return Err(TarError::Truncated { what: "a header", offset: self.offset });
        }
        self.padding = field::padding(size);
        Ok(data)
    }

    fn entry(
        &mut self,
        block: &[u8; BLOCK],
        pax: &Pax,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, TarError> {
        // GNU's name wins over PAX's, as in Go.
        let name = match long_name {
            Some(name) => name,
            None => {
                pax.get("GNU.sparse.name").or_else(|| pax.get("path")).map_or_else(|| raw_name(block), <[u8]>::to_vec)
            }
        };
        let bad = |why| bad_entry(&name, why);
        let unfit = |why| TarError::Unfit { path: shown(&name), why };
        let link = match long_link {
            Some(link) => link,
            None => pax.get("linkpath").unwrap_or_else(|| field::text(&block[field::LINK])).to_vec(),
        };
        if name.len() > MAX_PATH || link.len() > MAX_PATH {
            return Err(bad("its name or target is longer than 4096 bytes"));
        }
        let number = |key, room, why| match pax.number(key) {
            Ok(Some(number)) => Ok(number),
            Ok(None) => field::number(&block[room]).ok_or_else(|| bad(why)),
            Err(why) => Err(bad(why)),
        };
        let owner = |key, room| {
            let number = number(key, room, "its owner is no number")?;
            u32::try_from(number).map_err(|_| bad("its owner is out of range"))
        };
        let (uid, gid) = (owner("uid", field::UID)?, owner("gid", field::GID)?);
        let mode = field::number(&block[field::MODE]).ok_or_else(|| bad("its mode is no number"))?;
        let mtime = match pax.time("mtime").map_err(bad)? {
            Some(time) => time,
            None => Timestamp::from_seconds(
                field::number(&block[field::MTIME]).ok_or_else(|| bad("its time is no number"))?,
            ),
        };
        // What layers do not hold; a time that is none makes the header bad all the same, as in Go.
        for key in ["atime", "ctime"] {
            pax.time(key).map_err(bad)?;
        }
        let device = || {
            let device = |room| {
                let number = field::number(&block[room]).and_then(|number| u32::try_from(number).ok());
                number.ok_or_else(|| bad("its device numbers are none"))
            };
            Ok((device(field::MAJOR)?, device(field::MINOR)?))
        };
        let kind = match block[field::KIND] {
            // V7 had no folders but by name. Whether content would follow, readers disagree. Where there is a kind that
            // says "file", Go's reader, and with it containerd and BuildKit, believe that.
            b'\0' if name.ends_with(b"/") => {
                if number("size", field::SIZE, "its size is no number")? != 0 {
                    return Err(bad("it is named as a folder, but has content"));
                }
                EntryKind::Directory
            }
            b'\0' | b'0' | b'S' => {
                let size = number("size", field::SIZE, "its size is no number")?;
                let stored = u64::try_from(size).map_err(|_| bad("its size is negative"))?;
                EntryKind::File { size: self.content(block, pax, stored).map_err(|error| error.at(&name))? }
            }
            b'1' | b'2' if link.is_empty() => return Err(unfit("it links to nothing")),
            b'1' => match tidy_path(&link) {
                target if target.is_empty() => return Err(unfit("it is a second name for the root")),
                target => EntryKind::Hardlink { target },
            },
            b'2' => EntryKind::Symlink { target: link.clone() },
            b'3' => device().map(|(major, minor)| EntryKind::CharDevice { major, minor })?,
            b'4' => device().map(|(major, minor)| EntryKind::BlockDevice { major, minor })?,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            // GNU's folder of an incremental backup has the list of its names as content.
            b'D' => {
                self.stored = size(block)?;
                self.count(self.stored)?;
                self.padding = field::padding(self.stored);
                self.sparse = Some(Sparse::new(0, &[], 0).map_err(bad)?);
                EntryKind::Directory
            }
            _ => return Err(unfit("it is of a kind that no layer can hold")),
        };
        let xattrs = pax.xattrs();
        Ok(Entry { path: tidy_path(&name), kind, mode: (mode & 0o7777) as u32, uid, gid, mtime, xattrs })
    }

    /// Prepares for the content of a file and returns its size, holes included.
    fn content(&mut self, block: &[u8; BLOCK], pax: &Pax, stored: u64) -> Result<u64, ContentError> {
        self.stored = stored;
        self.padding = field::padding(stored);
        let sparse = if block[field::KIND] == b'S' {
            let mut extents = Vec::new();
            sparse::header_extents(&block[field::SPARSE], &mut extents)?;
            let mut more = block[field::SPARSE_MORE] != 0;
            while more {
                let Some(block) = self.block("a map of holes").map_err(ContentError::Tar)? else {
                    return Err(TarError::Truncated { what: "a map of holes", offset: self.offset }.into());
                };
                sparse::header_extents(&block[field::MORE_SPARSE], &mut extents)?;
                more = block[field::MORE_SPARSE_MORE] != 0;
                if extents.len() > MAX_PAX / 16 {
                    return Err("its map of holes is too long".into());
                }
            }
            let size = field::number(&block[field::REAL_SIZE]).ok_or("its size is no number")?;
            Some(Sparse::new(size, &extents, stored)?)
        } else {
            match sparse::of_pax(pax)? {
                None => None,
                Some(PaxSparse::Map { size, extents }) => Some(Sparse::new(size, &extents, stored)?),
                Some(PaxSparse::InContent { size }) => {
                    let extents = self.content_map()?;
                    Some(Sparse::new(size, &extents, self.stored)?)
                }
            }
        };
        let size = sparse.as_ref().map_or(stored, |sparse| sparse.size);
        self.sparse = sparse;
        self.count(size)?;
        Ok(size)
    }

    /// Counts bytes that the archive can make us read or write at little cost to itself.
    fn count(&mut self, bytes: u64) -> Result<(), TarError> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > self.limits.bytes {
            return Err(TarError::TooManyBytes { limit: self.limits.bytes });
        }
        Ok(())
    }

    fn content_map(&mut self) -> Result<Vec<(i64, i64)>, ContentError> {
        let mut map = ContentMap::default();
        loop {
            self.stored = self.stored.checked_sub(BLOCK as u64).ok_or("its map of holes is cut off")?;
            let Some(block) = self.block("a map of holes").map_err(ContentError::Tar)? else {
                return Err(TarError::Truncated { what: "a map of holes", offset: self.offset }.into());
            };
            if let Some(extents) = map.add(&block)? {
                return Ok(extents);
            }
        }
    }

    /// Reads a block, or returns `None` when the source ends in front of it.
    fn block(&mut self, what: &'static str) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        match self.fill(&mut block)? {
            0 => Ok(None),
            BLOCK => Ok(Some(block)),
            _ => Err(TarError::Truncated { what, offset: self.offset }),
        }
    }

    /// Reads until the buffer is full or the source ends, and returns how much that was.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read_some(&mut buffer[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        Ok(filled)
    }

    fn skip(&mut self, count: u64) -> Result<u64, TarError> {
        if count == 0 {
            return Ok(0);
        }
        let skipped = io::copy(&mut (&mut self.inner).take(count), &mut io::sink()).map_err(TarError::Read)?;
        self.offset += skipped;
        Ok(skipped)
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        loop {
            match self.inner.read(buffer) {
                Ok(count) => {
                    self.offset += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(TarError::Read(error)),
            }
        }
    }

    fn read_stored(&mut self, buffer: &mut [u8], limit: u64) -> io::Result<usize> {
        let limit = usize::try_from(limit.min(self.stored)).map_or(buffer.len(), |limit| limit.min(buffer.len()));
        if limit == 0 {
            return Ok(0);
        }
        let count = self.read_some(&mut buffer[..limit]).map_err(into_io)?;
        if count == 0 {
            return Err(into_io(TarError::Truncated { what: "a file", offset: self.offset }));
        }
        self.stored -= count as u64;
        Ok(count)
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(piece) = self.sparse.as_ref().map(Sparse::piece) else {
            return self.read_stored(buffer, u64::MAX);
        };
        let count = match piece {
            Piece::End => 0,
            Piece::Stored(length) => self.read_stored(buffer, length)?,
            Piece::Hole(length) => {
                let count = usize::try_from(length).map_or(buffer.len(), |length| length.min(buffer.len()));
                buffer[..count].fill(0);
                count
            }
        };
        if let Some(sparse) = &mut self.sparse {
            sparse.advance(count as u64);
        }
        Ok(count)
    }
}

/// Why the content of a file cannot be prepared for: the archive, or a fact about the file without its name.
enum ContentError {
    Tar(TarError),
    Bad(&'static str),
}

impl ContentError {
    fn at(self, name: &[u8]) -> TarError {
        match self {
            Self::Tar(error) => error,
            Self::Bad(why) => bad_entry(name, why),
        }
    }
}

impl From<TarError> for ContentError {
    fn from(error: TarError) -> Self {
        Self::Tar(error)
    }
}

impl From<&'static str> for ContentError {
    fn from(why: &'static str) -> Self {
        Self::Bad(why)
    }
}

fn bad_entry(name: &[u8], why: &'static str) -> TarError {
    TarError::BadEntry { path: shown(name), why }
}

fn shown(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    if text.chars().count() > 200 { text.chars().take(200).chain(['…']).collect() } else { text.into() }
}

/// Returns what a read of a [`Reader`] failed with.
pub(crate) fn from_io(error: io::Error) -> TarError {
    error.downcast::<TarError>().unwrap_or_else(TarError::Read)
}

fn into_io(error: TarError) -> io::Error {
    match error {
        TarError::Read(error) => error,
        error => io::Error::new(io::ErrorKind::InvalidData, error),
    }
}

/// Returns the size that the header itself says.
fn size(block: &[u8; BLOCK]) -> Result<u64, TarError> {
    field::number(&block[field::SIZE])
        .and_then(|size| u64::try_from(size).ok())
        .ok_or_else(|| bad_entry(&raw_name(block), "its size is no number"))
}

/// Returns the name in the header, with the prefix where the format has one.
fn raw_name(block: &[u8; BLOCK]) -> Vec<u8> {
    let name = field::text(&block[field::NAME]);
    let prefix = match &block[field::MAGIC] {
        b"ustar\x0000" if &block[field::STAR_TRAILER] == b"tar\0" => field::text(&block[field::STAR_PREFIX]),
        // GNU keeps times there.
        b"ustar  \0" => b"",
        magic if magic.starts_with(b"ustar\0") => field::text(&block[field::PREFIX]),
        _ => b"",
    };
    if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
}

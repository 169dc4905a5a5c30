//! [`Spool`]: records in the order they came, in memory as long as they are few, else in a file without a name.
//!
//! What is known of each file of a context goes through one, so that a build takes the same memory whatever the size of
//! its context.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::unpack::unnamed_file;
use crate::fault::Fault;

/// Up to so many bytes stay in memory.
const IN_MEMORY: usize = 2 << 20;
/// How much is read back at a time.
const CHUNK: usize = 128 << 10;

/// Records, in order.
#[derive(Debug)]
pub(crate) struct Spool {
    folder: PathBuf,
    file: Option<File>,
    /// Bytes in the file, whole records.
    spilled: u64,
    /// What came after them.
    tail: Vec<u8>,
    count: u64,
}

impl Spool {
    /// Starts a list whose file, if it needs one, lies in a folder of the disk.
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), file: None, spilled: 0, tail: Vec::new(), count: 0 }
    }

    /// Appends a record, which `write` appends to the bytes.
    pub(crate) fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), Fault> {
        let start = self.tail.len();
        self.tail.extend_from_slice(&[0; 4]);
        write(&mut self.tail);
        let length = u32::try_from(self.tail.len() - start - 4).map_err(|_| Fault::new("a record is too long"))?;
        self.tail[start..start + 4].copy_from_slice(&length.to_le_bytes());
        self.count += 1;
        if self.tail.len() > IN_MEMORY {
            self.spill().map_err(|error| Fault::because("cannot write a list of files", &error))?;
        }
        Ok(())
    }

    fn spill(&mut self) -> io::Result<()> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => unnamed_file(&self.folder)?,
        };
        file.write_all(&self.tail)?;
        self.spilled += self.tail.len() as u64;
        self.tail.clear();
        self.file = Some(file);
        Ok(())
    }

    /// Writes all records as [`Records::new`] reads them.
    pub(crate) fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        if let Some(file) = &self.file {
            let mut chunk = vec![0; CHUNK];
            let mut offset = 0;
            while offset < self.spilled {
                let count = usize::try_from(self.spilled - offset).unwrap_or(usize::MAX).min(CHUNK);
                file.read_exact_at(&mut chunk[..count], offset)?;
                out.write_all(&chunk[..count])?;
                offset += count as u64;
            }
        }
        out.write_all(&self.tail)
    }

    /// Returns how many records there are.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Reads the records from the first on.
    pub(crate) fn read(&self) -> Records<'_> {
        let mut records = Records::new(self.file.as_ref(), 0..self.spilled);
        records.tail = &self.tail;
        records
    }
}

/// Reads records.
#[derive(Debug)]
pub(crate) struct Records<'a> {
    file: Option<&'a File>,
    /// What of the file was not read yet.
    left: Range<u64>,
    /// What was read of it, and from where on it was not given out.
    chunk: Vec<u8>,
    start: usize,
    /// What comes after the file and was not given out.
    tail: &'a [u8],
}

impl<'a> Records<'a> {
    /// Reads records that lie in a file.
    pub(crate) fn new(file: Option<&'a File>, range: Range<u64>) -> Self {
        Self { file, left: range, chunk: Vec::new(), start: 0, tail: &[] }
    }

    /// Returns the next record.
    pub(crate) fn next(&mut self) -> Result<Option<&[u8]>, Fault> {
        while whole(&self.chunk[self.start..]).is_none() && !self.left.is_empty() {
            self.refill().map_err(|error| Fault::because("cannot read a list of files", &error))?;
        }
        if let Some(length) = whole(&self.chunk[self.start..]) {
            let start = self.start + 4;
            self.start = start + length;
            return Ok(Some(&self.chunk[start..self.start]));
        }
        let Some(length) = whole(self.tail) else { return Ok(None) };
        let (record, rest) = self.tail[4..].split_at(length);
        self.tail = rest;
        Ok(Some(record))
    }

    fn refill(&mut self) -> io::Result<()> {
        let Some(file) = self.file else { return Err(io::ErrorKind::NotFound.into()) };
        self.chunk.drain(..self.start);
        self.start = 0;
        let filled = self.chunk.len();
        // A record is in a chunk, or the chunk grows until it is.
        let more = usize::try_from(self.left.end - self.left.start).unwrap_or(usize::MAX).min(CHUNK);
        self.chunk.resize(filled + more, 0);
        file.read_exact_at(&mut self.chunk[filled..], self.left.start)?;
        self.left.start += more as u64;
        Ok(())
    }
}

/// Returns how long the record is that the bytes begin with, if all of it is there.
fn whole(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_le_bytes(*bytes.first_chunk()?) as usize;
    (bytes.len() - 4 >= length).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_from_memory_and_from_the_file() {
        let folder = tempfile::tempdir().expect("tempdir");
        for (count, length) in [(0, 0), (3, 5), (60_000, 100), (7, CHUNK * 5), (1, IN_MEMORY * 2), (1000, 0)] {
            let mut spool = Spool::new(folder.path());
            let record = |index: usize| vec![index as u8; length + index % 3];
            for index in 0..count {
                spool.push(|bytes| bytes.extend_from_slice(&record(index))).expect("pushed");
            }
            assert!(spool.tail.len() <= IN_MEMORY);
            assert_eq!(spool.count(), count as u64);
            for _ in 0..2 {
                let mut records = spool.read();
                for index in 0..count {
                    assert_eq!(records.next().expect("read"), Some(record(index).as_slice()), "{index} of {count}");
                }
                assert_eq!(records.next().expect("read"), None);
            }
        }
    }
}

//! [`Table`]: sorted records in a file, of which a few blocks are in memory.
//!
//! ```text
//! blocks of 200 records    each with the SHA-256 of its records behind it; the last may have fewer
//! footer                   the first stamp of each block, number of records, SHA-256 of the footer up to here
//! ```

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use oci::{Algorithm, Digest, Hasher};

use super::{RECORD, Record, STAMP, Stamped};

/// Records of a block.
const BLOCK: usize = 200;
const CHECK: usize = 32;
const FULL: usize = BLOCK * RECORD + CHECK;
/// Blocks in memory, at most: a megabyte.
const SLOTS: usize = 64;

/// Records by stamp.
#[derive(Debug)]
pub(super) struct Table {
    file: File,
    /// Where in the file the first block begins.
    base: u64,
    count: usize,
    /// The first stamp of each block.
    firsts: Vec<Stamped>,
    /// A block has one place where it can be; files of a folder are mostly in the same few.
    slots: Vec<Option<Block>>,
}

#[derive(Debug)]
struct Block {
    index: usize,
    /// Whole records, or none when they are damaged.
    bytes: Vec<u8>,
}

impl Table {
    /// Opens a table that begins at an offset and ends with the file; `None` when it is damaged.
    pub(super) fn open(file: File, base: u64) -> io::Result<Option<Self>> {
        let Some(size) = file.metadata()?.len().checked_sub(base) else { return Ok(None) };
        let mut end = [0; 8 + CHECK];
        let Some(end_at) = size.checked_sub(end.len() as u64) else { return Ok(None) };
        file.read_exact_at(&mut end, base + end_at)?;
        let count = u64::from_le_bytes(*end.first_chunk().expect("40 bytes"));
        let blocks = count.div_ceil(BLOCK as u64);
        let body = count.checked_mul(RECORD as u64).and_then(|records| records.checked_add(blocks * CHECK as u64));
        let firsts_size = blocks * STAMP as u64;
        if body.and_then(|body| body.checked_add(firsts_size)) != Some(end_at) {
            return Ok(None);
        }
        let mut firsts = vec![0; firsts_size as usize];
        file.read_exact_at(&mut firsts, base + end_at - firsts_size)?;
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(&firsts);
        hasher.update(&end[..8]);
        if hasher.finish().to_bytes() != end[8..] {
            return Ok(None);
        }
        let firsts = firsts.as_chunks().0.to_vec();
        let slots = (0..firsts.len().min(SLOTS)).map(|_| None).collect();
        Ok(Some(Self { file, base, count: count as usize, firsts, slots }))
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Finds a stamp: its place in the order, and its record. What cannot be read or is damaged is not there.
    pub(super) fn find(&mut self, stamp: &Stamped) -> Option<(usize, Record)> {
        let block = self.firsts.partition_point(|first| first <= stamp).checked_sub(1)?;
        let records = self.block(block);
        let at = records.binary_search_by(|record| record[..STAMP].cmp(stamp)).ok()?;
        Some((block * BLOCK + at, records[at]))
    }

    /// Returns the records of a block; none when it is damaged.
    fn block(&mut self, index: usize) -> &[Record] {
        let slots = self.slots.len();
        let slot = &mut self.slots[index % slots];
        if slot.as_ref().is_none_or(|block| block.index != index) {
            let bytes = slot.take().map(|block| block.bytes).unwrap_or_default();
            *slot = Some(Block { index, bytes: read_block(&self.file, self.base, self.count, index, bytes) });
        }
        slot.as_ref().map_or(&[], |block| block.bytes.as_chunks().0)
    }

    /// Yields all records in order, each with its place, but those of damaged blocks.
    pub(super) fn records(&self) -> impl Iterator<Item = (usize, Record)> {
        let blocks = 0..self.firsts.len();
        blocks.flat_map(|index| {
            let bytes = read_block(&self.file, self.base, self.count, index, Vec::new());
            let records: Vec<Record> = bytes.as_chunks().0.to_vec();
            records.into_iter().enumerate().map(move |(at, record)| (index * BLOCK + at, record))
        })
    }
}

fn read_block(file: &File, base: u64, count: usize, index: usize, mut bytes: Vec<u8>) -> Vec<u8> {
    let length = (count - index * BLOCK).min(BLOCK) * RECORD;
    bytes.resize(length + CHECK, 0);
    let whole = file.read_exact_at(&mut bytes, base + (index * FULL) as u64).is_ok()
        && Digest::sha256(&bytes[..length]).to_bytes() == bytes[length..];
    bytes.truncate(if whole { length } else { 0 });
    bytes
}

/// Writes a table: records in order.
pub(super) struct TableWriter<W: Write> {
    out: W,
    block: Vec<u8>,
    firsts: Vec<u8>,
    count: u64,
}

impl<W: Write> TableWriter<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, block: Vec::with_capacity(FULL), firsts: Vec::new(), count: 0 }
    }

    pub(super) fn push(&mut self, record: &Record) -> io::Result<()> {
        if self.block.is_empty() {
            self.firsts.extend_from_slice(&record[..STAMP]);
        }
        self.block.extend_from_slice(record);
        self.count += 1;
        if self.block.len() == BLOCK * RECORD { self.end_block() } else { Ok(()) }
    }

    fn end_block(&mut self) -> io::Result<()> {
        if !self.block.is_empty() {
            let check = Digest::sha256(&self.block).to_bytes();
            self.block.extend_from_slice(&check);
            self.out.write_all(&self.block)?;
            self.block.clear();
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        self.end_block()?;
        let mut footer = self.firsts;
        footer.extend_from_slice(&self.count.to_le_bytes());
        let check = Digest::sha256(&footer).to_bytes();
        footer.extend_from_slice(&check);
        self.out.write_all(&footer)?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: u64) -> Record {
        let mut record = [7; RECORD];
        record[..8].copy_from_slice(&number.to_be_bytes());
        record
    }

    fn stamp(number: u64) -> Stamped {
        *record(number).first_chunk().expect("a record begins with a stamp")
    }

    fn written(count: u64) -> File {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(b"head").expect("written");
        let mut writer = TableWriter::new(&file);
        (0..count).for_each(|number| writer.push(&record(2 * number)).expect("pushed"));
        writer.finish().expect("finished");
        file
    }

    #[test]
    fn every_record_is_found_and_no_other() {
        for count in [0, 1, 199, 200, 201, 400, 20_000] {
            let mut table = Table::open(written(count), 4).expect("read").expect("whole");
            assert_eq!(table.count() as u64, count);
            for number in 0..count {
                assert_eq!(table.find(&stamp(2 * number)), Some((number as usize, record(2 * number))));
                assert_eq!(table.find(&stamp(2 * number + 1)), None);
            }
            assert!(table.records().eq((0..count).map(|number| (number as usize, record(2 * number)))));
        }
    }

    #[test]
    fn what_is_damaged_is_not_there() {
        let whole = written(500);
        let size = whole.metadata().expect("looked").len();
        let mut bytes = vec![0; size as usize];
        whole.read_exact_at(&mut bytes, 0).expect("read");
        let copy = |bytes: &[u8]| {
            let mut file = tempfile::tempfile().expect("a file");
            file.write_all(bytes).expect("written");
            file
        };
        for length in (0..bytes.len()).step_by(97) {
            assert!(Table::open(copy(&bytes[..length]), 4).expect("read").is_none(), "{length}");
        }
        for at in (4..bytes.len()).step_by(331) {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            // Either all is lost, or the block with that byte.
            if let Some(mut table) = Table::open(copy(&bytes), 4).expect("read") {
                let damaged = (at - 4) / FULL;
                for number in 0..500 {
                    let found = table.find(&stamp(2 * number));
                    assert_eq!(found.is_some(), number as usize / BLOCK != damaged, "{at}: {number}");
                    assert!(found.is_none_or(|(_, found)| found == record(2 * number)));
                }
            }
        }
    }
}

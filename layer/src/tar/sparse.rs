//! Files with holes: where the stored bytes belong, in every form that GNU tar ever wrote.

use super::field::{self, BLOCK};
use super::pax::Pax;

/// The stored parts of a sparse file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sparse {
    /// Bytes of the file with its holes.
    pub(crate) size: u64,
    // Invariant: ascending, not overlapping, within `size`, none empty.
    extents: Vec<(u64, u64)>,
    next: usize,
    position: u64,
}

/// What comes next of a sparse file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// So many zeros.
    Hole(u64),
    /// So many stored bytes.
    Stored(u64),
    /// Nothing more.
    End,
}

const BROKEN: &str = "its map of holes is broken";

impl Sparse {
    pub(crate) fn new(size: i64, extents: &[(i64, i64)], stored: u64) -> Result<Self, &'static str> {
        let size = u64::try_from(size).map_err(|_| BROKEN)?;
        let (mut end, mut total) = (0u64, 0u64);
        let mut kept = Vec::with_capacity(extents.len());
        for &(offset, length) in extents {
            let (offset, length) =
                (u64::try_from(offset).map_err(|_| BROKEN)?, u64::try_from(length).map_err(|_| BROKEN)?);
            let stop = offset.checked_add(length).ok_or(BROKEN)?;
            if offset < end || stop > size {
                return Err(BROKEN);
            }
            end = stop;
            total += length;
            if length > 0 {
                kept.push((offset, length));
            }
        }
        if total != stored {
            return Err("its map of holes does not fit its size");
        }
        Ok(Self { size, extents: kept, next: 0, position: 0 })
    }

    /// Returns what comes next.
    pub(crate) fn piece(&self) -> Piece {
        match self.extents.get(self.next) {
            Some(&(offset, _)) if self.position < offset => Piece::Hole(offset - self.position),
            Some(&(offset, length)) => Piece::Stored(offset + length - self.position),
            None if self.position < self.size => Piece::Hole(self.size - self.position),
            None => Piece::End,
        }
    }

    /// Goes on by as many bytes, at most those of the current piece.
    pub(crate) fn advance(&mut self, count: u64) {
        self.position += count;
        if let Some(&(offset, length)) = self.extents.get(self.next)
            && self.position >= offset + length
        {
            self.next += 1;
        }
    }
}

/// Reads the extents in an old GNU header or in a block that continues it; the last one has an empty field.
pub(crate) fn header_extents(block: &[u8], extents: &mut Vec<(i64, i64)>) -> Result<(), &'static str> {
    for pair in block.chunks_exact(24) {
        if pair[0] == 0 {
            break;
        }
        let (offset, length) = (field::number(&pair[..12]), field::number(&pair[12..]));
        extents.push((offset.ok_or(BROKEN)?, length.ok_or(BROKEN)?));
    }
    Ok(())
}

/// How a PAX header says that a file is sparse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PaxSparse {
    /// 0.0 and 0.1: the map is in the header.
    Map { size: i64, extents: Vec<(i64, i64)> },
    /// 1.0: the map is in front of the content.
    InContent { size: i64 },
}

/// Finds out whether, and how, an entry is sparse.
pub(crate) fn of_pax(pax: &Pax) -> Result<Option<PaxSparse>, &'static str> {
    let size = match pax.number("GNU.sparse.realsize")? {
        Some(size) => Some(size),
        None => pax.number("GNU.sparse.size")?,
    };
    match (pax.get("GNU.sparse.major"), pax.get("GNU.sparse.minor")) {
        (Some(b"1"), Some(b"0")) => return Ok(Some(PaxSparse::InContent { size: size.ok_or(BROKEN)? })),
        (None, None) | (Some(b"0"), Some(b"0" | b"1")) => {}
        _ => return Err("its map of holes has an unknown version"),
    }
    let numbers: Vec<&[u8]> = match pax.get("GNU.sparse.map") {
        Some(map) => map.split(|&byte| byte == b',').collect(),
        None if pax.get("GNU.sparse.numblocks").is_some() || !pax.sparse_list.is_empty() => {
            pax.sparse_list.iter().map(Vec::as_slice).collect()
        }
        None => return Ok(None),
    };
    if !numbers.len().is_multiple_of(2) {
        return Err(BROKEN);
    }
    if let Some(count) = pax.number("GNU.sparse.numblocks")?
        && usize::try_from(count).ok() != Some(numbers.len() / 2)
    {
        return Err(BROKEN);
    }
    let extents = numbers
        .chunks_exact(2)
        .map(|pair| Some((decimal(pair[0])?, decimal(pair[1])?)))
        .collect::<Option<_>>()
        .ok_or(BROKEN)?;
    Ok(Some(PaxSparse::Map { size: size.ok_or(BROKEN)?, extents }))
}

/// Collects the map of format 1.0, block by block, until it is whole.
#[derive(Debug, Default)]
pub(crate) struct ContentMap {
    bytes: Vec<u8>,
}

impl ContentMap {
    /// Takes in a block; returns the extents once all have come.
    pub(crate) fn add(&mut self, block: &[u8; BLOCK]) -> Result<Option<Vec<(i64, i64)>>, &'static str> {
        self.bytes.extend_from_slice(block);
        if self.bytes.len() > super::MAX_PAX {
            return Err("its map of holes is too long");
        }
        let lines = memchr::memchr_iter(b'\n', &self.bytes).count();
        let mut numbers = self.bytes.split(|&byte| byte == b'\n');
        if lines == 0 {
            return Ok(None);
        }
        let count = numbers.next().and_then(decimal).and_then(|count| usize::try_from(count).ok()).ok_or(BROKEN)?;
        if count > super::MAX_PAX {
            return Err("its map of holes is too long");
        }
        if lines < 1 + 2 * count {
            return Ok(None);
        }
        let numbers: Option<Vec<i64>> = numbers.take(2 * count).map(decimal).collect();
        Ok(Some(numbers.ok_or(BROKEN)?.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()))
    }
}

fn decimal(digits: &[u8]) -> Option<i64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

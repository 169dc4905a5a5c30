//! [`Deflater`]: deflate (RFC 1951) for speed, at several times that of zlib and within a tenth of its ratio.
//!
//! ```text
//! bytes -> tokens (a literal, or a length and a distance) -> blocks -> bits
//!          two tables tell where the next 4, and the next 8, bytes were last
//! ```
//!
//! What is taken is the first match that is found, unless the next place has a longer one. The tables are so small that
//! they stay in a processor's nearest cache, which is worth more than what larger ones find. Long stretches without a
//! match are looked at with growing steps, and are stored if a code does not make them shorter.

use std::ops::Range;

use self::bits::Bits;
use self::block::{Token, Tokens};

mod bits;
mod block;
mod code;

/// How far deflate refers back.
pub(super) const WINDOW: usize = 32 << 10;

/// The longest match that deflate has.
const LONGEST: usize = 258;

/// The tables of places have this many bits of a hash of 4, and of 8, bytes.
const SHORT_BITS: u32 = 13;
const LONG_BITS: u32 = 12;

/// After how many places without a match the steps grow by one, and how far they grow: so that what comes after noise is
/// soon seen to repeat itself.
const PATIENCE: usize = 64;
const LONGEST_STEP: usize = 16;

/// A stretch without a match that is so long gets blocks of its own, and is likely stored.
const STRETCH: usize = 2 << 10;

/// Compresses pieces of data, each by itself; what it keeps from one to the next is only memory.
pub(super) struct Deflater {
    // Places are kept as their last 16 bits, which are enough to tell a distance in the window.
    long: Box<[u16; 1 << LONG_BITS]>,
    short: Box<[u16; 1 << SHORT_BITS]>,
    tokens: Tokens,
    out: Vec<u8>,
}

impl Deflater {
    pub(super) fn new() -> Self {
        Self {
            long: Box::new([0; 1 << LONG_BITS]),
            short: Box::new([0; 1 << SHORT_BITS]),
            tokens: Tokens::new(),
            out: Vec::new(),
        }
    }

    /// Compresses what is in `data` from `start` on; what is before may be referred to, so at most a window is of use.
    ///
    /// The result ends with a whole byte: with the end of the stream if this is its last part, or else so that another
    /// part can follow.
    pub(super) fn compress(&mut self, data: &[u8], start: usize, is_last: bool) -> Vec<u8> {
        let mut out = std::mem::take(&mut self.out);
        // No block is longer than its bytes stored, and none but the first and the last is short.
        let size = data.len() - start;
        out.resize(out.len().max(size + size / 64 + 256), 0);
        let mut bits = Bits::new(&mut out);
        self.blocks(data, start, &mut bits);
        if is_last {
            bits.put(0b011, 10); // the last block, of the fixed code, empty
            bits.align();
        } else {
            bits.store(&[]);
        }
        let result = bits.written().to_vec();
        self.out = out;
        result
    }

    fn blocks(&mut self, data: &[u8], start: usize, bits: &mut Bits<'_>) {
        self.long.fill(0);
        self.short.fill(0);
        // Before here, the 8 bytes from the next place on can be read.
        let safe = data.len().saturating_sub(9);
        for at in (0..start.min(safe)).step_by(2) {
            self.note_long(data, at);
            self.note_short(data, at);
        }
        // Tokens stand for `block..done`.
        let (mut block, mut done) = (start, start);
        let mut at = start;
        while at < safe {
            let Some((place, length, distance)) = self.find(data, at, done) else {
                at += (1 + (at - done) / PATIENCE).min(LONGEST_STEP);
                continue;
            };
            if place - done > STRETCH || !self.tokens.have_room(place - done + 1) {
                self.tokens.flush(&data[block..done], bits);
                block = done;
                if place - done > STRETCH {
                    self.stretch(&data[done..place], bits);
                    (block, done) = (place, place);
                }
            }
            self.tokens.literals(&data[done..place]);
            self.tokens.push(Token::of_match(length, distance));
            done = place + length;
            at = done;
            if at < safe {
                // Some places of the match; all would take long.
                self.note_long(data, place + 1);
                self.note_short(data, place + 1);
                self.note_long(data, at - 2);
                self.note_short(data, at - 1);
            }
        }
        let rest = &data[done..];
        if rest.len() > STRETCH || !self.tokens.have_room(rest.len()) {
            self.tokens.flush(&data[block..done], bits);
            block = done;
        }
        if rest.len() > STRETCH {
            return self.stretch(rest, bits);
        }
        self.tokens.literals(rest);
        self.tokens.flush(&data[block..], bits);
    }

    /// Looks for a match at a place or one further, and returns where it starts, which may be as early as `done`, its
    /// length and its distance.
    #[inline(always)]
    fn find(&mut self, data: &[u8], mut at: usize, done: usize) -> Option<(usize, usize, usize)> {
        let value = load(data, at);
        let long_back = back(at, std::mem::replace(&mut self.long[hash_long(value)], at as u16));
        let short_back = back(at, std::mem::replace(&mut self.short[hash_short(value)], at as u16));
        let is_long = load(data, at.saturating_sub(long_back)) == value;
        let is_short = load(data, at.saturating_sub(short_back)) as u32 == value as u32;
        // One branch, for both are hard to foresee.
        if !(is_long | is_short) {
            return None;
        }
        let mut distance = if is_long { long_back } else { short_back };
        if !is_in_window(at, distance) {
            distance = short_back;
            if !is_short || !is_in_window(at, distance) {
                return None;
            }
        }
        let most = (data.len() - at).min(LONGEST);
        let mut length = 4 + common(data, at + 4..at + most, distance);
        if length < 8 {
            let value = load(data, at + 1);
            let back = back(at + 1, std::mem::replace(&mut self.long[hash_long(value)], (at + 1) as u16));
            if load(data, (at + 1).saturating_sub(back)) == value && is_in_window(at + 1, back) {
                at += 1;
                distance = back;
                let most = (data.len() - at).min(LONGEST);
                length = 8 + common(data, at + 8..at + most, distance);
            }
        }
        while at > done && at > distance && length < LONGEST && data[at - 1] == data[at - 1 - distance] {
            at -= 1;
            length += 1;
        }
        Some((at, length, distance))
    }

    #[inline(always)]
    fn note_long(&mut self, data: &[u8], at: usize) {
        self.long[hash_long(load(data, at))] = at as u16;
    }

    #[inline(always)]
    fn note_short(&mut self, data: &[u8], at: usize) {
        self.short[hash_short(load(data, at))] = at as u16;
    }

    /// Writes what has no matches. The tokens are flushed.
    fn stretch(&mut self, data: &[u8], bits: &mut Bits<'_>) {
        for piece in data.chunks(block::MOST_TOKENS) {
            if code::shortens(piece) {
                self.tokens.literals(piece);
                self.tokens.flush(piece, bits);
            } else {
                bits.store(piece);
            }
        }
    }
}

/// Returns how far back a noted place is.
#[inline(always)]
fn back(at: usize, noted: u16) -> usize {
    usize::from((at as u16).wrapping_sub(noted))
}

#[inline(always)]
fn is_in_window(at: usize, distance: usize) -> bool {
    // None wraps around.
    distance.wrapping_sub(1) < at.min(WINDOW)
}

#[inline(always)]
fn load(data: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(data[at..at + 8].try_into().expect("these are eight"))
}

/// Multipliers with well mixed bits: the golden ratio's.
#[inline(always)]
fn hash_long(value: u64) -> usize {
    (value.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - LONG_BITS)) as usize
}

#[inline(always)]
fn hash_short(value: u64) -> usize {
    ((value as u32).wrapping_mul(0x9e37_79b1) >> (32 - SHORT_BITS)) as usize
}

/// Returns how many bytes of a range are as those a distance before.
#[inline(always)]
fn common(data: &[u8], range: Range<usize>, distance: usize) -> usize {
    let mut at = range.start;
    while at + 8 <= range.end {
        let differ = load(data, at) ^ load(data, at - distance);
        if differ != 0 {
            return at - range.start + (differ.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while at < range.end && data[at] == data[at - distance] {
        at += 1;
    }
    at - range.start
}

#[cfg(test)]
mod tests;

//! [`Tokens`]: what a block says, and how it is written: with codes of its own, with the fixed ones, or stored.

use super::bits::{Bits, stored_cost};
use super::code;

/// The most tokens of a block.
pub(super) const MOST_TOKENS: usize = 16 << 10;

/// So much of a code's word fits into what [`Bits::put`] takes at once, with the extra bits of a length, and with a
/// distance and its extra bits: 14 + 5 + 14 + 13.
const LONGEST_CODE: u32 = 14;

/// Symbols of literals, the end and lengths; and of distances.
const LITERALS: usize = 286;
const DISTANCES: usize = 30;
const END: usize = 256;

/// Each length, minus 3, as its symbol and how many extra bits it has.
const LENGTHS: [(u16, u8); 256] = {
    let mut table = [(0, 0); 256];
    let mut at = 0_u32;
    while at < 255 {
        // The upper three bits are in the symbol.
        let extra = if at < 8 { 0 } else { at.ilog2() - 2 };
        table[at as usize] = (257 + 4 * extra as u16 + (at >> extra) as u16, extra as u8);
        at += 1;
    }
    table[255] = (285, 0);
    table
};

/// The lengths of the fixed code of literals.
const FIXED_LITERALS: [u8; 288] = {
    let mut lengths = [8; 288];
    let mut at = 144;
    while at < 280 {
        lengths[at] = if at < 256 { 9 } else { 7 };
        at += 1;
    }
    lengths
};
const FIXED_DISTANCES: [u8; DISTANCES] = [5; DISTANCES];

/// A literal, or a match.
///
/// ```text
/// bits 0 to 8    the literal, or 256 and the length minus 3
///      9 to 13   the symbol of the distance; 30 for none
///      14 on     the distance's extra bits
/// ```
#[derive(Clone, Copy)]
pub(super) struct Token(u32);

impl Token {
    #[inline(always)]
    fn of_literal(byte: u8) -> Self {
        Self(u32::from(byte) | (DISTANCES as u32) << 9)
    }

    #[inline(always)]
    pub(super) fn of_match(length: usize, distance: usize) -> Self {
        let distance = (distance - 1) as u32;
        // The upper two bits are in the symbol.
        let extra = if distance < 4 { 0 } else { distance.ilog2() - 1 };
        let symbol = 2 * extra + (distance >> extra);
        Self((256 + length as u32 - 3) | symbol << 9 | (distance & ((1 << extra) - 1)) << 14)
    }

    #[inline(always)]
    fn first(self) -> usize {
        self.0 as usize & 511
    }

    #[inline(always)]
    fn distance_symbol(self) -> usize {
        (self.0 >> 9) as usize & 31
    }

    #[inline(always)]
    fn distance_extra(self) -> u64 {
        u64::from(self.0 >> 14)
    }
}

/// Returns how many extra bits the distances of a symbol have.
fn extra_of_distance(symbol: usize) -> u8 {
    (symbol as u8 / 2).saturating_sub(1)
}

/// The tokens of the open block, and how often each occurs.
pub(super) struct Tokens {
    tokens: Box<[Token; MOST_TOKENS]>,
    count: usize,
    firsts: [u32; 512],
    distances: [u32; 32],
}

impl Tokens {
    pub(super) fn new() -> Self {
        let tokens = Box::new([Token::of_literal(0); MOST_TOKENS]);
        Self { tokens, count: 0, firsts: [0; 512], distances: [0; 32] }
    }

    pub(super) fn have_room(&self, more: usize) -> bool {
        self.count + more <= MOST_TOKENS
    }

    #[inline(always)]
    pub(super) fn push(&mut self, token: Token) {
        self.firsts[token.first()] += 1;
        self.distances[token.distance_symbol()] += 1;
        self.tokens[self.count] = token;
        self.count += 1;
    }

    #[inline(always)]
    pub(super) fn literals(&mut self, bytes: &[u8]) {
        for (token, byte) in self.tokens[self.count..self.count + bytes.len()].iter_mut().zip(bytes) {
            *token = Token::of_literal(*byte);
            self.firsts[usize::from(*byte)] += 1;
        }
        self.count += bytes.len();
    }

    /// Writes a block of the tokens, which stand for `data`, in the shortest way, and starts anew. Nothing gives no block.
    pub(super) fn flush(&mut self, data: &[u8], bits: &mut Bits<'_>) {
        if self.count == 0 {
            return;
        }
        let mut counts = [0; LITERALS];
        counts[..256].copy_from_slice(&self.firsts[..256]);
        counts[END] = 1;
        let mut extra = 0;
        for ((symbol, bits), count) in LENGTHS.iter().zip(&self.firsts[256..]) {
            counts[usize::from(*symbol)] += count;
            extra += u64::from(*bits) * u64::from(*count);
        }
        for (symbol, count) in self.distances[..DISTANCES].iter().enumerate() {
            extra += u64::from(extra_of_distance(symbol)) * u64::from(*count);
        }
        let (mut literals, mut distances) = ([0; LITERALS], [0; DISTANCES]);
        code::lengths(&counts, LONGEST_CODE, &mut literals);
        code::lengths(&self.distances[..DISTANCES], LONGEST_CODE, &mut distances);
        let header = Header::of(&literals, &distances);
        let cost = |literals: &[u8], distances: &[u8]| {
            3 + extra + code::cost(&counts, literals) + code::cost(&self.distances, distances)
        };
        let own = header.cost() + cost(&literals, &distances);
        let fixed = cost(&FIXED_LITERALS, &FIXED_DISTANCES);
        if stored_cost(data.len()) <= own.min(fixed) {
            bits.store(data);
        } else if fixed <= own {
            bits.put(0b010, 3);
            self.write(&FIXED_LITERALS, &FIXED_DISTANCES, bits);
        } else {
            bits.put(0b100, 3);
            header.write(bits);
            self.write(&literals, &distances, bits);
        }
        self.count = 0;
        self.firsts.fill(0);
        self.distances.fill(0);
    }

    fn write(&self, literals: &[u8], distances: &[u8], bits: &mut Bits<'_>) {
        let mut codes = [0; 288];
        code::codes(literals, &mut codes);
        let end = (u64::from(codes[END]), u32::from(literals[END]));
        // The bits of a literal, or of a length with its extra bits; and how many they are.
        let mut firsts = [(0_u32, 0_u32); 512];
        for symbol in 0..256 {
            firsts[symbol] = (u32::from(codes[symbol]), u32::from(literals[symbol]));
        }
        for (at, (symbol, extra)) in LENGTHS.iter().enumerate() {
            let (code, length) = (codes[usize::from(*symbol)], literals[usize::from(*symbol)]);
            let low = at as u32 & ((1 << extra) - 1);
            firsts[256 + at] = (u32::from(code) | low << length, u32::from(length + extra));
        }
        // The bits, how many they are, and how many with the extra ones. A literal's distance has none.
        let mut codes = [0; DISTANCES];
        code::codes(distances, &mut codes);
        let mut seconds = [(0_u16, 0_u8, 0_u8); 32];
        for symbol in 0..DISTANCES {
            let length = distances[symbol];
            seconds[symbol] = (codes[symbol], length, length + extra_of_distance(symbol));
        }
        for token in &self.tokens[..self.count] {
            let (first, count) = firsts[token.first()];
            let (second, length, all) = seconds[token.distance_symbol()];
            let distance = u64::from(second) | token.distance_extra() << length;
            bits.put(u64::from(first) | distance << count, count + u32::from(all));
        }
        bits.put(end.0, end.1);
    }
}

/// What tells the lengths of both codes: literals of 0 to 15, and repetitions of 16 (the last), 17 and 18 (zero).
struct Header {
    /// How many lengths of literals, and of distances, are told.
    literals: usize,
    distances: usize,
    /// A symbol and its extra bits, each.
    items: Vec<(u8, u8)>,
    counts: [u32; 19],
    lengths: [u8; 19],
    /// How many of those lengths are told.
    told: usize,
}

/// In which order the lengths of the header's own code are told.
const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

impl Header {
    fn of(literals: &[u8], distances: &[u8]) -> Self {
        let literals = &literals[..used(literals).max(257)];
        let distances = &distances[..used(distances).max(1)];
        let all = [literals, distances].concat();
        let mut items = Vec::with_capacity(all.len());
        for run in all.chunk_by(|one, next| one == next) {
            let mut left = run.len();
            if run[0] == 0 {
                while left >= 3 {
                    let count = left.min(138);
                    items.push(if count < 11 { (17, count as u8 - 3) } else { (18, count as u8 - 11) });
                    left -= count;
                }
            } else {
                items.push((run[0], 0));
                left -= 1;
                while left >= 3 {
                    let count = left.min(6);
                    items.push((16, count as u8 - 3));
                    left -= count;
                }
            }
            items.extend(std::iter::repeat_n((run[0], 0), left));
        }
        let (mut counts, mut lengths) = ([0; 19], [0; 19]);
        for (symbol, _) in &items {
            counts[usize::from(*symbol)] += 1;
        }
        code::lengths(&counts, 7, &mut lengths);
        let told = used(&ORDER.map(|symbol| lengths[symbol])).max(4);
        Self { literals: literals.len(), distances: distances.len(), items, counts, lengths, told }
    }

    /// Returns how many bits [`Header::write`] writes.
    fn cost(&self) -> u64 {
        let extra = (0..19).map(|symbol| u64::from(self.counts[symbol] * extra_of_header(symbol as u8))).sum::<u64>();
        14 + 3 * self.told as u64 + code::cost(&self.counts, &self.lengths) + extra
    }

    fn write(&self, bits: &mut Bits<'_>) {
        bits.put(self.literals as u64 - 257, 5);
        bits.put(self.distances as u64 - 1, 5);
        bits.put(self.told as u64 - 4, 4);
        for symbol in &ORDER[..self.told] {
            bits.put(u64::from(self.lengths[*symbol]), 3);
        }
        let mut codes = [0; 19];
        code::codes(&self.lengths, &mut codes);
        for (symbol, extra) in &self.items {
            let (code, length) = (codes[usize::from(*symbol)], self.lengths[usize::from(*symbol)]);
            bits.put(u64::from(code) | u64::from(*extra) << length, u32::from(length) + extra_of_header(*symbol));
        }
    }
}

/// Returns how many lengths there are up to the last that is not zero.
fn used(lengths: &[u8]) -> usize {
    lengths.iter().rposition(|length| *length > 0).map_or(0, |at| at + 1)
}

/// Returns how many extra bits a symbol of the header has.
fn extra_of_header(symbol: u8) -> u32 {
    match symbol {
        16 => 2,
        17 => 3,
        18 => 7,
        _ => 0,
    }
}

//! Tests of our deflate: what it writes is read by zlib's inflate, and by a plain one that checks every rule.

use std::io::Read;

use proptest::prelude::*;

use super::*;

/// Reads deflate as RFC 1951 says it, slowly, and refuses what is not right to the bit.
struct Inflater<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Inflater<'_> {
    fn bits(&mut self, count: usize) -> usize {
        let bit = |at: usize| usize::from(self.bytes[at / 8] >> (at % 8) & 1);
        let value = (0..count).map(|number| bit(self.at + number) << number).sum();
        self.at += count;
        value
    }

    /// The code must be complete, unless it has one word or none.
    fn check(lengths: &[usize]) {
        let words: Vec<usize> = lengths.iter().copied().filter(|length| *length > 0).collect();
        let taken: usize = words.iter().map(|length| 1 << (15 - length)).sum();
        assert!(taken == 1 << 15 || words == [1] || words.is_empty(), "{lengths:?}");
    }

    fn symbol(&mut self, lengths: &[usize]) -> usize {
        let (mut word, mut first, mut length) = (0, 0, 0);
        loop {
            word = word << 1 | self.bits(1);
            length += 1;
            assert!(length < 16, "no such word");
            let of_length: Vec<usize> = (0..lengths.len()).filter(|symbol| lengths[*symbol] == length).collect();
            if word - first < of_length.len() {
                return of_length[word - first];
            }
            first = (first + of_length.len()) << 1;
        }
    }

    fn codes(&mut self) -> (Vec<usize>, Vec<usize>) {
        let (literals, distances, told) = (self.bits(5) + 257, self.bits(5) + 1, self.bits(4) + 4);
        assert!(literals <= 286 && distances <= 30);
        let mut own = [0; 19];
        for symbol in [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15].into_iter().take(told) {
            own[symbol] = self.bits(3);
        }
        Self::check(&own);
        let mut lengths = Vec::new();
        while lengths.len() < literals + distances {
            let (value, count) = match self.symbol(&own) {
                16 => (*lengths.last().unwrap(), 3 + self.bits(2)),
                17 => (0, 3 + self.bits(3)),
                18 => (0, 11 + self.bits(7)),
                length => (length, 1),
            };
            lengths.extend(std::iter::repeat_n(value, count));
        }
        assert_eq!(lengths.len(), literals + distances);
        let distances = lengths.split_off(literals);
        Self::check(&lengths);
        Self::check(&distances);
        assert!(lengths[256] > 0);
        (lengths, distances)
    }

    fn read(&mut self, out: &mut Vec<u8>) {
        loop {
            let is_last = self.bits(1) == 1;
            let (literals, distances) = match self.bits(2) {
                0 => {
                    self.at = self.at.next_multiple_of(8);
                    let (length, inverse) = (self.bits(16), self.bits(16));
                    assert_eq!(length, inverse ^ 0xffff);
                    out.extend_from_slice(&self.bytes[self.at / 8..][..length]);
                    self.at += 8 * length;
                    (Vec::new(), Vec::new())
                }
                1 => {
                    let literals = [(144, 8), (112, 9), (24, 7), (8, 8)];
                    (literals.iter().flat_map(|(count, length)| vec![*length; *count]).collect(), vec![5; 30])
                }
                2 => self.codes(),
                _ => panic!("no such block"),
            };
            while !literals.is_empty() {
                let symbol = self.symbol(&literals);
                if symbol == 256 {
                    break;
                }
                if symbol < 256 {
                    out.push(symbol as u8);
                    continue;
                }
                let extra = (symbol - 257) / 4;
                let length = match symbol {
                    257..265 => symbol - 254,
                    265..285 => 3 + ((4 + (symbol - 257) % 4) << (extra - 1)) + self.bits(extra - 1),
                    285 => 258,
                    _ => panic!("no such length"),
                };
                let symbol = self.symbol(&distances);
                let distance = match symbol {
                    0..4 => symbol + 1,
                    _ => 1 + ((2 + symbol % 2) << (symbol / 2 - 1)) + self.bits(symbol / 2 - 1),
                };
                assert!(distance <= out.len() && distance <= WINDOW, "{distance} at {}", out.len());
                for _ in 0..length {
                    out.push(out[out.len() - distance]);
                }
            }
            if is_last {
                assert_eq!(self.at.div_ceil(8), self.bytes.len(), "something follows the end");
                return;
            }
        }
    }
}

/// Compresses in parts of `part` bytes, checks both decoders, and returns how many bytes there are.
fn check(data: &[u8], part: usize) -> usize {
    let mut deflater = Deflater::new();
    let mut bytes = Vec::new();
    let mut start = 0;
    loop {
        let end = data.len().min(start + part);
        let from = start.saturating_sub(WINDOW);
        let piece = deflater.compress(&data[from..end], start - from, end == data.len());
        assert!(piece == Deflater::new().compress(&data[from..end], start - from, end == data.len()), "it remembers");
        bytes.extend(piece);
        start = end;
        if start == data.len() {
            break;
        }
    }
    let mut plain = Vec::new();
    flate2::read::DeflateDecoder::new(bytes.as_slice()).read_to_end(&mut plain).unwrap();
    assert!(plain == data, "zlib reads other bytes");
    plain.clear();
    Inflater { bytes: &bytes, at: 0 }.read(&mut plain);
    assert!(plain == data, "other bytes");
    bytes.len()
}

/// Bytes that nothing makes shorter.
fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(size).collect()
}

#[test]
fn the_smallest_come_back() {
    for size in 0..40 {
        check(&vec![b'a'; size], 1000);
        check(&noise(size, 3), 1000);
    }
    assert_eq!(check(&[], 1000), 2);
}

#[test]
fn zeros_and_noise_take_what_they_must() {
    assert!(check(&[0; 300_000], 128 << 10) < 600);
    let size = check(&noise(300_000, 1), 128 << 10);
    assert!(size < 300_200, "{size}");
    // A code for the bytes, without matches.
    let digits: Vec<u8> = noise(200_000, 2).iter().map(|byte| b'0' + byte % 8).collect();
    assert!(check(&digits, 128 << 10) < 100_000);
}

#[test]
fn all_lengths_and_distances_come_back() {
    for length in (3..300).chain([515, 516, 517, 1000]) {
        let piece = noise(length, 5);
        check(&[&piece[..], &noise(50, length as u64), &piece].concat(), 1 << 17);
    }
    let piece = noise(100, 7);
    for distance in [101, 127, 128, 129, 255, 256, 257, 8192, 16_384, 24_576, 24_577, 32_767, 32_768, 32_769, 40_000] {
        let data = [&piece[..], &vec![b' '; distance - 100], &piece].concat();
        check(&data, 1 << 17);
        // The match refers to the end of the part before.
        check(&data, distance);
    }
    for period in 1..70 {
        check(&noise(period, 9).repeat(2000 / period), 1 << 17);
    }
}

#[test]
fn the_window_is_used_to_its_end_and_no_further() {
    let piece = noise(300, 1);
    let at = |distance: usize| check(&[&piece[..], &noise(distance - 300, 2), &piece].concat(), 1 << 17) - distance;
    assert!(at(32_768) < 100 && at(32_769) > 250, "{} {}", at(32_768), at(32_769));
}

#[test]
fn what_changes_within_a_part_is_written_in_blocks_of_its_own() {
    let text = b"the quick brown fox jumps over the lazy dog, and ".repeat(700);
    let data =
        [&noise(30_000, 1), &text[..], &noise(70_000, 2), &text, &noise(2048, 3), &text, &noise(2049, 4)].concat();
    let size = check(&data, 1 << 20);
    assert!(size < 30_000 + 70_000 + 4_097 + 3000, "{size}");
    for part in [1, 2, 3, 7, 100, 4095, 65_535, 65_536, 131_072] {
        check(&data[..data.len().min(part * 3000)], part);
    }
}

#[test]
fn codes_are_complete_and_within_the_limit() {
    let mut fibonacci = vec![1_u32, 1];
    while fibonacci.len() < 44 {
        fibonacci.push(fibonacci[fibonacci.len() - 1] + fibonacci[fibonacci.len() - 2]);
    }
    let doubling: Vec<u32> = (0..30).map(|power| 1 << power).collect();
    let tables: [&[u32]; 7] = [&fibonacci, &doubling, &[5; 286], &[1; 19], &[0, 3, 0, 1], &[u32::MAX, 1, 1], &[7, 7]];
    for counts in tables {
        for limit in [7, 14, 15] {
            let used = counts.iter().filter(|count| **count > 0).count();
            if used > 1 << limit {
                continue;
            }
            let mut lengths = vec![9; counts.len()];
            code::lengths(counts, limit, &mut lengths);
            let taken: usize = lengths.iter().filter(|length| **length > 0).map(|length| 1 << (16 - length)).sum();
            assert_eq!(taken, 1 << 16, "{counts:?} {limit}");
            let mut used: Vec<_> = counts.iter().zip(&lengths).filter(|(count, _)| **count > 0).collect();
            used.sort_by_key(|(count, length)| (**count, u8::MAX - **length));
            assert!(used.is_sorted_by_key(|(_, length)| u8::MAX - **length), "what is more frequent is longer");
            assert!(
                lengths
                    .iter()
                    .zip(counts)
                    .all(|(length, count)| u32::from(*length) <= limit && (*length > 0) == (*count > 0))
            );
        }
    }
    for counts in [&[0_u32, 4, 0][..], &[0, 0, 0]] {
        let mut lengths = vec![9; 3];
        code::lengths(counts, 14, &mut lengths);
        assert_eq!(lengths.iter().map(|length| u32::from(*length)).sum::<u32>(), counts.iter().sum::<u32>().min(1));
    }
}

#[test]
fn a_code_costs_as_little_as_huffmans() {
    // Two smallest joined again and again: what is joined is paid each time.
    let counts: Vec<u32> = noise(286, 4).iter().map(|byte| u32::from(*byte) / 8 + 1).collect();
    let mut queue = counts.clone();
    let mut best = 0;
    while queue.len() > 1 {
        queue.sort_unstable_by(|one, other| other.cmp(one));
        let sum = queue.pop().unwrap() + queue.pop().unwrap();
        best += u64::from(sum);
        queue.push(sum);
    }
    let mut lengths = [0; 286];
    code::lengths(&counts, 15, &mut lengths);
    assert_eq!(code::cost(&counts, &lengths), best);
}

#[test]
fn frequencies_that_want_long_codes_come_back() {
    let (mut one, mut two) = (1, 1);
    let mut data = Vec::new();
    for symbol in 0..23_u8 {
        data.extend(std::iter::repeat_n(symbol * 11, one));
        (one, two) = (two, one + two);
    }
    // Without order there are few matches.
    let order = noise(data.len() * 2, 6);
    let mut order: Vec<(u16, u8)> =
        order.chunks(2).zip(&data).map(|(key, byte)| (u16::from_le_bytes([key[0], key[1]]), *byte)).collect();
    order.sort_unstable_by_key(|(key, _)| *key);
    check(&order.iter().map(|(_, byte)| *byte).collect::<Vec<_>>(), 128 << 10);
    check(&data, 128 << 10);
}

/// Data of pieces: noise, few letters, runs, and copies of what was before.
fn structured() -> impl Strategy<Value = Vec<u8>> {
    let piece = (0..4_u8, 0..6000_usize, 0..60_000_usize, any::<u64>());
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| {
        let mut data: Vec<u8> = Vec::new();
        for (kind, size, back, seed) in pieces {
            match kind {
                0 => data.extend(noise(size, seed)),
                1 => data.extend(noise(size, seed).iter().map(|byte| byte & 3)),
                2 => data.extend(std::iter::repeat_n(seed as u8, size)),
                _ => {
                    let start = data.len().saturating_sub(back);
                    data.extend_from_within(start..data.len().min(start + size / 8));
                }
            }
        }
        data
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn anything_comes_back(data in structured(), part in 1_usize..140_000) {
        check(&data, part.max(data.len() / 64));
    }

    #[test]
    fn any_bytes_come_back(data: Vec<u8>, part in 1_usize..200) {
        check(&data, part);
    }
}

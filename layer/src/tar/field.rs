//! The fields of a 512-byte tar header, and how numbers stand in them.

use std::ops::Range;

/// Bytes of a header, and what content is padded to.
pub(crate) const BLOCK: usize = 512;

pub(crate) const NAME: Range<usize> = 0..100;
pub(crate) const MODE: Range<usize> = 100..108;
pub(crate) const UID: Range<usize> = 108..116;
pub(crate) const GID: Range<usize> = 116..124;
pub(crate) const SIZE: Range<usize> = 124..136;
pub(crate) const MTIME: Range<usize> = 136..148;
pub(crate) const CHECKSUM: Range<usize> = 148..156;
pub(crate) const KIND: usize = 156;
pub(crate) const LINK: Range<usize> = 157..257;
pub(crate) const MAGIC: Range<usize> = 257..265;
pub(crate) const MAJOR: Range<usize> = 329..337;
pub(crate) const MINOR: Range<usize> = 337..345;
pub(crate) const PREFIX: Range<usize> = 345..500;

/// The shorter prefix of Schilling's star, which keeps times behind it.
pub(crate) const STAR_PREFIX: Range<usize> = 345..476;
pub(crate) const STAR_TRAILER: Range<usize> = 508..512;

/// GNU's fields for sparse files: four extents, whether more follow, and the size with the holes.
pub(crate) const SPARSE: Range<usize> = 386..482;
pub(crate) const SPARSE_MORE: usize = 482;
pub(crate) const REAL_SIZE: Range<usize> = 483..495;
/// The same in the blocks that continue them: 21 extents.
pub(crate) const MORE_SPARSE: Range<usize> = 0..504;
pub(crate) const MORE_SPARSE_MORE: usize = 504;

/// Returns the bytes of a text field up to the first NUL.
pub(crate) fn text(field: &[u8]) -> &[u8] {
    memchr::memchr(0, field).map_or(field, |end| &field[..end])
}

/// Reads a number in octal digits, or in base 256 as GNU tar writes large and negative ones.
pub(crate) fn number(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => base_256(field),
        _ => octal(field),
    }
}

fn octal(field: &[u8]) -> Option<i64> {
    let digits = field.trim_ascii_start();
    let start = digits.iter().position(|&byte| byte != 0 && byte != b' ').unwrap_or(digits.len());
    let digits = text(&digits[start..]).trim_ascii_end();
    let mut number: i64 = 0;
    for digit in digits {
        if !(b'0'..=b'7').contains(digit) {
            return None;
        }
        number = number.checked_mul(8)?.checked_add(i64::from(digit - b'0'))?;
    }
    Some(number)
}

/// Two's complement, big endian, with the topmost bit as a mark that is not part of the number.
fn base_256(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let invert = if negative { 0xff } else { 0 };
    let mut number: u64 = 0;
    for (position, byte) in field.iter().enumerate() {
        let byte = (byte ^ invert) & if position == 0 { 0x7f } else { 0xff };
        if number >> 56 != 0 {
            return None;
        }
        number = number << 8 | u64::from(byte);
    }
    let number = i64::try_from(number).ok()?;
    Some(if negative { !number } else { number })
}

/// Whether a number can be written as octal digits with a NUL behind them.
pub(crate) fn fits_octal(field: Range<usize>, number: i64) -> bool {
    number >= 0 && (field.len() > 22 || number < 1 << (3 * (field.len() - 1)))
}

/// Writes octal digits with a NUL behind them, or zero when the number does not fit.
pub(crate) fn set_octal(block: &mut [u8; BLOCK], field: Range<usize>, number: i64) {
    let mut rest = if fits_octal(field.clone(), number) { number } else { 0 };
    let (nul, digits) = block[field].split_last_mut().expect("fields are not empty");
    *nul = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest & 7) as u8;
        rest >>= 3;
    }
}

/// Returns the sum that stands in a header, counted with bytes unsigned and, as some old tools did, signed.
pub(crate) fn checksums(block: &[u8; BLOCK]) -> (i64, i64) {
    let (mut unsigned, mut signed) = (0, 0);
    for (position, &byte) in block.iter().enumerate() {
        let byte = if CHECKSUM.contains(&position) { b' ' } else { byte };
        unsigned += i64::from(byte);
        signed += i64::from(byte as i8);
    }
    (unsigned, signed)
}

/// Writes the sum of a finished header: six digits, NUL, blank.
pub(crate) fn set_checksum(block: &mut [u8; BLOCK]) {
    let (sum, _) = checksums(block);
    set_octal(block, CHECKSUM.start..CHECKSUM.end - 1, sum);
    block[CHECKSUM.end - 1] = b' ';
}

/// Returns the zeros that fill the last block of so many bytes.
pub(crate) fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_are_octal_or_base_256() {
        let cases: [(&[u8], Option<i64>); 13] = [
            (b"0000644\0", Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"77777777777", Some(0o77_777_777_777)),
            (b"12\0junk", Some(0o12)),
            (b"0x1", None),
            (b"8", None),
            (b"-1", None),
            (b"\x80\0\0\0\xb2\xd0\x5e\0", Some(3_000_000_000)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX)),
        ];
        for (field, number) in cases {
            assert_eq!(super::number(field), number, "{field:?}");
        }
    }
}

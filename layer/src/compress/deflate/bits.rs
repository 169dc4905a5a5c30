//! [`Bits`]: bits into bytes, the lowest first.

/// Writes bits to memory, which must have room for them and seven bytes more.
pub(super) struct Bits<'a> {
    out: &'a mut [u8],
    at: usize,
    // Less than a byte, after each call.
    waiting: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(out: &'a mut [u8]) -> Self {
        Self { out, at: 0, waiting: 0, count: 0 }
    }

    /// Adds the lowest `count` bits, at most 56; the others are zero.
    #[inline(always)]
    pub(super) fn put(&mut self, bits: u64, count: u32) {
        self.waiting |= bits << self.count;
        self.count += count;
        self.out[self.at..self.at + 8].copy_from_slice(&self.waiting.to_le_bytes());
        self.at += (self.count / 8) as usize;
        self.waiting >>= self.count & !7;
        self.count %= 8;
    }

    /// Fills up the byte.
    pub(super) fn align(&mut self) {
        self.put(0, (8 - self.count) % 8);
    }

    /// Adds bytes as they are, in stored blocks; of none, one block that ends with a whole byte.
    pub(super) fn store(&mut self, mut bytes: &[u8]) {
        loop {
            let (piece, rest) = bytes.split_at(bytes.len().min(0xffff));
            self.put(0b000, 3);
            self.align();
            let length = piece.len() as u64;
            self.put(length | (length ^ 0xffff) << 16, 32);
            self.out[self.at..self.at + piece.len()].copy_from_slice(piece);
            self.at += piece.len();
            bytes = rest;
            if bytes.is_empty() {
                return;
            }
        }
    }

    /// Returns the whole bytes.
    pub(super) fn written(&self) -> &[u8] {
        &self.out[..self.at]
    }
}

/// Returns at most how many bits `size` bytes take in stored blocks.
pub(super) fn stored_cost(size: usize) -> u64 {
    let blocks = size.div_ceil(0xffff) as u64;
    // Three bits and up to seven to fill a byte, and the length twice.
    8 * size as u64 + blocks * (3 + 7 + 32)
}

//! [`Buffer`]: bytes between a producer and the disk, aligned as direct writes want them.

use std::ops::Deref;

/// How much is written and hashed at a time, in bytes.
pub(super) const CAPACITY: usize = 1024 * 1024;
/// What direct writes want of addresses, offsets and lengths: a multiple of the largest common block size, in bytes.
pub(super) const ALIGNMENT: usize = 4096;

/// Up to [`CAPACITY`] bytes that start at an address divisible by [`ALIGNMENT`]. Empty, it has no memory.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    /// Room for the bytes and for the way to the first aligned address.
    memory: Vec<u8>,
    start: usize,
}

impl Buffer {
    /// Tells whether nothing fits any more.
    pub(super) fn is_full(&self) -> bool {
        self.len() == CAPACITY
    }

    /// Appends as many of the bytes as fit, and returns how many that were.
    pub(super) fn take_in(&mut self, bytes: &[u8]) -> usize {
        if self.memory.capacity() == 0 {
            self.memory.reserve_exact(CAPACITY + ALIGNMENT);
            self.start = self.memory.as_ptr().align_offset(ALIGNMENT);
            self.memory.resize(self.start, 0);
        }
        let count = bytes.len().min(CAPACITY - self.len());
        // Never more than was reserved at first, so the memory stays where it is.
        self.memory.extend_from_slice(&bytes[..count]);
        count
    }

    /// Forgets the bytes, and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.memory.truncate(self.start);
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stay_aligned_from_the_first_to_the_last() {
        let mut buffer = Buffer::default();
        assert!(buffer.is_empty());
        for round in 0..3_u8 {
            while !buffer.is_full() {
                buffer.take_in(&[round; 70_000]);
                assert_eq!(buffer.as_ptr().addr() % ALIGNMENT, 0);
            }
            assert_eq!(buffer.len(), CAPACITY);
            assert_eq!(buffer.take_in(b"more"), 0);
            assert!(buffer.iter().all(|byte| *byte == round));
            buffer.clear();
        }
    }
}

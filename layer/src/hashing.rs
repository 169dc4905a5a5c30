//! Digest and size of bytes while they move.

use std::io::{self, Read, Write};

use oci::{Algorithm, Digest, Hasher};

/// Passes writes on, and knows their digest and size at the end.
#[derive(Debug)]
pub struct HashingWriter<W> {
    inner: W,
    hasher: Hasher,
    size: u64,
}

impl<W: Write> HashingWriter<W> {
    /// Starts at no bytes, with SHA-256.
    pub fn new(inner: W) -> Self {
        Self::with_algorithm(inner, Algorithm::Sha256)
    }

    /// Starts at no bytes, with the given hash function.
    pub fn with_algorithm(inner: W, algorithm: Algorithm) -> Self {
        Self { inner, hasher: Hasher::new(algorithm), size: 0 }
    }

    /// Returns the bytes taken so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the sink, the digest of what it took, and how many bytes those were.
    pub fn finish(self) -> (W, Digest, u64) {
        (self.inner, self.hasher.finish(), self.size)
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Passes reads on, and knows their digest and size at the end.
#[derive(Debug)]
pub struct HashingReader<R> {
    inner: R,
    hasher: Hasher,
    size: u64,
}

impl<R: Read> HashingReader<R> {
    /// Starts at no bytes, with SHA-256.
    pub fn new(inner: R) -> Self {
        Self::with_algorithm(inner, Algorithm::Sha256)
    }

    /// Starts at no bytes, with the given hash function.
    pub fn with_algorithm(inner: R, algorithm: Algorithm) -> Self {
        Self { inner, hasher: Hasher::new(algorithm), size: 0 }
    }

    /// Returns the bytes given so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the source, the digest of what it gave, and how many bytes those were.
    ///
    /// Bytes that nobody read are not in the digest.
    pub fn finish(self) -> (R, Digest, u64) {
        (self.inner, self.hasher.finish(), self.size)
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.size += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_hashed_in_both_directions() {
        let bytes = b"some bytes that move".as_slice();
        let mut writer = HashingWriter::new(Vec::new());
        io::copy(&mut HashingReader::new(bytes), &mut writer).unwrap();
        let (copy, digest, size) = writer.finish();
        assert_eq!((copy.as_slice(), digest, size), (bytes, Digest::sha256(bytes), 20));

        let mut reader = HashingReader::with_algorithm(bytes, Algorithm::Sha512);
        io::copy(&mut reader, &mut io::sink()).unwrap();
        assert_eq!(reader.finish().1, Digest::of(Algorithm::Sha512, bytes));
    }
}

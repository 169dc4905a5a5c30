//! Digest and size of bytes while they move.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

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

/// Takes bytes only to hash them, which a thread of its own does while the next ones are made.
#[derive(Debug)]
pub struct HashingThread {
    full: SyncSender<Vec<u8>>,
    /// Buffers that the thread is done with.
    empty: Receiver<Vec<u8>>,
    thread: JoinHandle<Hasher>,
    size: u64,
}

impl HashingThread {
    /// Starts at no bytes, with SHA-256.
    ///
    /// # Errors
    ///
    /// When there can be no more threads.
    pub fn start() -> io::Result<Self> {
        let (full, take) = sync_channel::<Vec<u8>>(2);
        let (give, empty) = sync_channel(4);
        let work = move || {
            let mut hasher = Hasher::new(Algorithm::Sha256);
            for buffer in take {
                hasher.update(&buffer);
                // The writer has buffers enough, or is gone.
                let _ = give.try_send(buffer);
            }
            hasher
        };
        Ok(Self { full, empty, thread: Builder::new().name("hash".into()).spawn(work)?, size: 0 })
    }

    /// Returns the digest of all bytes, and how many those were.
    pub fn finish(self) -> io::Result<(Digest, u64)> {
        drop(self.full);
        let hasher = self.thread.join().map_err(|_| io::Error::other("the hashing thread panicked"))?;
        Ok((hasher.finish(), self.size))
    }
}

impl Write for HashingThread {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut buffer = self.empty.try_recv().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(bytes);
        self.full.send(buffer).map_err(|_| io::Error::other("the hashing thread panicked"))?;
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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

        let mut thread = HashingThread::start().unwrap();
        bytes.chunks(3).for_each(|piece| thread.write_all(piece).unwrap());
        assert_eq!(thread.finish().unwrap(), (Digest::sha256(bytes), 20));
    }
}

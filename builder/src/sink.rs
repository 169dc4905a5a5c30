//! [`LayerSink`]: a layer on its way into the store.

use std::io::{self, Write};

use oci::Digest;
use store::{BlobWriter, Blobs};

use crate::cancel::Cancel;
use crate::fault::Fault;

/// Takes a layer's tar. A small one stays in memory until its digest is known, because most small ones (the empty layer
/// of a `RUN` that changes nothing) are in the store already. A cancelled build writes no further.
pub(crate) struct LayerSink<'a> {
    blobs: &'a Blobs,
    cancel: &'a Cancel,
    start: Vec<u8>,
    writer: Option<BlobWriter>,
}

const SMALL: usize = 256 << 10;

impl<'a> LayerSink<'a> {
    pub(crate) fn new(blobs: &'a Blobs, cancel: &'a Cancel) -> Self {
        Self { blobs, cancel, start: Vec::new(), writer: None }
    }

    /// Makes the layer visible, and returns its digest and size.
    pub(crate) fn commit(self) -> Result<(Digest, u64), Fault> {
        match self.writer {
            Some(writer) => Ok(writer.commit(None)?),
            None => {
                let digest = Digest::sha256(&self.start);
                if !self.blobs.contains(&digest)? {
                    self.blobs.put(&self.start)?;
                }
                Ok((digest, self.start.len() as u64))
            }
        }
    }
}

impl Write for LayerSink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("the build was cancelled"));
        }
        if let Some(writer) = &mut self.writer {
            return writer.write(bytes);
        }
        if self.start.len() + bytes.len() <= SMALL {
            self.start.extend_from_slice(bytes);
            return Ok(bytes.len());
        }
        let mut writer = self.blobs.begin().map_err(io::Error::other)?;
        writer.write_all(&self.start)?;
        self.start = Vec::new();
        let count = writer.write(bytes)?;
        self.writer = Some(writer);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.as_mut().map_or(Ok(()), Write::flush)
    }
}

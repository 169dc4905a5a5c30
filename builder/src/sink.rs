//! [`LayerSink`]: a layer on its way into the store.

use std::io::{self, Write};

use layer::hashing::HashingThread;
use oci::Digest;
use store::{BlobError, BlobWriter, Blobs, Marks, PatchWriter};

use crate::cancel::Cancel;
use crate::fault::Fault;
use crate::files::changes::Sink;

/// Takes a layer's tar. A small one stays in memory until its digest is known, because most small ones (the empty layer
/// of a `RUN` that changes nothing) are in the store already. A cancelled build writes no further.
pub(crate) struct LayerSink<'a> {
    blobs: &'a Blobs,
    cancel: &'a Cancel,
    marked: bool,
    state: State,
}

/// Where the bytes are.
enum State {
    Start(Vec<u8>),
    Whole(Box<BlobWriter>),
    /// A layer that takes most of its bytes from another.
    Patch(Box<PatchWriter>),
}

const SMALL: usize = 256 << 10;

impl<'a> LayerSink<'a> {
    pub(crate) fn new(blobs: &'a Blobs, cancel: &'a Cancel) -> Self {
        Self { blobs, cancel, marked: false, state: State::Start(Vec::new()) }
    }

    /// Has marks taken, so that the layer can be the base of another.
    pub(crate) fn with_marks(mut self) -> Self {
        self.marked = true;
        self
    }

    /// Takes a layer that is written as a patch.
    pub(crate) fn of_patch(patch: PatchWriter, blobs: &'a Blobs, cancel: &'a Cancel) -> Self {
        Self { blobs, cancel, marked: false, state: State::Patch(Box::new(patch)) }
    }

    /// Tells whether writing failed because the base of a patch is not what it was.
    pub(crate) fn is_base_damaged(&self) -> bool {
        matches!(&self.state, State::Patch(patch) if patch.is_base_damaged())
    }

    /// Returns the layer's digest and size; the disk gets it beside the steps that follow.
    pub(crate) fn commit_later(self) -> Result<(Digest, u64), Fault> {
        Ok(match self.state {
            State::Whole(writer) => writer.commit_later()?,
            State::Patch(patch) => patch.commit()?,
            State::Start(start) => {
                let size = start.len() as u64;
                (self.blobs.put_later(start)?, size)
            }
        })
    }

    /// Makes the layer visible, and returns its digest and size.
    pub(crate) fn commit(self) -> Result<(Digest, u64), Fault> {
        let (digest, size, _) = self.commit_marked()?;
        Ok((digest, size))
    }

    /// Makes the layer visible, and returns its digest, its size, and the marks if it has any.
    pub(crate) fn commit_marked(self) -> Result<(Digest, u64, Option<Marks>), BlobError> {
        Ok(match self.state {
            State::Whole(writer) => writer.commit_marked(None)?,
            State::Patch(patch) => {
                let (digest, size) = patch.commit()?;
                (digest, size, None)
            }
            State::Start(start) => (self.blobs.ensure(&start)?, start.len() as u64, None),
        })
    }
}

impl Sink for LayerSink<'_> {
    fn keep(&mut self, offset: u64, length: u64) -> io::Result<()> {
        match &mut self.state {
            State::Patch(patch) if !self.cancel.is_cancelled() => patch.keep(offset, length),
            _ => Err(io::Error::other("the layer has no base, or the build was cancelled")),
        }
    }
}

/// A layer of which only the digest is wanted.
impl Sink for HashingThread {
    fn keep(&mut self, _: u64, _: u64) -> io::Result<()> {
        Err(io::Error::other("the layer has no base"))
    }
}

impl Write for LayerSink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("the build was cancelled"));
        }
        let start = match &mut self.state {
            State::Whole(writer) => return writer.write(bytes),
            State::Patch(patch) => return patch.write(bytes),
            State::Start(start) => start,
        };
        if start.len() + bytes.len() <= SMALL {
            start.extend_from_slice(bytes);
            return Ok(bytes.len());
        }
        let mut writer = self.blobs.begin().map_err(io::Error::other)?;
        if self.marked {
            writer = writer.with_marks();
        }
        writer.write_all(start)?;
        let count = writer.write(bytes)?;
        self.state = State::Whole(Box::new(writer));
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.state {
            State::Whole(writer) => writer.flush(),
            State::Patch(patch) => patch.flush(),
            State::Start(_) => Ok(()),
        }
    }
}

//! gzip and zstd with the same bytes everywhere; every decompressor.

mod deflate;
mod gzip;

use std::io::{self, BufRead, BufReader, Cursor, Read, Write};

use self::gzip::GzipEncoder;

/// How a layer is compressed when it leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// As it is.
    None,
    /// gzip, which every client reads.
    #[default]
    Gzip,
    /// zstd, smaller and much faster to read.
    Zstd,
}

impl Compression {
    /// Returns the name that options and media types use: `none`, `gzip`, `zstd`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// Returns the first of the levels that give the same bytes as this one.
    pub fn first_like(self, level: i32) -> i32 {
        if self == Self::Gzip && (1..=gzip::FAST as i32).contains(&level) { 1 } else { level }
    }

    /// Returns the level used when none is asked for.
    pub fn default_level(self) -> i32 {
        match self {
            Self::None => 0,
            Self::Gzip => GZIP_LEVEL,
            Self::Zstd => ZSTD_LEVEL,
        }
    }
}

/// Our own encoder's: a third of the work of zlib's 6 for some 9 % more bytes, measured on a Debian `/usr`.
const GZIP_LEVEL: i32 = 1;

/// zstd's own default.
const ZSTD_LEVEL: i32 = 3;

/// What zstd's threads compress at once. Its own choice of 8 MiB takes four times the memory for 0.2 % fewer bytes.
const ZSTD_JOB: u32 = 2 << 20;

/// The largest window of a frame that we read: 128 MiB, what `zstd --ultra` may write.
const ZSTD_MAX_WINDOW_LOG: u32 = 27;

/// Memory that xz may take to decompress; `xz -9` needs 65 MiB.
const XZ_MAX_MEMORY: u64 = 128 << 20;

/// How found bytes are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Not compressed, as far as we know.
    Plain,
    /// gzip, one or many members.
    Gzip,
    /// zstd, one or many frames.
    Zstd,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
}

/// Tells a compressed format by its first bytes; 6 are enough.
pub fn sniff(start: &[u8]) -> Option<Format> {
    match start {
        [0x1f, 0x8b, 8, ..] => Some(Format::Gzip),
        // The second is a frame to skip, which zstd:chunked puts in front.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Format::Zstd),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some(Format::Bzip2),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Format::Xz),
        _ => None,
    }
}

/// Finds out how bytes are compressed and returns them plain; what is not compressed passes through.
///
/// Input that stops in the middle is an error of the read that gets there, never a quiet end.
pub fn decoder(source: impl Read + Send + 'static) -> io::Result<(Format, Box<dyn Read + Send>)> {
    let mut source = BufReader::with_capacity(128 << 10, source);
    let mut start = [0; 6];
    let mut filled = 0;
    while filled < start.len() {
        match source.read(&mut start[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let format = sniff(&start[..filled]).unwrap_or(Format::Plain);
    let source = Cursor::new(start[..filled].to_vec()).chain(source);
    Ok((format, decoder_of(format, source)?))
}

fn decoder_of(format: Format, source: impl BufRead + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
    Ok(match format {
        Format::Plain => Box::new(source),
        Format::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
        Format::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
            decoder.window_log_max(ZSTD_MAX_WINDOW_LOG)?;
            Box::new(decoder)
        }
        Format::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(source)),
        Format::Xz => {
            let flags = liblzma::stream::CONCATENATED;
            let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MAX_MEMORY, flags)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(source, stream))
        }
    })
}

/// Compresses what is written to it.
///
/// The bytes depend on the input, the kind and the level alone. [`Encoder::finish`] is needed.
pub struct Encoder<W: Write> {
    kind: Kind<W>,
}

enum Kind<W: Write> {
    None(W),
    Gzip(GzipEncoder<W>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl<W: Write> Encoder<W> {
    /// Starts with the default level and `threads` threads, at least one.
    pub fn new(inner: W, compression: Compression, threads: usize) -> io::Result<Self> {
        Self::with_level(inner, compression, None, threads)
    }

    /// Starts with a level; `None` is the default of the kind.
    pub fn with_level(inner: W, compression: Compression, level: Option<i32>, threads: usize) -> io::Result<Self> {
        let level = level.unwrap_or(compression.default_level());
        let kind = match compression {
            Compression::None => Kind::None(inner),
            Compression::Gzip => {
                let level = u32::try_from(level).ok().filter(|level| *level <= 9).ok_or_else(|| {
                    io::Error::new(io::ErrorKind::InvalidInput, format!("gzip has levels 0 to 9, not {level}"))
                })?;
                Kind::Gzip(GzipEncoder::new(inner, level, threads)?)
            }
            Compression::Zstd => {
                use zstd::zstd_safe::CParameter;
                let mut encoder = zstd::stream::write::Encoder::new(inner, level)?;
                encoder.include_checksum(true)?;
                // Always with threads, even if one: without them zstd writes other bytes.
                encoder.multithread(u32::try_from(threads).unwrap_or(u32::MAX).clamp(1, 64))?;
                encoder.set_parameter(CParameter::JobSize(ZSTD_JOB))?;
                Kind::Zstd(encoder)
            }
        };
        Ok(Self { kind })
    }

    /// Writes what is left and returns the sink.
    pub fn finish(self) -> io::Result<W> {
        match self.kind {
            Kind::None(inner) => Ok(inner),
            Kind::Gzip(encoder) => encoder.finish(),
            Kind::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.kind {
            Kind::None(inner) => inner.write(bytes),
            Kind::Gzip(encoder) => encoder.write(bytes),
            Kind::Zstd(encoder) => encoder.write(bytes),
        }
    }

    /// Does nothing while compressing, because a flush would be seen in the bytes.
    fn flush(&mut self) -> io::Result<()> {
        match &mut self.kind {
            Kind::None(inner) => inner.flush(),
            Kind::Gzip(_) | Kind::Zstd(_) => Ok(()),
        }
    }
}

impl<W: Write> std::fmt::Debug for Encoder<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.kind {
            Kind::None(_) => "Encoder(None)",
            Kind::Gzip(_) => "Encoder(Gzip)",
            Kind::Zstd(_) => "Encoder(Zstd)",
        })
    }
}

#[cfg(test)]
mod tests;

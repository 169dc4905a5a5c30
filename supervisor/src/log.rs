//! What a container printed, as docker's `json-file` and Kubernetes' CRI format have it.
//!
//! ```text
//! json-file   {"log":"a line\n","stream":"stdout","time":"2026-11-30T14:16:19.123456789Z"}
//! k8s-file    2026-11-30T14:16:19.123456789Z stdout F a line
//! ```
//!
//! A line longer than `LONGEST_LINE` is kept in pieces: in `json-file` all but the last have no line feed, in `k8s-file`
//! they are marked `P`.

pub mod read;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::config::LogConfig;

/// So many bytes of a line are kept in one piece.
const LONGEST_LINE: usize = 16 << 10;

/// How a log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Docker's.
    Json,
    /// Kubernetes'.
    Cri,
}

/// What a log's options say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// How it is written; none keeps nothing.
    pub format: Option<Format>,
    /// So large may a file grow.
    pub max_size: Option<u64>,
    /// So many files are kept.
    pub max_file: u32,
}

/// Why a container cannot log as it was asked to.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum LogError {
    #[error("logger: no log driver named '{name}' is registered")]
    Driver { name: String },
    #[error("unknown log opt '{option}' for {driver} log driver")]
    Option { option: String, driver: String },
    #[error("invalid value for {option}: {value}")]
    Value { option: String, value: String },
}

impl LogOptions {
    /// Reads what `--log-driver` and `--log-opt` said.
    ///
    /// # Errors
    ///
    /// When there is no such driver or option.
    pub fn parse(config: &LogConfig) -> Result<Self, LogError> {
        let format = match config.kind.as_str() {
            "" | "json-file" => Some(Format::Json),
            "k8s-file" | "cri" => Some(Format::Cri),
            "none" => None,
            name => return Err(LogError::Driver { name: name.to_owned() }),
        };
        let mut options = Self { format, max_size: None, max_file: 1 };
        for (option, value) in &config.config {
            let bad = || LogError::Value { option: option.clone(), value: value.clone() };
            match option.as_str() {
                "max-size" if value == "-1" => {}
                "max-size" => options.max_size = Some(parse_size(value).filter(|&size| size > 0).ok_or_else(bad)?),
                "max-file" => options.max_file = value.parse().ok().filter(|&count| count > 0).ok_or_else(bad)?,
                // What people and tools set, and what changes nothing here.
                "compress" | "labels" | "labels-regex" | "env" | "env-regex" | "tag" | "mode" | "max-buffer-size" => {}
                _ => return Err(LogError::Option { option: option.clone(), driver: config.kind.clone() }),
            }
        }
        Ok(options)
    }
}

/// Reads `10m`, with powers of 1024 as docker does.
fn parse_size(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let shift = match unit.to_ascii_lowercase().trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// One of the streams that are kept apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStream {
    /// What was printed.
    Stdout,
    /// What was printed as errors.
    Stderr,
}

impl LogStream {
    /// Its name in a log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// A log that is being written.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    format: Format,
    options: LogOptions,
    file: File,
    size: u64,
    /// The lines that have not ended, of either stream.
    partial: [Vec<u8>; 2],
    /// What is about to be written.
    buffer: Vec<u8>,
}

impl Log {
    /// Goes on with a log; none when nothing is to be kept.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened.
    pub fn open(path: &Path, options: LogOptions) -> io::Result<Option<Self>> {
        let Some(format) = options.format else { return Ok(None) };
        let file = append(path)?;
        let size = file.metadata()?.len();
        let (path, partial) = (path.to_owned(), Default::default());
        Ok(Some(Self { path, format, options, file, size, partial, buffer: Vec::new() }))
    }

    /// Takes what a container printed.
    ///
    /// # Errors
    ///
    /// When it cannot be written; it is lost then.
    pub fn write(&mut self, stream: LogStream, mut bytes: &[u8], now: Timestamp) -> io::Result<()> {
        while !bytes.is_empty() {
            let partial = &mut self.partial[stream as usize];
            let room = LONGEST_LINE - partial.len();
            let end = bytes.iter().take(room).position(|&byte| byte == b'\n');
            let (piece, rest) = bytes.split_at(end.unwrap_or(room.min(bytes.len())));
            partial.extend_from_slice(piece);
            let line = match end {
                Some(_) => Some(true),
                None if partial.len() == LONGEST_LINE => Some(false),
                None => None,
            };
            bytes = if end.is_some() { &rest[1..] } else { rest };
            if let Some(whole) = line {
                let text = std::mem::take(&mut self.partial[stream as usize]);
                self.line(stream, &text, whole, now);
                if self.options.max_size.is_some_and(|most| self.size + self.buffer.len() as u64 >= most) {
                    self.flush()?;
                }
            }
        }
        self.flush()
    }

    /// Writes the lines that have not ended; the container has.
    ///
    /// # Errors
    ///
    /// When they cannot be written.
    pub fn finish(&mut self, now: Timestamp) -> io::Result<()> {
        for stream in [LogStream::Stdout, LogStream::Stderr] {
            let text = std::mem::take(&mut self.partial[stream as usize]);
            if !text.is_empty() {
                self.line(stream, &text, false, now);
            }
        }
        self.flush()
    }

    fn line(&mut self, stream: LogStream, text: &[u8], whole: bool, now: Timestamp) {
        let (out, name) = (&mut self.buffer, stream.name());
        match self.format {
            Format::Json => {
                out.extend_from_slice(b"{\"log\":\"");
                escape(text, out);
                out.extend_from_slice(if whole { b"\\n\"" } else { b"\"" });
                // A write to memory does not fail.
                let _: io::Result<()> = writeln!(out, ",\"stream\":\"{name}\",\"time\":\"{}\"}}", nanos(now));
            }
            Format::Cri => {
                let tag = if whole { 'F' } else { 'P' };
                let _: io::Result<()> = write!(out, "{} {name} {tag} ", nanos(now));
                out.extend_from_slice(text);
                out.push(b'\n');
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let written = self.file.write_all(&self.buffer);
        self.size += self.buffer.len() as u64;
        self.buffer.clear();
        self.buffer.shrink_to(64 << 10);
        written?;
        if self.options.max_size.is_some_and(|most| self.size >= most) {
            self.rotate()?;
        }
        Ok(())
    }

    /// Moves every file one further, the oldest one away.
    fn rotate(&mut self) -> io::Result<()> {
        if self.options.max_file < 2 {
            fs::remove_file(&self.path)?;
        }
        for number in (1..self.options.max_file).rev() {
            let from = if number == 1 { self.path.clone() } else { rotated(&self.path, number - 1) };
            match fs::rename(&from, rotated(&self.path, number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.file = append(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// Returns the name of an older file.
pub(crate) fn rotated(path: &Path, number: u32) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(format!(".{number}"));
    name.into()
}

/// Prints a time as Go's RFC3339Nano does: without zeros at the end of the fraction.
pub fn nanos(time: Timestamp) -> String {
    time.to_string()
}

/// Escapes text for JSON as docker does; what is not UTF-8 becomes the replacement character.
fn escape(text: &[u8], out: &mut Vec<u8>) {
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                '\r' => out.extend_from_slice(b"\\r"),
                '\t' => out.extend_from_slice(b"\\t"),
                '\n' => out.extend_from_slice(b"\\n"),
                c if u32::from(c) < 0x20 || matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}') => {
                    let _: io::Result<()> = write!(out, "\\u{:04x}", u32::from(c));
                }
                c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

#[cfg(test)]
mod tests;

//! Reading a log: the last lines, those of some time, and what is added meanwhile.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Deserialize;

use super::{Format, LogStream, rotated};

/// No piece of a log is longer than this, whatever it was escaped to.
const LONGEST: u64 = 1 << 20;

/// Which lines are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only the last ones.
    pub tail: Option<usize>,
    /// Only those from then on.
    pub since: Option<Timestamp>,
    /// Only those until then.
    pub until: Option<Timestamp>,
}

/// A line, or a piece of a long one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// With its line feed, when it has one.
    pub text: Vec<u8>,
    /// Where it was printed.
    pub stream: LogStream,
    /// When it was printed.
    pub time: Timestamp,
}

/// A reader of a log that goes on where it was.
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    format: Format,
    selection: Selection,
    reader: Option<BufReader<File>>,
    inode: u64,
    partial: Vec<u8>,
    begun: bool,
}

impl LogReader {
    /// Opens a log, which need not be there yet.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub fn open(path: &Path, format: Format, selection: &Selection) -> io::Result<Self> {
        let mut reader = Self {
            path: path.to_owned(),
            format,
            selection: *selection,
            reader: None,
            inode: 0,
            partial: Vec::new(),
            begun: false,
        };
        reader.reopen()?;
        Ok(reader)
    }

    /// Reads all that is there and was not read yet.
    ///
    /// # Errors
    ///
    /// When it cannot be read. Lines that are damaged are passed over.
    pub fn read(&mut self, each: &mut dyn FnMut(LogLine)) -> io::Result<()> {
        if std::mem::replace(&mut self.begun, true) {
            return self.read_on(each);
        }
        let mut kept = VecDeque::new();
        let (tail, older) = (self.selection.tail, self.older());
        let mut keep = |line: LogLine| match tail {
            None => each(line),
            Some(0) => {}
            Some(most) => {
                if kept.len() == most {
                    kept.pop_front();
                }
                kept.push_back(line);
            }
        };
        for path in older {
            let mut reader = match File::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => BufReader::new(other?),
            };
            read_lines(&mut reader, &mut Vec::new(), self.format, &self.selection, &mut keep)?;
        }
        self.read_on(&mut keep)?;
        for line in kept {
            each(line);
        }
        Ok(())
    }

    /// The files that were moved away, the oldest first.
    fn older(&self) -> Vec<PathBuf> {
        let mut all: Vec<PathBuf> =
            (1..1000).map(|number| rotated(&self.path, number)).take_while(|path| path.exists()).collect();
        all.reverse();
        all
    }

    fn read_on(&mut self, each: &mut dyn FnMut(LogLine)) -> io::Result<()> {
        loop {
            if let Some(reader) = &mut self.reader {
                read_lines(reader, &mut self.partial, self.format, &self.selection, each)?;
            }
            // Another file may have taken its place, after which nothing is added to the old one.
            let before = self.inode;
            if !self.reopen()? || before == self.inode {
                return Ok(());
            }
        }
    }

    /// Opens the file that is there now; says whether it is another one than before.
    fn reopen(&mut self) -> io::Result<bool> {
        let file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        };
        let inode = file.metadata()?.ino();
        if self.reader.is_some() && inode == self.inode {
            return Ok(false);
        }
        if let Some(reader) = &mut self.reader
            && !reader.fill_buf()?.is_empty()
        {
            return Ok(false);
        }
        self.inode = inode;
        self.partial.clear();
        self.reader = Some(BufReader::with_capacity(64 << 10, file));
        Ok(true)
    }
}

fn read_lines(
    reader: &mut impl BufRead,
    partial: &mut Vec<u8>,
    format: Format,
    selection: &Selection,
    each: &mut dyn FnMut(LogLine),
) -> io::Result<()> {
    while reader.by_ref().take(LONGEST).read_until(b'\n', partial)? > 0 {
        if partial.last() != Some(&b'\n') {
            if (partial.len() as u64) < LONGEST {
                return Ok(());
            }
            partial.clear();
            continue;
        }
        let line = parse(partial, format);
        partial.clear();
        let wanted = |line: &LogLine| {
            selection.since.is_none_or(|since| line.time >= since)
                && selection.until.is_none_or(|until| line.time <= until)
        };
        if let Some(line) = line.filter(wanted) {
            each(line);
        }
    }
    Ok(())
}

fn parse(line: &[u8], format: Format) -> Option<LogLine> {
    let stream = |name: &str| match name {
        "stdout" => Some(LogStream::Stdout),
        "stderr" => Some(LogStream::Stderr),
        _ => None,
    };
    match format {
        Format::Json => {
            #[derive(Deserialize)]
            struct Line<'a> {
                #[serde(default)]
                log: String,
                stream: &'a str,
                time: &'a str,
            }
            let Line { log, stream: name, time } = serde_json::from_slice(line).ok()?;
            Some(LogLine { text: log.into_bytes(), stream: stream(name)?, time: time.parse().ok()? })
        }
        Format::Cri => {
            let mut parts = line.splitn(4, |&byte| byte == b' ');
            let mut word = || std::str::from_utf8(parts.next()?).ok();
            let (time, name, tag) = (word()?, word()?, word()?);
            let mut text = parts.next()?.to_vec();
            if tag != "F" {
                text.pop();
            }
            Some(LogLine { text, stream: stream(name)?, time: time.parse().ok()? })
        }
    }
}

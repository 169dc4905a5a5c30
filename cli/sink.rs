//! Files and standard output as the ends of what commands write.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use engine::Cancel;
use engine::output::Finish;

/// Where bytes shall go; nothing is opened yet.
#[derive(Clone, Debug)]
pub(crate) struct Sink {
    /// The file; standard output when there is none.
    path: Option<PathBuf>,
    /// Once it is cancelled, nothing more is taken.
    cancel: Cancel,
}

impl Sink {
    /// To a file, or to standard output when there is none or it is `-`.
    pub(crate) fn to(path: Option<&Path>, cancel: &Cancel) -> Self {
        let path = path.filter(|&path| path != Path::new("-"));
        Self { path: path.map(Path::to_owned), cancel: cancel.clone() }
    }

    /// To a file, even one called `-`.
    pub(crate) fn to_file(path: &Path, cancel: &Cancel) -> Self {
        Self { path: Some(path.to_owned()), cancel: cancel.clone() }
    }

    /// Tells whether it is standard output.
    pub(crate) fn is_stdout(&self) -> bool {
        self.path.is_none()
    }

    /// Opens it.
    pub(crate) fn open(&self) -> io::Result<Open> {
        let end = match &self.path {
            None => End::Stdout(io::BufWriter::with_capacity(BUFFER, io::stdout())),
            Some(path) => open_file(path)?,
        };
        Ok(Open { end, cancel: self.cancel.clone() })
    }
}

const BUFFER: usize = 256 << 10;

/// A sink that takes bytes.
#[derive(Debug)]
pub(crate) struct Open {
    end: End,
    cancel: Cancel,
}

#[derive(Debug)]
enum End {
    /// A file under a temporary name, until it is finished.
    Temporary { file: Option<io::BufWriter<File>>, temporary: PathBuf, path: PathBuf },
    /// What is not a regular file is written as it is: a device, a named pipe.
    Direct(io::BufWriter<File>),
    /// Standard output.
    Stdout(io::BufWriter<io::Stdout>),
}

/// A half-written archive must not be found under the name of a whole one.
fn open_file(path: &Path) -> io::Result<End> {
    let explain = |error: io::Error| io::Error::new(error.kind(), format!("`{}`: {error}", path.display()));
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
        let file = File::options().write(true).open(path).map_err(explain)?;
        return Ok(End::Direct(io::BufWriter::with_capacity(BUFFER, file)));
    }
    if path.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, format!("`{}` is a folder", path.display())));
    }
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    // A new one: in a folder that others write to, a link may wait under a name that is easy to guess.
    let _: io::Result<()> = fs::remove_file(&temporary);
    let file = File::create_new(&temporary).map_err(explain)?;
    Ok(End::Temporary { file: Some(io::BufWriter::with_capacity(BUFFER, file)), temporary, path: path.to_owned() })
}

impl End {
    fn writer(&mut self) -> io::Result<&mut dyn Write> {
        match self {
            Self::Temporary { file: Some(file), .. } | Self::Direct(file) => Ok(file),
            Self::Temporary { file: None, .. } => Err(io::Error::other("written to after its end")),
            Self::Stdout(stdout) => Ok(stdout),
        }
    }
}

impl Write for Open {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        self.end.writer()?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.end.writer()?.flush()
    }
}

impl Finish for Open {
    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.flush()?;
        if let End::Temporary { file, temporary, path } = &mut self.end {
            drop(file.take());
            fs::rename(&*temporary, &*path)?;
        }
        Ok(())
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if let Self::Temporary { file, temporary, .. } = self
            && file.take().is_some()
        {
            // Not finished, so it is of no use to anybody.
            let _: io::Result<()> = fs::remove_file(temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_in_place_of_the_temporary_file_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let victim = folder.path().join("victim");
        File::create(&victim).unwrap();
        std::os::unix::fs::symlink(&victim, folder.path().join(format!(".out.{}.tmp", std::process::id()))).unwrap();
        let mut sink = Sink::to_file(&folder.path().join("out"), &Cancel::new()).open().unwrap();
        sink.write_all(b"bytes").unwrap();
        Box::new(sink).finish().unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"");
        assert_eq!(fs::read(folder.path().join("out")).unwrap(), b"bytes");
    }
}

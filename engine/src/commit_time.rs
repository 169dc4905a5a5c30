//! When the commit was made that a folder's git repository stands on.
//!
//! Read straight from the repository's files, so that it is the same whether or not this machine has a git program, and
//! so that nothing the repository's configuration names is ever run.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use flate2::read::ZlibDecoder;

/// A commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Its name, in hexadecimal digits.
    pub id: String,
    /// Seconds since 1970.
    pub seconds: i64,
}

/// Why the time of the commit is not known.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum CommitTimeError {
    #[error("cannot read `{}` of the git repository", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("`{}` of the git repository is damaged: {why}", path.display())]
    Damaged { path: PathBuf, why: &'static str },
    #[error("the git repository `{}` does not have its commit {id}", repository.display())]
    Missing { repository: PathBuf, id: String },
    #[error("the git repository `{}` keeps its references in a form that cannot be read yet", path.display())]
    Reftable { path: PathBuf },
}

type Result<T, E = CommitTimeError> = std::result::Result<T, E>;

/// Returns the commit that the repository around a folder stands on (`HEAD`).
///
/// `None` where there is no repository, or one without a commit. As git does, this looks in the folders above on the
/// same file system.
///
/// # Errors
///
/// When there is a repository, but it cannot be read: a time taken from elsewhere would be another one.
pub fn of_folder(folder: &Path) -> Result<Option<Commit>> {
    let Some(repository) = Repository::around(folder)? else { return Ok(None) };
    let Some(id) = repository.head()? else { return Ok(None) };
    let mut folders = Vec::new();
    object_folders(repository.common.join("objects"), &mut folders)?;
    for objects in &folders {
        if let Some(commit) = commit_in(objects, &id, &folders)? {
            let path = repository.git.join("HEAD");
            let seconds = committed(&commit).ok_or(CommitTimeError::Damaged { path, why: "it names no commit" })?;
            return Ok(Some(Commit { id, seconds }));
        }
    }
    Err(CommitTimeError::Missing { repository: repository.git, id })
}

/// Finds the time in the text of a commit.
fn committed(commit: &[u8]) -> Option<i64> {
    let header = commit.split(|byte| *byte == b'\n').take_while(|line| !line.is_empty());
    let line = header.into_iter().find_map(|line| line.strip_prefix(b"committer "))?;
    let text = String::from_utf8_lossy(line);
    text.rsplit(' ').nth(1)?.parse().ok()
}

struct Repository {
    /// What belongs to the work tree: `HEAD`.
    git: PathBuf,
    /// What all work trees share: objects and branches.
    common: PathBuf,
}

impl Repository {
    fn around(folder: &Path) -> Result<Option<Self>> {
        let error = |path: &Path| {
            let path = path.to_owned();
            move |source| CommitTimeError::Read { path, source }
        };
        let folder = folder.canonicalize().map_err(error(folder))?;
        let device = fs::metadata(&folder).map_err(error(&folder))?.dev();
        for above in folder.ancestors() {
            if !fs::metadata(above).is_ok_and(|metadata| metadata.dev() == device) {
                break;
            }
            let mut git = above.join(".git");
            // In a submodule, or a further work tree, it is a file that names the folder.
            if git.is_file() {
                let text = small(&git)?.unwrap_or_default();
                let Some(path) = text.strip_prefix("gitdir: ") else { continue };
                git = above.join(path.trim_end());
            }
            if !git.join("HEAD").is_file() {
                continue;
            }
            let common = match small(&git.join("commondir"))? {
                Some(path) => git.join(path.trim_end()),
                None => git.clone(),
            };
            return Ok(Some(Self { git, common }));
        }
        Ok(None)
    }

    /// Returns the name of the commit.
    fn head(&self) -> Result<Option<String>> {
        let path = self.git.join("HEAD");
        let mut text = small(&path)?.unwrap_or_default();
        for _ in 0..MAX_REFERENCES {
            let line = text.trim_end();
            let Some(name) = line.strip_prefix("ref: ") else {
                let is_id = matches!(line.len(), 40 | 64) && line.bytes().all(|byte| byte.is_ascii_hexdigit());
                let why = "it is neither a reference nor a commit";
                return if is_id {
                    Ok(Some(line.to_ascii_lowercase()))
                } else {
                    Err(CommitTimeError::Damaged { path, why })
                };
            };
            if self.common.join("reftable").is_dir() {
                return Err(CommitTimeError::Reftable { path: self.git.clone() });
            }
            if !name.starts_with("refs/") || name.split('/').any(|part| part == "..") {
                return Err(CommitTimeError::Damaged { path, why: "its reference is not below refs/" });
            }
            text = match (small(&self.git.join(name))?, small(&self.common.join(name))?) {
                (Some(text), _) | (None, Some(text)) => text,
                (None, None) => match self.packed(name)? {
                    Some(id) => id,
                    // The branch has no commit yet.
                    None => return Ok(None),
                },
            };
        }
        Err(CommitTimeError::Damaged { path, why: "its references go round" })
    }

    fn packed(&self, name: &str) -> Result<Option<String>> {
        let path = self.common.join("packed-refs");
        let Some(bytes) = bytes(&path, MAX_PACKED)? else { return Ok(None) };
        let text = String::from_utf8_lossy(&bytes);
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        Ok(lines.find(|(_, other)| *other == name).map(|(id, _)| id.to_owned()))
    }
}

const MAX_REFERENCES: usize = 5;
const MAX_SMALL: u64 = 64 << 10;
const MAX_PACKED: u64 = 256 << 20;
/// No commit is larger, and no other object is read.
const MAX_OBJECT: u64 = 16 << 20;
const MAX_DELTAS: usize = 4096;
const MAX_ALTERNATES: usize = 20;

fn bytes(path: &Path, max: u64) -> Result<Option<Vec<u8>>> {
    let error = |source| CommitTimeError::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(source) => return Err(error(source)),
    };
    if file.metadata().map_err(error)?.is_dir() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes).map_err(error)?;
    if bytes.len() as u64 > max {
        return Err(CommitTimeError::Damaged { path: path.to_owned(), why: "it is too large" });
    }
    Ok(Some(bytes))
}

fn small(path: &Path) -> Result<Option<String>> {
    Ok(bytes(path, MAX_SMALL)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// Lists a folder of objects, and those that it borrows from.
fn object_folders(folder: PathBuf, found: &mut Vec<PathBuf>) -> Result<()> {
    if found.len() >= MAX_ALTERNATES || found.contains(&folder) {
        return Ok(());
    }
    found.push(folder.clone());
    let alternates = small(&folder.join("info/alternates"))?.unwrap_or_default();
    let paths = alternates.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    paths.map(|path| folder.join(path)).try_for_each(|path| object_folders(path, found))
}

/// Finds the text of a commit in a folder of objects.
fn commit_in(objects: &Path, id: &str, all: &[PathBuf]) -> Result<Option<Vec<u8>>> {
    if let Some(object) = loose(objects, id)? {
        return Ok(Some(object));
    }
    let folder = objects.join("pack");
    let packs = match fs::read_dir(&folder) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(CommitTimeError::Read { path: folder, source }),
    };
    for index in packs.filter(|path| path.extension().is_some_and(|extension| extension == "idx")) {
        if let Some(offset) = look_up(&index, id)? {
            return packed_object(&index.with_extension("pack"), offset, id.len() / 2, all).map(Some);
        }
    }
    Ok(None)
}

/// Reads an object in a file of its own, without its header.
fn loose(objects: &Path, id: &str) -> Result<Option<Vec<u8>>> {
    let path = objects.join(&id[..2]).join(&id[2..]);
    let Some(compressed) = bytes(&path, MAX_OBJECT)? else { return Ok(None) };
    let object = inflate(&compressed[..]).map_err(|source| CommitTimeError::Read { path: path.clone(), source })?;
    let why = "it is no object";
    let start = object.iter().position(|byte| *byte == 0).ok_or(CommitTimeError::Damaged { path, why })? + 1;
    Ok(Some(object[start..].to_vec()))
}

fn inflate(compressed: impl Read) -> io::Result<Vec<u8>> {
    let mut object = Vec::new();
    ZlibDecoder::new(compressed).take(MAX_OBJECT).read_to_end(&mut object)?;
    Ok(object)
}

/// Finds where in its pack an object is, with the pack's index (version 2, which git writes since 2008).
fn look_up(index: &Path, id: &str) -> Result<Option<u64>> {
    let error = |source| CommitTimeError::Read { path: index.to_owned(), source };
    let file = File::open(index).map_err(error)?;
    let number = |at: u64| -> Result<u64> {
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, at).map_err(error)?;
        Ok(u64::from(u32::from_be_bytes(bytes)))
    };
    if (number(0)?, number(4)?) != (0xff74_4f63, 2) {
        let why = "its version is not supported";
        return Err(CommitTimeError::Damaged { path: index.to_owned(), why });
    }
    let wanted: Vec<u8> =
        (0..id.len()).step_by(2).filter_map(|at| u8::from_str_radix(&id[at..at + 2], 16).ok()).collect();
    let length = wanted.len() as u64;
    let first = u64::from(wanted[0]);
    let (mut low, mut high) = (if first == 0 { 0 } else { number(8 + 4 * (first - 1))? }, number(8 + 4 * first)?);
    let count = number(8 + 4 * 255)?;
    let names = 8 + 4 * 256;
    while low < high {
        let middle = low.midpoint(high);
        let mut name = vec![0; wanted.len()];
        file.read_exact_at(&mut name, names + middle * length).map_err(error)?;
        match name.cmp(&wanted) {
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
            std::cmp::Ordering::Equal => {
                let offsets = names + count * (length + 4);
                let offset = number(offsets + 4 * middle)?;
                if offset & 0x8000_0000 == 0 {
                    return Ok(Some(offset));
                }
                let large = offsets + 4 * count + 8 * (offset & 0x7fff_ffff);
                return Ok(Some(number(large)? << 32 | number(large + 4)?));
            }
        }
    }
    Ok(None)
}

/// Reads an object of a pack, putting it together when it is kept as changes to others.
fn packed_object(pack: &Path, mut offset: u64, id_length: usize, all: &[PathBuf]) -> Result<Vec<u8>> {
    let error = |source| CommitTimeError::Read { path: pack.to_owned(), source };
    let damaged = |why| CommitTimeError::Damaged { path: pack.to_owned(), why };
    let file = File::open(pack).map_err(error)?;
    let mut deltas = Vec::new();
    let mut object = loop {
        let mut reader = io::BufReader::new(At { file: &file, offset });
        let mut byte = || -> Result<u8> {
            let mut byte = [0];
            reader.read_exact(&mut byte).map_err(error)?;
            Ok(byte[0])
        };
        let mut head = byte()?;
        let kind = head >> 4 & 7;
        while head & 0x80 != 0 {
            head = byte()?;
        }
        match kind {
            1 => break inflate(reader).map_err(error)?,
            6 => {
                let mut part = byte()?;
                let mut back = u64::from(part & 0x7f);
                while part & 0x80 != 0 {
                    part = byte()?;
                    back = (back.saturating_add(1) << 7) | u64::from(part & 0x7f);
                }
                deltas.push(inflate(reader).map_err(error)?);
                let before = offset.checked_sub(back).filter(|before| *before < offset);
                offset = before.ok_or(damaged("a delta has no base"))?;
            }
            7 => {
                let mut id = vec![0; id_length];
                reader.read_exact(&mut id).map_err(error)?;
                let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
                deltas.push(inflate(reader).map_err(error)?);
                // Its base lies in the same pack, unless somebody packed it thin.
                match look_up(&pack.with_extension("idx"), &id)? {
                    Some(base) => offset = base,
                    None => {
                        let loose = all.iter().find_map(|objects| loose(objects, &id).transpose());
                        break loose.transpose()?.ok_or(damaged("a delta has no base"))?;
                    }
                }
            }
            _ => return Err(damaged("it has something other than a commit")),
        }
        if deltas.len() > MAX_DELTAS {
            return Err(damaged("its deltas go round"));
        }
    };
    while let Some(delta) = deltas.pop() {
        object = patched(&object, &delta).ok_or(damaged("a delta does not fit its base"))?;
    }
    Ok(object)
}

/// Applies git's own form of changes.
fn patched(base: &[u8], delta: &[u8]) -> Option<Vec<u8>> {
    let mut rest = delta.iter().copied();
    let mut size = || -> Option<u64> {
        let (mut size, mut shift) = (0u64, 0u32);
        loop {
            let byte = rest.next()?;
            size |= u64::from(byte & 0x7f).checked_shl(shift)?;
            shift += 7;
            if byte & 0x80 == 0 {
                return Some(size);
            }
        }
    };
    let (from, to) = (size()?, size()?);
    if from != base.len() as u64 || to > MAX_OBJECT {
        return None;
    }
    let mut object = Vec::new();
    while let Some(command) = rest.next() {
        if command & 0x80 == 0 {
            for _ in 0..command {
                object.push(rest.next()?);
            }
            continue;
        }
        let mut field = |bits: std::ops::Range<u32>| -> Option<usize> {
            let mut value = 0;
            for (place, bit) in bits.enumerate() {
                if command & (1 << bit) != 0 {
                    value |= usize::from(rest.next()?) << (8 * place);
                }
            }
            Some(value)
        };
        let (start, length) = (field(0..4)?, field(4..7)?);
        let length = if length == 0 { 0x10000 } else { length };
        object.extend_from_slice(base.get(start..start.checked_add(length)?)?);
        if object.len() as u64 > MAX_OBJECT {
            return None;
        }
    }
    (object.len() as u64 == to).then_some(object)
}

/// Reads a file from an offset.
struct At<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make fixtures with git itself")]
mod tests {
    use std::process::Command;

    use super::*;

    const TIME: i64 = 1_700_000_000;

    fn git(folder: &Path, time: i64, arguments: &[&str]) -> String {
        let time = format!("{time} +0200");
        let output = Command::new("git")
            .args(["-c", "user.name=A", "-c", "user.email=a@b", "-c", "init.defaultBranch=main", "-c", "gc.auto=0"])
            .arg("-C")
            .arg(folder)
            .args(arguments)
            .env_clear()
            .envs([("PATH", "/usr/bin:/bin"), ("GIT_CONFIG_NOSYSTEM", "1"), ("HOME", "/nonexistent")])
            .envs([("GIT_AUTHOR_DATE", "1234567890 +0000"), ("GIT_COMMITTER_DATE", &time)])
            .output()
            .expect("git is installed");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
    }

    #[test]
    fn a_folder_without_a_repository_or_a_commit_has_none() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(of_folder(folder.path()).unwrap(), None);
        git(folder.path(), TIME, &["init", "-q"]);
        assert_eq!(of_folder(folder.path()).unwrap(), None);
    }

    #[test]
    fn the_commit_is_found_loose_packed_and_from_everywhere_in_the_tree() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        git(path, TIME, &["init", "-q"]);
        // Many alike make git keep some as changes to others.
        let long = "the same long text again and again\n".repeat(20);
        for number in 0..8 {
            git(path, TIME + number, &["commit", "-q", "--allow-empty", "-m", &format!("{number}\n\n{long}")]);
        }
        let expected = Commit { id: git(path, TIME, &["rev-parse", "HEAD"]), seconds: TIME + 7 };
        fs::create_dir_all(path.join("sub/folder")).unwrap();
        assert_eq!(of_folder(path).unwrap(), Some(expected.clone()));
        assert_eq!(of_folder(&path.join("sub/folder")).unwrap(), Some(expected.clone()));

        let clone = tempfile::tempdir().unwrap();
        git(clone.path(), TIME, &["clone", "-q", "--shared", path.to_str().unwrap(), "c"]);
        assert_eq!(of_folder(&clone.path().join("c")).unwrap(), Some(expected.clone()));
        git(path, TIME, &["worktree", "add", "-q", "--detach", clone.path().join("w").to_str().unwrap(), "HEAD~2"]);
        assert_eq!(of_folder(&clone.path().join("w")).unwrap().unwrap().seconds, TIME + 5);

        git(path, TIME, &["repack", "-q", "-a", "-d", "-f", "--depth=50", "--window=50"]);
        git(path, TIME, &["pack-refs", "--all"]);
        assert_eq!(of_folder(path).unwrap(), Some(expected));
        // All of them, so that those that are kept as changes are among them.
        let mut chains = 0;
        for number in 0..8 {
            git(path, TIME, &["checkout", "-q", "--detach", &format!("main~{}", 7 - number)]);
            let found = of_folder(path).unwrap().unwrap();
            assert_eq!(found.seconds, TIME + number);
        }
        for entry in fs::read_dir(path.join(".git/objects/pack")).unwrap() {
            let index = entry.unwrap().path();
            if index.extension().is_some_and(|extension| extension == "idx") {
                let listed = git(path, TIME, &["verify-pack", "-v", index.to_str().unwrap()]);
                chains += listed.lines().filter(|line| line.starts_with("chain length")).count();
            }
        }
        assert!(chains > 0, "git kept no commit as changes to another");
    }

    #[test]
    fn a_repository_that_cannot_be_read_is_no_reason_to_guess() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        git(path, TIME, &["init", "-q"]);
        git(path, TIME, &["commit", "-q", "--allow-empty", "-m", "x"]);
        let head = path.join(".git/HEAD");
        for (text, expected) in [
            ("ref: ../../etc/passwd\n", "not below refs/"),
            ("nonsense\n", "neither a reference nor a commit"),
            ("0123456789012345678901234567890123456789\n", "does not have its commit 0123456789"),
        ] {
            fs::write(&head, text).unwrap();
            let error = of_folder(path).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_delta_of_junk_is_refused() {
        assert_eq!(patched(b"abc", &[3, 2, 0b1001_0001, 1, 2]).as_deref(), Some(b"bc".as_slice()));
        for delta in [&[][..], &[3], &[4, 2, 0x91, 1, 2], &[3, 9, 0x91, 1, 2], &[3, 2, 0x91, 2, 2], &[3, 2, 2, 65]] {
            assert_eq!(patched(b"abc", delta), None, "{delta:?}");
        }
        assert_eq!(patched(b"abc", &[0xff; 40]), None);
    }
}

//! What `ADD` fetches: a file behind a URL, or the files of a commit. Each becomes a layer of its own that the `ADD` then
//! copies from, so what is fetched once is found again by what it is.
//!
//! A URL is asked for again in each build, but with what is known of it, so that a server can answer that nothing
//! changed. A commit, and a URL with a checksum, never change, and are not asked for again.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};

use layer::hashing::HashingWriter;
use layer::tar::Writer;
use layer::{Entry, EntryKind, Node, NodeKind, Timestamp, Tree};
use oci::{Algorithm, Digest};
use serde::{Deserialize, Serialize};
use store::Snapshot;

use super::{Bench, Made, timestamp};
use crate::cache::{self, Notes, Record};
use crate::cache_key::{CacheKey, KeyWriter};
use crate::fault::{Fault, StepError};
use crate::files::path::lossy;
use crate::git::{GitSource, GitSourceError};
use crate::graph::{FetchOperation, HttpOperation};
use crate::layers::Layers;
use crate::materials::Material;
use crate::remote::{HttpAnswer, HttpContent, HttpRequest, RemoteError, without_credentials};
use crate::sink::LayerSink;

/// The most that one URL may send.
const MAX_CONTENT: u64 = 64 << 30;

/// How often something is tried that may work the next time.
const TRIES: usize = 3;

/// What a file is called when neither the server nor the URL says.
const UNNAMED: &str = "__unnamed__";

/// Fetches.
pub(crate) fn run(operation: &FetchOperation, bench: &Bench<'_>) -> Result<Made, StepError> {
    match operation {
        FetchOperation::Http(operation) => http(operation, bench),
        FetchOperation::Git(source) => git(source, bench),
    }
}

/// What is kept of an answer, beside the layer that holds its content.
#[derive(Debug, Serialize, Deserialize)]
struct Fetched {
    /// The digest of the content, as the checksum asks for it, else SHA-256.
    digest: Digest,
    etag: Option<String>,
    last_modified: Option<String>,
    /// The layer with the file.
    #[serde(flatten)]
    record: Record,
}

fn http(operation: &HttpOperation, bench: &Bench<'_>) -> Result<Made, StepError> {
    let store = bench.workshop.store;
    let HttpOperation { url, checksum } = operation;
    let (key, notes) = url_key(url, checksum.as_ref());
    let known = known(&key, bench)?;
    if let Some(known) = &known
        && checksum.as_ref() == Some(&known.digest)
    {
        note_http(url, &known.digest, bench);
        return Ok(Made { layers: Layers::then(None, &known.record), cached: true });
    }
    let request = HttpRequest {
        url,
        etag: known.as_ref().and_then(|known| known.etag.as_deref()),
        last_modified: known.as_ref().and_then(|known| known.last_modified.as_deref()),
        verified: checksum.is_some(),
        limit: MAX_CONTENT,
    };
    let doing = || format!("cannot fetch `{}`", without_credentials(url));
    let spool = crate::files::unpack::unnamed_file(store.home()).map_err(|error| Fault::because(doing(), &error))?;
    let algorithm = checksum.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
    let (answer, digest, size) = download(&request, &spool, algorithm, bench)?;
    let content = match (answer, known) {
        (HttpAnswer::Content(content), _) => content,
        (HttpAnswer::NotModified, Some(known)) => {
            note_http(url, &known.digest, bench);
            return Ok(Made { layers: Layers::then(None, &known.record), cached: true });
        }
        (HttpAnswer::NotModified, None) => {
            return Err(
                Fault::new(format!("{}: the server says that nothing changed, but nothing is known", doing())).into()
            );
        }
    };
    if let Some(expected) = checksum
        && *expected != digest
    {
        let message = format!("digest mismatch {digest}: expected: {expected}");
        return Err(Fault::new(message)
            .hint("the content changed, or the checksum is wrong; change `--checksum` only if you trust the new one")
            .into());
    }
    note_http(url, &digest, bench);
    let name = file_name(&content, url);
    let mut identity = KeyWriter::new("http content", None);
    identity.text("name", &name);
    identity.text("digest", &digest.to_string());
    let record = file_layer(&name, &content, spool, size, identity.finish().0, bench)?;
    let HttpContent { file_name: _, etag, last_modified, modified: _ } = content;
    let fetched = Fetched { digest, etag, last_modified, record };
    let mut bytes = serde_json::to_vec(&fetched).expect("a record is plain text and numbers");
    bytes.push(b'\n');
    serde_json::to_writer(&mut bytes, &notes).expect("notes are plain text");
    store.build_cache().put(&key.0, &bytes, &cache::keeps(None, &fetched.record)).map_err(Fault::from)?;
    Ok(Made { layers: Layers::then(None, &fetched.record), cached: false })
}

fn note_http(url: &str, digest: &Digest, bench: &Bench<'_>) {
    if let Some(materials) = &bench.workshop.request.materials {
        materials.note(Material::Http { url: without_credentials(url), digest: digest.to_string() });
    }
}

fn url_key(url: &str, checksum: Option<&Digest>) -> (CacheKey, Notes) {
    let mut key = KeyWriter::new("http", None);
    key.text("url", &without_credentials(url));
    key.bytes("whole url", url.as_bytes());
    key.option("checksum", checksum.map(ToString::to_string).as_deref());
    key.finish()
}

/// Returns what is known of a URL, if its layer is still here.
fn known(key: &CacheKey, bench: &Bench<'_>) -> Result<Option<Fetched>, Fault> {
    let store = bench.workshop.store;
    let Some(bytes) = store.build_cache().get(&key.0)? else { return Ok(None) };
    // A record of another version is no record.
    let first = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let Ok(fetched) = serde_json::from_slice::<Fetched>(first) else { return Ok(None) };
    Ok(store.blobs().has(&fetched.record.descriptor())?.then_some(fetched))
}

fn download(
    request: &HttpRequest<'_>,
    spool: &File,
    algorithm: Algorithm,
    bench: &Bench<'_>,
) -> Result<(HttpAnswer, Digest, u64), StepError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let restart = spool.set_len(0).and_then(|()| (&mut &*spool).seek(SeekFrom::Start(0)));
        restart.map_err(|error| Fault::because("cannot write what is fetched", &error))?;
        let mut body = HashingWriter::with_algorithm(io::BufWriter::with_capacity(256 << 10, spool), algorithm);
        let answer = bench.workshop.remote.http(request, &mut body, &bench.workshop.cancel);
        let (mut body, digest, size) = body.finish();
        match answer {
            Ok(answer) => {
                body.flush().map_err(|error| Fault::because("cannot write what is fetched", &error))?;
                return Ok((answer, digest, size));
            }
            Err(_) if bench.workshop.cancel.is_cancelled() => return Err(StepError::Cancelled),
            Err(error) if error.transient && tries < TRIES => {}
            Err(error) => return Err(Fault::from(error).into()),
        }
    }
}

/// Chooses the name of the file: what the server calls it, else the end of the URL.
fn file_name(content: &HttpContent, url: &str) -> String {
    let said = content.file_name.as_deref().and_then(base_name);
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let path = path.split_once("://").map_or(path, |(_, rest)| rest.split_once('/').map_or("", |(_, path)| path));
    said.or_else(|| base_name(&crate::git::percent_decode(path).unwrap_or_else(|_| path.to_owned())))
        .unwrap_or_else(|| UNNAMED.to_owned())
}

/// Returns the last name of a path, if a file can have it.
fn base_name(path: &str) -> Option<String> {
    let name = path.rsplit(['/', '\\']).find(|name| !name.is_empty())?;
    let good = !matches!(name, "." | "..") && name.len() <= 255 && !name.chars().any(char::is_control);
    (good && !path.is_empty()).then(|| name.to_owned())
}

/// Makes a layer with just one file.
fn file_layer(
    name: &str,
    content: &HttpContent,
    mut spool: File,
    size: u64,
    identity: CacheKey,
    bench: &Bench<'_>,
) -> Result<Record, StepError> {
    spool.rewind().map_err(|error| Fault::because("cannot read what was fetched", &error))?;
    // As BuildKit does it: readable by root alone, and as old as the server says, or as time itself.
    let mut entry = Entry::new(name, EntryKind::File { size }, 0o600);
    entry.mtime = Timestamp::from_seconds(content.modified.unwrap_or(0));
    let created = timestamp(entry.mtime.seconds);
    let mut tar = Writer::new(LayerSink::new(bench.workshop.store.blobs(), &bench.workshop.cancel));
    let written = tar.append(&entry, &mut spool).and_then(|()| tar.finish());
    commit(written, identity, created, bench)
}

fn commit(
    written: Result<LayerSink<'_>, layer::tar::TarWriteError>,
    identity: CacheKey,
    created: jiff::Timestamp,
    bench: &Bench<'_>,
) -> Result<Record, StepError> {
    if bench.workshop.cancel.is_cancelled() {
        return Err(StepError::Cancelled);
    }
    let (digest, size) = written.map_err(Fault::from)?.commit()?;
    Ok(Record { diff_id: oci::DiffId(digest), size, mark: identity.0, created, step: bench.name.to_owned() })
}

fn git(source: &GitSource, bench: &Bench<'_>) -> Result<Made, StepError> {
    let workshop = bench.workshop;
    let remote = |error: RemoteError| match workshop.cancel.is_cancelled() {
        true => StepError::Cancelled,
        false => Fault::from(error).into(),
    };
    let commit = workshop.remote.git_commit(source, &workshop.cancel).map_err(remote)?;
    if let Some(materials) = &workshop.request.materials {
        materials.note(Material::Git { url: without_credentials(&source.remote), commit: commit.id.clone() });
    }
    let (key, notes) = commit_key(source, &commit.id, commit.reference.as_deref());
    if let Some(record) = cache::get(workshop.store, &key)? {
        return Ok(Made { layers: Layers::then(None, &record), cached: true });
    }
    let active = workshop.store.snapshots().begin(&Snapshot::empty()).map_err(Fault::from)?;
    let folder = active.scratch().map_err(Fault::from)?;
    let mtime = (!source.commit_times).then_some(workshop.request.now);
    workshop.remote.git_checkout(source, &commit, mtime, &folder, &workshop.cancel).map_err(remote)?;
    let record = tree_layer(&Tree::of_folder(&folder).map_err(Fault::from)?, source, key.clone(), bench)?;
    cache::put(workshop.store, &key, None, &record, Some((&notes, None)))?;
    Ok(Made { layers: Layers::then(None, &record), cached: false })
}

/// Names the files that a source gives, whatever its references say later.
fn commit_key(source: &GitSource, commit: &str, reference: Option<&str>) -> (CacheKey, Notes) {
    let GitSource {
        remote,
        reference: _,
        subdir,
        checksum: _,
        keep_git_dir,
        skip_submodules,
        commit_times,
        fetch_by_commit: _,
        own: _,
    } = source;
    let mut key = KeyWriter::new("git", None);
    key.text("remote", &without_credentials(remote));
    key.bytes("whole remote", remote.as_bytes());
    key.text("commit", commit);
    key.text("subdir", subdir);
    key.flag("skip submodules", *skip_submodules);
    key.flag("commit times", *commit_times);
    // `.git` also says how the commit was reached.
    let kept = keep_git_dir.unwrap_or(false);
    key.option("git dir", kept.then_some(reference.unwrap_or_default()));
    key.finish()
}

/// Makes a layer of a checkout, or of the folder of it that is wanted. All belongs to root.
fn tree_layer(tree: &Tree, source: &GitSource, identity: CacheKey, bench: &Bench<'_>) -> Result<Record, StepError> {
    let top = tree.lookup(&source.subdir, layer::Follow::Last).map_err(Fault::from)?;
    let top = match top {
        Some(top) if top.kind == NodeKind::Directory => top,
        Some(_) => return Err(Fault::new(format!("subdir is not a directory: `{}`", source.subdir)).into()),
        None => {
            let message = format!("`{}` has no folder `{}`", without_credentials(&source.remote), source.subdir);
            return Err(Fault::new(message).into());
        }
    };
    let cut = if top.path.is_empty() { 0 } else { top.path.len() + 1 };
    let mut tar = Writer::new(LayerSink::new(bench.workshop.store.blobs(), &bench.workshop.cancel));
    let mut newest = 0;
    let mut open: Vec<Node> = tree.read_dir(&top).map_err(Fault::from)?;
    open.reverse();
    while let Some(node) = open.pop() {
        let Some(mut entry) = node.entry() else { continue };
        entry.path.drain(..cut);
        (entry.uid, entry.gid) = (0, 0);
        entry.mtime = Timestamp::from_seconds(entry.mtime.seconds);
        newest = newest.max(entry.mtime.seconds);
        let written = match node.kind {
            NodeKind::File => {
                let mut file = tree.open(&node).map_err(Fault::from)?;
                tar.append(&entry, &mut file)
            }
            _ => tar.append_empty(&entry),
        };
        if bench.workshop.cancel.is_cancelled() {
            return Err(StepError::Cancelled);
        }
        written.map_err(|error| Fault::because(format!("cannot keep `{}`", lossy(&entry.path)), &error))?;
        if node.kind == NodeKind::Directory {
            let mut inside = tree.read_dir(&node).map_err(Fault::from)?;
            inside.reverse();
            open.append(&mut inside);
        }
    }
    commit(tar.finish(), identity, timestamp(newest), bench)
}

impl From<RemoteError> for Fault {
    fn from(error: RemoteError) -> Self {
        let mut fault = match &error.source {
            Some(source) => Self::because(error.message.clone(), &**source),
            None => Self::new(error.message.clone()),
        };
        fault.hint = error.hint;
        fault
    }
}

impl From<GitSourceError> for Fault {
    fn from(error: GitSourceError) -> Self {
        Self::new(error.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c24_the_name_is_what_the_server_says_or_the_end_of_the_url() {
        let name = |said: Option<&str>, url: &str| {
            file_name(&HttpContent { file_name: said.map(str::to_owned), ..HttpContent::default() }, url)
        };
        for (said, url, expected) in [
            (None, "http://host/dir/file.txt?x=/y#z", "file.txt"),
            (None, "http://host/a%20b", "a b"),
            (None, "http://host/dir/", "dir"),
            (None, "http://host/", "__unnamed__"),
            (None, "http://host", "__unnamed__"),
            (None, "http://host/..", "__unnamed__"),
            (None, "http://host/a%2f..%2f%2e%2e", "__unnamed__"),
            (None, "http://host/a%00b", "__unnamed__"),
            (Some("said.bin"), "http://host/file", "said.bin"),
            (Some("../../etc/passwd"), "http://host/file", "passwd"),
            (Some("C:\\x\\said.bin"), "http://host/file", "said.bin"),
            (Some(".."), "http://host/file", "file"),
            (Some("a\u{1b}b"), "http://host/file", "file"),
            (Some(""), "http://host/file", "file"),
        ] {
            assert_eq!(name(said, url), expected, "{said:?} {url}");
        }
    }
}

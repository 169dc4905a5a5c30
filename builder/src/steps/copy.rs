//! `COPY` and `ADD`: straight from the sources into a layer.
//!
//! Nothing is mounted and nothing is unpacked but what is copied from. The cache is asked twice: first by where the files
//! come from, when that is a stage that is known not to have changed; then by what they hold.

use std::io::Write;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread::Builder;

use layer::NodeKind;
use layer::hashing::HashingThread;
use oci::Digest;
use oci::users::Users;
use store::BlobError;

use super::{Bench, Made, Workshop, timestamp};
use crate::cache::{self, Notes, Record};
use crate::cache_key::{CacheKey, KeyWriter};
use crate::context::Context;
use crate::executor::Stream;
use crate::fault::{Fault, StepError};
use crate::files::changes::{Changes, Times, Written};
use crate::files::content;
use crate::files::copy::{self, Collected, Manner};
use crate::files::outline::Outline;
use crate::files::path::lossy;
use crate::files::source::SourceTree;
use crate::files::unpack::{self, Archive};
use crate::files::view::View;
use crate::graph::{CopyOperation, CopySource, Origin};
use crate::layers::Layers;
use crate::sink::LayerSink;

/// A source that was opened and walked.
struct Walked<'a> {
    tree: Arc<SourceTree>,
    found: Vec<Arc<Collected>>,
    source: &'a CopySource,
}

/// Copies.
pub(crate) fn run(operation: &CopyOperation, bench: &Bench<'_>) -> Result<Made, StepError> {
    let base = bench.layers(operation.base).map(Arc::as_ref);
    let mode = operation.chmod.as_deref().map(str::parse).transpose()?;
    let quick = quick_key(operation, base, bench);
    if let Some(quick) = &quick
        && let Some(made) = bench.cached(quick, base)?
    {
        return Ok(made);
    }
    let mut walked = Vec::new();
    for source in &operation.sources {
        let (tree, found) = match source {
            CopySource::Files { origin, selection, .. } => {
                let tree = bench.source(origin)?;
                let found = copy::collect(&tree, selection)?;
                (tree, found)
            }
            CopySource::Inline { .. } => {
                (Layers::default().source(bench.workshop.store, &bench.workshop.cancel)?, Vec::new())
            }
        };
        walked.push(Walked { tree, found, source });
    }
    // Files of which no digest is known are read only once: when something like this was never copied before, no cache
    // record can have its key, and without cache nobody asks for one; so the digests come from writing the layer.
    let definition = definition_key(operation, bench);
    let is_known = || {
        walked
            .iter()
            .try_fold(true, |known, walked| Ok::<_, Fault>(known && content::is_known(&walked.tree, &walked.found)?))
    };
    // Another machine may have done it.
    let elsewhere = bench.workshop.request.transfer.remote.as_ref().is_some_and(|remote| remote.has_records());
    let was_tried = cache::was_tried(bench.workshop.store, &definition)?;
    if !was_tried && !bench.workshop.request.isolated {
        // Before the result is filed, or even looked for: without this nobody would look for it in the next build.
        cache::tried(bench.workshop.store, &definition)?;
    }
    let mut known = None;
    if (was_tried || elsewhere) && !bench.ignore_cache || is_known()? {
        let (key, notes) = content_key(operation, base, &walked, bench)?;
        if let Some(made) = bench.cached(&key, base)? {
            if let Some(quick) = &quick {
                keep_again(&made, quick, base, bench)?;
            }
            return Ok(made);
        }
        known = Some((key, notes));
    }
    let view = match base {
        Some(base) => base.view(bench.workshop.store, &bench.workshop.cancel)?,
        None => View::empty(),
    };
    let owner = match operation.chown.as_deref() {
        Some(owner) if base.is_none() && !Users::is_numeric(owner) => {
            return Err(Fault::new(format!(
                "`--chown={owner}` names a user, but nothing is below that could say who it is: use numbers, or leave out `--link`"
            ))
            .into());
        }
        owner => owner.map(|owner| self::owner(&view, owner)).transpose()?,
    };
    let manner = Manner { owner, mode };
    // To the disk, not to memory: with many files it is long.
    let list =
        |lines: &mut dyn Write| walked.iter().try_for_each(|walked| content::list(lines, &walked.tree, &walked.found));
    let store = bench.workshop.store;
    let list_files = |key: &CacheKey| store.build_cache().put_list(&key.0, list);
    let is_kept = !bench.workshop.request.isolated;
    // When all digests are known, the list is written beside the layer, most of whose time goes into its hash.
    let (written, listed) = std::thread::scope(|scope| {
        let known = known.as_ref().filter(|_| is_kept);
        // Later, if there can be no more threads.
        let listing = known.and_then(|(key, _)| Builder::new().spawn_scoped(scope, || list_files(key)).ok());
        let written = write(operation, base, &walked, Changes::new(view), &manner, bench);
        (written, listing.map(|listing| listing.join().unwrap_or_else(|panic| resume_unwind(panic))))
    });
    if let (Err(_), Some((key, _))) = (&written, &known) {
        // A list without a layer is nobody's.
        store.build_cache().drop_list(&key.0);
    }
    let (record, written) = written?;
    let (key, mut notes) = match known {
        Some(known) => known,
        None => content_key(operation, base, &walked, bench)?,
    };
    let record = Record { mark: key.0.clone(), ..record };
    let layers = Layers::then(base, &record);
    if let Some(headers) = written.headers {
        layers.set_index(headers);
    }
    bench.note_parent(&mut notes, operation.base);
    if bench.workshop.explainer.is_some() {
        let mut files = Vec::new();
        list(&mut files)?;
        bench.missed(&key, &notes, Some(&files));
    }
    if is_kept {
        notes.files = Some(listed.unwrap_or_else(|| list_files(&key))?);
    }
    bench.keep(&key, base, &record, Some((&notes, None)))?;
    if let Some(quick) = &quick {
        bench.keep(quick, base, &record, None)?;
    }
    Ok(Made { layers, cached: false })
}

fn write(
    operation: &CopyOperation,
    base: Option<&Layers>,
    walked: &[Walked<'_>],
    mut changes: Changes,
    manner: &Manner,
    bench: &Bench<'_>,
) -> Result<(Record, Written), StepError> {
    let destination = operation.destination.as_str();
    let mut call = 0;
    for Walked { tree, found, source } in walked {
        if let CopySource::Inline { name, content } = source {
            copy::apply_inline(&mut changes, name, content.clone(), destination, manner)?;
        }
        let unpack = matches!(source, CopySource::Files { unpack: true, .. });
        for found in found {
            call += 1;
            if unpack && found.root.kind == NodeKind::File && unpack::is_archive(tree, &found.root)? {
                let spool = bench.workshop.store.home();
                let archive = Archive { source: tree, node: &found.root, owner: manner.owner, call, spool };
                unpack::apply(&mut changes, &archive, destination, &bench.workshop.cancel)?;
            } else {
                copy::apply(&mut changes, tree, found, destination, manner, call)?;
            }
        }
    }
    for path in changes.whiteouts().take(MAX_WARNINGS) {
        let path = lossy(&path);
        let text = format!(
            "warning: `/{path}` deletes a file in the image: names with `.wh.` in front are how layers do that\n"
        );
        (bench.output)(Stream::Stderr, text.as_bytes());
    }
    let fallback = base.and_then(|base| base.created).map_or(0, jiff::Timestamp::as_second);
    let times = Times { fallback, epoch: bench.workshop.epoch };
    let created = timestamp(changes.created(times));
    changes.settle(times);
    let (written, digest, size) = write_layer(operation, &changes, bench)?;
    let (diff_id, mark) = (oci::DiffId(digest.clone()), digest);
    Ok((Record { diff_id, size, mark, created, step: bench.name.to_owned() }, written))
}

/// How many files one step warns of.
const MAX_WARNINGS: usize = 5;

/// Writes the layer: only what is not in the last one of its kind, when that is the smaller part.
fn write_layer(
    operation: &CopyOperation,
    changes: &Changes,
    bench: &Bench<'_>,
) -> Result<(Written, Digest, u64), StepError> {
    let Workshop { store, cancel, .. } = bench.workshop;
    let key = outline_key(operation, bench);
    if let Some(outline) = Outline::load(store, &key)?
        && let Some(found) = changes.find_in(&outline)?
    {
        // Who wants no cache wants the files read.
        let written = match bench.ignore_cache {
            true if found.contains(&false) => None,
            true => confirm(changes, &outline, bench)?,
            false => write_patch(changes, &outline, &found, bench)?,
        };
        if let Some(written) = written {
            return Ok(written);
        }
    }
    let mut sink = LayerSink::new(store.blobs(), cancel).with_marks();
    let written = changes.write(&mut sink, None, store.home(), cancel)?;
    let (digest, size, marks) = sink.commit_marked()?;
    if let Some(marks) = marks {
        Outline::save(store, &key, (&digest, size), &marks, &written.places)?;
    }
    Ok((written, digest, size))
}

/// Reads the files of a layer that seems to be the one before: if it is, nothing needs to be written.
fn confirm(
    changes: &Changes,
    outline: &Outline,
    bench: &Bench<'_>,
) -> Result<Option<(Written, Digest, u64)>, StepError> {
    let Workshop { store, cancel, .. } = bench.workshop;
    // Without a thread it is no faster than writing.
    let Ok(mut hashing) = HashingThread::start() else { return Ok(None) };
    let written = changes.write(&mut hashing, None, store.home(), cancel)?;
    let (digest, size) = hashing.finish().map_err(|error| Fault::because("cannot hash a layer", &error))?;
    let is_here = digest == outline.base && store.blobs().size(&digest)? == Some(size);
    Ok(is_here.then_some((written, digest, size)))
}

/// Writes the layer as a patch of an earlier one; `None` when that turns out to be gone or damaged.
fn write_patch(
    changes: &Changes,
    outline: &Outline,
    found: &[bool],
    bench: &Bench<'_>,
) -> Result<Option<(Written, Digest, u64)>, StepError> {
    let Workshop { store, cancel, .. } = bench.workshop;
    let patch = match store.blobs().patch(&outline.base, outline.marks.clone()) {
        Err(BlobError::NotFound { .. }) => return Ok(None),
        other => other?,
    };
    let mut sink = LayerSink::of_patch(patch, store.blobs(), cancel);
    let written = changes.write(&mut sink, Some((outline, found)), store.home(), cancel);
    if !sink.is_base_damaged() {
        let written = written?;
        match sink.commit_marked() {
            Err(BlobError::Damaged { .. }) => {}
            other => return Ok(other.map(|(digest, size, _)| Some((written, digest, size)))?),
        }
    }
    // A blob that is damaged goes; if it is whole, the outline is what was wrong.
    match store.blobs().verify(&outline.base) {
        Ok(()) | Err(BlobError::Damaged { .. } | BlobError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Files a result that was found under the quick key as well.
fn keep_again(made: &Made, quick: &CacheKey, base: Option<&Layers>, bench: &Bench<'_>) -> Result<(), Fault> {
    let (Some(top), Some(created)) = (made.layers.stack.last(), made.layers.created) else { return Ok(()) };
    let (diff_id, mark) = (top.diff_id.clone(), top.mark.clone());
    let record = Record { diff_id, size: top.blob.size, mark, created, step: bench.name.to_owned() };
    bench.keep(quick, base, &record, None)
}

/// Finds whom `--chown` names in the layers below.
pub(crate) fn owner(view: &View, owner: &str) -> Result<(u32, u32), Fault> {
    let read = |path: &[u8]| -> Result<String, Fault> {
        let bytes = view.read_small(path, MAX_USERS)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    if Users::is_numeric(owner) {
        return Ok(Users::default().owner(owner));
    }
    let (passwd, group) = (read(b"etc/passwd")?, read(b"etc/group")?);
    Ok(Users { passwd: &passwd, group: &group }.owner(owner))
}

/// The most that is read of `/etc/passwd` and `/etc/group`.
pub(crate) const MAX_USERS: u64 = 10 << 20;

/// What is asked for, without what the sources hold.
fn write_definition(key: &mut KeyWriter, operation: &CopyOperation, bench: &Bench<'_>) {
    let CopyOperation { base: _, sources: _, destination, chown, chmod } = operation;
    key.text("destination", destination);
    key.option("chown", chown.as_deref());
    key.option("chmod", chmod.as_deref());
    key.option("epoch", bench.workshop.epoch_key().as_deref());
}

fn write_selections(key: &mut KeyWriter, operation: &CopyOperation) {
    for source in &operation.sources {
        match source {
            CopySource::Files { origin: _, selection, unpack } => {
                key.flag("unpack", *unpack);
                key.blob("path", &selection.path);
                key.option("include", selection.include.as_deref());
                key.list("exclude", &selection.exclude);
                key.flag("literal", selection.literal);
            }
            CopySource::Inline { name, content } => {
                key.text("inline", name);
                key.blob("content", content);
            }
        }
    }
}

/// The key by where the files come from; `None` when they come from a context, of which only the content says anything.
fn quick_key(operation: &CopyOperation, base: Option<&Layers>, bench: &Bench<'_>) -> Option<CacheKey> {
    let mut key = KeyWriter::new("copy by origin", base.and_then(Layers::identity));
    write_definition(&mut key, operation, bench);
    write_selections(&mut key, operation);
    for source in &operation.sources {
        let CopySource::Files { origin, .. } = source else { continue };
        let Origin::Step(step) = origin else { return None };
        let identity = bench.layers(*step).and_then(|layers| layers.identity());
        key.option("origin", identity.map(ToString::to_string).as_deref());
    }
    Some(key.finish().0)
}

/// The key of all steps that differ only by what their sources hold.
fn definition_key(operation: &CopyOperation, bench: &Bench<'_>) -> CacheKey {
    let mut key = KeyWriter::new("copy was tried", None);
    write_definition(&mut key, operation, bench);
    write_selections(&mut key, operation);
    key.finish().0
}

/// What the outline of the layer is filed under: steps that look alike in one context. Not a cache key: it decides only
/// how a layer is written.
fn outline_key(operation: &CopyOperation, bench: &Bench<'_>) -> CacheKey {
    let mut key = KeyWriter::new("outline", None);
    write_definition(&mut key, operation, bench);
    write_selections(&mut key, operation);
    if let Context::Folder(folder) = &bench.workshop.request.context {
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.clone());
        key.blob("folder", folder.as_os_str().as_encoded_bytes());
    }
    key.finish().0
}

/// The key by what the sources hold.
fn content_key(
    operation: &CopyOperation,
    base: Option<&Layers>,
    walked: &[Walked<'_>],
    bench: &Bench<'_>,
) -> Result<(CacheKey, Notes), StepError> {
    let mut key = KeyWriter::new("copy", base.and_then(Layers::identity));
    write_definition(&mut key, operation, bench);
    for walked in walked {
        match walked.source {
            CopySource::Files { selection, unpack, .. } => {
                key.flag("unpack", *unpack);
                key.flag("include", selection.include.is_some());
                content::write(&mut key, &walked.tree, &walked.found, &bench.workshop.cancel)?;
            }
            CopySource::Inline { name, content } => {
                key.text("inline", name);
                key.blob("content", content);
            }
        }
    }
    Ok(key.finish())
}

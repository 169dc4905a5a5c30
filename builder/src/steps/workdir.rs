//! `WORKDIR`: makes the folder, owned by the user of the moment.

use std::sync::Arc;

use super::copy::owner;
use super::{Bench, Made, timestamp};
use crate::cache::Record;
use crate::cache_key::KeyWriter;
use crate::fault::StepError;
use crate::files::changes::{Changes, Times};
use crate::files::view::View;
use crate::graph::MakeFolderOperation;
use crate::layers::Layers;
use crate::sink::LayerSink;

/// Makes the folder, and those above it, where they are missing.
pub(crate) fn run(operation: &MakeFolderOperation, bench: &Bench<'_>) -> Result<Made, StepError> {
    let MakeFolderOperation { base, path, owner: user } = operation;
    let base = bench.layers(*base).map(Arc::as_ref);
    let mut key = KeyWriter::new("folder", base.and_then(Layers::identity));
    key.text("path", path);
    key.text("owner", user);
    key.option("epoch", bench.workshop.epoch_key().as_deref());
    let (key, mut notes) = key.finish();
    if let Some(made) = bench.cached(&key, base)? {
        return Ok(made);
    }
    bench.note_parent(&mut notes, operation.base);
    bench.missed(&key, &notes, None);
    let view = match base {
        Some(base) => base.view(bench.workshop.store, &bench.workshop.cancel)?,
        None => View::empty(),
    };
    let owner = if user.is_empty() { (0, 0) } else { owner(&view, user)? };
    let mut changes = Changes::new(view);
    let folder = changes.resolve(path.as_bytes())?;
    changes.make_folders(&folder, 0o755, owner)?;
    let fallback = base.and_then(|base| base.created).map_or(0, jiff::Timestamp::as_second);
    let times = Times { fallback, epoch: bench.workshop.epoch };
    let created = timestamp(changes.created(times));
    let mut sink = LayerSink::new(bench.workshop.store.blobs(), &bench.workshop.cancel);
    changes.settle(times);
    let written = changes.write(&mut sink, None, bench.workshop.store.home(), &bench.workshop.cancel)?;
    let (digest, size) = sink.commit()?;
    let (diff_id, mark) = (oci::DiffId(digest), key.0.clone());
    let record = Record { diff_id, size, mark, created, step: bench.name.to_owned() };
    bench.keep(&key, base, &record, Some((&notes, None)))?;
    let layers = Layers::then(base, &record);
    if let Some(headers) = written.headers {
        layers.set_index(headers);
    }
    Ok(Made { layers, cached: false })
}

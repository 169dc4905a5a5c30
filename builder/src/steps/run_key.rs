//! What decides the result of a `RUN`, and so its cache keys (`builder.md`, K1 to K3).
//!
//! The cache is asked twice when files of a stage or an image are mounted: first by where they come from, when that is
//! known not to have changed; then by what they hold, at the path that is mounted and nowhere else.

use super::{Bench, Made};
use crate::cache::{Notes, Record};
use crate::cache_key::{CacheKey, KeyWriter};
use crate::explain;
use crate::fault::{Fault, StepError};
use crate::files::content;
use crate::files::copy::{self, Selection};
use crate::files::path::clean;
use crate::graph::{ExecOperation, MountOperation, MountSource, Origin};
use crate::layers::Layers;

/// The keys of a `RUN`.
pub(crate) struct Keys {
    /// By where mounted files come from.
    quick: CacheKey,
    notes: Notes,
    /// By what they hold; `None` when it would be the same, or as long as nobody looked.
    content: Option<(CacheKey, Notes)>,
    /// The files of `content`.
    files: Option<Vec<u8>>,
}

/// What the cache says.
pub(crate) enum Found {
    Made(Made),
    Nothing(Keys),
}

/// A mount of files, and the digest of what it shows; `None` when it counts by what it is made of.
type Mounted<'a> = (&'a MountSource, Option<String>);

impl Keys {
    /// Takes all that is known without looking into mounted files.
    pub(crate) fn of(operation: &ExecOperation, base: Option<&Layers>, bench: &Bench<'_>) -> Self {
        let (quick, notes) = write(operation, base, bench, &|origin, _| identity(origin, bench));
        Self { quick, notes, content: None, files: None }
    }

    /// Asks the cache.
    pub(crate) fn find(
        mut self,
        operation: &ExecOperation,
        base: Option<&Layers>,
        bench: &Bench<'_>,
    ) -> Result<Found, StepError> {
        if let Some(made) = bench.cached(&self.quick, base)? {
            return Ok(Found::Made(made));
        }
        let Some(digests) = self.look(operation, bench)? else {
            annotate(&mut self.notes, operation, bench);
            bench.missed(&self.quick, &self.notes, None);
            return Ok(Found::Nothing(self));
        };
        let digest = |origin: &Origin, path: &str| {
            let found = digests.iter().find(|(mount, _)| is_from(mount, origin, path));
            found.and_then(|(_, digest)| digest.clone()).or_else(|| identity(origin, bench))
        };
        let mut content = write(operation, base, bench, &digest);
        if let Some(made) = bench.cached(&content.0, base)? {
            if let (Some(top), Some(created)) = (made.layers.stack.last(), made.layers.created) {
                let (diff_id, mark) = (top.diff_id.clone(), top.mark.clone());
                let record = Record { diff_id, size: top.blob.size, mark, created, step: bench.name.to_owned() };
                bench.keep(&self.quick, base, &record, None)?;
            }
            return Ok(Found::Made(made));
        }
        annotate(&mut content.1, operation, bench);
        bench.missed(&content.0, &content.1, self.files.as_deref());
        self.content = Some(content);
        Ok(Found::Nothing(self))
    }

    /// Files a result.
    pub(crate) fn keep(&self, base: Option<&Layers>, record: &Record, bench: &Bench<'_>) -> Result<(), Fault> {
        let Some((key, notes)) = &self.content else {
            return bench.keep(&self.quick, base, record, Some((&self.notes, None)));
        };
        bench.keep(key, base, record, Some((notes, self.files.as_deref())))?;
        bench.keep(&self.quick, base, record, None)
    }

    /// Digests what is mounted of stages and images; `None` when nothing is.
    fn look<'a>(
        &mut self,
        operation: &'a ExecOperation,
        bench: &Bench<'_>,
    ) -> Result<Option<Vec<Mounted<'a>>>, StepError> {
        let mut digests = Vec::new();
        let mut files = Vec::new();
        for MountOperation { source, .. } in &operation.mounts {
            let MountSource::Bind { origin: origin @ Origin::Step(Some(step)), path, .. } = source else { continue };
            // Layers of copied files, as those of a context are, count by their content as they are; and nothing is
            // found by reading all of an image.
            let copied = |layers: &Layers| layers.stack.iter().all(|layer| layer.mark != layer.diff_id.0);
            let image = |layers: &Layers| path == "/" && layers.stack.iter().all(|layer| layer.index.is_none());
            if bench.layers(Some(*step)).is_some_and(|layers| copied(layers) || image(layers)) {
                continue;
            }
            let tree = bench.source(origin)?;
            let selection = Selection { path: clean(path.as_bytes()), literal: true, ..Selection::default() };
            let found = copy::collect(&tree, &selection)?;
            let mut key = KeyWriter::new("mounted", None);
            for found in &found {
                // Of a folder that is copied only the content counts; of one that is mounted, all of it.
                content::write_root(&mut key, &tree, &found.root, &bench.workshop.cancel)?;
            }
            content::write(&mut key, &tree, &found, &bench.workshop.cancel)?;
            content::list(&mut files, &tree, &found)?;
            digests.push((source, Some(key.finish().0.0.to_string())));
        }
        if digests.is_empty() {
            return Ok(None);
        }
        self.files = Some(files);
        Ok(Some(digests))
    }
}

/// Adds to notes what says more to people.
fn annotate(notes: &mut Notes, operation: &ExecOperation, bench: &Bench<'_>) {
    operation.args.iter().for_each(|name| notes.add(explain::ARGUMENT, name));
    bench.note_parent(notes, operation.base);
}

fn is_from(mount: &MountSource, wanted: &Origin, at: &str) -> bool {
    matches!((mount, wanted), (MountSource::Bind { origin: Origin::Step(one), path, .. }, Origin::Step(other))
        if one == other && path == at)
}

fn identity(origin: &Origin, bench: &Bench<'_>) -> Option<String> {
    let step = match origin {
        Origin::Step(step) => *step,
        Origin::Context | Origin::Named(_) => None,
    };
    bench.layers(step).and_then(|layers| layers.identity()).map(ToString::to_string)
}

/// Writes a key: not proxies, addresses of hosts, values of secrets, or what caches hold.
fn write(
    operation: &ExecOperation,
    base: Option<&Layers>,
    bench: &Bench<'_>,
    mounted: &dyn Fn(&Origin, &str) -> Option<String>,
) -> (CacheKey, Notes) {
    let ExecOperation {
        base: _,
        argv,
        env,
        args: _,
        hidden_env: _,
        cwd,
        user,
        hostname,
        mounts,
        network,
        security,
        title: _,
    } = operation;
    let request = bench.workshop.request;
    let mut key = KeyWriter::new("run", base.and_then(Layers::identity));
    key.list("argv", argv);
    key.list("env", env.iter().map(|(name, value)| format!("{name}={value}")));
    key.text("cwd", cwd);
    key.text("user", user);
    key.text("hostname", hostname);
    key.text("network", &format!("{network:?}"));
    key.text("security", &format!("{security:?}"));
    key.list("hosts", request.add_hosts.iter().map(|host| host.name.as_str()));
    key.list("ulimits", request.ulimits.iter().map(|limit| format!("{}={}:{}", limit.name, limit.soft, limit.hard)));
    key.option("cgroup parent", request.cgroup_parent.as_deref());
    key.option("shm size", request.shm_size.map(|size| size.to_string()).as_deref());
    key.option("epoch", bench.workshop.epoch_key().as_deref());
    for MountOperation { target, source } in mounts {
        key.text("mount", target);
        match source {
            MountSource::Bind { origin, path, read_only } => {
                key.text("bind", path);
                key.flag("read only", *read_only);
                key.option("mounted", mounted(origin, path).as_deref());
            }
            MountSource::Cache { id: _, sharing: _, seed, mode, uid, gid, read_only } => {
                key.flag("cache", *read_only);
                // What a new cache begins with.
                key.option("seed", seed.and_then(|seed| identity(&Origin::Step(Some(seed)), bench)).as_deref());
                key.text("folder", &format!("{mode:o} {uid}:{gid}"));
            }
            MountSource::Tmpfs { size } => key.option("tmpfs", size.map(|size| size.to_string()).as_deref()),
            MountSource::Ssh { id, socket, required } => {
                key.text("ssh", id);
                key.text("socket", &format!("{socket:?}"));
                key.flag("required", *required);
            }
            MountSource::Secret { id, file, env, required } => {
                key.text("secret", id);
                key.text("file", &format!("{file:?}"));
                key.option("variable", env.as_deref());
                key.flag("required", *required);
            }
            MountSource::Script { name, content } => {
                key.text("script", name);
                key.blob("content", content);
            }
        }
    }
    key.finish()
}

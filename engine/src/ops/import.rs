//! Makes an image of a tar of files.

use std::io::{self, Read, Write};
use std::sync::Arc;

use builder::dockerfile::{self, ParseError};
use builder::{
    BuildError, BuildEvent, BuildEvents, BuildRequest, Context, DockerfileSource, ExecStep, ExecuteError, ExitStatus,
    ImageSourceError, PullPolicy,
};
use jiff::Timestamp;
use layer::tar::{Reader, TarError};
use oci::{ContainerConfig, Descriptor, DiffId, Digest, History, ImageConfig, Manifest, Platform, Reference};
use oci::{RootFs, media_type};
use store::{BlobError, BlobWriter, Image, ImageError, LayerError, Store};

use crate::interruptible::Interruptible;
use crate::{Cancel, Engine};

/// What the image is to be.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// What to call it; untagged when `None`.
    pub name: Option<Reference>,
    /// Dockerfile instructions to apply to its config.
    pub changes: Vec<String>,
    /// A note for its history.
    pub message: String,
    /// What its files are for.
    pub platform: Platform,
    /// When it is named. It is said to be made when its newest file was: the same tar is the same image anywhere.
    pub now: Timestamp,
}

/// Why no image was made.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum ImportError {
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    #[error("cannot store the layer")]
    Write(#[source] io::Error),
    #[error("the archive is broken")]
    Tar(#[from] TarError),
    #[error("the archive holds no files")]
    Empty,
    #[error("--change `{change}`: {message}")]
    Parse { change: String, message: String },
    #[error("--change `{change}`: {word} cannot change an image without files; use {}", ALLOWED.join(", "))]
    NotAllowed { change: String, word: String },
    #[error("the changes cannot be applied")]
    Change(#[source] Box<BuildError>),
    #[error("cannot write the image's config")]
    Serialize(#[from] serde_json::Error),
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    Layer(#[from] LayerError),
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// The instructions that change a config alone, as docker has them.
const ALLOWED: [&str; 11] = [
    "CMD",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "HEALTHCHECK",
    "LABEL",
    "ONBUILD",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Makes an image with one layer of a tar, compressed or not, and returns its ID.
///
/// The layer has exactly the bytes of the tar, which is read through once.
///
/// # Errors
///
/// When the tar is broken, or a change is not one.
pub async fn import(
    engine: &Engine,
    source: impl Read + Send + 'static,
    options: ImportOptions,
    cancel: &Cancel,
) -> Result<Digest, ImportError> {
    let store = engine.store().clone();
    let (source, cancel) = (Interruptible::new(source, cancel), cancel.clone());
    store::blocking::run(move || {
        // A typo shall not cost reading a large archive.
        for change in &options.changes {
            check(change)?;
        }
        let files = store_layer(&store, source)?;
        make_image(&store, files, &options, &cancel)
    })
    .await
}

pub(super) fn check(change: &str) -> Result<(), ImportError> {
    // A change is an instruction of some stage; on its own it would stand before the first.
    let parsed = dockerfile::parse(format!("FROM scratch\n{change}").as_bytes())
        .map_err(|ParseError { message, .. }| ImportError::Parse { change: change.into(), message })?;
    for statement in parsed.statements.into_iter().skip(1) {
        let word = statement.word.to_ascii_uppercase();
        if !ALLOWED.contains(&word.as_str()) {
            return Err(ImportError::NotAllowed { change: change.into(), word });
        }
    }
    Ok(())
}

/// A tar in the store.
struct Files {
    diff_id: DiffId,
    size: u64,
    /// The time of the newest of them.
    newest: Timestamp,
}

/// Stores the tar as a blob while reading it as one.
fn store_layer(store: &Store, source: impl Read + Send + 'static) -> Result<Files, ImportError> {
    let (_, plain) = layer::compress::decoder(source).map_err(ImportError::Read)?;
    let tee = Tee { source: plain, blob: store.blobs().begin()?, refused: None };
    let mut tar = Reader::new(tee);
    let newest = newest(&mut tar);
    let Tee { blob, refused, .. } = tar.into_inner();
    // To the reader a full disk looks like a tar that cannot be read.
    if let Some(error) = refused {
        return Err(ImportError::Write(error));
    }
    let newest = newest?.ok_or(ImportError::Empty)?;
    let (digest, size) = blob.commit(None)?;
    // A time that no calendar has is as good as none.
    let newest = Timestamp::from_second(newest).unwrap_or(Timestamp::UNIX_EPOCH);
    Ok(Files { diff_id: DiffId(digest), size, newest })
}

/// Reads a tar through; gives the time of its newest file, if there is any file.
fn newest(tar: &mut Reader<impl Read>) -> Result<Option<i64>, TarError> {
    let mut newest = None;
    while let Some(entry) = tar.next_entry()? {
        newest = newest.max(Some(entry.mtime.seconds));
    }
    tar.drain()?;
    Ok(newest)
}

/// Keeps what is read.
struct Tee<R> {
    source: R,
    blob: BlobWriter,
    // Why the blob took no more.
    refused: Option<io::Error>,
}

impl<R: Read> Read for Tee<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.blob.write_all(&buffer[..count]).map_err(|error| {
            let kind = error.kind();
            self.refused = Some(error);
            io::Error::from(kind)
        })?;
        Ok(count)
    }
}

fn make_image(store: &Store, files: Files, options: &ImportOptions, cancel: &Cancel) -> Result<Digest, ImportError> {
    let Files { diff_id, size, newest } = files;
    let layer = Descriptor::new(media_type::OCI_LAYER, diff_id.0.clone(), size);
    store.layers().record(&diff_id, &layer)?;
    let created = Some(newest.to_string());
    let mut config = ImageConfig {
        architecture: options.platform.architecture.clone(),
        variant: options.platform.variant.clone(),
        os: options.platform.os.clone(),
        created: created.clone(),
        rootfs: RootFs { diff_ids: vec![diff_id], ..RootFs::default() },
        history: vec![History {
            created,
            comment: Some(options.message.clone()).filter(|message| !message.is_empty()),
            ..History::default()
        }],
        ..ImageConfig::default()
    };
    let (mut descriptor, mut id) = write_image(store, &config, &layer)?;
    if !options.changes.is_empty() {
        let image = store.images().image(&descriptor, &config.platform())?;
        config.config = change(store, image, &options.platform, &options.changes, options.now, cancel)?;
        (descriptor, id) = write_image(store, &config, &layer)?;
    }
    match &options.name {
        Some(name) => store.images().tag(name, &descriptor, options.now)?,
        None => store.images().keep(&descriptor, options.now)?,
    }
    Ok(id)
}

fn write_image(store: &Store, config: &ImageConfig, layer: &Descriptor) -> Result<(Descriptor, Digest), ImportError> {
    let bytes = serde_json::to_vec(config)?;
    let id = store.blobs().put(&bytes)?;
    let manifest = Manifest::new(Descriptor::of(media_type::OCI_CONFIG, &bytes), vec![layer.clone()]);
    let bytes = serde_json::to_vec(&manifest)?;
    store.blobs().put(&bytes)?;
    Ok((Descriptor::of(media_type::OCI_MANIFEST, &bytes), id))
}

/// Lets the builder apply the changes to the image, and takes the config of what comes out.
pub(super) fn change(
    store: &Store,
    image: Image,
    platform: &Platform,
    changes: &[String],
    now: Timestamp,
    cancel: &Cancel,
) -> Result<ContainerConfig, ImportError> {
    let text = format!("FROM imported\n{}\n", changes.join("\n"));
    let dockerfile = DockerfileSource { name: "--change".into(), bytes: text.into_bytes(), ignore: None };
    let mut request = BuildRequest::new(Context::None, dockerfile, now);
    request.platforms = vec![platform.clone()];
    let alone = Alone { image: Arc::new(image) };
    let built = builder::build(&request, store, &alone, &alone, &builder::NoRemote, &alone, cancel)
        .map_err(|error| ImportError::Change(Box::new(error)))?;
    Ok(built.images.into_iter().next().map(|image| image.config.config).unwrap_or_default())
}

/// A world with one image, in which nothing runs.
struct Alone {
    image: Arc<Image>,
}

impl builder::ImageSource for Alone {
    fn resolve(&self, _: &Reference, _: &Platform, _: PullPolicy) -> Result<Image, ImageSourceError> {
        Ok((*self.image).clone())
    }
}

impl builder::Executor for Alone {
    fn execute(&self, _: &ExecStep<'_>) -> Result<ExitStatus, ExecuteError> {
        Err(ExecuteError::Cancelled)
    }
}

impl BuildEvents for Alone {
    fn event(&self, _: BuildEvent<'_>) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_instructions_about_the_config_are_changes() {
        for change in ["CMD [\"sh\"]", "env A=1", "EXPOSE 80"] {
            assert!(check(change).is_ok(), "{change}");
        }
        assert!(matches!(check("RUN true"), Err(ImportError::NotAllowed { .. })));
        assert!(matches!(check("BOGUS x"), Err(ImportError::Parse { .. })));
    }
}

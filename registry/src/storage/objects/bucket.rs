//! [`Bucket`]: S3, GCS, Azure, and what speaks as they do.
//!
//! A key is an object, below a prefix that the operator may choose. Conditions are those of the store (`If-Match`,
//! `If-None-Match`, generations); a data object is one object, written in parts of one size, a few at a time.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use axum::http::Method;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{
    ClientOptions, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload,
    RetryConfig, UpdateVersion,
};
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{
    Backend, Checkpoint, Condition, Content, Data, DataWriter, Entry, Object, ObjectError, Objects, Page, Put, Version,
};
use crate::storage::id::{Id, Ids};
use crate::storage::keys::{self, Key, Prefix};

/// How long the parts of an object are.
const PARTS: Parts = Parts { size: 8 * 1024 * 1024, count: 5000, later: 64 * 1024 * 1024 };
/// How many parts of one object are on their way at once.
const AT_ONCE: usize = 4;
/// How many bytes of parts there are in memory, of all objects.
const MEMORY: usize = 96 * 1024 * 1024;
/// For how long a part that grows may keep its memory when others wait for some.
const HELD: Duration = Duration::from_secs(2);
/// For so long what the store said of the time is counted on from.
const CLOCK: Duration = Duration::from_secs(10);

/// How long the store is waited for.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// Until it takes a connection.
    connect: Duration,
    /// Until it begins to answer what was sent, and then until more of the answer comes. A large object takes as long as
    /// whoever reads it.
    silence: Duration,
    /// A request that failed is sent again until this time is over.
    retry: Duration,
    /// How often it is sent again at most.
    retries: usize,
}

const PATIENCE: Patience = Patience {
    connect: Duration::from_secs(5),
    silence: Duration::from_secs(30),
    retry: Duration::from_secs(30),
    retries: 8,
};

/// Why a bucket cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum BucketError {
    #[error("`{url}` is not the address of a bucket, as `s3://BUCKET/PREFIX?endpoint=URL&region=NAME` is")]
    NotABucket { url: String },
    #[error("`{name}` in `{url}` is not a setting of buckets; `endpoint`, `region`, `account` and `profile` are")]
    UnknownSetting { url: String, name: String },
    #[error("there is no profile `{profile}` in the credentials file")]
    UnknownProfile { profile: String },
    #[error("the bucket `{url}` cannot be used")]
    Unusable {
        url: String,
        #[source]
        source: object_store::Error,
    },
}

/// What a bucket is opened with.
#[derive(Clone, Debug, Default)]
pub struct BucketOptions {
    /// The variables of the environment that may name credentials: those that begin with `AWS_`, `GOOGLE_` or `AZURE_`.
    pub environment: Vec<(String, String)>,
    /// The text of the credentials file (`~/.aws/credentials`), if there is one.
    pub credentials_file: Option<String>,
}

trait Store: ObjectStore + MultipartStore + Signer {}
impl<T: ObjectStore + MultipartStore + Signer> Store for T {}

/// How long each part is but the last, which every replica has to say alike.
///
/// Some stores insist that all parts are as long, and no store takes more than 10,000. So they are as long until an
/// object is larger than most can be, 39 GiB; what comes then, up to 351 GiB, the other stores take.
#[derive(Clone, Copy, Debug)]
struct Parts {
    size: usize,
    /// How many parts are of that size.
    count: usize,
    /// How long those are that come after them.
    later: usize,
}

impl Parts {
    fn size(self, number: usize) -> usize {
        if number < self.count { self.size } else { self.later }
    }

    /// Returns how many bytes are in the first parts.
    fn before(self, number: usize) -> u64 {
        let first = number.min(self.count);
        first as u64 * self.size as u64 + (number - first) as u64 * self.later as u64
    }
}

/// Objects in a bucket. Clones are the same.
#[derive(Clone)]
pub struct Bucket {
    store: Arc<dyn Store>,
    /// Before all keys; ends in `/`.
    prefix: Arc<str>,
    parts: Parts,
    /// Has as many permits as there may be bytes of parts.
    memory: Arc<Semaphore>,
    /// The parts that grow.
    growing: Arc<Mutex<Vec<Weak<Growing>>>>,
    clock: Arc<Mutex<Option<(Instant, Timestamp)>>>,
    signs: bool,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bucket({})", self.prefix)
    }
}

/// Tells whether some text is the address of a bucket, and not a folder.
pub fn is_bucket(text: &str) -> bool {
    ["s3://", "gs://", "az://"].iter().any(|scheme| text.starts_with(scheme))
}

impl Bucket {
    /// Opens a bucket by its address. Nothing is sent yet.
    pub fn open(url: &str, options: &BucketOptions) -> Result<Self, BucketError> {
        Self::open_with(url, options, PATIENCE)
    }

    fn open_with(url: &str, options: &BucketOptions, patience: Patience) -> Result<Self, BucketError> {
        let not_a_bucket = || BucketError::NotABucket { url: url.to_owned() };
        let (scheme, rest) = url.split_once("://").ok_or_else(not_a_bucket)?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
        if bucket.is_empty() || Path::parse(prefix).is_err() {
            return Err(not_a_bucket());
        }
        let mut settings = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !["endpoint", "region", "account", "profile"].contains(&name) {
                return Err(BucketError::UnknownSetting { url: url.to_owned(), name: name.to_owned() });
            }
            settings.insert(name, decoded(value));
        }
        let unusable = |source| BucketError::Unusable { url: url.to_owned(), source };
        let retry =
            RetryConfig { max_retries: patience.retries, retry_timeout: patience.retry, ..RetryConfig::default() };
        let client = ClientOptions::new()
            .with_timeout_disabled()
            .with_connect_timeout(patience.connect)
            .with_read_timeout(patience.silence);
        let variables = |start: &str| {
            let ours = options.environment.iter().filter(|(name, _)| name.starts_with(start));
            ours.map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect::<Vec<_>>()
        };
        let is_http = settings.get("endpoint").is_some_and(|endpoint| endpoint.starts_with("http://"));
        let store: Arc<dyn Store> = match scheme {
            "s3" => {
                let mut builder = AmazonS3Builder::new().with_client_options(client);
                builder = builder.with_bucket_name(bucket).with_retry(retry);
                for (name, value) in credentials(options, settings.get("profile"))?.into_iter().chain(variables("AWS_"))
                {
                    if let Ok(key) = name.parse::<AmazonS3ConfigKey>() {
                        builder = builder.with_config(key, value);
                    }
                }
                if let Some(endpoint) = settings.get("endpoint") {
                    builder = builder.with_endpoint(endpoint).with_virtual_hosted_style_request(false);
                }
                if let Some(region) = settings.get("region") {
                    builder = builder.with_region(region);
                }
                Arc::new(builder.with_allow_http(is_http).build().map_err(unusable)?)
            }
            "gs" => {
                let mut builder = GoogleCloudStorageBuilder::new().with_client_options(client);
                builder = builder.with_bucket_name(bucket).with_retry(retry);
                for (name, value) in variables("GOOGLE_") {
                    if let Ok(key) = name.parse::<GoogleConfigKey>() {
                        builder = builder.with_config(key, value);
                    }
                }
                Arc::new(builder.build().map_err(unusable)?)
            }
            "az" => {
                let mut builder = MicrosoftAzureBuilder::new().with_client_options(client);
                builder = builder.with_container_name(bucket).with_retry(retry);
                for (name, value) in variables("AZURE_") {
                    if let Ok(key) = name.parse::<AzureConfigKey>() {
                        builder = builder.with_config(key, value);
                    }
                }
                if let Some(account) = settings.get("account") {
                    builder = builder.with_account(account);
                }
                if let Some(endpoint) = settings.get("endpoint") {
                    builder = builder.with_endpoint(endpoint.clone());
                }
                Arc::new(builder.with_allow_http(is_http).build().map_err(unusable)?)
            }
            _ => return Err(not_a_bucket()),
        };
        let prefix = match prefix.trim_matches('/') {
            "" => format!("{}/", keys::VERSION),
            prefix => format!("{prefix}/{}/", keys::VERSION),
        };
        Ok(Self {
            store,
            prefix: prefix.into(),
            parts: PARTS,
            memory: Arc::new(Semaphore::new(MEMORY)),
            growing: Arc::default(),
            clock: Arc::default(),
            signs: true,
        })
    }

    /// Returns it as what a registry is opened with.
    pub fn backend(&self) -> Backend {
        Backend { objects: Arc::new(self.clone()), data: Arc::new(self.clone()) }
    }

    fn path(&self, key: &str) -> Result<Path, ObjectError> {
        let text = format!("{}{key}", self.prefix);
        Path::parse(&text).map_err(|source| ObjectError::Failed { action: "name", what: text, source: source.into() })
    }

    fn data_path(&self, id: Id) -> Result<Path, ObjectError> {
        self.path(keys::data().key(&id.to_string()).as_str())
    }

    /// Lists what begins with a prefix and comes after some text.
    async fn list_text(&self, prefix: &str, after: &str, limit: usize) -> Result<(Vec<ObjectMeta>, bool), ObjectError> {
        let prefix = format!("{}{prefix}", self.prefix);
        let folder = prefix.rfind('/').map_or("", |end| &prefix[..end]);
        let after = if after.is_empty() { prefix.clone() } else { format!("{}{after}", self.prefix) };
        let folder = Path::parse(folder).map_err(|error| failed("list", &prefix, error.into()))?;
        // What a client sent need not be a path; what comes before it is passed over.
        let mut offset = after.as_str();
        let offset = loop {
            match Path::parse(offset) {
                Ok(path) => break path,
                Err(_) => offset = offset.char_indices().next_back().map_or("", |(end, _)| &offset[..end]),
            }
        };
        let mut stream = self.store.list_with_offset(Some(&folder), &offset);
        let mut found = Vec::new();
        while let Some(meta) = stream.try_next().await.map_err(|error| failed("list", &prefix, error))? {
            let text = meta.location.as_ref();
            if !text.starts_with(&prefix) {
                if *text > *prefix {
                    break;
                }
                continue;
            }
            if *text <= *after {
                continue;
            }
            if found.len() == limit {
                return Ok((found, true));
            }
            found.push(meta);
        }
        Ok((found, false))
    }
}

fn failed(action: &'static str, what: &str, error: object_store::Error) -> ObjectError {
    use object_store::Error;
    let what = what.to_owned();
    match error {
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
            ObjectError::Denied { action, what, source: error.into() }
        }
        Error::Generic { .. } | Error::JoinError { .. } => ObjectError::Unavailable { source: error.into() },
        _ => ObjectError::Failed { action, what, source: error.into() },
    }
}

/// Turns "not found" into `None`.
fn found<T>(result: object_store::Result<T>) -> object_store::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Some stores compare tags of content, others numbers of versions: both are kept.
fn version(tag: Option<&String>, version: Option<&String>) -> Version {
    Version(format!("{}\n{}", tag.map_or("", String::as_str), version.map_or("", String::as_str)).into())
}

fn update(version: &Version) -> UpdateVersion {
    let (tag, version) = version.0.split_once('\n').unwrap_or((&version.0, ""));
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    UpdateVersion { e_tag: text(tag), version: text(version) }
}

fn modified(meta: &ObjectMeta) -> Timestamp {
    Timestamp::from_millisecond(meta.last_modified.timestamp_millis()).unwrap_or(Timestamp::MIN)
}

/// Undoes the encoding of a URL's parameter.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let pair = more.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        match (first, pair.and_then(|pair| u8::from_str_radix(pair, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &more[2..];
            }
            _ => {
                bytes.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads a profile of the credentials file, as settings.
fn credentials(options: &BucketOptions, profile: Option<&String>) -> Result<Vec<(String, String)>, BucketError> {
    let of_environment = options.environment.iter().find(|(name, _)| name == "AWS_PROFILE").map(|(_, value)| value);
    let asked = profile.or(of_environment);
    let wanted = asked.map_or("default", String::as_str);
    let (mut settings, mut inside, mut there) = (Vec::new(), false, false);
    for line in options.credentials_file.as_deref().unwrap_or_default().lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            inside = name.trim() == wanted;
            there |= inside;
        } else if let Some((name, value)) = line.split_once('=').filter(|_| inside && !line.starts_with('#')) {
            settings.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    match asked {
        Some(profile) if !there => Err(BucketError::UnknownProfile { profile: profile.clone() }),
        _ => Ok(settings),
    }
}

#[async_trait]
impl Objects for Bucket {
    async fn get(&self, key: &Key) -> Result<Option<Object>, ObjectError> {
        let error = |error| failed("read", key.as_str(), error);
        let got = self.store.get_opts(&self.path(key.as_str())?, GetOptions::default()).await;
        let Some(got) = found(got).map_err(error)? else { return Ok(None) };
        let (version, modified) = (version(got.meta.e_tag.as_ref(), got.meta.version.as_ref()), modified(&got.meta));
        // Removed between the head and the body: that is not there.
        let Some(bytes) = found(got.bytes().await).map_err(error)? else { return Ok(None) };
        Ok(Some(Object { bytes, version, modified }))
    }

    async fn head(&self, key: &Key) -> Result<Option<Entry>, ObjectError> {
        let meta = found(self.store.head(&self.path(key.as_str())?).await);
        let meta = meta.map_err(|error| failed("read", key.as_str(), error))?;
        Ok(meta.map(|meta| Entry { key: key.clone(), size: meta.size, modified: modified(&meta) }))
    }

    async fn put(&self, key: &Key, bytes: Bytes, condition: Condition) -> Result<Put, ObjectError> {
        use object_store::Error;
        let mode = match &condition {
            Condition::Always => PutMode::Overwrite,
            Condition::Absent => PutMode::Create,
            Condition::Is(version) => PutMode::Update(update(version)),
        };
        let options = PutOptions { mode, ..PutOptions::default() };
        match self.store.put_opts(&self.path(key.as_str())?, bytes.into(), options).await {
            Ok(put) => Ok(Put::Done(version(put.e_tag.as_ref(), put.version.as_ref()))),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotModified { .. }) => Ok(Put::Lost),
            Err(Error::NotFound { .. }) if matches!(condition, Condition::Is(_)) => Ok(Put::Lost),
            Err(error) => Err(failed("write", key.as_str(), error)),
        }
    }

    async fn delete(&self, key: &Key) -> Result<(), ObjectError> {
        let deleted = found(self.store.delete(&self.path(key.as_str())?).await);
        deleted.map(|_| ()).map_err(|error| failed("remove", key.as_str(), error))
    }

    async fn list(&self, prefix: &Prefix, after: Option<&Key>, limit: usize) -> Result<Page<Entry>, ObjectError> {
        let start = prefix.key("");
        let after = after.filter(|after| **after >= start).map_or("", Key::as_str);
        let (metas, more) = self.list_text(prefix.as_str(), after, limit).await?;
        let entry = |meta: ObjectMeta| {
            let key = meta.location.as_ref().strip_prefix(&*self.prefix)?;
            Some(Entry { key: Key::listed(key), size: meta.size, modified: modified(&meta) })
        };
        Ok(Page { entries: metas.into_iter().filter_map(entry).collect(), more })
    }

    async fn sync(&self) -> Result<(), ObjectError> {
        Ok(())
    }

    async fn now(&self) -> Result<Timestamp, ObjectError> {
        let known = *self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((asked, told)) = known
            && asked.elapsed() < CLOCK
        {
            return Ok(told.saturating_add(asked.elapsed()).unwrap_or(told));
        }
        let key = keys::probes().key(&Ids::Random.draw().to_string());
        self.put(&key, Bytes::from_static(b"what time is it"), Condition::Always).await?;
        let told = self.head(&key).await?;
        Objects::delete(self, &key).await?;
        let gone = || ObjectError::Unavailable { source: "what was just written is not there".into() };
        // Stores tell whole seconds, so what is written now may seem to be written later.
        let told = told.ok_or_else(gone)?.modified;
        let told = told.saturating_add(Duration::from_secs(1)).unwrap_or(told);
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), told));
        Ok(told)
    }
}

/// A part that is not long enough yet. Whoever holds the lock uses it, or makes room for others.
type Growing = tokio::sync::Mutex<Part>;

/// See [`Growing`].
#[derive(Debug)]
struct Part {
    buffer: BytesMut,
    /// The right to have a buffer, and since when.
    permit: Option<(OwnedSemaphorePermit, Instant)>,
    /// Where its bytes are when they had to make room.
    aside: Option<Id>,
}

impl Bucket {
    /// Waits for the right to have so many bytes in memory, which somebody gives up who had it for long.
    async fn room(&self, size: usize) -> Result<OwnedSemaphorePermit, ObjectError> {
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        let mut acquired = pin!(self.memory.clone().acquire_many_owned(size));
        loop {
            match tokio::time::timeout(HELD, &mut acquired).await {
                Ok(permit) => return permit.map_err(|error| ObjectError::Unavailable { source: error.into() }),
                Err(_) => self.make_room().await?,
            }
        }
    }

    /// Puts the part aside that has been growing for longest: a client that sends little keeps nobody else from
    /// sending.
    async fn make_room(&self) -> Result<(), ObjectError> {
        let parts: Vec<_> = {
            let mut all = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|part| part.strong_count() > 0);
            all.iter().filter_map(Weak::upgrade).collect()
        };
        let since = |part: &Part| part.permit.as_ref().map(|(_, since)| *since);
        // Who uses his part right now is about to send it, or waits himself.
        let idle = parts.into_iter().filter_map(|part| part.try_lock_owned().ok());
        let held = idle.filter(|part| since(part).is_some_and(|since| since.elapsed() >= HELD));
        let Some(mut part) = held.min_by_key(|part| since(part)) else { return Ok(()) };
        let aside = Ids::Random.draw();
        self.put_aside(aside, &mut part.buffer).await?;
        *part = Part { buffer: BytesMut::new(), permit: None, aside: Some(aside) };
        Ok(())
    }

    /// Writes what is too little for a part as an object of its own, without a second copy in memory.
    async fn put_aside(&self, id: Id, buffer: &mut BytesMut) -> Result<(), ObjectError> {
        let path = self.data_path(id)?;
        let lent = Lent { bytes: std::mem::take(buffer).freeze(), buffer };
        let put = self.store.put(&path, lent.bytes.clone().into()).await;
        put.map(|_| ()).map_err(|error| failed("write", path.as_ref(), error))
    }

    /// Reads what was put aside, if it is there.
    async fn read_aside(&self, id: Id) -> Result<Option<BytesMut>, ObjectError> {
        let path = self.data_path(id)?;
        let error = |error| failed("read", path.as_ref(), error);
        let got = found(self.store.get_opts(&path, GetOptions::default()).await).map_err(error)?;
        let Some(got) = got else { return Ok(None) };
        let mut bytes = BytesMut::with_capacity(usize::try_from(got.meta.size).unwrap_or(0));
        let mut pieces = got.into_stream();
        while let Some(piece) = pieces.try_next().await.map_err(error)? {
            bytes.extend_from_slice(&piece);
        }
        Ok(Some(bytes))
    }
}

/// The bytes of a buffer while they are sent. They are back in it afterwards, also when the sender is given up.
struct Lent<'a> {
    bytes: Bytes,
    buffer: &'a mut BytesMut,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        // Mostly nobody else has them any more; otherwise they are copied.
        *self.buffer = std::mem::take(&mut self.bytes).try_into_mut().unwrap_or_else(|bytes| BytesMut::from(&*bytes));
    }
}

/// A data object on its way.
#[derive(Debug)]
struct Writer {
    bucket: Bucket,
    id: Id,
    path: Path,
    /// The unfinished object, from the first part on.
    handle: Option<String>,
    /// The parts that are there.
    parts: Vec<Option<String>>,
    /// The parts on their way.
    sending: JoinSet<Result<(usize, String), ObjectError>>,
    growing: Arc<Growing>,
    size: u64,
    /// Where the last pause put what was too little for a part.
    tail: Option<Id>,
    /// Earlier such, which no checkpoint names any more.
    spent: Vec<Id>,
    /// Whether somebody may have noted where it is, or it is finished.
    stays: bool,
}

impl Drop for Writer {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (bucket, path, growing) = (self.bucket.clone(), self.path.clone(), self.growing.clone());
        let handle = self.handle.take().filter(|_| !self.stays);
        let mut sending = std::mem::take(&mut self.sending);
        // Nobody is left to tell of failures: what stays is for the store's own rule for unfinished uploads, or for the
        // collector.
        runtime.spawn(async move {
            if let Some(handle) = handle {
                sending.shutdown().await;
                let _ = bucket.store.abort_multipart(&path, &handle).await;
            }
            if let Some(aside) = growing.lock().await.aside.take() {
                let _ = Data::delete(&bucket, aside).await;
            }
        });
    }
}

impl Writer {
    fn new(bucket: &Bucket, id: Id) -> Result<Self, ObjectError> {
        let growing = Arc::new(Growing::new(Part { buffer: BytesMut::new(), permit: None, aside: None }));
        let mut all = bucket.growing.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|part| part.strong_count() > 0);
        all.push(Arc::downgrade(&growing));
        Ok(Self {
            bucket: bucket.clone(),
            id,
            path: bucket.data_path(id)?,
            handle: None,
            parts: Vec::new(),
            sending: JoinSet::new(),
            growing,
            size: 0,
            tail: None,
            spent: Vec::new(),
            stays: false,
        })
    }

    /// Returns the part that grows, with all its bytes.
    async fn whole_part(&self) -> Result<OwnedMutexGuard<Part>, ObjectError> {
        let mut part = self.growing.clone().lock_owned().await;
        if part.aside.is_some() {
            self.grow(&mut part).await?;
        }
        Ok(part)
    }

    /// Gives the part that grows memory for all of it. Whoever waits has none, and whoever has some can send it.
    async fn grow(&self, part: &mut Part) -> Result<(), ObjectError> {
        if part.permit.is_none() {
            let permit = self.bucket.room(self.bucket.parts.size(self.parts.len())).await?;
            part.permit = Some((permit, Instant::now()));
        }
        if let Some(aside) = part.aside {
            let gone = || ObjectError::Damaged { what: aside.to_string(), version: None };
            // There is nothing else in it.
            part.buffer = self.bucket.read_aside(aside).await?.ok_or_else(gone)?;
            part.aside = None;
            Data::delete(&self.bucket, aside).await?;
        }
        Ok(())
    }

    async fn fill(&mut self, part: &mut Part, mut piece: &[u8]) -> Result<(), ObjectError> {
        while !piece.is_empty() {
            self.grow(part).await?;
            let size = self.bucket.parts.size(self.parts.len());
            // One byte more must be known to follow, because the last part may be shorter, and an object without parts
            // is written at once.
            if part.buffer.len() == size {
                self.send_part(part).await?;
                continue;
            }
            let (now, later) = piece.split_at(piece.len().min(size - part.buffer.len()));
            part.buffer.extend_from_slice(now);
            piece = later;
        }
        Ok(())
    }

    async fn send_part(&mut self, part: &mut Part) -> Result<(), ObjectError> {
        while self.sending.len() >= AT_ONCE {
            self.receive_part().await?;
        }
        let handle = match &self.handle {
            Some(handle) => handle.clone(),
            None => {
                let handle = self.bucket.store.create_multipart(&self.path).await;
                let handle = handle.map_err(|error| failed("begin", self.path.as_ref(), error))?;
                self.handle.insert(handle).clone()
            }
        };
        let number = self.parts.len();
        self.parts.push(None);
        let (store, path) = (self.bucket.store.clone(), self.path.clone());
        let (bytes, permit) = (std::mem::take(&mut part.buffer).freeze(), part.permit.take());
        self.sending.spawn(async move {
            let _permit = permit;
            let sent = store.put_part(&path, &handle, number, PutPayload::from(bytes)).await;
            let sent = sent.map_err(|error| failed("write", path.as_ref(), error))?;
            Ok((number, sent.content_id))
        });
        Ok(())
    }

    async fn receive_part(&mut self) -> Result<(), ObjectError> {
        if let Some(sent) = self.sending.join_next().await {
            let (number, part) = sent.map_err(|error| ObjectError::Unavailable { source: error.into() })??;
            self.parts[number] = Some(part);
        }
        Ok(())
    }

    async fn await_parts(&mut self) -> Result<Vec<String>, ObjectError> {
        while !self.sending.is_empty() {
            self.receive_part().await?;
        }
        Ok(self.parts.iter().flatten().cloned().collect())
    }

    async fn remove_tails(&mut self) -> Result<(), ObjectError> {
        let tails: Vec<Id> = self.spent.drain(..).chain(self.tail.take()).collect();
        for tail in tails {
            Data::delete(&self.bucket, tail).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl DataWriter for Writer {
    async fn write(&mut self, pieces: &[Bytes]) -> Result<(), ObjectError> {
        let mut part = self.growing.clone().lock_owned().await;
        for piece in pieces {
            self.fill(&mut part, piece).await?;
            self.size += piece.len() as u64;
        }
        Ok(())
    }

    async fn pause(&mut self) -> Result<Checkpoint, ObjectError> {
        let parts = self.await_parts().await?;
        // Whoever asked for this one has noted the last one.
        for spent in std::mem::take(&mut self.spent) {
            Data::delete(&self.bucket, spent).await?;
        }
        self.spent.extend(self.tail.take());
        let mut part = self.whole_part().await?;
        if !part.buffer.is_empty() {
            let tail = Ids::Random.draw();
            self.bucket.put_aside(tail, &mut part.buffer).await?;
            self.tail = Some(tail);
        }
        self.stays = true;
        Ok(Checkpoint { id: self.id, size: self.size, handle: self.handle.clone(), parts, tail: self.tail })
    }

    async fn finish(mut self: Box<Self>) -> Result<u64, ObjectError> {
        let size = self.size;
        let mut part = self.whole_part().await?;
        match self.handle.clone() {
            None => {
                let bytes = std::mem::take(&mut part.buffer).freeze();
                let put = self.bucket.store.put(&self.path, bytes.into()).await;
                put.map_err(|error| failed("write", self.path.as_ref(), error))?;
            }
            Some(handle) => {
                if !part.buffer.is_empty() {
                    self.send_part(&mut part).await?;
                }
                let parts = self.await_parts().await?.into_iter().map(|content_id| PartId { content_id }).collect();
                let completed = self.bucket.store.complete_multipart(&self.path, &handle, parts).await;
                // An answer that was lost may have been that it is done.
                if let Err(error) = completed
                    && Data::size(&self.bucket, self.id).await? != Some(size)
                {
                    return Err(failed("finish", self.path.as_ref(), error));
                }
            }
        }
        self.stays = true;
        self.remove_tails().await?;
        Ok(size)
    }

    async fn abort(mut self: Box<Self>) -> Result<(), ObjectError> {
        self.sending.shutdown().await;
        if let Some(handle) = &self.handle {
            let aborted = found(self.bucket.store.abort_multipart(&self.path, handle).await);
            aborted.map_err(|error| failed("give up", self.path.as_ref(), error))?;
        }
        self.stays = true;
        if let Some(aside) = self.growing.lock().await.aside.take() {
            Data::delete(&self.bucket, aside).await?;
        }
        self.remove_tails().await
    }
}

#[async_trait]
impl Data for Bucket {
    async fn begin(&self, id: Id) -> Result<Box<dyn DataWriter>, ObjectError> {
        Ok(Box::new(Writer::new(self, id)?))
    }

    async fn resume(&self, checkpoint: &Checkpoint) -> Result<Option<Box<dyn DataWriter>>, ObjectError> {
        if Data::size(self, checkpoint.id).await?.is_some() {
            return Ok(None);
        }
        let mut writer = Writer::new(self, checkpoint.id)?;
        writer.handle.clone_from(&checkpoint.handle);
        writer.parts = checkpoint.parts.iter().cloned().map(Some).collect();
        writer.size = checkpoint.size;
        writer.stays = true;
        let mut known = self.parts.before(writer.parts.len());
        if let Some(tail) = checkpoint.tail {
            let mut part = writer.growing.clone().lock_owned().await;
            writer.grow(&mut part).await?;
            let Some(bytes) = self.read_aside(tail).await? else { return Ok(None) };
            known += bytes.len() as u64;
            part.buffer = bytes;
            writer.tail = Some(tail);
        }
        Ok((known == checkpoint.size).then(|| Box::new(writer) as Box<dyn DataWriter>))
    }

    async fn discard(&self, checkpoint: &Checkpoint) -> Result<(), ObjectError> {
        let path = self.data_path(checkpoint.id)?;
        if let Some(handle) = &checkpoint.handle {
            let aborted = found(self.store.abort_multipart(&path, handle).await);
            aborted.map_err(|error| failed("give up", path.as_ref(), error))?;
        }
        match checkpoint.tail {
            Some(tail) => Data::delete(self, tail).await,
            None => Ok(()),
        }
    }

    async fn read(&self, id: Id, range: Range<u64>) -> Result<Option<Content>, ObjectError> {
        let path = self.data_path(id)?;
        if range.is_empty() {
            return Ok(Data::size(self, id).await?.map(|_| Content::Bytes(Bytes::new())));
        }
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let got = found(self.store.get_opts(&path, options).await);
        let got = got.map_err(|error| failed("read", path.as_ref(), error))?;
        Ok(got.map(|got| {
            let stream = got.into_stream().map_err(move |error| failed("read", path.as_ref(), error));
            Content::Stream(stream.boxed())
        }))
    }

    async fn size(&self, id: Id) -> Result<Option<u64>, ObjectError> {
        let path = self.data_path(id)?;
        let meta = found(self.store.head(&path).await).map_err(|error| failed("read", path.as_ref(), error))?;
        Ok(meta.map(|meta| meta.size))
    }

    async fn delete(&self, id: Id) -> Result<(), ObjectError> {
        let path = self.data_path(id)?;
        let deleted = found(self.store.delete(&path).await);
        deleted.map(|_| ()).map_err(|error| failed("remove", path.as_ref(), error))
    }

    async fn list(&self, after: Option<Id>, limit: usize) -> Result<Page<(Id, u64, Timestamp)>, ObjectError> {
        let prefix = keys::data();
        let after = after.map_or_else(String::new, |after| prefix.key(&after.to_string()).as_str().to_owned());
        let (metas, more) = self.list_text(prefix.as_str(), &after, limit).await?;
        let entry = |meta: ObjectMeta| {
            let id = meta.location.as_ref().strip_prefix(&*self.prefix)?.strip_prefix(prefix.as_str())?.parse().ok()?;
            Some((id, meta.size, modified(&meta)))
        };
        Ok(Page { entries: metas.into_iter().filter_map(entry).collect(), more })
    }

    async fn signed_url(&self, id: Id, valid: Duration, _content_type: &str) -> Result<Option<String>, ObjectError> {
        if !self.signs {
            return Ok(None);
        }
        let path = self.data_path(id)?;
        let url = self.store.signed_url(Method::GET, &path, valid).await;
        url.map(|url| Some(url.to_string())).map_err(|error| failed("sign", path.as_ref(), error))
    }
}

#[cfg(test)]
mod tests;

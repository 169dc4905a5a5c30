//! [`Layers`]: in which forms (plain, gzip, zstd) each layer's tar is here.

use std::fs;
use std::io::{self, Read, Write};
use std::sync::Arc;

use layer::hashing::HashingReader;
use layer::{Compression, Encoder};
use oci::{Descriptor, DiffId, Digest, media_type};
use serde::{Deserialize, Serialize};

use crate::file_error::{During, found};
use crate::session::Home;
use crate::{BlobError, Blobs, FileError};

/// The layers of a store.
#[derive(Clone, Debug)]
pub struct Layers {
    pub(crate) home: Arc<Home>,
    pub(crate) blobs: Blobs,
}

/// Why a layer could not be recorded or brought into another form.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum LayerError {
    #[error("layer {diff_id} is not in the store in any form")]
    NotFound { diff_id: DiffId },
    #[error("layer blob {blob} unpacks to {actual}, expected {expected}")]
    DiffIdMismatch { blob: Digest, expected: DiffId, actual: DiffId },
    #[error("layer blob {blob} cannot be decompressed")]
    Decompress { blob: Digest, source: io::Error },
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    File(#[from] FileError),
}

/// In the record of a form: its level, when it is not the compression's default.
const LEVEL: &str = "slipway.level";

/// What is written down about a layer.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    diff_id: DiffId,
    forms: Vec<Descriptor>,
}

impl Layers {
    /// Remembers that a blob is a form of a layer.
    pub fn record(&self, diff_id: &DiffId, form: &Descriptor) -> Result<(), LayerError> {
        let _changing = self.home.hold("layers")?;
        let mut forms = self.recorded(diff_id)?;
        if forms.contains(form) {
            return Ok(());
        }
        forms.retain(|known| known.digest != form.digest);
        forms.push(form.clone());
        let record = Record { diff_id: diff_id.clone(), forms };
        let bytes = serde_json::to_vec(&record).expect("descriptors have text keys only");
        // Not synced: whatever is lost can be made again.
        Ok(self.home.write_file(&self.home.layout().layer(diff_id), &bytes, false)?)
    }

    /// Returns the forms of a layer whose blobs are here, in the order in which they were recorded.
    ///
    /// The plain tar needs no record: it is the blob whose digest is the diff ID.
    pub fn forms(&self, diff_id: &DiffId) -> Result<Vec<Descriptor>, LayerError> {
        let mut forms = Vec::new();
        for form in self.recorded(diff_id)? {
            if self.blobs.has(&form)? {
                forms.push(form);
            }
        }
        if forms.iter().all(|form| form.digest != diff_id.0)
            && let Some(size) = self.blobs.size(&diff_id.0)?
        {
            forms.push(Descriptor::new(media_type::OCI_LAYER, diff_id.0.clone(), size));
        }
        Ok(forms)
    }

    /// Returns the layer in a form, making it from another when it is missing.
    ///
    /// The bytes depend on the layer and the form alone, and are made once: the result is recorded. A form that
    /// came from a registry is taken as it is.
    pub fn compressed(&self, diff_id: &DiffId, compression: Compression) -> Result<Descriptor, LayerError> {
        self.compressed_at(diff_id, compression, None)
    }

    /// As [`Layers::compressed`], at a level of the compression; `None` is whatever is here, or else its default.
    pub fn compressed_at(
        &self,
        diff_id: &DiffId,
        compression: Compression,
        level: Option<i32>,
    ) -> Result<Descriptor, LayerError> {
        // Levels with the same bytes are one form.
        let level = level.map(|level| compression.first_like(level));
        let level = level.filter(|level| compression != Compression::None && *level != compression.default_level());
        let noted = level.map(|level| level.to_string());
        let forms = self.forms(diff_id)?;
        let described =
            |form: &Descriptor| Descriptor::new(oci_media_type(compression), form.digest.clone(), form.size);
        let is_it = |form: &&Descriptor| {
            compression_of(&form.media_type) == Some(compression) && form.annotations.get(LEVEL) == noted.as_ref()
        };
        if let Some(form) = forms.iter().find(is_it) {
            return Ok(described(form));
        }
        let is_plain = |form: &&Descriptor| compression_of(&form.media_type) == Some(Compression::None);
        let source = forms.iter().find(is_plain).or(forms.first());
        let source = source.ok_or_else(|| LayerError::NotFound { diff_id: diff_id.clone() })?;
        let mut form = self.convert(diff_id, &source.digest, compression, level)?;
        form.annotations.extend(noted.map(|level| (LEVEL.to_owned(), level)));
        self.record(diff_id, &form)?;
        Ok(described(&form))
    }

    /// Makes a form of a layer from a blob that is another.
    fn convert(
        &self,
        diff_id: &DiffId,
        source: &Digest,
        compression: Compression,
        level: Option<i32>,
    ) -> Result<Descriptor, LayerError> {
        let broken = |error| LayerError::Decompress { blob: source.clone(), source: error };
        let (_, plain) = layer::compress::decoder(self.blobs.stream(source)?.0).map_err(broken)?;
        let mut plain = HashingReader::with_algorithm(plain, diff_id.0.algorithm());
        // What is compressed is about to leave.
        let sink = self.blobs.begin()?.read_soon();
        let home = self.home.layout().home();
        let written = |error| FileError::of_write(home, error);
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let mut encoder = Encoder::with_level(sink, compression, level, threads).map_err(written)?;
        let mut buffer = vec![0; 1024 * 1024];
        loop {
            match plain.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => encoder.write_all(&buffer[..count]).map_err(written)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(broken(error)),
            }
        }
        let sink = encoder.finish().map_err(written)?;
        let actual = DiffId(plain.finish().1);
        if actual != *diff_id {
            // Either the disk damaged the blob, or it never was this layer.
            self.blobs.verify(source)?;
            return Err(LayerError::DiffIdMismatch { blob: source.clone(), expected: diff_id.clone(), actual });
        }
        let (digest, size) = sink.commit(None)?;
        Ok(Descriptor::new(oci_media_type(compression), digest, size))
    }

    /// Returns what is written down, whether the blobs are here or not. A damaged record counts as none.
    pub(crate) fn recorded(&self, diff_id: &DiffId) -> Result<Vec<Descriptor>, FileError> {
        let path = self.home.layout().layer(diff_id);
        let bytes = found(fs::read(&path)).during("read", &path)?;
        let record: Option<Record> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Ok(record.filter(|record| record.diff_id == *diff_id).map(|record| record.forms).unwrap_or_default())
    }
}

/// Tells from a media type how a layer is compressed; `None` when it is no layer's.
pub fn compression_of(media_type: &str) -> Option<Compression> {
    let name = media_type.strip_prefix("application/vnd.oci.image.layer.");
    let name = name.or_else(|| media_type.strip_prefix("application/vnd.docker.image.rootfs."))?;
    Some(match name.rsplit_once("tar")?.1 {
        "" => Compression::None,
        "+gzip" | ".gzip" => Compression::Gzip,
        "+zstd" | ".zstd" => Compression::Zstd,
        _ => return None,
    })
}

fn oci_media_type(compression: Compression) -> &'static str {
    match compression {
        Compression::None => media_type::OCI_LAYER,
        Compression::Gzip => media_type::OCI_LAYER_GZIP,
        Compression::Zstd => media_type::OCI_LAYER_ZSTD,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Store;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().expect("tempdir");
        let store = Store::open(&folder.path().join("home")).expect("opened");
        (folder, store)
    }

    #[test]
    fn media_types_tell_the_compression() {
        for (media_type, expected) in [
            (media_type::OCI_LAYER, Some(Compression::None)),
            (media_type::OCI_LAYER_GZIP, Some(Compression::Gzip)),
            (media_type::OCI_LAYER_ZSTD, Some(Compression::Zstd)),
            (media_type::DOCKER_LAYER, Some(Compression::None)),
            (media_type::DOCKER_LAYER_GZIP, Some(Compression::Gzip)),
            (media_type::DOCKER_FOREIGN_LAYER_GZIP, Some(Compression::Gzip)),
            (media_type::OCI_CONFIG, None),
            ("application/vnd.oci.image.layer.v1.tar+encrypted", None),
        ] {
            assert_eq!(compression_of(media_type), expected, "{media_type}");
        }
    }

    #[test]
    fn a_form_is_known_only_while_its_blob_is_here() {
        let (_folder, store) = store();
        let diff_id = DiffId(store.blobs().put(b"the tar").expect("put"));
        let gzip = Descriptor::new(media_type::OCI_LAYER_GZIP, store.blobs().put(b"zipped").expect("put"), 6);
        store.layers().record(&diff_id, &gzip).expect("recorded");
        store.layers().record(&diff_id, &gzip).expect("recorded");
        let plain = Descriptor::of(media_type::OCI_LAYER, b"the tar");
        assert_eq!(store.layers().forms(&diff_id).expect("read"), [gzip.clone(), plain.clone()]);
        assert_eq!(store.layers().compressed(&diff_id, Compression::Gzip).expect("known"), gzip);
        store.blobs().remove(&gzip.digest).expect("removed");
        assert_eq!(store.layers().forms(&diff_id).expect("read"), [plain]);
    }

    #[test]
    fn a_damaged_record_counts_as_none() {
        let (_folder, store) = store();
        let diff_id = DiffId(Digest::sha256(b"x"));
        for junk in ["", "{", "[]", r#"{"diff_id":"sha256:x","forms":[]}"#] {
            crate::atomic_file::write(&store.layout().layer(&diff_id), junk.as_bytes()).expect("written");
            assert_eq!(store.layers().forms(&diff_id).expect("none"), []);
        }
        let error = store.layers().compressed(&diff_id, Compression::Gzip).expect_err("nothing there");
        assert!(matches!(error, LayerError::NotFound { .. }), "{error}");
    }

    #[test]
    fn each_level_is_a_form_of_its_own() {
        let (_folder, store) = store();
        let tar: Vec<u8> = (0..200_000_u32).flat_map(|number| (number % 977).to_le_bytes()).collect();
        let diff_id = DiffId(store.blobs().put(&tar).expect("put"));
        let at = |level| store.layers().compressed_at(&diff_id, Compression::Gzip, level).expect("made");
        let (fast, best, usual) = (at(Some(4)), at(Some(9)), at(None));
        assert!(best.size < fast.size && best.annotations.is_empty(), "{best:?} {fast:?}");
        assert_eq!((at(Some(4)), at(Some(9)), at(None)), (fast, best, usual.clone()));
        for level in 1..=3 {
            assert_eq!(at(Some(level)), usual, "the same bytes");
        }
        assert_eq!(store.layers().forms(&diff_id).expect("read").len(), 4);
    }

    #[test]
    fn recording_from_many_threads_loses_nothing() {
        let (_folder, store) = store();
        let diff_id = DiffId(Digest::sha256(b"x"));
        std::thread::scope(|scope| {
            for number in 0..8_u8 {
                let (store, diff_id) = (store.clone(), &diff_id);
                scope.spawn(move || {
                    let digest = store.blobs().put(&[number]).expect("put");
                    let form = Descriptor::new(media_type::OCI_LAYER_GZIP, digest, 1);
                    store.layers().record(diff_id, &form).expect("recorded");
                });
            }
        });
        assert_eq!(store.layers().forms(&diff_id).expect("read").len(), 8);
    }
}

//! [`Materials`]: what a build took from elsewhere, as its provenance names it.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use oci::Digest;

/// Something that a build took from elsewhere. Addresses are without credentials.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Material {
    /// An image.
    Image {
        /// Its full name.
        reference: String,
        /// For which platform.
        platform: String,
        /// The digest of what the name stands for, a manifest or an index.
        digest: String,
    },
    /// What a URL names.
    Http {
        /// The URL.
        url: String,
        /// The digest of its content.
        digest: String,
    },
    /// A commit of a git repository.
    Git {
        /// The repository.
        url: String,
        /// The commit.
        commit: String,
    },
}

/// All that a build took from elsewhere, noted while it goes on.
#[derive(Debug, Default)]
pub struct Materials(Mutex<BTreeSet<Material>>);

impl Materials {
    /// Notes one; noting it again changes nothing.
    pub fn note(&self, material: Material) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(material);
    }

    /// Notes an image.
    pub fn note_image(&self, reference: &oci::Reference, platform: &oci::Platform, digest: &Digest) {
        let (reference, platform) = (reference.to_string(), platform.to_string());
        self.note(Material::Image { reference, platform, digest: digest.to_string() });
    }

    /// Returns all of them, sorted.
    pub fn list(&self) -> Vec<Material> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

//! [`Home`]: how a client proves to a registry that both work in the same home folder.
//!
//! Such a registry takes a blob over from the local store beside it, and no byte of it is sent. But a local store has
//! images that were never pushed, and whoever knows a digest must not get the bytes for that. So the client shows that
//! it can read the home: with each request to mount a blob, in the header `Slipway-Home`, it sends
//!
//! ```text
//! SECONDS:BASE64(HMAC-SHA256(key, "home 1\0SECONDS\0HOST\0REPOSITORY\0DIGEST"))
//! ```
//!
//! The key are 32 random bytes in `HOME/registry-key`, which only the home's owner can read. To anybody else, another
//! registry included, the header says nothing; shown again to the same registry within a minute, it does once more what
//! was done.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::{fmt, fs, io};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use oci::{Digest, RepositoryName};
use reqwest::header::HeaderName;
use store::{FileError, Layout, atomic_file};

/// The header that carries the proof.
pub(crate) const HEADER: HeaderName = HeaderName::from_static("slipway-home");

/// By how many seconds the clocks of client and registry may differ. On one machine they do not.
const FRESH: u64 = 60;

/// A home folder, with its key.
#[derive(Clone)]
pub struct Home {
    layout: Layout,
    key: [u8; 32],
}

/// Why a home has no key.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum HomeError {
    #[error("`{path}` is no key of 32 bytes; remove it, and a new one is made")]
    NotAKey { path: PathBuf },
    #[error("others can read the key `{path}`; remove it, and a new one is made")]
    Exposed { path: PathBuf },
    #[error(transparent)]
    File(#[from] FileError),
}

/// What is proven: that the home's owner asks a registry to have a blob in a repository.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim<'a> {
    /// The registry's host as the client wrote it, with its port unless that is the usual one.
    pub(crate) host: &'a str,
    pub(crate) repository: &'a RepositoryName,
    pub(crate) digest: &'a Digest,
}

impl Home {
    /// Opens the home that a registry serves, and makes its key when it is missing. Blocks.
    ///
    /// # Errors
    ///
    /// When the key cannot be made or read.
    ///
    /// # Panics
    ///
    /// Panics when the system has no random numbers, which Linux promises not to happen once it has started.
    pub fn served(layout: &Layout) -> Result<Self, HomeError> {
        if let Some(home) = Self::find(layout)? {
            return Ok(home);
        }
        let mut key = [0; 32];
        getrandom::fill(&mut key).expect("Linux has random numbers");
        let path = layout.registry_key();
        atomic_file::create_with_mode(&path, &key, 0o600)?;
        // Another server may have been faster.
        Self::find(layout)?.ok_or(HomeError::NotAKey { path })
    }

    /// Opens a home that was served before. Blocks.
    pub(crate) fn find(layout: &Layout) -> Result<Option<Self>, HomeError> {
        let path = layout.registry_key();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(FileError::new("read", &path, source).into()),
        };
        let metadata = fs::metadata(&path).map_err(|source| FileError::new("read", &path, source))?;
        // Copied or restored with other rights, it proves nothing any more.
        if metadata.permissions().mode() & 0o077 != 0 {
            return Err(HomeError::Exposed { path });
        }
        let key = bytes.try_into().map_err(|_| HomeError::NotAKey { path })?;
        Ok(Some(Self { layout: layout.clone(), key }))
    }

    /// Returns where the local store has a blob, if it has it as a file.
    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.layout.blob(digest)
    }

    /// Returns the header's value.
    pub(crate) fn prove(&self, claim: Claim<'_>, now: Timestamp) -> String {
        let seconds = now.as_second();
        let proof = self.mac(claim, seconds).finalize().into_bytes();
        format!("{seconds}:{}", URL_SAFE_NO_PAD.encode(proof))
    }

    /// Tells whether a header's value proves a claim now.
    pub(crate) fn believes(&self, said: &str, claim: Claim<'_>, now: Timestamp) -> bool {
        let Some((seconds, proof)) = said.split_once(':') else { return false };
        let (Ok(seconds), Ok(proof)) = (seconds.parse::<i64>(), URL_SAFE_NO_PAD.decode(proof)) else { return false };
        // Compares in constant time.
        let proven = self.mac(claim, seconds).verify_slice(&proof).is_ok();
        proven && now.as_second().abs_diff(seconds) <= FRESH
    }

    fn mac(&self, claim: Claim<'_>, seconds: i64) -> Hmac<sha2::Sha256> {
        let Claim { host, repository, digest } = claim;
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&self.key).expect("any length will do");
        // None of them has a zero byte, so no two claims are the same text.
        mac.update(
            format!("home 1\0{seconds}\0{host}\0{repository}\0{digest}", repository = repository.as_str()).as_bytes(),
        );
        mac
    }
}

impl fmt::Debug for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the key.
        f.debug_tuple("Home").field(&self.layout.home()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> (tempfile::TempDir, Layout) {
        let folder = tempfile::tempdir().expect("a folder");
        let layout = Layout::new(folder.path());
        (folder, layout)
    }

    #[test]
    fn a_key_is_made_once_and_is_private() {
        let (_folder, layout) = layout();
        assert!(Home::find(&layout).expect("readable").is_none());
        let first = Home::served(&layout).expect("made");
        assert_eq!(Home::served(&layout).expect("there").key, first.key);
        assert_eq!(Home::find(&layout).expect("readable").expect("there").key, first.key);
        let mode = fs::metadata(layout.registry_key()).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!format!("{first:?}").contains(&format!("{:?}", first.key)));
    }

    #[test]
    fn what_is_no_key_is_not_used() {
        let (_folder, layout) = layout();
        atomic_file::create_with_mode(&layout.registry_key(), b"short", 0o600).expect("written");
        assert!(matches!(Home::served(&layout), Err(HomeError::NotAKey { .. })));
        fs::remove_file(layout.registry_key()).expect("removed");
        Home::served(&layout).expect("made");
        for mode in [0o640, 0o604] {
            fs::set_permissions(layout.registry_key(), fs::Permissions::from_mode(mode)).expect("set");
            assert!(matches!(Home::served(&layout), Err(HomeError::Exposed { .. })), "{mode:o}");
        }
    }

    #[test]
    fn a_proof_is_good_for_one_claim_at_one_time() {
        let ((_one, layout), (_two, other)) = (layout(), self::layout());
        let (home, other) = (Home::served(&layout).expect("made"), Home::served(&other).expect("made"));
        let (app, digest) = ("team/app".parse().expect("a name"), Digest::sha256(b"x"));
        let claim = Claim { host: "127.0.0.1:5000", repository: &app, digest: &digest };
        let now = Timestamp::from_second(1_800_000_000).expect("a time");
        let at = |seconds: i64| Timestamp::from_second(1_800_000_000 + seconds).expect("a time");
        let said = home.prove(claim, now);
        for (seconds, believed) in [(0, true), (60, true), (-60, true), (61, false), (-61, false)] {
            assert_eq!(home.believes(&said, claim, at(seconds)), believed, "{seconds}");
        }
        assert!(!other.believes(&said, claim, now));
        let (another, elsewhere) = (Digest::sha256(b"y"), "team".parse().expect("a name"));
        assert!(!home.believes(&said, Claim { digest: &another, ..claim }, now));
        assert!(!home.believes(&said, Claim { repository: &elsewhere, ..claim }, now));
        assert!(!home.believes(&said, Claim { host: "127.0.0.1:5001", ..claim }, now));
        let (seconds, proof) = said.split_once(':').expect("two parts");
        for bad in
            ["", ":", seconds, proof, &format!("{seconds}:"), &format!("1800000001:{proof}"), &format!("{said}A")]
        {
            assert!(!home.believes(bad, claim, now), "{bad}");
        }
        assert!(!home.believes(&format!("{}:{proof}", i64::MIN), claim, now));
    }
}

//! Identities of bytes: [`Digest`], and the two that must not be mixed with it, [`DiffId`] and [`ChainId`].

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize, de};
use sha2::Digest as _;
use sha2::digest::common::hazmat::SerializableState as _;

/// A hash function that may name content.
///
/// The two registered by image-spec, `descriptor.md`, "Registered algorithms".
/// Weaker ones are never accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, 64 hexadecimal characters.
    Sha256,
    /// SHA-512, 128 hexadecimal characters.
    Sha512,
}

impl Algorithm {
    /// Returns the name as it stands before the colon of a digest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Returns how many hexadecimal characters a digest of this algorithm has.
    pub fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

impl FromStr for Algorithm {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        match text {
            "sha256" => Ok(Self::Sha256),
            "sha512" => Ok(Self::Sha512),
            _ => Err(DigestError::UnknownAlgorithm { algorithm: text.into() }),
        }
    }
}

/// Why some text is not a digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum DigestError {
    #[error("digest `{text}` has no `algorithm:` before the hash")]
    NoAlgorithm { text: String },
    #[error("digest algorithm `{algorithm}` is not sha256 or sha512")]
    UnknownAlgorithm { algorithm: String },
    #[error("digest `{text}` does not end in {expected} characters of 0-9a-f")]
    BadHex { text: String, expected: usize },
}

/// The identity of some bytes: which hash function, and what it gave.
///
/// Text becomes a `Digest` only through [`str::parse`], so every `Digest` is
/// well formed. It does not promise that anyone still has the bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    hex: Box<str>, // Invariant: `algorithm.hex_len()` characters of 0-9a-f.
}

impl Digest {
    /// Hashes bytes that are in memory with SHA-256.
    pub fn sha256(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(bytes);
        hasher.finish()
    }

    /// Hashes bytes that are in memory.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// Returns the hash function.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Returns the lower-case hexadecimal hash, without the algorithm.
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// Returns the hash as bytes instead of text.
    pub fn to_bytes(&self) -> Vec<u8> {
        let value = |digit: u8| if digit.is_ascii_digit() { digit - b'0' } else { digit - b'a' + 10 };
        self.hex.as_bytes().chunks_exact(2).map(|pair| value(pair[0]) << 4 | value(pair[1])).collect()
    }

    /// Makes a digest of the bytes of a hash; `None` when there are too many or too few.
    pub fn from_bytes(algorithm: Algorithm, hash: &[u8]) -> Option<Self> {
        (hash.len() * 2 == algorithm.hex_len()).then(|| from_hash(algorithm, hash))
    }

    /// Returns the first 12 characters of the hash, as docker shows image IDs.
    pub fn short(&self) -> &str {
        &self.hex[..12]
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, hex) = text.split_once(':').ok_or_else(|| DigestError::NoAlgorithm { text: clip(text) })?;
        let algorithm: Algorithm = algorithm.parse().map_err(|error| match error {
            DigestError::UnknownAlgorithm { algorithm } => {
                DigestError::UnknownAlgorithm { algorithm: clip(&algorithm) }
            }
            other => other,
        })?;
        let well_formed =
            hex.len() == algorithm.hex_len() && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !well_formed {
            return Err(DigestError::BadHex { text: clip(text), expected: algorithm.hex_len() });
        }
        Ok(Self { algorithm, hex: hex.into() })
    }
}

/// Keeps hostile text short in messages.
fn clip(text: &str) -> String {
    if text.chars().count() <= 140 { text.to_owned() } else { text.chars().take(140).chain(['…']).collect() }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.as_str(), self.hex)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// The digest of a layer's uncompressed tar (image-spec, `config.md`, "Layer DiffID").
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DiffId(pub Digest);

impl fmt::Display for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The identity of a stack of layers (image-spec, `config.md`, "Layer ChainID").
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChainId(pub Digest);

impl ChainId {
    /// Returns the chain ID of a single layer on nothing.
    pub fn base(diff_id: &DiffId) -> Self {
        Self(diff_id.0.clone())
    }

    /// Returns the chain ID of this stack with one more layer on top.
    pub fn then(&self, diff_id: &DiffId) -> Self {
        Self(Digest::sha256(format!("{} {}", self.0, diff_id.0).as_bytes()))
    }

    /// Returns the chain ID of a whole stack, lowest layer first, or `None` for an empty one.
    pub fn of(diff_ids: &[DiffId]) -> Option<Self> {
        let (first, rest) = diff_ids.split_first()?;
        Some(rest.iter().fold(Self::base(first), |chain, diff_id| chain.then(diff_id)))
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Hashes bytes as they pass by.
#[derive(Clone, Debug)]
pub enum Hasher {
    /// SHA-256 under way.
    Sha256(sha2::Sha256),
    /// SHA-512 under way.
    Sha512(sha2::Sha512),
}

impl Hasher {
    /// Starts with no bytes seen.
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(sha2::Sha512::new()),
        }
    }

    /// Takes in the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// Returns where the hash is, so that [`Hasher::resume`] goes on from here some other day. The bytes mean nothing to
    /// anybody else, and a damaged one gives wrong digests: whoever keeps it must notice.
    pub fn state(&self) -> Vec<u8> {
        match self {
            Self::Sha256(hasher) => hasher.serialize().to_vec(),
            Self::Sha512(hasher) => hasher.serialize().to_vec(),
        }
    }

    /// Goes on from a state that [`Hasher::state`] gave; `None` when it is none.
    pub fn resume(algorithm: Algorithm, state: &[u8]) -> Option<Self> {
        Some(match algorithm {
            Algorithm::Sha256 => Self::Sha256(sha2::Sha256::deserialize(state.try_into().ok()?).ok()?),
            Algorithm::Sha512 => Self::Sha512(sha2::Sha512::deserialize(state.try_into().ok()?).ok()?),
        })
    }

    /// Returns the digest of all bytes seen.
    pub fn finish(self) -> Digest {
        match self {
            Self::Sha256(hasher) => from_hash(Algorithm::Sha256, &hasher.finalize()),
            Self::Sha512(hasher) => from_hash(Algorithm::Sha512, &hasher.finalize()),
        }
    }
}

fn from_hash(algorithm: Algorithm, hash: &[u8]) -> Digest {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut hex = String::with_capacity(2 * hash.len());
    for byte in hash {
        hex.push(char::from(HEX[usize::from(byte >> 4)]));
        hex.push(char::from(HEX[usize::from(byte & 15)]));
    }
    Digest { algorithm, hex: hex.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_digest_survives_text() {
        let digest = Digest::sha256(b"");
        assert_eq!(digest.to_string(), EMPTY);
        assert_eq!(EMPTY.parse::<Digest>(), Ok(digest));
        let long = Digest::of(Algorithm::Sha512, b"x");
        assert_eq!(long.to_string().parse::<Digest>().as_ref(), Ok(&long));
        assert_eq!(Digest::from_bytes(Algorithm::Sha512, &long.to_bytes()), Some(long.clone()));
        assert_eq!(Digest::from_bytes(Algorithm::Sha256, &long.to_bytes()), None);
    }

    #[test]
    fn a_hash_goes_on_where_it_was() {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let mut hasher = Hasher::new(algorithm);
            hasher.update(&[7; 1000]);
            let mut resumed = Hasher::resume(algorithm, &hasher.state()).expect("a state");
            for hasher in [&mut hasher, &mut resumed] {
                hasher.update(b"more");
            }
            assert_eq!(resumed.finish(), hasher.finish());
            assert!(Hasher::resume(algorithm, b"junk").is_none());
        }
    }

    #[test]
    fn what_is_not_a_digest_is_refused() {
        let upper = EMPTY.to_uppercase();
        for text in
            ["", "sha256", "sha256:", "md5:d41d8cd98f00b204e9800998ecf8427e", &EMPTY[..70], &upper, "sha256:../../x"]
        {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    #[test]
    fn chain_ids_follow_the_specification() {
        let one = DiffId(Digest::sha256(b"1"));
        let two = DiffId(Digest::sha256(b"2"));
        assert_eq!(ChainId::of(&[]), None);
        assert_eq!(ChainId::of(std::slice::from_ref(&one)), Some(ChainId(one.0.clone())));
        let both = Digest::sha256(format!("{one} {two}").as_bytes());
        assert_eq!(ChainId::of(&[one, two]), Some(ChainId(both)));
    }
}

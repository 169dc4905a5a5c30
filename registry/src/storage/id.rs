//! [`Id`]: names that nobody ever used before, and [`Ids`], where they come from.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize, de};

/// A name that nobody used before: 128 bits, at random.
///
/// It is in the key of everything that is ever deleted without a condition, so that no such key comes back, and in
/// every record that is replaced under a condition, so that no two versions of a record are the same bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(u128);

impl Id {
    /// How many characters one has as text.
    pub const LEN: usize = 32;

    /// Makes an ID of bits that were drawn elsewhere.
    pub fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// Returns the bits.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Some text is not an ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not 32 characters of 0-9a-f")]
pub struct NotAnId;

impl FromStr for Id {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let fits = text.len() == Self::LEN && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if fits { u128::from_str_radix(text, 16).map(Self).map_err(|_| NotAnId) } else { Err(NotAnId) }
    }
}

impl Serialize for Id {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Where IDs come from.
#[derive(Clone, Debug, Default)]
pub enum Ids {
    /// The system's random numbers.
    #[default]
    Random,
    /// One after the other, so that a test does the same every time.
    Counted(Arc<AtomicU64>),
}

impl Ids {
    /// Draws one.
    ///
    /// # Panics
    ///
    /// Panics when the system has no random numbers, which Linux promises not to happen once it has started.
    pub fn draw(&self) -> Id {
        match self {
            Self::Random => {
                let mut bytes = [0; 16];
                getrandom::fill(&mut bytes).expect("Linux has random numbers");
                Id(u128::from_be_bytes(bytes))
            }
            Self::Counted(count) => Id(u128::from(count.fetch_add(1, Ordering::Relaxed))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_text_and_nothing_else_is_one() {
        let id = Ids::default().draw();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_ne!(Ids::default().draw(), id);
        for text in ["", "0", "../../../../../../../../../../..", "+0000000000000000000000000000001", &"A".repeat(32)] {
            assert_eq!(text.parse::<Id>(), Err(NotAnId), "{text}");
        }
    }
}

//! [`Marks`]: what the hash of a blob was at each MiB, so that a blob that is like it needs hashing only from the first
//! difference on.

use oci::{Algorithm, Digest, Hasher};

/// How far marks are apart, in bytes.
pub(super) const STRIDE: usize = 1 << 20;

/// What is known of the inside of a blob: for each MiB, a checksum that tells damage, and the state of the hash behind
/// it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    // Invariant: a state for each sum but, when the last stretch is not a whole MiB, the last.
    sums: Vec<u32>,
    states: Vec<Vec<u8>>,
}

/// How long the state of a hash is, in bytes.
const STATE: usize = 104;

impl Marks {
    /// Returns the checksum of a stretch.
    pub(super) fn sum(&self, stretch: usize) -> Option<u32> {
        self.sums.get(stretch).copied()
    }

    /// Returns a hash of the first so many stretches, or of as many as are known, and how many these are.
    pub(super) fn hasher_at(&self, stretches: usize) -> (Hasher, usize) {
        let known = stretches.min(self.states.len());
        let resume = |known: usize| Hasher::resume(Algorithm::Sha256, self.states.get(known.checked_sub(1)?)?);
        resume(known).map_or((Hasher::new(Algorithm::Sha256), 0), |hasher| (hasher, known))
    }

    /// Returns bytes from which [`Marks::parse`] makes the same again.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.sums.len() * (4 + STATE));
        bytes.extend(self.sums.iter().flat_map(|sum| sum.to_le_bytes()));
        self.states.iter().for_each(|state| bytes.extend_from_slice(state));
        bytes
    }

    /// Reads the marks of a blob of so many bytes; `None` when they are not. Whoever keeps them notices damage.
    pub fn parse(bytes: &[u8], size: u64) -> Option<Self> {
        let size = usize::try_from(size).ok()?;
        let (sums, states) = bytes.split_at_checked(size.div_ceil(STRIDE).checked_mul(4)?)?;
        if states.len() != (size / STRIDE).checked_mul(STATE)? {
            return None;
        }
        let sums = sums.chunks_exact(4).map(|sum| u32::from_le_bytes(sum.try_into().expect("4 bytes"))).collect();
        Some(Self { sums, states: states.chunks_exact(STATE).map(<[u8]>::to_vec).collect() })
    }
}

/// Hashes, and takes marks when asked to.
#[derive(Clone, Debug)]
pub(super) struct MarkingHasher {
    hasher: Hasher,
    marking: Option<Marking>,
}

#[derive(Clone, Debug, Default)]
struct Marking {
    marks: Marks,
    sum: crc32fast::Hasher,
    /// Bytes of the stretch so far.
    filled: usize,
}

impl MarkingHasher {
    /// Goes on with a hash and takes no marks.
    pub(super) fn plain(hasher: Hasher) -> Self {
        Self { hasher, marking: None }
    }

    /// Takes marks from now on; nothing was hashed yet.
    pub(super) fn mark(&mut self) {
        if matches!(self.hasher, Hasher::Sha256(_)) {
            self.marking = Some(Marking::default());
        }
    }

    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        let Some(marking) = &mut self.marking else { return self.hasher.update(bytes) };
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(STRIDE - marking.filled));
            self.hasher.update(now);
            marking.sum.update(now);
            marking.filled += now.len();
            if marking.filled == STRIDE {
                marking.marks.states.push(self.hasher.state());
                marking.end_stretch();
            }
            bytes = later;
        }
    }

    pub(super) fn finish(self) -> (Digest, Option<Marks>) {
        let marks = self.marking.map(|mut marking| {
            if marking.filled > 0 {
                marking.end_stretch();
            }
            marking.marks
        });
        (self.hasher.finish(), marks)
    }
}

impl Marking {
    fn end_stretch(&mut self) {
        self.marks.sums.push(std::mem::take(&mut self.sum).finalize());
        self.filled = 0;
    }
}

/// Returns the checksum of a stretch's bytes.
pub(super) fn sum(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_do_not_depend_on_how_the_bytes_came() {
        let bytes: Vec<u8> = (0..STRIDE * 2 + 5).map(|index| (index % 251) as u8).collect();
        let marks = |piece: usize| {
            let mut hasher = MarkingHasher::plain(Hasher::new(Algorithm::Sha256));
            hasher.mark();
            bytes.chunks(piece).for_each(|piece| hasher.update(piece));
            hasher.finish()
        };
        let (digest, known) = marks(bytes.len());
        assert_eq!(marks(999_983), (digest.clone(), known.clone()));
        let known = known.expect("taken");
        assert_eq!(digest, Digest::sha256(&bytes));
        let (mut hasher, at) = known.hasher_at(2);
        assert_eq!(at, 2);
        hasher.update(&bytes[2 * STRIDE..]);
        assert_eq!(hasher.finish(), digest);
        assert_eq!(known.sum(2), Some(sum(&bytes[2 * STRIDE..])));
        let size = bytes.len() as u64;
        assert_eq!(Marks::parse(&known.to_bytes(), size), Some(known.clone()));
        assert_eq!(Marks::parse(&known.to_bytes(), size + STRIDE as u64), None);
        assert_eq!(Marks::parse(&known.to_bytes()[1..], size), None);
    }
}

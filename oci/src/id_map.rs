//! Who the users of a user namespace are outside of it: the text of `uid_map` and `gid_map`.

/// `size` numbers from `inside` on are those from `outside` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// The first number inside.
    pub inside: u32,
    /// The first number outside.
    pub outside: u32,
    /// How many there are.
    pub size: u32,
}

impl IdRange {
    /// All numbers, as they are.
    pub const EVERYBODY: Self = Self { inside: 0, outside: 0, size: u32::MAX };

    /// Reads a map; lines that are none are left out.
    pub fn parse_all(text: &str) -> Vec<Self> {
        let range = |line: &str| {
            let mut numbers = line.split_whitespace().map(str::parse);
            let mut next = || numbers.next()?.ok();
            Some(Self { inside: next()?, outside: next()?, size: next()? })
        };
        text.lines().filter_map(range).collect()
    }

    /// Returns what a number inside is outside, if it is one of these.
    pub fn outside_of(self, inside: u32) -> Option<u32> {
        let distance = inside.checked_sub(self.inside).filter(|&distance| distance < self.size)?;
        self.outside.checked_add(distance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_read_and_looked_up() {
        let map = IdRange::parse_all("         0       1000          1\n  1  100000 65536\nx\n1 2\n1 2 99999999999\n");
        assert_eq!(map.len(), 2);
        let outside = |inside| map.iter().find_map(|range| range.outside_of(inside));
        assert_eq!([0, 1, 65_536, 65_537].map(outside), [Some(1000), Some(100_000), Some(165_535), None]);
        assert_eq!(IdRange::parse_all("         0          0 4294967295\n"), [IdRange::EVERYBODY]);
    }
}

//! [`ModeChange`]: what `--chmod` does to permission bits, octal or symbolic.

use std::str::FromStr;

use crate::fault::Fault;

/// What `--chmod` does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ModeChange {
    /// `0644`: exactly these bits.
    Exact(u32),
    /// `u=rwX,go=rX`: changes, one after the other.
    Symbolic(Vec<Clause>),
}

/// One `who operator permissions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Clause {
    who: u32,
    operator: u8,
    permissions: Vec<u8>,
}

const USER: u32 = 0o700;
const GROUP: u32 = 0o070;
const OTHER: u32 = 0o007;

impl ModeChange {
    /// Returns the bits that a file with `mode` gets.
    pub(crate) fn apply(&self, mode: u32, is_folder: bool) -> u32 {
        match self {
            Self::Exact(bits) => *bits,
            Self::Symbolic(clauses) => clauses.iter().fold(mode, |mode, clause| clause.apply(mode, is_folder)),
        }
    }

    /// Returns the bits of the folders that are created above what is copied.
    pub(crate) fn for_created_folders(&self) -> u32 {
        match self {
            Self::Exact(bits) => bits & 0o777,
            Self::Symbolic(_) => 0o755,
        }
    }
}

impl Clause {
    fn apply(&self, mode: u32, is_folder: bool) -> u32 {
        let everyone = self.who == 0;
        let who = if everyone { USER | GROUP | OTHER } else { self.who };
        let mut bits = 0;
        for permission in &self.permissions {
            bits |= match permission {
                b'r' => 0o444 & who,
                b'w' => 0o222 & who,
                b'x' => 0o111 & who,
                b'X' if is_folder || mode & 0o111 != 0 => 0o111 & who,
                b's' => (if who & USER != 0 { 0o4000 } else { 0 }) | (if who & GROUP != 0 { 0o2000 } else { 0 }),
                b't' => 0o1000,
                b'u' => spread(mode >> 6 & 7) & who,
                b'g' => spread(mode >> 3 & 7) & who,
                b'o' => spread(mode & 7) & who,
                _ => 0,
            };
        }
        match self.operator {
            b'+' => mode | bits,
            b'-' => mode & !bits,
            _ => {
                let special = (if who & USER != 0 { 0o4000 } else { 0 })
                    | (if who & GROUP != 0 { 0o2000 } else { 0 })
                    | (if everyone || who & OTHER != 0 { 0o1000 } else { 0 });
                // `=` on a folder leaves setuid and setgid as they are unless it names them, as with chmod(1).
                let special = if is_folder { special & bits } else { special };
                mode & !(who | special) | bits
            }
        }
    }
}

fn spread(bits: u32) -> u32 {
    bits << 6 | bits << 3 | bits
}

impl FromStr for ModeChange {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        let invalid = || {
            Fault::new(format!("invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"))
                .hint("write it in octal (`0644`) or as chmod(1) has it (`u=rwX,go=rX`)")
        };
        if text.starts_with(|first: char| first.is_ascii_digit()) {
            let bits = u32::from_str_radix(text, 8).map_err(|_| invalid())?;
            return if bits <= 0o7777 { Ok(Self::Exact(bits)) } else { Err(invalid()) };
        }
        let mut clauses = Vec::new();
        for clause in text.split(',') {
            let bytes = clause.as_bytes();
            let split = bytes.iter().position(|byte| b"+-=".contains(byte)).ok_or_else(invalid)?;
            let mut who = 0;
            for letter in &bytes[..split] {
                who |= match letter {
                    b'u' => USER,
                    b'g' => GROUP,
                    b'o' => OTHER,
                    b'a' => USER | GROUP | OTHER,
                    _ => return Err(invalid()),
                };
            }
            let mut rest = &bytes[split..];
            while let [operator, after @ ..] = rest {
                let end = after.iter().position(|byte| b"+-=".contains(byte)).unwrap_or(after.len());
                let (permissions, next) = after.split_at(end);
                let copies = permissions.iter().any(|letter| b"ugo".contains(letter));
                let known = permissions.iter().all(|letter| b"rwxXstugo".contains(letter));
                if !known || (copies && permissions.len() > 1) {
                    return Err(invalid());
                }
                clauses.push(Clause { who, operator: *operator, permissions: permissions.to_vec() });
                rest = next;
            }
        }
        Ok(Self::Symbolic(clauses))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_change_as_chmod_does_it() {
        for (change, mode, is_folder, expected) in [
            ("0644", 0o4755, false, 0o644),
            ("4755", 0o600, false, 0o4755),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o700, true, 0o755),
            ("a+x", 0o640, false, 0o751),
            ("+x", 0o640, false, 0o751),
            ("go-rwx", 0o777, false, 0o700),
            ("u+s,g+s,+t", 0o755, false, 0o7755),
            ("g=u", 0o640, false, 0o660),
            ("u=rw", 0o4755, false, 0o655),
            ("u+x-w", 0o600, false, 0o500),
        ] {
            let parsed: ModeChange =
                change.parse().unwrap_or_else(|fault: Fault| panic!("{change}: {}", fault.message));
            assert_eq!(parsed.apply(mode, is_folder), expected, "{change} on {mode:o}");
        }
        for text in ["64a", "10000", "", "x", "u", "u=q", "8", "u=rg", "-1,"] {
            assert!(text.parse::<ModeChange>().is_err(), "{text}");
        }
    }
}

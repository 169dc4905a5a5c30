//! [`ModeChange`]: what `--chmod` does to permission bits, octal or symbolic.

use std::str::FromStr;

use crate::fault::Fault;

/// What `--chmod` does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ModeChange {
    /// `0644`: exactly these bits.
    Exact(u32),
    /// `u=rwX,go=rX`: changes, one after the other.
    Symbolic(Vec<Change>),
}

/// One change of the bits of a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Sets bits.
    Set(u32),
    /// Clears bits.
    Clear(u32),
    /// Sets bits of a folder, and of what somebody could execute at the beginning.
    SetIfExecutable(u32),
    /// `g=u`: sets, or clears, or both, what one class has at this moment for others. `from` is where the class begins.
    Copy { from: u32, classes: u32, operator: u8 },
}

const USER: u32 = 0o4700;
const GROUP: u32 = 0o2070;
const OTHER: u32 = 0o0007;
const STICKY: u32 = 0o1000;
/// All that belongs to somebody; the sticky bit is nobody's.
const EVERYONE: u32 = USER | GROUP | OTHER;

impl ModeChange {
    /// Returns the bits that a file with `mode` gets.
    pub(crate) fn apply(&self, mode: u32, is_folder: bool) -> u32 {
        match self {
            Self::Exact(bits) => *bits,
            Self::Symbolic(changes) => {
                let is_executable = is_folder || mode & 0o111 != 0;
                changes.iter().fold(mode, |mode, change| change.apply(mode, is_executable))
            }
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

impl Change {
    fn apply(self, mode: u32, is_executable: bool) -> u32 {
        match self {
            Self::Set(bits) => mode | bits,
            Self::Clear(bits) => mode & !bits,
            Self::SetIfExecutable(bits) => mode | if is_executable { bits } else { 0 },
            Self::Copy { from, classes, operator } => {
                let copied = (0o111 * (mode >> from & 7)) & classes;
                match operator {
                    b'+' => mode | copied,
                    b'-' => mode & !copied,
                    _ => mode & !(classes & 0o777) | copied,
                }
            }
        }
    }
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
        let mut changes = Vec::new();
        for clause in text.split(',') {
            let split = clause.bytes().position(|byte| b"+-=".contains(&byte)).ok_or_else(invalid)?;
            let (classes, mut rest) = clause.as_bytes().split_at(split);
            let mut who = 0;
            for class in classes {
                who |= match class {
                    b'u' => USER,
                    b'g' => GROUP,
                    b'o' => OTHER,
                    b'a' => EVERYONE,
                    _ => return Err(invalid()),
                };
            }
            while let [operator, after @ ..] = rest {
                let end = after.iter().position(|byte| b"+-=".contains(byte)).unwrap_or(after.len());
                let (permissions, next) = after.split_at(end);
                add_changes(&mut changes, who, *operator, permissions).ok_or_else(invalid)?;
                rest = next;
            }
        }
        Ok(Self::Symbolic(changes))
    }
}

/// Adds what one operator with its permissions does; `None` when a permission is none. `who` is 0 when nobody is named.
///
/// In two things BuildKit differs from chmod(1), and so does this: `t` with nobody named makes the operator one of the
/// sticky bit alone, and `=` clears setuid and setgid of folders too.
fn add_changes(changes: &mut Vec<Change>, mut who: u32, operator: u8, permissions: &[u8]) -> Option<()> {
    let (mut bits, mut if_executable, mut is_cleared) = (0, 0, false);
    let add = |changes: &mut Vec<Change>, who: u32, bits: u32| {
        let bits = if who == 0 { bits } else { bits & who };
        if operator == b'=' {
            changes.push(Change::Clear(if who == 0 { EVERYONE } else { who }));
        }
        changes.push(if operator == b'-' { Change::Clear(bits) } else { Change::Set(bits) });
    };
    let add_executable = |changes: &mut Vec<Change>, who: u32, bits: u32| {
        changes.push(Change::SetIfExecutable(if who == 0 { bits } else { bits & who }));
    };
    let is_other_alone = who == OTHER;
    for permission in permissions {
        match permission {
            b'r' => bits |= 0o444,
            b'w' => bits |= 0o222,
            b'x' => bits |= 0o111,
            b'X' if operator == b'-' => bits |= 0o111,
            b'X' => if_executable = 0o111,
            b's' if !is_other_alone => bits |= 0o6000,
            b't' if !is_other_alone => {
                who |= STICKY;
                bits |= STICKY;
            }
            b's' | b't' => {}
            b'u' | b'g' | b'o' => {
                if bits != 0 {
                    add(changes, who, bits);
                }
                if if_executable != 0 {
                    add_executable(changes, who, if_executable);
                }
                (bits, if_executable, is_cleared) = (0, 0, true);
                let from = match permission {
                    b'u' => 6,
                    b'g' => 3,
                    _ => 0,
                };
                let classes = if who == 0 { EVERYONE } else { who };
                changes.push(Change::Copy { from, classes, operator });
            }
            _ => return None,
        }
    }
    if bits != 0 || operator == b'=' && !is_cleared {
        add(changes, who, bits);
    }
    if if_executable != 0 {
        add_executable(changes, who, if_executable);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_change_as_buildkit_does_it() {
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
            ("u=rg", 0o4640, false, 0o440),
            ("=g", 0o4755, false, 0o4555),
            ("u=", 0o4755, true, 0o55),
            ("o=t,o+s", 0o647, false, 0o640),
            ("+rt", 0o600, false, 0o1600),
            ("=s", 0o1777, false, 0o7000),
            ("-X", 0o755, true, 0o644),
        ] {
            let parsed: ModeChange =
                change.parse().unwrap_or_else(|fault: Fault| panic!("{change}: {}", fault.message));
            assert_eq!(parsed.apply(mode, is_folder), expected, "{change} on {mode:o}");
        }
        for text in ["64a", "10000", "", "x", "u", "u=q", "8", "-1,"] {
            assert!(text.parse::<ModeChange>().is_err(), "{text}");
        }
    }
}

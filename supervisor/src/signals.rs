//! Signals by name and number.

/// Ends a program at once.
pub const KILL: i32 = 9;
/// Asks a program to end.
pub const TERM: i32 = 15;

/// Why a text is not a signal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Invalid signal: {text}")]
pub struct SignalError {
    /// What was given.
    pub text: String,
}

/// The names, at the places of their numbers less one.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];

/// The first and the last signal for programs' own use, as the C library numbers them.
const REAL_TIME: (i32, i32) = (34, 64);

/// Reads `TERM`, `SIGTERM`, `15`, `RTMIN+3`.
///
/// # Errors
///
/// When there is no such signal.
pub fn parse(text: &str) -> Result<i32, SignalError> {
    let bad = || SignalError { text: text.to_owned() };
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=REAL_TIME.1).contains(&number) { Ok(number) } else { Err(bad()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let named = match name {
        "IOT" => Some("ABRT"),
        "CLD" => Some("CHLD"),
        "POLL" => Some("IO"),
        name => Some(name),
    };
    if let Some(index) = NAMES.iter().position(|other| Some(*other) == named) {
        return i32::try_from(index + 1).map_err(|_| bad());
    }
    let (base, offset) = match name {
        "RTMIN" => (REAL_TIME.0, 0),
        "RTMAX" => (REAL_TIME.1, 0),
        name => match (name.strip_prefix("RTMIN+"), name.strip_prefix("RTMAX-")) {
            (Some(offset), _) => (REAL_TIME.0, offset.parse::<i32>().map_err(|_| bad())?),
            (_, Some(offset)) => (REAL_TIME.1, -offset.parse::<i32>().map_err(|_| bad())?),
            _ => return Err(bad()),
        },
    };
    let number = base.saturating_add(offset);
    if (REAL_TIME.0..=REAL_TIME.1).contains(&number) { Ok(number) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_as_docker_does() {
        for (text, number) in
            [("TERM", 15), ("sigkill", 9), ("1", 1), ("SIGRTMIN+3", 37), ("RTMAX-14", 50), ("SIGIOT", 6), ("SYS", 31)]
        {
            assert_eq!(parse(text), Ok(number), "{text}");
        }
        for text in ["", "0", "65", "-1", "FOO", "SIG", "RTMIN+31", "RTMIN+", "RTMAX--1", "RTMIN+99999999999"] {
            assert_eq!(parse(text), Err(SignalError { text: text.into() }), "{text}");
        }
    }
}

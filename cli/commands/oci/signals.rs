//! Names of signals.

/// The names, at the places of their numbers.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];

/// Reads the name of a signal, with or without `SIG`, or its number.
pub(super) fn parse(text: &str) -> Result<i32, String> {
    if let Ok(number) = text.parse() {
        return if (1..=64).contains(&number) { Ok(number) } else { Err(format!("there is no signal {number}")) };
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(place) = NAMES.iter().position(|known| *known == name) {
        return Ok(place as i32 + 1);
    }
    let real_time = |base: i32, rest: &str, sign: i32| {
        let distance = if rest.is_empty() { Some(0) } else { rest[1..].parse::<i32>().ok() };
        distance.map(|distance| base + sign * distance).filter(|number| (34..=64).contains(number))
    };
    let found = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) if rest.is_empty() || rest.starts_with('+') => real_time(34, rest, 1),
        (_, Some(rest)) if rest.is_empty() || rest.starts_with('-') => real_time(64, rest, -1),
        _ => None,
    };
    found.ok_or_else(|| format!("there is no signal `{text}`"))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_signal_has_a_name_and_a_number() {
        let numbers: Vec<_> =
            ["TERM", "sigkill", "SIGSYS", "9", "RTMIN+3", "SIGRTMAX-1"].map(|text| parse(text).unwrap()).into();
        assert_eq!(numbers, [15, 9, 31, 9, 37, 63]);
        for wrong in ["", "0", "65", "SIGNONE", "RTMIN+99", "RTMIN-1", "-9"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}

//! Sizes and times as docker prints them (the rules of `go-units`).

use std::time::Duration;

use jiff::Timestamp;

/// Prints a size with three digits and a decimal unit: `78.1MB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = bytes as f64;
    let mut unit = 0;
    // 999.5 would be printed as `1e+03` by the rule of three digits.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = if value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    let text = format!("{value:.decimals$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", UNITS[unit])
}

/// Prints a size with four digits and a binary unit: `1.5MiB`.
pub(crate) fn binary_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    #[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = match value {
        1000.0.. => 0,
        100.0.. => 1,
        10.0.. => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", UNITS[unit])
}

/// Reads a size as docker takes it: `64m`, `1.5GB`, `1024`, with powers of 1024.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is not a size such as `64m` or `1.5g`");
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let shift = match unit.trim().to_ascii_lowercase().trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(bad()),
    };
    let number: f64 = number.parse().map_err(|_| bad())?;
    #[expect(clippy::cast_precision_loss, reason = "a power of two is exact")]
    let value = number * (1u64 << shift) as f64;
    if !value.is_finite() || value >= 9e18 {
        return Err(bad());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked just above; there is no sign")]
    Ok(value as u64)
}

/// Reads a time as Go writes it, `1h30m` or `500ms`, in nanoseconds.
pub(crate) fn parse_duration(text: &str) -> Result<i64, String> {
    let bad = || format!("`{text}` is not a time such as `30s` or `1m30s`");
    let mut rest = text;
    let mut total = 0.0_f64;
    if text == "0" {
        return Ok(0);
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let number: f64 = number.parse().map_err(|_| bad())?;
        total += number
            * match unit {
                "ns" => 1.0,
                "us" | "µs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                _ => return Err(bad()),
            };
        rest = after;
    }
    if text.is_empty() || total > 9e18 {
        return Err(bad());
    }
    #[expect(clippy::cast_possible_truncation, reason = "checked just above")]
    let nanos = total as i64;
    Ok(nanos)
}

/// Reads a moment: a time ago (`10m`), a date or time, or seconds since 1970, with a fraction or without.
pub(crate) fn parse_moment(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let bad = || format!("`{text}` is neither a time such as 2026-11-30T12:00:00Z nor how long ago, such as 10m");
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    if let Ok(nanos) = parse_duration(text)
        && text != "0"
    {
        return now.checked_sub(jiff::SignedDuration::from_nanos(nanos)).map_err(|_| bad());
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if let (Ok(seconds), true) = (seconds.parse::<i64>(), fraction.bytes().all(|byte| byte.is_ascii_digit())) {
        let nanos = format!("{fraction:0<9}")[..9].parse::<i32>().map_err(|_| bad())?;
        return Timestamp::new(seconds, nanos).map_err(|_| bad());
    }
    // Without a zone it is the local time, which for us is UTC.
    let date: jiff::civil::DateTime = text.parse().map_err(|_| bad())?;
    date.to_zoned(jiff::tz::TimeZone::UTC).map(|zoned| zoned.timestamp()).map_err(|_| bad())
}

/// Reads an age: `24h`, `1h30m`, `7d`, `2w`, or `0`.
pub(crate) fn parse_age(text: &str) -> Result<Duration, String> {
    let many =
        |number: &str, hours: u64| Some(Duration::from_secs(number.parse::<u64>().ok()?.checked_mul(hours * 3600)?));
    let age = match (text.strip_suffix('d'), text.strip_suffix('w')) {
        (Some(days), _) => many(days, 24),
        (_, Some(weeks)) => many(weeks, 7 * 24),
        _ => parse_duration(text).ok().and_then(|nanos| u64::try_from(nanos).ok()).map(Duration::from_nanos),
    };
    age.ok_or_else(|| format!("`{text}` is not an age such as `24h`, `90m` or `7d`"))
}

/// Tells in words how long ago something was: `3 days ago`.
pub(crate) fn ago(then: Option<&str>, now: Timestamp) -> String {
    match then.and_then(|text| text.parse::<Timestamp>().ok()) {
        Some(then) if then.as_second() > 0 => format!("{} ago", duration(now.as_second() - then.as_second())),
        // Reproducible images say 1970, and some say nothing; docker prints the same for both.
        _ => "N/A".into(),
    }
}

/// Tells in words how long something took: `2 hours`.
pub(crate) fn duration(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match seconds {
        ..1 => "Less than a second".into(),
        1 => "1 second".into(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".into(),
        _ if minutes < 60 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".into(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// Prints how long something took: `0.3s`, `1m 4.2s`.
pub(crate) fn took(time: std::time::Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 60.0 {
        format!("{seconds:.1}s")
    } else {
        format!("{:.0}m {:.1}s", (seconds / 60.0).floor(), seconds % 60.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_dockers() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1_240, "1.24kB"),
            (78_123_456, "78.1MB"),
            (999_600, "1MB"),
            (123_456_789, "123MB"),
            (4_260_000, "4.26MB"),
            (1_500_000_000, "1.5GB"),
            (100_000, "100kB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn memory_reads_as_dockers() {
        for (bytes, text) in
            [(0, "0B"), (1023, "1023B"), (1 << 20, "1MiB"), (1_615_000, "1.54MiB"), (3 << 29, "1.5GiB")]
        {
            assert_eq!(binary_size(bytes), text);
        }
    }

    #[test]
    fn sizes_are_read_in_powers_of_1024() {
        for (text, bytes) in [("64m", 64 << 20), ("1.5g", 3 << 29), ("1024", 1024), ("2KiB", 2048), ("1GB", 1 << 30)] {
            assert_eq!(parse_size(text), Ok(bytes));
        }
        for text in ["", "m", "1x", "-1", "1e400", "99999999999g"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_read_as_go_and_docker_do() {
        for (text, nanos) in [
            ("30s", 30_000_000_000),
            ("1m30s", 90_000_000_000),
            ("1.5ms", 1_500_000),
            ("0", 0),
            ("2h", 7_200_000_000_000),
        ] {
            assert_eq!(parse_duration(text), Ok(nanos), "{text}");
        }
        for text in ["", "5", "s", "1x", "-1s", "1s2", "1e9h", "99999999h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        let now: Timestamp = "2026-11-20T12:00:00Z".parse().expect("valid");
        for (text, time) in [
            ("10m", "2026-11-20T11:50:00Z"),
            ("2026-11-20T11:00:00Z", "2026-11-20T11:00:00Z"),
            ("2026-11-20T11:00:00", "2026-11-20T11:00:00Z"),
            ("2026-11-20", "2026-11-20T00:00:00Z"),
            ("1136073600.25", "2006-01-01T00:00:00.25Z"),
        ] {
            assert_eq!(parse_moment(text, now), Ok(time.parse().expect("valid")), "{text}");
        }
        assert!(parse_moment("yesterday", now).is_err());
    }

    #[test]
    fn ages_are_read_in_days_too() {
        let hour = 60 * 60;
        for (text, seconds) in [("0", 0), ("90m", 90 * 60), ("1h30m", 90 * 60), ("7d", 168 * hour), ("2w", 336 * hour)]
        {
            assert_eq!(parse_age(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "d", "-1h", "5", "1.5d", "99999999999999999999w"] {
            assert!(parse_age(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_read_as_dockers() {
        let now: Timestamp = "2026-11-20T12:00:00Z".parse().expect("valid");
        for (then, text) in [
            ("2026-11-20T12:00:00Z", "Less than a second ago"),
            ("2026-11-20T11:59:18Z", "42 seconds ago"),
            ("2026-11-20T11:58:50Z", "About a minute ago"),
            ("2026-11-20T11:10:00Z", "50 minutes ago"),
            ("2026-11-20T11:00:00Z", "About an hour ago"),
            ("2026-11-19T11:00:00Z", "25 hours ago"),
            ("2026-11-12T12:00:00Z", "8 days ago"),
            ("2026-10-12T12:00:00Z", "5 weeks ago"),
            ("2025-11-20T12:00:00Z", "12 months ago"),
            ("2020-11-20T12:00:00Z", "6 years ago"),
            ("1970-01-01T00:00:00Z", "N/A"),
        ] {
            assert_eq!(ago(Some(then), now), text, "{then}");
        }
        assert_eq!(ago(None, now), "N/A");
    }
}

//! The records of PAX headers.

use std::collections::BTreeMap;

use crate::Timestamp;

/// What the PAX headers in front of an entry say about it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pax {
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Extents of a sparse file in format 0.0, which repeats its keys.
    pub(crate) sparse_list: Vec<Vec<u8>>,
}

impl Pax {
    /// Takes in the records of one header, by their length, whatever bytes the values hold.
    ///
    /// The same key again wins, and an empty value takes away what an earlier header said.
    pub(crate) fn add(&mut self, mut data: &[u8]) -> Result<(), &'static str> {
        while !data.is_empty() {
            let Record { key, value, rest } = record(data)?;
            data = rest;
            if matches!(key, b"GNU.sparse.offset" | b"GNU.sparse.numbytes") {
                let expected: &[u8] = if self.sparse_list.len().is_multiple_of(2) {
                    b"GNU.sparse.offset"
                } else {
                    b"GNU.sparse.numbytes"
                };
                if key != expected {
                    return Err("its sparse extents are out of order");
                }
                self.sparse_list.push(value.to_vec());
            }
            self.records.insert(key.to_vec(), value.to_vec());
        }
        Ok(())
    }

    pub(crate) fn get(&self, key: &str) -> Option<&[u8]> {
        self.records.get(key.as_bytes()).map(Vec::as_slice).filter(|value| !value.is_empty())
    }

    /// Returns what the header of one entry says over what a global header says.
    pub(crate) fn over(&self, global: &Self) -> Self {
        let mut records = global.records.clone();
        records.extend(self.records.iter().map(|(key, value)| (key.clone(), value.clone())));
        Self { records, sparse_list: self.sparse_list.clone() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Whether a global header sets what can only be true of one file.
    pub(crate) fn names_one_file(&self) -> bool {
        let sets_one_file = |(key, value): (&Vec<u8>, &Vec<u8>)| {
            !value.is_empty()
                && (matches!(key.as_slice(), b"path" | b"linkpath" | b"size") || key.starts_with(b"GNU.sparse."))
        };
        !self.sparse_list.is_empty() || self.records.iter().any(sets_one_file)
    }

    /// Returns how many bytes the records hold.
    pub(crate) fn size(&self) -> usize {
        self.records.iter().map(|(key, value)| key.len() + value.len()).sum()
    }

    pub(crate) fn number(&self, key: &str) -> Result<Option<i64>, &'static str> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let text = std::str::from_utf8(value).map_err(|_| "a number of its PAX header is none")?;
        text.parse().map(Some).map_err(|_| "a number of its PAX header is none")
    }

    /// Returns the time of a key: decimal seconds, with a fraction if any.
    pub(crate) fn time(&self, key: &str) -> Result<Option<Timestamp>, &'static str> {
        self.get(key).map(|value| time(value).ok_or("a time of its PAX header is none")).transpose()
    }

    /// Returns the extended attributes, as star and GNU tar (`SCHILY.xattr.`) and as libarchive write them.
    pub(crate) fn xattrs(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut xattrs = BTreeMap::new();
        for (key, value) in &self.records {
            if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.")
                && let (Some(name), Some(value)) = (percent_decode(name), base64_decode(value))
                && !name.is_empty()
            {
                xattrs.insert(name, value);
            }
        }
        // Afterwards, because these are the exact bytes. An empty value is one here, as for Go.
        for (key, value) in &self.records {
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.")
                && !name.is_empty()
            {
                xattrs.insert(name.to_vec(), value.clone());
            }
        }
        xattrs
    }
}

/// A record, and what follows it.
struct Record<'a> {
    key: &'a [u8],
    value: &'a [u8],
    rest: &'a [u8],
}

/// Splits the first record off: `LENGTH KEY=VALUE\n`.
fn record(data: &[u8]) -> Result<Record<'_>, &'static str> {
    const BROKEN: &str = "its PAX header is broken";
    let blank = memchr::memchr(b' ', &data[..data.len().min(20)]).ok_or(BROKEN)?;
    if blank == 0 || !data[..blank].iter().all(u8::is_ascii_digit) {
        return Err(BROKEN);
    }
    let digits = std::str::from_utf8(&data[..blank]).map_err(|_| BROKEN)?;
    let length: usize = digits.parse().map_err(|_| BROKEN)?;
    if length < blank + 2 || length > data.len() || data[length - 1] != b'\n' {
        return Err(BROKEN);
    }
    let inside = &data[blank + 1..length - 1];
    let equals = memchr::memchr(b'=', inside).filter(|&equals| equals > 0).ok_or(BROKEN)?;
    let (key, value) = (&inside[..equals], &inside[equals + 1..]);
    let is_text = matches!(key, b"path" | b"linkpath" | b"uname" | b"gname");
    if key.contains(&0) || is_text && value.contains(&0) {
        return Err("its PAX header has a NUL byte in a name");
    }
    Ok(Record { key, value, rest: &data[length..] })
}

fn time(value: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let mut nanos = 0;
    for position in 0..9 {
        nanos = nanos * 10 + u32::from(fraction.as_bytes().get(position).map_or(0, |digit| digit - b'0'));
    }
    if whole.starts_with('-') && nanos > 0 {
        return Some(Timestamp { seconds: seconds.checked_sub(1)?, nanos: 1_000_000_000 - nanos });
    }
    Some(Timestamp { seconds, nanos })
}

fn percent_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let hex = std::str::from_utf8(rest.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(hex, 16).ok()?);
            rest = &rest[2..];
        } else {
            bytes.push(byte);
        }
    }
    (!bytes.contains(&0)).then_some(bytes)
}

/// Decodes standard base64, with its `=` or, as libarchive leaves them away, without.
fn base64_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for &letter in text.iter().filter(|&&letter| letter != b'=' && letter != b'\n') {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pax(data: &[u8]) -> Pax {
        let mut pax = Pax::default();
        pax.add(data).unwrap();
        pax
    }

    #[test]
    fn a_value_may_hold_newlines_equal_signs_and_nul() {
        let pax = pax(b"31 SCHILY.xattr.user.a=1\n2=\x003\n\n18 path=a\nb=c d/e\n");
        assert_eq!(pax.xattrs()[b"user.a".as_slice()], b"1\n2=\x003\n");
        assert_eq!(pax.get("path"), Some(b"a\nb=c d/e".as_slice()));
    }

    #[test]
    fn a_broken_record_is_refused() {
        for data in [
            "9 a=b\n",
            "6 a=b",
            "6 ab=c\n",
            "6 =bc\n",
            "5 a=\n7",
            "x a=b\n",
            " a=b\n",
            "-6 a=b\n",
            "06 abc\n",
            "99999999999999999999 a=b\n",
            "2 \n",
            "3 \n",
            "11 path=a\0b\n",
            "0 a=b\n",
            "+6 a=b\n",
        ] {
            assert!(Pax::default().add(data.as_bytes()).is_err(), "{data:?}");
        }
    }

    #[test]
    fn times_have_fractions_and_may_be_negative() {
        for (text, seconds, nanos) in [
            ("0", 0, 0),
            ("1.5", 1, 500_000_000),
            ("1.", 1, 0),
            ("-1.25", -2, 750_000_000),
            ("-0.5", -1, 500_000_000),
            ("3.1234567899", 3, 123_456_789),
        ] {
            assert_eq!(time(text.as_bytes()), Some(Timestamp { seconds, nanos }), "{text}");
        }
        for text in ["", "x", "1.x", "1.-5", "99999999999999999999"] {
            assert_eq!(time(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn libarchive_writes_attributes_encoded() {
        let pax = pax(b"39 LIBARCHIVE.xattr.user.a%3Db=aGVsbG8\n");
        assert_eq!(pax.xattrs()[b"user.a=b".as_slice()], b"hello");
    }
}

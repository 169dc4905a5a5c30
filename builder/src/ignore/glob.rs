//! Wildcards of `COPY` sources: Go's `filepath.Match` and `filepath.Clean`.

/// A pattern with a syntax error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern")]
pub struct BadPattern;

/// A pattern taken apart, to be matched many times.
///
/// `*` is any run of characters and `?` one, neither of them a `/`; `[a-z]` and `[^a-z]` are one character, and
/// `\` takes the special meaning of the next one away. `**` is no more than `*`.
#[derive(Debug, Clone)]
pub struct Glob {
    tokens: Vec<Token>,
}

#[derive(Debug, Clone)]
enum Token {
    Byte(u8),
    Any,
    Star,
    Class { negated: bool, ranges: Vec<(char, char)> },
}

/// Tells whether a name matches a pattern as a whole.
pub fn matches(pattern: &[u8], name: &[u8]) -> Result<bool, BadPattern> {
    Ok(Glob::parse(pattern)?.matches(name))
}

/// Tells whether a pattern has a wildcard or an escape.
pub fn has_wildcard(pattern: &[u8]) -> bool {
    pattern.iter().any(|byte| matches!(byte, b'*' | b'?' | b'[' | b'\\'))
}

/// Returns the shortest spelling of a path: no `.`, no doubled or last `/`, and `..` only at the front.
pub fn clean(path: &[u8]) -> Vec<u8> {
    let rooted = path.first() == Some(&b'/');
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if parts.last().is_some_and(|last| *last != b"..") => {
                parts.pop();
            }
            b".." if rooted => {}
            part => parts.push(part),
        }
    }
    let mut clean = if rooted { b"/".to_vec() } else { Vec::new() };
    clean.extend(parts.join(&b'/'));
    if clean.is_empty() {
        clean.push(b'.');
    }
    clean
}

/// Checks a pattern as far as Go does before moby compiles it: up to where it cannot match the name `.` any more.
pub(super) fn check(pattern: &[u8]) -> Result<(), BadPattern> {
    let mut rest = pattern;
    let mut name: &[u8] = b".";
    while !rest.is_empty() {
        let stars = rest.iter().take_while(|&&byte| byte == b'*').count();
        rest = &rest[stars..];
        let (chunk, after) = rest.split_at(chunk_length(rest));
        rest = after;
        let tokens = Glob::parse(chunk)?.tokens;
        let after_chunk = |name: &'static [u8]| {
            let length = tokens.iter().try_fold(0, |at, token| Some(at + token.length_at(&name[at..])?));
            length.map(|length| &name[length..]).filter(|left| left.is_empty() || !after.is_empty())
        };
        name = match (after_chunk(if name.is_empty() { b"" } else { b"." }), name) {
            (Some(left), _) => left,
            (None, b".") if stars > 0 && after_chunk(b"").is_some() => b"",
            (None, _) => return Ok(()),
        };
    }
    Ok(())
}

/// Returns how long the part before the next `*` is that is not in a class.
fn chunk_length(pattern: &[u8]) -> usize {
    let mut in_class = false;
    let mut index = 0;
    while let Some(byte) = pattern.get(index) {
        match byte {
            b'\\' => index += 1,
            b'[' => in_class = true,
            b']' => in_class = false,
            b'*' if !in_class => return index,
            _ => {}
        }
        index += 1;
    }
    pattern.len()
}

/// Reads one character; a byte that starts none is U+FFFD, one byte long.
pub(super) fn decode(text: &[u8]) -> Option<(char, usize)> {
    let first = *text.first()?;
    if first.is_ascii() {
        return Some((char::from(first), 1));
    }
    let found = (2..=text.len().min(4)).find_map(|length| std::str::from_utf8(&text[..length]).ok());
    Some(match found.and_then(|found| found.chars().next()) {
        Some(c) => (c, c.len_utf8()),
        None => (char::REPLACEMENT_CHARACTER, 1),
    })
}

impl Glob {
    /// Takes a pattern apart.
    pub fn parse(pattern: &[u8]) -> Result<Self, BadPattern> {
        let mut tokens = Vec::with_capacity(pattern.len());
        let mut rest = pattern;
        while let Some((&byte, after)) = rest.split_first() {
            rest = after;
            match byte {
                b'*' => tokens.push(Token::Star),
                b'?' => tokens.push(Token::Any),
                b'\\' => {
                    let (&escaped, after) = rest.split_first().ok_or(BadPattern)?;
                    rest = after;
                    tokens.push(Token::Byte(escaped));
                }
                b'[' => tokens.push(class(&mut rest)?),
                byte => tokens.push(Token::Byte(byte)),
            }
        }
        Ok(Self { tokens })
    }

    /// Tells whether a name matches as a whole.
    pub fn matches(&self, name: &[u8]) -> bool {
        let (mut token, mut position) = (0, 0);
        // Where to go on when the last `*` takes one byte more. Earlier ones need not be tried again.
        let mut retry = None;
        loop {
            let step = match self.tokens.get(token) {
                Some(Token::Star) => {
                    retry = Some((token + 1, position));
                    Some(0)
                }
                Some(single) => single.length_at(&name[position..]),
                None if position == name.len() => return true,
                None => None,
            };
            match (step, retry) {
                (Some(length), _) => {
                    token += 1;
                    position += length;
                }
                (None, Some((after_star, start))) if name.get(start).is_some_and(|&byte| byte != b'/') => {
                    retry = Some((after_star, start + 1));
                    (token, position) = (after_star, start + 1);
                }
                (None, _) => return false,
            }
        }
    }
}

impl Token {
    /// Returns how many bytes of a name the token takes; `None` when it does not match.
    fn length_at(&self, name: &[u8]) -> Option<usize> {
        let (c, length) = decode(name)?;
        match self {
            Self::Byte(byte) => (name.first() == Some(byte)).then_some(1),
            Self::Any => (c != '/').then_some(length),
            Self::Star => Some(0),
            Self::Class { negated, ranges } => {
                let inside = ranges.iter().any(|(low, high)| (*low..=*high).contains(&c));
                (inside != *negated).then_some(length)
            }
        }
    }
}

/// Reads a class after its `[`.
fn class(rest: &mut &[u8]) -> Result<Token, BadPattern> {
    let negated = rest.first() == Some(&b'^');
    *rest = &rest[usize::from(negated)..];
    let mut ranges = Vec::new();
    loop {
        if rest.first() == Some(&b']') && !ranges.is_empty() {
            *rest = &rest[1..];
            return Ok(Token::Class { negated, ranges });
        }
        let low = class_character(rest)?;
        let high = match rest.first() {
            Some(b'-') => {
                *rest = &rest[1..];
                class_character(rest)?
            }
            _ => low,
        };
        ranges.push((low, high));
    }
}

fn class_character(rest: &mut &[u8]) -> Result<char, BadPattern> {
    match rest.first() {
        None | Some(b'-' | b']') => return Err(BadPattern),
        Some(b'\\') => *rest = &rest[1..],
        Some(_) => {}
    }
    let (c, length) = decode(rest).ok_or(BadPattern)?;
    if c == char::REPLACEMENT_CHARACTER && length == 1 {
        return Err(BadPattern);
    }
    *rest = &rest[length..];
    // A class that ends with the pattern is not closed.
    if rest.is_empty() { Err(BadPattern) } else { Ok(c) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_in_go() {
        let table: &[(&str, &str, bool)] = &[
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "abc", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", false),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("a???b", "a☺b", false),
            ("[a-ζ]*", "α", true),
            ("*[a-ζ]", "A", false),
            ("a?b", "a/b", false),
            ("a*b", "a/b", false),
            ("[\\]a]", "]", true),
            ("[\\-]", "-", true),
            ("[x\\-]", "x", true),
            ("*x", "xxx", true),
            ("arr[[]0].txt", "arr[0].txt", true),
        ];
        for (pattern, name, expected) in table {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), Ok(*expected), "{pattern} {name}");
        }
    }

    #[test]
    fn malformed_patterns_are_refused_whatever_the_name() {
        for pattern in ["[]a]", "[-]", "[x-]", "[-x]", "[a-b-c]", "[", "[^", "[^bc", "a[", "\\", "a\\", "x[\\"] {
            assert_eq!(matches(pattern.as_bytes(), b"."), Err(BadPattern), "{pattern}");
        }
    }

    #[test]
    fn paths_are_cleaned_as_in_go() {
        for (path, expected) in [
            ("", "."),
            ("a/b/", "a/b"),
            ("./a//b/./c", "a/b/c"),
            ("a/../..", ".."),
            ("../../a", "../../a"),
            ("/..", "/"),
            ("/../a", "/a"),
            ("a/..", "."),
            ("/", "/"),
        ] {
            assert_eq!(clean(path.as_bytes()), expected.as_bytes(), "{path}");
        }
    }

    #[test]
    fn a_star_after_another_costs_no_exponential_time() {
        let pattern = "a*".repeat(200) + "b";
        assert_eq!(matches(pattern.as_bytes(), &[b'a'; 4000]), Ok(false));
    }
}

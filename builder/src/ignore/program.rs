//! The regular expressions that patterns become: a small part of Go's, matched without blowing up.

use super::glob::{BadPattern, decode};

/// A compiled expression.
#[derive(Debug, Clone)]
pub(super) struct Program {
    /// One of these must match somewhere in the path.
    alternatives: Vec<Vec<Step>>,
    /// What every match starts with, and what its last characters are, last first; this tells most paths apart.
    prefix: Vec<u8>,
    tail: Vec<Set>,
}

#[derive(Debug, Clone)]
enum Step {
    /// One character.
    One(Set),
    /// Any number of characters.
    Many(Set),
    /// One or none.
    Maybe(Set),
    /// `(.*/)?`: nothing, or folders with the `/` after them.
    Folders,
    /// The start of the path.
    Start,
    /// A place where a word starts or ends (or, if false, does not).
    WordBoundary(bool),
    /// The end of the path.
    End,
}

impl Step {
    /// Returns what is one character exactly.
    fn one(&self) -> Option<&Set> {
        match self {
            Self::One(set) => Some(set),
            _ => None,
        }
    }

    /// Returns a character that stands for itself. Bytes that are none are decoded to U+FFFD, but not spelled so.
    fn literal(&self) -> Option<char> {
        match self.one()? {
            Set::Character(c) if *c != char::REPLACEMENT_CHARACTER => Some(*c),
            _ => None,
        }
    }
}

#[derive(Debug, Clone)]
enum Set {
    Character(char),
    /// `.`, which is no line feed.
    Any,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Set {
    fn has(&self, c: char) -> bool {
        match self {
            Self::Character(character) => *character == c,
            Self::Any => c != '\n',
            Self::Class { negated, ranges } => ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated,
        }
    }
}

/// More than any line of a file needs; less than what `{1000}` in every place would take.
const MOST_STEPS: usize = 1 << 17;

impl Program {
    /// Reads an expression as [`Pattern`](super::pattern::Pattern) writes them; anything else in it is refused.
    pub(super) fn compile(expression: &str) -> Result<Self, BadPattern> {
        let mut alternatives = Vec::new();
        let mut steps = Vec::new();
        let mut rest = expression;
        while let Some(c) = rest.chars().next() {
            if let Some(after) = rest.strip_prefix("(.*/)?") {
                steps.push(Step::Folders);
                rest = after;
                // What is repeated already cannot be repeated again.
                if braces(rest)?.is_some() {
                    return Err(BadPattern);
                }
                continue;
            }
            rest = &rest[c.len_utf8()..];
            let step = match c {
                '|' => {
                    alternatives.push(std::mem::take(&mut steps));
                    continue;
                }
                '^' => Step::Start,
                '$' => Step::End,
                '.' => Step::One(Set::Any),
                '[' => Step::One(class(&mut rest)?),
                '\\' => escape(&mut rest)?,
                '{' if braces_after(rest)?.is_some() => return Err(BadPattern),
                '(' | ')' | '*' | '?' | '+' => return Err(BadPattern),
                c => Step::One(Set::Character(c)),
            };
            repeat(step, &mut rest, &mut steps)?;
            if steps.len() > MOST_STEPS {
                return Err(BadPattern);
            }
        }
        alternatives.push(steps);
        let (mut prefix, mut tail) = (String::new(), Vec::new());
        if let [steps] = alternatives.as_slice() {
            if let [Step::Start, steps @ ..] = steps.as_slice() {
                prefix = steps.iter().map_while(Step::literal).collect();
            }
            if let [steps @ .., Step::End] = steps.as_slice() {
                tail = steps.iter().rev().map_while(Step::one).cloned().collect();
            }
        }
        Ok(Self { alternatives, prefix: prefix.into_bytes(), tail })
    }

    /// Tells whether a path matches.
    pub(super) fn matches(&self, path: &[u8]) -> bool {
        path.starts_with(&self.prefix)
            && self.may_end(path)
            && self.alternatives.iter().any(|steps| run(steps, path, false))
    }

    /// Tells whether the last characters of a path fit. Looks at ASCII only, where a byte is a character.
    fn may_end(&self, path: &[u8]) -> bool {
        let mut bytes = path.iter().rev().map(|byte| byte.is_ascii().then(|| char::from(*byte)));
        for set in &self.tail {
            match bytes.next() {
                Some(Some(c)) if set.has(c) => {}
                Some(None) => return true,
                Some(Some(_)) | None => return false,
            }
        }
        true
    }

    /// Tells whether something that starts with a folder and its `/` could match.
    pub(super) fn may_match_below(&self, folder: &[u8]) -> bool {
        let length = self.prefix.len().min(folder.len());
        folder[..length] == self.prefix[..length] && self.alternatives.iter().any(|steps| run(steps, folder, true))
    }
}

/// Adds a step as often as `*`, `?` or `{n,m}` after it say.
fn repeat(step: Step, rest: &mut &str, steps: &mut Vec<Step>) -> Result<(), BadPattern> {
    let (least, most, length) = match rest.as_bytes().first() {
        Some(b'*') => (0, None, 1),
        Some(b'?') => (0, Some(1), 1),
        _ => match braces(rest)? {
            Some(found) => found,
            None => {
                steps.push(step);
                return Ok(());
            }
        },
    };
    *rest = &rest[length..];
    if braces(rest)?.is_some() || rest.starts_with(['*', '?']) {
        return Err(BadPattern);
    }
    match step {
        Step::One(set) => {
            steps.extend((0..least).map(|_| Step::One(set.clone())));
            match most {
                Some(most) => steps.extend((least..most).map(|_| Step::Maybe(set.clone()))),
                None => steps.push(Step::Many(set)),
            }
        }
        // A place stays the same place however often it is looked at.
        place if least > 0 => steps.push(place),
        _ => {}
    }
    Ok(())
}

/// Reads `{n}`, `{n,}` or `{n,m}`: least, most, and how long it is. Other braces are characters.
fn braces(rest: &str) -> Result<Option<(usize, Option<usize>, usize)>, BadPattern> {
    match rest.strip_prefix('{') {
        Some(after) => braces_after(after),
        None => Ok(None),
    }
}

fn braces_after(rest: &str) -> Result<Option<(usize, Option<usize>, usize)>, BadPattern> {
    const MOST: usize = 1000;
    let Some((inside, _)) = rest.split_once('}') else { return Ok(None) };
    let (least, most) = inside.split_once(',').unwrap_or((inside, inside));
    let is_number = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'))
    };
    if !is_number(least) || !(most.is_empty() || is_number(most)) {
        return Ok(None);
    }
    let number = |text: &str| text.parse().ok().filter(|number| *number <= MOST).ok_or(BadPattern);
    let least = number(least)?;
    let most = if most.is_empty() { None } else { Some(number(most)?) };
    match most {
        Some(most) if most < least => Err(BadPattern),
        most => Ok(Some((least, most, inside.len() + 2))),
    }
}

/// Tries all ways through the steps, each place once; with `open_end` it is enough to use up the text.
fn run(steps: &[Step], text: &[u8], open_end: bool) -> bool {
    let width = text.len() + 1;
    let mut seen = vec![0_u64; ((steps.len() + 1) * width).div_ceil(64)];
    let mut places = vec![(0, 0)];
    if !matches!(steps.first(), Some(Step::Start)) {
        // Not anchored: the match may start at any character.
        let mut start = 0;
        while let Some((_, length)) = decode(&text[start..]) {
            start += length;
            places.push((0, start));
        }
    }
    while let Some((step, position)) = places.pop() {
        if open_end && position == text.len() {
            return true;
        }
        let place = step * width + position;
        let bit = 1_u64 << (place % 64);
        if seen[place / 64] & bit != 0 {
            continue;
        }
        seen[place / 64] |= bit;
        let Some(current) = steps.get(step) else { return true };
        let rest = &text[position..];
        let fits = |set: &Set| decode(rest).filter(|(c, _)| set.has(*c)).map(|(_, length)| position + length);
        match current {
            Step::One(set) => places.extend(fits(set).map(|after| (step + 1, after))),
            Step::Maybe(set) => {
                places.push((step + 1, position));
                places.extend(fits(set).map(|after| (step + 1, after)));
            }
            Step::Many(set) => {
                places.push((step + 1, position));
                places.extend(fits(set).map(|after| (step, after)));
            }
            Step::Folders => {
                places.push((step + 1, position));
                let line = rest.split(|&byte| byte == b'\n').next().unwrap_or_default();
                let ends = memchr::memchr_iter(b'/', line).map(|slash| (step + 1, position + slash + 1));
                places.extend(ends);
                if open_end && line.len() == rest.len() {
                    return true;
                }
            }
            Step::Start if position == 0 => places.push((step + 1, position)),
            Step::End if position == text.len() => places.push((step + 1, position)),
            Step::Start | Step::End => {}
            Step::WordBoundary(expected) => {
                let is_word =
                    |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
                let before = position.checked_sub(1).and_then(|index| text.get(index));
                if (is_word(before) != is_word(rest.first())) == *expected {
                    places.push((step + 1, position));
                }
            }
        }
    }
    false
}

/// Reads an escape after its `\`. Go gives letters a meaning of their own, and refuses those without one.
fn escape(rest: &mut &str) -> Result<Step, BadPattern> {
    let c = rest.chars().next().ok_or(BadPattern)?;
    let step = match c {
        'A' => Step::Start,
        'z' => Step::End,
        'b' => Step::WordBoundary(true),
        'B' => Step::WordBoundary(false),
        _ => match shorthand(c) {
            Some((negated, ranges)) => Step::One(Set::Class { negated, ranges: ranges.to_vec() }),
            None => return Ok(Step::One(Set::Character(escaped_character(rest)?))),
        },
    };
    *rest = &rest[1..];
    Ok(step)
}

type Ranges = &'static [(char, char)];

/// Returns the class that an escaped letter stands for, and whether it is meant inside out.
fn shorthand(c: char) -> Option<(bool, Ranges)> {
    let ranges: Ranges = match c.to_ascii_lowercase() {
        'd' => &[('0', '9')],
        's' => &[('\t', '\n'), ('\x0C', '\r'), (' ', ' ')],
        'w' => WORD,
        _ => return None,
    };
    Some((c.is_ascii_uppercase(), ranges))
}

const WORD: Ranges = &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')];

fn escaped_character(rest: &mut &str) -> Result<char, BadPattern> {
    let c = rest.chars().next().ok_or(BadPattern)?;
    let digits = |text: &str, radix, most| text.chars().take(most).take_while(|c| c.is_digit(radix)).count();
    let (code, length) = match c {
        'a' => (7, 1),
        'f' => (12, 1),
        'n' => (10, 1),
        'r' => (13, 1),
        't' => (9, 1),
        'v' => (11, 1),
        'x' if digits(&rest[1..], 16, 2) == 2 => (u32::from_str_radix(&rest[1..3], 16).map_err(|_| BadPattern)?, 3),
        // One digit alone would be a reference to a group.
        '0'..='7' if c == '0' || digits(&rest[1..], 8, 1) == 1 => {
            let length = digits(rest, 8, 3);
            (u32::from_str_radix(&rest[..length], 8).map_err(|_| BadPattern)?, length)
        }
        c if c.is_ascii() && !c.is_ascii_alphanumeric() => (u32::from(c), 1),
        _ => return Err(BadPattern),
    };
    *rest = &rest[length..];
    char::from_u32(code).ok_or(BadPattern)
}

/// Reads a class after its `[`.
fn class(rest: &mut &str) -> Result<Set, BadPattern> {
    let negated = rest.starts_with('^');
    *rest = &rest[usize::from(negated)..];
    let mut ranges = Vec::new();
    let mut first = true;
    loop {
        if let Some(after) = rest.strip_prefix(']').filter(|_| !first) {
            *rest = after;
            return Ok(Set::Class { negated, ranges });
        }
        first = false;
        if named(rest, &mut ranges)? {
            continue;
        }
        if let Some((inside_out, group)) = rest.strip_prefix('\\').and_then(|rest| shorthand(rest.chars().next()?)) {
            *rest = &rest[2..];
            add(&mut ranges, inside_out, group);
            continue;
        }
        let low = class_character(rest)?;
        let high = match rest.strip_prefix('-') {
            Some(after) if !after.is_empty() && !after.starts_with(']') => {
                *rest = after;
                class_character(rest)?
            }
            _ => low,
        };
        if high < low {
            return Err(BadPattern);
        }
        ranges.push((low, high));
    }
}

fn class_character(rest: &mut &str) -> Result<char, BadPattern> {
    if let Some(after) = rest.strip_prefix('\\') {
        *rest = after;
        return escaped_character(rest);
    }
    let c = rest.chars().next().ok_or(BadPattern)?;
    *rest = &rest[c.len_utf8()..];
    Ok(c)
}

/// Adds a group to a class: as it is, or all that is not in it.
fn add(ranges: &mut Vec<(char, char)>, inside_out: bool, group: Ranges) {
    if !inside_out {
        ranges.extend(group);
        return;
    }
    // Groups are ASCII and ascending, so that every gap has an end.
    let mut next = '\0';
    for &(low, high) in group {
        let before = char::from_u32(u32::from(low).wrapping_sub(1)).filter(|_| low > next);
        ranges.extend(before.map(|before| (next, before)));
        next = char::from_u32(u32::from(high) + 1).unwrap_or(char::MAX);
    }
    ranges.push((next, char::MAX));
}

/// Reads `[:alpha:]` and its like inside a class.
fn named(rest: &mut &str, ranges: &mut Vec<(char, char)>) -> Result<bool, BadPattern> {
    let Some(end) = rest.strip_prefix("[:").and_then(|after| after.find(":]")) else { return Ok(false) };
    let name = &rest[2..2 + end];
    let (inside_out, bare) = name.strip_prefix('^').map_or((false, name), |bare| (true, bare));
    let group: Ranges = match bare {
        "alnum" => &[('0', '9'), ('A', 'Z'), ('a', 'z')],
        "alpha" => &[('A', 'Z'), ('a', 'z')],
        "ascii" => &[('\0', '\x7F')],
        "blank" => &[('\t', '\t'), (' ', ' ')],
        "cntrl" => &[('\0', '\x1F'), ('\x7F', '\x7F')],
        "digit" => &[('0', '9')],
        "graph" => &[('!', '~')],
        "lower" => &[('a', 'z')],
        "print" => &[(' ', '~')],
        "punct" => &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')],
        "space" => &[('\t', '\r'), (' ', ' ')],
        "upper" => &[('A', 'Z')],
        "word" => WORD,
        "xdigit" => &[('0', '9'), ('A', 'F'), ('a', 'f')],
        _ => return Err(BadPattern),
    };
    add(ranges, inside_out, group);
    *rest = &rest[2 + end + 2..];
    Ok(true)
}

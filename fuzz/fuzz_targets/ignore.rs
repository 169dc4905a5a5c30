//! `.dockerignore`, and the wildcards of `COPY`.

#![no_main]

mod cost;

use builder::ignore::{Ignore, glob};
use libfuzzer_sys::fuzz_target;

/// Go's `filepath.Match` once more, without classes, as slowly as it can be told.
fn matches_slowly(pattern: &[u8], name: &[u8]) -> bool {
    match pattern {
        [] => name.is_empty(),
        [b'*', rest @ ..] => {
            let run = name.iter().position(|byte| *byte == b'/').unwrap_or(name.len());
            (0..=run).any(|skipped| matches_slowly(rest, &name[skipped..]))
        }
        [b'?', rest @ ..] => !name.is_empty() && name[0] != b'/' && matches_slowly(rest, &name[1..]),
        [b'\\', literal, rest @ ..] | [literal, rest @ ..] => {
            name.first() == Some(literal) && matches_slowly(rest, &name[1..])
        }
    }
}

fn check_glob(pattern: &[u8], name: &[u8]) {
    let matched = glob::matches(pattern, name);
    if !glob::has_wildcard(pattern) {
        assert_eq!(matched, Ok(pattern == name), "without wildcards it is equality");
    }
    let simple = pattern.is_ascii() && name.is_ascii() && !pattern.contains(&b'[');
    let stars = pattern.iter().filter(|byte| **byte == b'*').count();
    if let Ok(matched) = matched
        && simple
        && stars < 5
        && name.len() < 64
    {
        assert_eq!(
            matched,
            matches_slowly(pattern, name),
            "{:?} and {:?}",
            pattern.escape_ascii(),
            name.escape_ascii()
        );
    }
    let escaped: Vec<u8> = name.iter().flat_map(|byte| [b'\\', *byte]).collect();
    if name.is_ascii() {
        assert_eq!(glob::matches(&escaped, name), Ok(true), "escapes protect");
    }
}

fuzz_target!(|data: &[u8]| {
    // The list, a NUL, and paths to ask for, a line each.
    let split = data.iter().position(|byte| *byte == 0);
    let (text, paths) = split.map_or((data, &b"a/b/c\nsrc/main.rs\n.git"[..]), |at| (&data[..at], &data[at + 1..]));
    let parsed = Ignore::parse(text);
    for path in paths.split(|byte| *byte == b'\n').take(40) {
        let clean = glob::clean(path);
        assert_eq!(glob::clean(&clean), clean, "what is clean stays");
        for line in text.split(|byte| *byte == b'\n').take(10) {
            check_glob(line, path);
        }
        let Ok(ignore) = &parsed else { continue };
        let clean = clean.strip_prefix(b"/").unwrap_or(&clean);
        let excludes = ignore.excludes(clean);
        let verdict = ignore.verdict(clean);
        assert_eq!(verdict.excluded, excludes);
        assert!(!excludes || verdict.pattern.as_ref().is_some_and(|pattern| !pattern.starts_with('!')), "{verdict:?}");
        // A walk comes to the same, and what it leaves out has nothing below that is wanted.
        let mut state = ignore.root();
        let mut shut = false;
        let ends =
            clean.iter().enumerate().filter(|(index, byte)| *index > 0 && **byte == b'/').map(|(index, _)| index);
        for end in ends.chain([clean.len()]) {
            let folder = &clean[..end];
            let (excluded, matched) = ignore.step(&state, folder);
            assert!(excluded || !shut, "{:?} is below a folder that a walk leaves out", folder.escape_ascii());
            if end == clean.len() {
                assert_eq!(excluded, excludes, "walked and asked for: {:?}", folder.escape_ascii());
            }
            shut |= excluded && !ignore.may_include_below(folder, &matched);
            state = matched;
        }
    }
    if let Err(error) = &parsed {
        assert!(error.line().is_some(), "a fault without a line");
    }
    if cost::chosen(data) {
        let ask = |text: &[u8]| Ignore::parse(text).is_ok_and(|ignore| ignore.excludes(b"src/some/folder/main.rs"));
        cost::is_linear(b"", text, ask);
        let long: Vec<u8> = paths.iter().copied().filter(|byte| *byte != b'\n').cycle().take(4096).collect();
        if let Ok(ignore) = &parsed {
            cost::is_linear(b"", b"a", |_| ignore.excludes(&long));
        }
    }
});

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// Walks folders top down as a build does, without looking below an excluded one that cannot come back.
fn walk(ignore: &Ignore, paths: &[&str]) -> Vec<String> {
    let mut states: Vec<(String, bool, Matched)> = vec![(String::new(), false, ignore.root())];
    let mut included = Vec::new();
    let mut sorted = paths.to_vec();
    sorted.sort_by_key(|path| path.matches('/').count());
    for path in sorted {
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let Some((_, excluded, state)) = states.iter().find(|(name, ..)| name == parent) else { continue };
        if *excluded && !ignore.may_include_below(parent.as_bytes(), state) {
            continue;
        }
        let (excluded, state) = ignore.step(state, path.as_bytes());
        if !excluded {
            included.push(path.to_owned());
        }
        states.push((path.to_owned(), excluded, state));
    }
    included
}

#[test]
fn two_thousand_lists_take_out_what_moby_takes_out() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/dockerfile-parse/dockerignore.jsonl");
    let records = match fs::read_to_string(&path) {
        Ok(records) => records,
        Err(error) if std::env::var_os("CI").is_some() => panic!("{}: {error}", path.display()),
        Err(_) => {
            println!("skipped: {} is not there", path.display());
            return;
        }
    };
    let mut same = 0;
    let mut differences = Vec::new();
    for line in records.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        let text = record["ignore"].as_str().unwrap();
        let ignore = match (Ignore::parse(text.as_bytes()), record["error"].as_str()) {
            (Ok(ignore), None) => ignore,
            (Err(error), Some(expected)) if error.to_string().starts_with(expected) => {
                same += 1;
                continue;
            }
            (result, expected) => {
                differences.push(format!("{text:?}: {result:?}, not {expected:?}"));
                continue;
            }
        };
        let list = |key: &str| -> Vec<&str> {
            record[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
        };
        let (excluded, included) = (list("excluded"), list("included"));
        let before = differences.len();
        let all: Vec<(&str, bool)> =
            excluded.iter().map(|path| (*path, true)).chain(included.iter().map(|path| (*path, false))).collect();
        for &(path, expected) in &all {
            if ignore.excludes(path.as_bytes()) != expected {
                differences.push(format!("{text:?}: {path:?} should be excluded: {expected}"));
            }
        }
        let paths: Vec<&str> = all.iter().map(|(path, _)| *path).collect();
        let mut walked = walk(&ignore, &paths);
        walked.sort();
        let mut expected: Vec<&str> = included.clone();
        expected.sort_unstable();
        if walked != expected {
            differences.push(format!("{text:?}: the walk gives {walked:?}, not {expected:?}"));
        }
        same += usize::from(before == differences.len());
    }
    assert!(differences.is_empty(), "{} the same; {}", same, differences.join("\n"));
    assert_eq!(same, 2000);
}

#[test]
fn a_path_tells_which_line_decided() {
    let ignore = Ignore::parse(b"# all\n*\n!src\nsrc/*.log\n").unwrap();
    let verdict = |path: &str| {
        let Verdict { excluded, pattern, line } = ignore.verdict(path.as_bytes());
        format!("{excluded} {} {}", pattern.unwrap_or_default(), line.unwrap_or_default())
    };
    assert_eq!(verdict("target"), "true * 2");
    assert_eq!(verdict("src/main.rs"), "false !src 3");
    assert_eq!(verdict("src/a.log"), "true src/*.log 4");
    assert_eq!(Ignore::default().verdict(b"x"), Verdict { excluded: false, pattern: None, line: None });
}

#[test]
fn an_excluded_folder_is_walked_only_for_what_may_come_back() {
    let ignore = Ignore::parse(b"!old/kept\nnode_modules\ntarget\n!target/doc/**\n!*/keep.md\n").unwrap();
    let walks = |folder: &str| {
        let (excluded, matched) = ignore.step(&ignore.root(), folder.as_bytes());
        (excluded, ignore.may_include_below(folder.as_bytes(), &matched))
    };
    assert_eq!(walks("target"), (true, true));
    assert_eq!(walks("node_modules"), (true, true), "*/keep.md");
    let (_, node_modules) = ignore.step(&ignore.root(), b"node_modules");
    let (excluded, inner) = ignore.step(&node_modules, b"node_modules/a");
    assert!(excluded && !ignore.may_include_below(b"node_modules/a", &inner));
    let plain = Ignore::parse(b"!a/b\na\n").unwrap();
    let (excluded, matched) = plain.step(&plain.root(), b"a");
    assert!(excluded && !plain.may_include_below(b"a", &matched), "the exception is before the rule");
}

#[test]
fn the_root_is_never_excluded() {
    let ignore = Ignore::parse(b"**\n.\n/\n").unwrap();
    assert!(!ignore.excludes(b".") && !ignore.excludes(b""));
    assert!(ignore.excludes(b"a"));
}

#[test]
fn names_that_are_not_utf8_match() {
    let ignore = Ignore::parse(b"caf\xE9\n*.\xFF\nx/?\n").unwrap();
    assert!(ignore.excludes(b"caf\xE9"));
    assert!(ignore.excludes(b"a.\xFF"));
    assert!(ignore.excludes(b"x/\xFE"));
    assert!(!ignore.excludes(b"caf\xEA"));
}

#[test]
fn odd_patterns_mean_what_moby_makes_of_them() {
    let table: &[(&str, &str, bool)] = &[
        ("a\\b", "a", true),
        ("a\\b", "ab", false),
        ("x\\d", "x7", true),
        ("*.{js,ts}", "a.js", false),
        ("*.{js,ts}", "a.{js,ts}", true),
        ("a{2}?", "aab", true),
        ("a{2}?", "a{2}b", false),
        ("foo|*bar", "foot", true),
        ("foo|*bar", "x/bar", true),
        ("foo|bar", "foot", false),
        ("foo|bar", "foo|bar", true),
        ("[[:digit:]]x", "7x", true),
        ("[!a]b", "!b", true),
        ("[!a]b", "cb", false),
        ("a^*", "a^", false),
        ("**/a", "a", true),
        ("a/**/b", "a/b", true),
        ("a/**/b", "a/x/y/b", true),
        ("a**", "ab/c", true),
        ("**a", "x/ya", true),
        ("*", "a", true),
        ("?", "é", true),
        ("c+(d)$", "c+(d)$", true),
        ("c+(d)*", "c+(d)", true),
    ];
    for (pattern, path, expected) in table {
        let ignore = Ignore::from_patterns([*pattern]).unwrap();
        assert_eq!(ignore.excludes(path.as_bytes()), *expected, "{pattern} {path}");
    }
    for pattern in ["[", "\\", "a*[", "x\\q*", "*{2}", "a{3,2}*", "a{1001}*", "[b-a]*", "[[:no:]]*"] {
        assert!(Ignore::from_patterns([pattern]).is_err(), "{pattern}");
    }
}

#[test]
fn hostile_patterns_cost_no_exponential_time() {
    let pattern = "*a".repeat(100) + "**/" + &"?*".repeat(100) + "[x]";
    let ignore = Ignore::from_patterns([pattern.as_str()]).unwrap();
    assert!(!ignore.excludes("a".repeat(4000).as_bytes()));
}

proptest! {
    #[test]
    fn no_list_and_no_path_panics(text in proptest::collection::vec(any::<u8>(), 0..60), path in "[a-c/.!\\[\\]é]{0,20}") {
        if let Ok(ignore) = Ignore::parse(&text) {
            let (excluded, matched) = ignore.step(&ignore.root(), path.as_bytes());
            ignore.may_include_below(path.as_bytes(), &matched);
            prop_assert!(!(excluded && ignore.is_empty()));
        }
    }

    #[test]
    fn patterns_of_special_characters_never_panic(text in "[a-c*?/\\[\\]\\\\^!:.$(){}|+bdwsx0-9-]{0,24}", path in "[a-c/]{1,12}") {
        if let Ok(ignore) = Ignore::from_patterns([text.as_str()]) {
            ignore.excludes(path.as_bytes());
        }
    }

    #[test]
    fn a_walk_that_skips_finds_what_a_full_one_finds(
        patterns in proptest::collection::vec("!?(\\*\\*/)?[ab*?]{1,2}(/[ab*]{1,2}){0,2}(/\\*\\*)?", 1..5),
    ) {
        let Ok(ignore) = Ignore::from_patterns(patterns.iter().map(String::as_str)) else { return Ok(()) };
        let names = ["a", "b", "ab"];
        let mut paths: Vec<String> = Vec::new();
        for one in names {
            paths.push(one.to_owned());
            for two in names {
                paths.push(format!("{one}/{two}"));
                paths.extend(names.map(|three| format!("{one}/{two}/{three}")));
            }
        }
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let mut walked = walk(&ignore, &paths);
        let mut full: Vec<String> =
            paths.iter().filter(|path| !ignore.excludes(path.as_bytes())).map(|path| (*path).to_owned()).collect();
        walked.sort();
        full.sort();
        prop_assert_eq!(walked, full);
    }
}

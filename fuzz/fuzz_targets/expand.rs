//! The expander: words, lists of words and heredoc bodies.

#![no_main]

mod cost;

use std::collections::BTreeMap;

use builder::dockerfile::Escape;
use builder::dockerfile::expand::{content, word, word_with_names, words, words_with_names};
use libfuzzer_sys::fuzz_target;

/// Taken apart at the first NUL: variables as `name=value` lines, and the text.
fn parts(data: &str) -> (BTreeMap<String, String>, &str) {
    let (lines, text) = data.split_once('\0').unwrap_or(("a=b c\ne=\np=a/b/c.tar.gz", data));
    let pairs = lines.lines().filter_map(|line| line.split_once('='));
    (pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(), text)
}

fuzz_target!(|data: &[u8]| {
    let Ok(data) = std::str::from_utf8(data) else { return };
    let (variables, text) = parts(data);
    let has_mark = text.starts_with('\u{FEFF}');
    for escape in [Escape::Backslash, Escape::Backtick] {
        let one = word_with_names(text, &variables, escape);
        let several = words_with_names(text, &variables, escape);
        assert_eq!(one.as_ref().ok(), several.as_ref().ok().map(|(_, whole)| whole), "the two ways differ");
        assert_eq!(one.as_ref().err(), several.as_ref().err());
        if let (Ok(one), Ok((several, _))) = (&one, &several) {
            assert!(one.text.len() <= 20 << 20, "a result without bounds");
            assert!(one.used.iter().all(|name| variables.contains_key(name)), "{:?}", one.used);
            assert!(one.unset.iter().all(|name| !variables.contains_key(name)), "{:?}", one.unset);
            // Splitting takes blanks out and nothing else.
            let solid = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            assert_eq!(solid(&several.concat()), solid(&one.text));
            assert!(several.iter().all(|word| !word.is_empty()));
        }
        let special = |c: char| matches!(c, '$' | '\'' | '"') || c == escape.char();
        if !has_mark && !text.contains(special) {
            assert_eq!(word(text, &variables, escape).as_deref(), Ok(text), "plain text is itself");
            if !text.contains("<<") {
                let plain: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
                assert_eq!(words(text, &variables, escape), Ok(plain));
            }
        }
        if !text.contains('\'') {
            let quoted = format!("'{text}'");
            assert_eq!(word(&quoted, &variables, escape).as_deref(), Ok(text), "quotes protect");
            let expected = if text.is_empty() { vec![] } else { vec![text.to_owned()] };
            assert_eq!(words(&quoted, &variables, escape), Ok(expected), "quotes keep a word together");
        }
        // Each character escaped is the text itself; in front of a value nothing else may creep in.
        let escaped: String = text.chars().flat_map(|c| [escape.char(), c]).collect();
        assert_eq!(word(&escaped, &variables, escape).as_deref(), Ok(text), "escapes protect");
    }
    if !has_mark && !text.contains(['$', '\\']) {
        assert_eq!(content(text, &variables).map(|expanded| expanded.text).as_deref(), Ok(text));
    }
    let _ = content(text, &variables);
    if cost::chosen(data.as_bytes()) {
        let run = |bytes: &[u8]| {
            let text = std::str::from_utf8(bytes).expect("repeated text is text");
            let _ = word(text, &variables, Escape::Backslash);
            let _ = words(text, &variables, Escape::Backslash);
            let _ = content(text, &variables);
        };
        for head in ["", "$", "\"", "${a:-", "${p/*", "${p#", "${p%%*"] {
            cost::is_linear(head.as_bytes(), text.as_bytes(), run);
        }
    }
});

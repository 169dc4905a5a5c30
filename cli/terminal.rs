//! Standard output, and whether a person looks at it.

use std::io::{self, IsTerminal, Write};

/// Writes text and a line feed to standard output.
pub(crate) fn print_line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Writes JSON and a line feed to standard output.
///
/// JSON leaves the control characters above ASCII as they are, which some terminals obey.
pub(crate) fn print_json(json: &str) -> io::Result<()> {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\x7f'..='\u{9f}' => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => text.push(c),
        }
    }
    print_line(&text)
}

/// Writes bytes to standard output.
pub(crate) fn print_bytes(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// Writes a note for people to standard error, where it does not mix with results.
pub(crate) fn note(text: &str) {
    // A note that cannot be written has nobody to read it.
    let _: io::Result<()> = writeln!(io::stderr().lock(), "{text}");
}

/// Leaves out what would draw on the terminal: escape sequences, control characters, and what turns the direction of
/// writing. What images, Dockerfiles and registries say is text and nothing else.
pub(crate) fn printable(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => match chars.peek() {
                // Parameters, then one final letter.
                Some('[') => {
                    chars.next();
                    while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
                }
                // A text for the terminal itself, such as its title; BEL or ESC \ ends it.
                Some(']' | 'P' | 'X' | '^' | '_') => {
                    while chars.next_if(|&c| c != '\x07' && c != '\x1b').is_some() {}
                    if chars.next() == Some('\x1b') {
                        chars.next_if_eq(&'\\');
                    }
                }
                _ => {}
            },
            '\t' => text.push_str("    "),
            '\n' => text.push(' '),
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {}
            c if c.is_control() => {}
            c => text.push(c),
        }
    }
    text
}

/// Tells whether standard error is a terminal that can be redrawn.
pub(crate) fn is_live() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Tells whether to use colors on standard error: <https://no-color.org>.
pub(crate) fn has_color() -> bool {
    is_live() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Returns how many columns the terminal behind standard error has.
pub(crate) fn columns() -> usize {
    // A terminal that does not know its size says 0.
    let known = rustix::termios::tcgetwinsize(io::stderr()).ok().map(|size| size.ws_col).filter(|&columns| columns > 0);
    known.map_or(80, usize::from).max(20)
}

/// Returns how many lines the terminal behind standard error shows.
pub(crate) fn rows() -> usize {
    let known = rustix::termios::tcgetwinsize(io::stderr()).ok().map(|size| size.ws_row).filter(|&rows| rows > 0);
    known.map_or(24, usize::from).max(5)
}

/// Writes text to standard error as it is.
pub(crate) fn write(text: &str) {
    // What cannot be drawn has nobody to see it.
    let _: io::Result<()> = io::stderr().lock().write_all(text.as_bytes());
}

/// Returns the size of the terminal that we run on, if there is one.
pub(crate) fn size() -> Option<engine::runtime::Size> {
    let size =
        rustix::termios::tcgetwinsize(io::stdout()).or_else(|_| rustix::termios::tcgetwinsize(io::stdin())).ok()?;
    Some(engine::runtime::Size { rows: size.ws_row, columns: size.ws_col })
}

/// Reads keys such as `ctrl-p,ctrl-q`, which are also what is meant when nothing is given; an empty text is none.
pub(crate) fn detach_keys(text: Option<&str>) -> anyhow::Result<Vec<u8>> {
    let text = text.unwrap_or("ctrl-p,ctrl-q");
    let key = |key: &str| match (key.as_bytes(), key.strip_prefix("ctrl-").map(str::as_bytes)) {
        (&[byte], _) => Ok(byte),
        (_, Some(&[letter @ (b'a'..=b'z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_')])) => {
            Ok(letter.to_ascii_uppercase() & 0x1f)
        }
        _ => anyhow::bail!("Unknown character: '{key}'"),
    };
    text.split(',').filter(|_| !text.is_empty()).map(key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_to_detach_are_read_as_docker_does() {
        assert_eq!(detach_keys(None).expect("the default"), [16, 17]);
        assert_eq!(detach_keys(Some("a,ctrl-],ctrl-@")).expect("keys"), [b'a', 29, 0]);
        assert!(detach_keys(Some("")).expect("none").is_empty());
        for text in ["ctrl-", "ctrl-A", "ab", "a,", "ctrl-ab"] {
            assert!(detach_keys(Some(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn text_cannot_draw_on_the_terminal() {
        for (text, shown) in [
            ("\x1b[31mred\x1b[0m\x07\x1b[2J\ttab", "red    tab"),
            ("\x1b]0;title\x07a", "a"),
            ("\x1b]8;;http://x\x1b\\b\x1bc", "bc"),
            ("\u{9b}2Jc\u{7f}\rd", "2Jcd"),
            ("exe\u{202e}gpj", "exegpj"),
            ("two\nlines äöü", "two lines äöü"),
            ("\x1b]never ends", ""),
        ] {
            assert_eq!(printable(text), shown, "{text:?}");
        }
    }
}

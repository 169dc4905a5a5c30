//! The Dockerfile parser, and what is told about a Dockerfile without a build: lint, outline, targets.

#![no_main]

mod cost;

use builder::dockerfile::{Dockerfile, Escape, Instruction, Span, debug_json, parse, parse_trigger};
use builder::{BuildRequest, Context, DockerfileSource, ImageSource, ImageSourceError, PullPolicy};
use libfuzzer_sys::fuzz_target;

/// Knows no image, so that base images are as unknown as on a machine without network.
struct NoImages;

impl ImageSource for NoImages {
    fn resolve(&self, _: &oci::Reference, _: &oci::Platform, _: PullPolicy) -> Result<store::Image, ImageSourceError> {
        Err(ImageSourceError { message: "no image".to_owned(), hint: None, source: None })
    }
}

fn check_spans(text: &[u8], parsed: &Dockerfile) {
    let mut previous = 0;
    let lines = text.iter().filter(|&&byte| byte == b'\n').count() as u32 + 1;
    let in_text = |span: &Span| {
        let Span { first_line, last_line, bytes } = span;
        assert!(bytes.start <= bytes.end && bytes.end <= text.len(), "{span:?}");
        assert!(*first_line >= 1 && first_line <= last_line && *last_line <= lines, "{span:?}");
    };
    for statement in &parsed.statements {
        in_text(&statement.span);
        let bytes = &statement.span.bytes;
        assert!(previous <= bytes.start, "statements overlap");
        previous = bytes.end;
        for word in statement.flags.iter().chain(&statement.arguments) {
            let (start, end) = (word.bytes.start, word.bytes.end);
            assert!(bytes.start <= start && start <= end && end <= bytes.end, "{word:?} in {bytes:?}");
        }
    }
    parsed.warnings.iter().for_each(|warning| in_text(&warning.span));
}

fuzz_target!(|data: &[u8]| {
    match parse(data) {
        Err(error) => {
            assert!(error.span.bytes.start <= error.span.bytes.end && error.span.bytes.end <= data.len());
            assert!(error.message.len() < data.len() * 6 + 1000, "a message that grows");
        }
        Ok(parsed) => {
            check_spans(data, &parsed);
            let json = debug_json(&parsed);
            // A comment at the end says nothing, also where the last line goes on.
            let end: &[u8] = if data.ends_with(b"\n") { b"# end\n" } else { b"\n# end\n" };
            match parse(&[data, end].concat()) {
                Ok(same) => assert_eq!(json, debug_json(&same), "a comment at the end changed something"),
                Err(error) => panic!("a comment at the end is refused: {error:?}"),
            }
            for statement in &parsed.statements {
                // A trigger keeps the blanks at its end, which the text does not.
                let is_trigger = matches!(statement.instruction, Instruction::Onbuild(_));
                let is_whole = statement.heredocs.is_empty() && parsed.directives.escape == Escape::Backslash;
                let plain = is_whole && !is_trigger;
                if plain && let Ok(alone) = parse_trigger(&statement.text) {
                    assert_eq!(
                        format!("{:?}", alone.instruction),
                        format!("{:?}", statement.instruction),
                        "{:?} means something else alone",
                        statement.text
                    );
                }
            }
        }
    }
    let source = DockerfileSource { name: "Dockerfile".to_owned(), bytes: data.to_vec(), ignore: None };
    let request = BuildRequest::new(Context::None, source, jiff::Timestamp::UNIX_EPOCH);
    let checked = builder::check(&request, &NoImages);
    for warning in &checked.warnings {
        assert!(warning.span.bytes.end <= data.len());
    }
    if let Some(error) = &checked.error {
        error.render(false);
    }
    let _ = builder::outline(&request, &NoImages);
    let _ = builder::targets(&request);
    if cost::chosen(data) {
        cost::is_linear(b"FROM a\n", data, parse);
        cost::is_linear(b"FROM a\nRUN ", data, parse);
        let line: Vec<u8> = data.iter().copied().filter(|byte| *byte != b'\n').collect();
        for head in ["FROM a\nENV ", "FROM a\nRUN --mount=", "FROM a\nCOPY <<", "FROM a\nCMD [", "FROM a\nLABEL "] {
            cost::is_linear(head.as_bytes(), &line, parse);
        }
    }
});

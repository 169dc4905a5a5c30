use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// The records of BuildKit's parser; `None`, with a print, where they are not beside the repository.
fn shared(name: &str) -> Option<String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/dockerfile-parse").join(name);
    match fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error) if std::env::var_os("CI").is_some() => panic!("{}: {error}", path.display()),
        Err(_) => {
            println!("skipped: {} is not there", path.display());
            None
        }
    }
}

fn records(name: &str) -> Vec<Value> {
    shared(name).unwrap_or_default().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn text_of(record: &Value) -> Vec<u8> {
    match record.get("bytes") {
        Some(hex) => hex
            .as_str()
            .unwrap()
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect(),
        None => record["text"].as_str().unwrap_or_default().as_bytes().to_vec(),
    }
}

/// How BuildKit words an error: with the line, when the line was taken apart without one.
fn wordings(error: &ParseError) -> [String; 2] {
    let suggestion = error.suggestion.as_ref().map_or(String::new(), |word| format!(" (did you mean {word}?)"));
    let message = format!("{}{suggestion}", error.message);
    [format!("dockerfile parse error on line {}: {message}", error.span.first_line), message]
}

fn agrees_with_buildkit(file: &str) {
    let mut differences = Vec::new();
    let records = records(file);
    for record in &records {
        let name = &record["name"];
        match (parse(&text_of(record)), record["error"].as_str()) {
            (Ok(parsed), None) => {
                let ours = debug_json(&parsed);
                for key in ["instructions", "escape", "warnings"] {
                    if ours.get(key) != record.get(key) {
                        let (ours, theirs) = (ours.get(key), record.get(key));
                        differences.push(format!("{name} {key}:\n  {ours:?}\n  {theirs:?}"));
                    }
                }
            }
            (Err(error), Some(expected)) => {
                if !wordings(&error).iter().any(|wording| wording == expected) {
                    differences.push(format!("{name}: {:?}, not {expected:?}", wordings(&error)));
                }
            }
            (Ok(_), Some(expected)) => differences.push(format!("{name}: accepted, should be {expected:?}")),
            (Err(error), None) => differences.push(format!("{name}: refused: {:?}", wordings(&error))),
        }
    }
    assert!(differences.is_empty(), "{} of {}:\n{}", differences.len(), records.len(), differences.join("\n"));
    println!("{file}: {} the same", records.len());
}

#[test]
fn real_files_are_read_as_buildkit_reads_them() {
    agrees_with_buildkit("real.jsonl");
}

#[test]
fn buildkits_own_test_files_are_read_as_buildkit_reads_them() {
    agrees_with_buildkit("buildkit.jsonl");
}

#[test]
fn edge_cases_are_read_as_buildkit_reads_them() {
    agrees_with_buildkit("edge.jsonl");
}

#[test]
fn variables_expand_as_in_buildkits_table() {
    let variables: BTreeMap<String, String> = [("PWD", "/home"), ("SHELL", "bash"), ("KOREAN", "한국어"), ("NULL", "")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let mut rows = 0;
    let mut differences = Vec::new();
    for line in shared("envVarTest").unwrap_or_default().lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let [platform, input, expected] = line.split('|').map(str::trim).collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        // On Windows the names of variables ignore case; nothing is built there.
        if platform == "W" {
            continue;
        }
        rows += 1;
        let ours = expand::word(input, &variables, Escape::Backslash);
        if ours.as_deref().unwrap_or("error") != expected {
            differences.push(format!("{input}: {ours:?}, not {expected:?}"));
        }
    }
    println!("{rows} rows");
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn words_split_as_in_buildkits_table() {
    let mut variables: Vec<(String, String)> = Vec::new();
    let mut differences = Vec::new();
    for line in shared("wordsTest").unwrap_or_default().lines() {
        if line.starts_with('#') {
            continue;
        }
        if let Some(variable) = line.strip_prefix("ENV ") {
            let (name, value) = variable.trim_start_matches(' ').split_once('=').unwrap();
            variables.push((name.to_owned(), value.to_owned()));
            continue;
        }
        let (input, expected) = line.split_once('|').unwrap();
        let expected: Vec<&str> = expected.trim_start_matches(' ').split(',').collect();
        let ours = expand::words(input.trim(), &variables, Escape::Backslash);
        let ours = ours.unwrap_or_else(|_| vec!["error".to_owned()]);
        if ours != expected {
            differences.push(format!("{input}: {ours:?}, not {expected:?}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// The text of a file at a place.
fn at(text: &str, bytes: &std::ops::Range<usize>) -> String {
    text[bytes.clone()].to_owned()
}

#[test]
fn every_part_knows_its_bytes_in_the_file() {
    let text = "\u{FEFF}# syntax=x\n\n  FROM --platform=p \\\n # why\n    alpine   AS  \\\n b\nRUN --mount=type=cache,target=/x <<A cat \\\n y\nbody\nA\nENV a=\"b c\" d=e\nCMD [\"x\", \"y\"]";
    let parsed = parse(text.as_bytes()).unwrap();
    let [from, run, env, cmd] = &parsed.statements[..] else { panic!() };
    assert_eq!((from.span.first_line, from.span.last_line), (3, 6));
    assert_eq!(at(text, &from.flags[0].bytes), "--platform=p");
    let words: Vec<String> = from.arguments.iter().map(|word| at(text, &word.bytes)).collect();
    assert_eq!(words, ["alpine", "AS", "b"]);
    assert_eq!((run.span.first_line, run.span.last_line), (7, 10));
    assert_eq!(at(text, &run.flags[0].bytes), "--mount=type=cache,target=/x");
    assert!(at(text, &run.span.bytes).ends_with("body\nA"));
    let words: Vec<String> = env.arguments.iter().map(|word| at(text, &word.bytes)).collect();
    assert_eq!(words, ["a", "\"b c\"", "=", "d", "e", "="]);
    let words: Vec<String> = cmd.arguments.iter().map(|word| at(text, &word.bytes)).collect();
    assert_eq!(words, ["\"x\"", "\"y\""]);
}

#[test]
fn errors_point_at_the_word_and_suggest_another() {
    let error = |text: &str| {
        let error = parse(text.as_bytes()).unwrap_err();
        let ParseError { message, span, suggestion, .. } = error;
        format!("{}: `{}` {message} {suggestion:?}", span.first_line, at(text, &span.bytes))
    };
    insta::assert_snapshot!(error("FROM a\nRNU x"), @r#"2: `RNU` unknown instruction: RNU Some("RUN")"#);
    insta::assert_snapshot!(error("FROM a\ncoppy x"), @r#"2: `coppy` unknown instruction: coppy Some("copy")"#);
    insta::assert_snapshot!(error("FROM a\nCOPY --chwon=1 \\\n b c"), @r#"2: `--chwon=1` unknown flag: --chwon Some("chown")"#);
    insta::assert_snapshot!(error("FROM a\nCOPY --link \\\n--form=b c d"), @r#"3: `--form=b` unknown flag: --form Some("from")"#);
    insta::assert_snapshot!(error("FROM a AS 1b"), @r#"1: `1b` invalid name for build stage: "1b", name can't start with a number or contain symbols None"#);
    insta::assert_snapshot!(error("FROM a\nRUN --network=x y"), @r#"2: `--network=x` invalid network mode "x" None"#);
    insta::assert_snapshot!(error("FROM a\nRUN --mount=from=$x y"), @"2: `--mount=from=$x` 'from' doesn't support variable expansion, define alias stage instead None");
    insta::assert_snapshot!(error("FROM a\nCMD [1]"), @"2: `[1]` when using JSON array syntax, arrays must be comprised of strings only None");
    insta::assert_snapshot!(error("FROM a\nHEALTHCHECK --interval=1 CMD x"), @r#"2: `--interval=1` time: missing unit in duration "1" None"#);
    insta::assert_snapshot!(error("FROM a\nHEALTHCHECK --interval=1us CMD x"), @r#"2: `--interval=1us` Interval "interval" cannot be less than 1ms None"#);
    insta::assert_snapshot!(error("FROM a\nONBUILD FROM b"), @"2: `FROM` FROM isn't allowed as an ONBUILD trigger None");
    insta::assert_snapshot!(error("# escape=x\nFROM a"), @"1: `# escape=x` invalid escape token 'x' does not match ` or \\ None");
    insta::assert_snapshot!(error("# check=a\n# check=b\nFROM a"), @"2: `# check=b` only one check parser directive can be used None");
    insta::assert_snapshot!(error("FROM a\nCOPY <<x <<y\nx\ny"), @"2: `<<y` COPY cannot accept a heredoc as a destination None");
    insta::assert_snapshot!(error("FROM a\nVOLUME [\"\"]"), @r#"2: `""` VOLUME specified can not be an empty string None"#);
    insta::assert_snapshot!(error("FROM a\nENV =b"), @"2: `ENV =b` ENV names can not be blank None");
}

#[test]
fn instructions_are_typed() {
    let text = "FROM a\nHEALTHCHECK --interval=1m30s --timeout=1.5s --retries=3 CMD curl x\nCOPY --link --exclude=*.md --exclude=b --chmod=u+x --from=a <<-\"E\" s d/\n\tx\n\tE\nADD --unpack=false --keep-git-dir a b\nRUN --security=insecure --network=host --device=v/c=n,required [\"x\"]\nARG A B= C=d\nEXPOSE 90 80/tcp\nSHELL [\"s\"]\nONBUILD COPY <<A /\nx\nA\n";
    let parsed = parse(text.as_bytes()).unwrap();
    let shown: Vec<String> = parsed.statements.iter().map(|statement| format!("{:?}", statement.instruction)).collect();
    insta::assert_snapshot!(shown.join("\n"), @r#"
    From(FromStage { base: "a", name: None, platform: None })
    Healthcheck(Command { command: Shell("curl x"), interval: 90s, timeout: 1.5s, start_period: 0ns, start_interval: 0ns, retries: 3 })
    Copy(CopyFiles { transfer: Transfer { sources: ["s"], inline_files: [InlineFile { name: "E", content: [120, 10], expand: false }], destination: "d/", chown: None, chmod: Some("u+x"), link: true, exclude: ["*.md", "b"] }, from: Some("a"), parents: false })
    Add(AddFiles { transfer: Transfer { sources: ["a"], inline_files: [], destination: "b", chown: None, chmod: None, link: false, exclude: [] }, checksum: None, keep_git_dir: Some(true), unpack: Some(false) })
    Run(RunCommand { command: Exec(["x"]), heredocs: [], mounts: [], network: Some(Host), security: Some(Insecure), devices: [Device { name: "v/c=n", required: true }] })
    Arg([BuildArg { name: "A", default: None }, BuildArg { name: "B", default: Some("") }, BuildArg { name: "C", default: Some("d") }])
    Expose(["80/tcp", "90"])
    Shell(["s"])
    Onbuild("COPY <<A /\nx\nA")
    "#);
}

#[test]
fn a_trigger_is_one_instruction() {
    let Instruction::Onbuild(trigger) =
        &parse(b"FROM a\nONBUILD  COPY <<A <<B /\nx\nA\ny\nB").unwrap().statements[1].instruction.clone()
    else {
        panic!()
    };
    assert_eq!(trigger, "COPY <<A <<B /\nx\nA\ny\nB");
    let Instruction::Copy(copy) = parse_trigger(trigger).unwrap().instruction else { panic!() };
    assert_eq!(copy.transfer.inline_files.len(), 2);
    for text in ["", "# x", "RUN a\nRUN b", "FOO", "RUN <<A"] {
        assert!(parse_trigger(text).is_err(), "{text}");
    }
}

#[test]
fn directives_are_read_only_at_the_top() {
    let directives = |text: &str| {
        let directives = parse(text.as_bytes()).unwrap().directives;
        let value = |directive: Option<Directive>| directive.map_or("-".to_owned(), |found| found.value);
        format!("{} {} {}", value(directives.syntax), value(directives.check), directives.escape.char())
    };
    assert_eq!(directives("# syntax = a b \n#check=skip=x\n# escape=`\nFROM a"), "a b skip=x `");
    assert_eq!(directives("\n# syntax=a\nFROM a"), "- - \\");
    assert_eq!(directives("# x\n# escape=`\nFROM a"), "- - \\");
    assert_eq!(directives("#!/bin/x\n# syntax=a\nFROM a"), "a - \\");
    assert_eq!(directives("# other=1\n# syntax=a\nFROM a"), "- - \\");
    assert_eq!(directives("# SYNTAX=a\r\nFROM a"), "a - \\");
}

#[test]
fn the_text_alone_shows_some_lint() {
    let text = "FROM a as B\nmaintainer x\nENV a b\nCMD x\nCMD [\"y\"]\nFROM b AS b\nSHELL [\"s\"]\nCMD z\nFROM b as scratch\nCMD z\nRUN x \\\n\n y\n";
    let warnings = parse(text.as_bytes()).unwrap().warnings;
    let shown: Vec<String> = warnings
        .iter()
        .map(|warning| format!("{} {}: {}", warning.span.first_line, warning.rule.name(), warning.message))
        .collect();
    insta::assert_snapshot!(shown.join("\n"), @r#"
    1 StageNameCasing: Stage name 'B' should be lowercase
    1 FromAsCasing: 'as' and 'FROM' keywords' casing do not match
    2 ConsistentInstructionCasing: Command 'maintainer' should match the case of the command majority (uppercase)
    2 MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label
    3 LegacyKeyValueFormat: "ENV key=value" should be used instead of legacy "ENV key value" format
    4 JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals
    4 MultipleInstructionsDisallowed: Multiple CMD instructions should not be used in the same stage because only the last one will be used
    6 DuplicateStageName: Duplicate stage name "b", stage names should be unique
    9 FromAsCasing: 'as' and 'FROM' keywords' casing do not match
    9 ReservedStageName: Stage name should not use the same name as reserved stage "scratch"
    12 NoEmptyContinuation: Empty continuation line
    "#);
}

#[test]
fn mounts_are_resolved_once_variables_are_known() {
    let variables: BTreeMap<String, String> = [("d".to_owned(), "/x".to_owned())].into();
    let resolve = |text: &str| {
        let flag = MountFlag::parse(text).map_err(|refusal| refusal.message)?;
        flag.resolve(&mut |text| expand::word(text, &variables, Escape::Backslash)).map_err(|error| error.to_string())
    };
    let cache = resolve("type=cache,target=$d/y,sharing=Locked,mode=0700,uid=1,gid=2,from=s,id=a").unwrap();
    assert_eq!(
        (cache.kind, cache.target.as_deref(), cache.sharing, cache.mode, cache.read_only),
        (MountKind::Cache, Some("/x/y"), Some(Sharing::Locked), Some(0o700), false)
    );
    assert_eq!(resolve("target=/a,\"source=b,c\"").unwrap().source.as_deref(), Some("b,c"));
    assert!(resolve("target=/a").unwrap().read_only);
    assert!(!resolve("target=/a,rw").unwrap().read_only);
    assert!(!resolve("target=/a,ro=0").unwrap().read_only);
    assert_eq!(resolve("type=tmpfs,target=/a,size=1.5GiB").unwrap().size, Some(3 << 29));
    assert_eq!(resolve("type=tmpfs,target=/a,size=64 m").unwrap().size, Some(64 << 20));
    assert!(resolve("type=secret,id=a,required,env=A").unwrap().required);
    for (text, expected) in [
        ("type=chache,target=/a", "unsupported mount type \"chache\""),
        ("target=/a,required", "unexpected key 'required' for mount type 'bind'"),
        ("target=/a,x", "invalid field 'x' must be a key=value pair"),
        ("traget=/a", "unexpected key 'traget' in 'traget=/a'"),
        ("type=secret", "invalid secret mount. one of source, target required"),
        ("type=secret,id=a,src=b", "both source and id can't be set"),
        ("type=secret,id=a,from=b", "secret mount should not have a from"),
        ("target=/a,sharing=locked", "invalid cache sharing set for bind mount"),
        ("target=/a,mode=0700", "mode not allowed for \"bind\" type mounts"),
        ("type=cache,uid=-1", "invalid value -1 for uid"),
        ("type=tmpfs,size=1x", "invalid value for size: 1x"),
        ("target=${d", "failed to process `${d`: syntax error: missing '}'"),
        ("", "failed to parse csv mounts: EOF"),
        ("a\"b", "failed to parse csv mounts: parse error on line 1, column 2: bare \" in non-quoted field"),
        (
            "\"a",
            "failed to parse csv mounts: parse error on line 1, column 2: extraneous or missing \" in quoted-field",
        ),
    ] {
        assert_eq!(resolve(text).unwrap_err(), expected, "{text}");
    }
}

#[test]
fn a_body_keeps_its_quotes_and_its_bytes() {
    let variables: BTreeMap<String, String> = [("a".to_owned(), "x".to_owned())].into();
    let expanded = expand::content("\"$a\" '$a' \\$a ${b:-c} $d <<x\n", &variables).unwrap();
    assert_eq!(expanded.text, "\"x\" 'x' $a c  <<x\n");
    assert_eq!(expanded.unset.into_iter().collect::<Vec<_>>(), ["b", "d"]);
    assert_eq!(expanded.used.into_iter().collect::<Vec<_>>(), ["a"]);
    let parsed = parse(b"FROM a\nCOPY <<b /\n\xFF\r\nb\nRUN caf\xE9").unwrap();
    let Instruction::Copy(copy) = &parsed.statements[1].instruction else { panic!() };
    assert_eq!(copy.transfer.inline_files[0].content, b"\xFF\r\n");
    assert_eq!(parsed.statements[2].text, "RUN caf\u{FFFD}");
}

/// Where BuildKit is wrong on its own terms we are not: it forgets what is before a nested substitution when it
/// splits words, and reads flags as Latin-1.
#[test]
fn known_differences_from_buildkit() {
    let variables: BTreeMap<String, String> = BTreeMap::new();
    assert_eq!(expand::words("80${x:-80}", &variables, Escape::Backslash).unwrap(), ["8080"]);
    let parsed = parse("FROM a\nCOPY --exclude=é\u{a0}à b c".as_bytes()).unwrap();
    assert_eq!(parsed.statements[1].flags[0].text, "--exclude=é\u{a0}à");
}

#[test]
fn patterns_in_substitutions_take_the_right_part() {
    let variables: BTreeMap<String, String> = [("p", "a/b/c.tar.gz"), ("l", "a\nb"), ("e", ""), ("u", "äöä")]
        .map(|(n, v)| (n.to_owned(), v.to_owned()))
        .into();
    for (text, expected) in [
        ("${p#*/}", "b/c.tar.gz"),
        ("${p##*/}", "c.tar.gz"),
        ("${p%.*}", "a/b/c.tar"),
        ("${p%%.*}", "a/b/c"),
        ("${p/\\//-}", "a-b/c.tar.gz"),
        ("${p//\\//-}", "a-b-c.tar.gz"),
        ("${p//[/x}", "a/b/c.tar.gz"),
        ("${p/b*/x}", "a/x"),
        ("${l#*}", "a\nb"),
        ("${l##*}", "\nb"),
        ("${e/*/x}", "x"),
        ("${e//x/y}", ""),
        ("${u//ä/ae}", "aeöae"),
        ("${u%?}", "äö"),
        ("${u//*/x}", "x"),
        ("${p#x}", "a/b/c.tar.gz"),
        ("${q##*}", ""),
    ] {
        assert_eq!(expand::word(text, &variables, Escape::Backslash).as_deref(), Ok(expected), "{text}");
    }
    assert!(expand::word("${p#\\x}", &variables, Escape::Backslash).is_err());
}

#[test]
fn hostile_variables_are_refused_and_cost_little() {
    let mut variables: BTreeMap<String, String> = [("a".to_owned(), "x".repeat(1 << 20))].into();
    let doubled = "$a".repeat(64);
    assert!(expand::word(&doubled, &variables, Escape::Backslash).is_err());
    let nested = "${b:-".repeat(100_000);
    assert!(expand::word(&nested, &variables, Escape::Backslash).is_err());
    assert!(expand::content(&nested, &variables).is_err());
    let pattern = format!("${{a//{}b/}}", "*x".repeat(10_000));
    assert!(expand::word(&pattern, &variables, Escape::Backslash).is_err());
    variables.insert("a".to_owned(), "x".repeat(1000));
    let pattern = format!("${{a//{}b/}}", "*x".repeat(500));
    assert_eq!(expand::word(&pattern, &variables, Escape::Backslash).unwrap().len(), 1000);
}

#[test]
fn junk_is_refused_at_once() {
    let junk: Vec<u8> = (0..10_u32 << 20).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for (text, expected) in [
        (junk, "unknown instruction: "),
        (vec![b'x'; 10 << 20], "dockerfile line greater than max allowed size"),
        (vec![0; 10 << 20], "dockerfile line greater than max allowed size"),
        (b"FROM a\nRUN <<E\n".repeat(700_000), "unterminated heredoc"),
        (b"\\\n".repeat(1 << 20), "unknown instruction: "),
        ([b"FROM a\n".to_vec(), b"ONBUILD ".repeat(8000)].concat(), "Chaining ONBUILD"),
    ] {
        let started = std::time::Instant::now();
        let error = parse(&text).unwrap_err();
        assert!(error.message.starts_with(expected), "{}", error.message);
        assert!(error.message.len() < 1000 && started.elapsed().as_secs() < 5, "{expected}: {:?}", started.elapsed());
    }
}

fn check_spans(text: &[u8], parsed: &Dockerfile) {
    let mut previous = 0;
    let lines = u32::try_from(text.iter().filter(|&&byte| byte == b'\n').count() + 1).unwrap();
    for statement in &parsed.statements {
        let Span { first_line, last_line, bytes } = &statement.span;
        assert!(previous <= bytes.start && bytes.start <= bytes.end && bytes.end <= text.len());
        assert!(*first_line >= 1 && first_line <= last_line && *last_line <= lines);
        previous = bytes.end;
        for word in statement.flags.iter().chain(&statement.arguments) {
            let Range { start, end } = word.bytes;
            assert!(bytes.start <= start && start <= end && end <= bytes.end, "{word:?} in {bytes:?}");
        }
    }
    debug_json(parsed);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_bytes_panic_and_spans_are_in_bounds(tail in proptest::collection::vec(any::<u8>(), 0..200)) {
        for text in [tail.clone(), [b"FROM a\nRUN ".as_slice(), &tail].concat()] {
            match parse(&text) {
                Ok(parsed) => check_spans(&text, &parsed),
                Err(error) => prop_assert!(error.span.bytes.end <= text.len()),
            }
        }
    }

    #[test]
    fn no_mix_of_dockerfile_words_panics(words in proptest::collection::vec(
        prop::sample::select(vec![
            "FROM", "RUN", "COPY", "ADD", "ENV", "ARG", "LABEL", "ONBUILD", "HEALTHCHECK", "CMD", "SHELL", "EXPOSE", "VOLUME",
            "\n", "\n", "\r\n", " ", " ", "\t", "\\\n", "\\", "`", "# escape=`\n", "#", "<<", "<<-", "EOF", "\nEOF\n", "\"", "'",
            "[", "]", ",", "\"a\"", "--", "--mount=", "--from=x", "type=cache", "=", "$", "${", "}", ":-", "//", "a", "é", "\u{a0}", "1",
        ]), 0..40,
    )) {
        for text in [words.concat(), format!("FROM a\n{}", words.concat())] {
            match parse(text.as_bytes()) {
                Ok(parsed) => check_spans(text.as_bytes(), &parsed),
                Err(error) => prop_assert!(error.span.bytes.end <= text.len() && text.get(error.span.bytes).is_some()),
            }
            let variables: BTreeMap<String, String> = [("a".to_owned(), "b c".to_owned())].into();
            for escape in [Escape::Backslash, Escape::Backtick] {
                let _ = expand::word(&text, &variables, escape);
                let _ = expand::words(&text, &variables, escape);
            }
            let _ = expand::content(&text, &variables);
        }
    }
}

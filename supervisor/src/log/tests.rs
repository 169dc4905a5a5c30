use std::collections::BTreeMap;

use super::read::{LogReader, Selection};
use super::*;

fn options(config: &[(&str, &str)]) -> LogOptions {
    let config: BTreeMap<_, _> = config.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    LogOptions::parse(&LogConfig { kind: "json-file".into(), config }).expect("valid")
}

fn time(second: i64) -> Timestamp {
    Timestamp::new(second, 500).expect("in range")
}

fn texts(path: &Path, selection: &Selection) -> Vec<String> {
    let mut lines = Vec::new();
    let mut reader = LogReader::open(path, Format::Json, selection).expect("readable");
    reader.read(&mut |line| lines.push(String::from_utf8_lossy(&line.text).into_owned())).expect("read");
    lines
}

#[test]
fn lines_are_written_as_docker_writes_them() {
    let folder = tempfile::tempdir().expect("tempdir");
    let path = folder.path().join("log.json");
    let mut log = Log::open(&path, options(&[])).expect("open").expect("kept");
    log.write(LogStream::Stdout, b"a \"line\"\nhalf", time(0)).expect("written");
    log.write(LogStream::Stderr, b"<err>\xff\x01\n", time(1)).expect("written");
    log.write(LogStream::Stdout, b" a line\nrest", time(2)).expect("written");
    log.finish(time(3)).expect("written");
    let text = fs::read_to_string(&path).expect("there");
    assert_eq!(
        text,
        concat!(
            "{\"log\":\"a \\\"line\\\"\\n\",\"stream\":\"stdout\",\"time\":\"1970-01-01T00:00:00.0000005Z\"}\n",
            "{\"log\":\"\\u003cerr\\u003e\\ufffd\\u0001\\n\",\"stream\":\"stderr\",\"time\":\"1970-01-01T00:00:01.0000005Z\"}\n",
            "{\"log\":\"half a line\\n\",\"stream\":\"stdout\",\"time\":\"1970-01-01T00:00:02.0000005Z\"}\n",
            "{\"log\":\"rest\",\"stream\":\"stdout\",\"time\":\"1970-01-01T00:00:03.0000005Z\"}\n",
        )
    );
    for line in text.lines() {
        serde_json::from_str::<serde_json::Value>(line).expect("JSON");
    }
}

#[test]
fn kubernetes_format_marks_pieces() {
    let folder = tempfile::tempdir().expect("tempdir");
    let path = folder.path().join("log");
    let cri = LogOptions { format: Some(Format::Cri), max_size: None, max_file: 1 };
    let mut log = Log::open(&path, cri).expect("open").expect("kept");
    log.write(LogStream::Stdout, b"one\n", time(0)).expect("written");
    log.write(LogStream::Stderr, &[b'x'; LONGEST_LINE], time(0)).expect("written");
    log.write(LogStream::Stderr, b"y\n", time(0)).expect("written");
    let text = fs::read_to_string(&path).expect("there");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "1970-01-01T00:00:00.0000005Z stdout F one");
    assert!(lines[1].contains(" stderr P xxx") && lines[2].ends_with(" stderr F y"), "{lines:?}");
    let mut read = Vec::new();
    let mut reader = LogReader::open(&path, Format::Cri, &Selection::default()).expect("readable");
    reader.read(&mut |line| read.push((line.stream, line.text.len()))).expect("read");
    assert_eq!(read, [(LogStream::Stdout, 4), (LogStream::Stderr, LONGEST_LINE), (LogStream::Stderr, 2)]);
}

#[test]
fn old_files_go_when_there_are_too_many() {
    let folder = tempfile::tempdir().expect("tempdir");
    let path = folder.path().join("log.json");
    let mut log = Log::open(&path, options(&[("max-size", "1k"), ("max-file", "3")])).expect("open").expect("kept");
    for number in 0..100 {
        log.write(LogStream::Stdout, format!("line {number}\n").as_bytes(), time(number)).expect("written");
    }
    let mut names: Vec<_> =
        fs::read_dir(folder.path()).expect("listed").map(|entry| entry.expect("entry").file_name()).collect();
    names.sort();
    assert_eq!(names, ["log.json", "log.json.1", "log.json.2"]);
    let all = texts(&path, &Selection::default());
    assert_eq!(all.last().map(String::as_str), Some("line 99\n"));
    assert!(all.len() > 20 && all.len() < 100, "{}", all.len());
    let first: i64 = all[0][5..].trim().parse().expect("a number");
    let expected: Vec<String> = (first..100).map(|number| format!("line {number}\n")).collect();
    assert_eq!(all, expected, "in order, without gaps");
    let mut one = Log::open(&folder.path().join("one"), options(&[("max-size", "100")])).expect("open").expect("kept");
    for number in 0..10 {
        one.write(LogStream::Stdout, b"x\n", time(number)).expect("written");
    }
    assert!(fs::metadata(folder.path().join("one")).expect("there").len() < 200);
}

#[test]
fn a_part_of_a_log_is_chosen() {
    let folder = tempfile::tempdir().expect("tempdir");
    let path = folder.path().join("log.json");
    let mut log = Log::open(&path, options(&[])).expect("open").expect("kept");
    for number in 0..5 {
        log.write(LogStream::Stdout, format!("{number}\n").as_bytes(), time(number)).expect("written");
    }
    assert_eq!(texts(&path, &Selection { tail: Some(2), ..Selection::default() }), ["3\n", "4\n"]);
    assert_eq!(texts(&path, &Selection { tail: Some(0), ..Selection::default() }), Vec::<String>::new());
    assert_eq!(texts(&path, &Selection { since: Some(time(3)), ..Selection::default() }), ["3\n", "4\n"]);
    assert_eq!(texts(&path, &Selection { until: Some(time(1)), ..Selection::default() }), ["0\n", "1\n"]);
    let mut reader = LogReader::open(&path, Format::Json, &Selection::default()).expect("readable");
    let mut count = 0;
    reader.read(&mut |_| count += 1).expect("read");
    log.write(LogStream::Stdout, b"5\n", time(5)).expect("written");
    reader.read(&mut |_| count += 1).expect("read on");
    assert_eq!(count, 6);
}

#[test]
fn options_are_dockers() {
    let parse = |kind: &str, option: &str, value: &str| {
        let config = [(option.to_owned(), value.to_owned())].into_iter().collect();
        LogOptions::parse(&LogConfig { kind: kind.into(), config })
    };
    assert_eq!(parse("json-file", "max-size", "10m").map(|options| options.max_size), Ok(Some(10 << 20)));
    assert_eq!(parse("none", "max-file", "2").map(|options| options.format), Ok(None));
    assert!(matches!(parse("syslog", "max-size", "1"), Err(LogError::Driver { .. })));
    assert!(matches!(parse("json-file", "max-sizes", "1"), Err(LogError::Option { .. })));
    for value in ["", "x", "1x", "0", "99999999999999999999"] {
        assert!(matches!(parse("json-file", "max-size", value), Err(LogError::Value { .. })), "{value}");
    }
}

//! A line taken apart becomes a typed instruction, or is refused.

use std::time::Duration;

use super::flags::{Flags, Refusal, Takes};
use super::frame::{Frame, Part};
use super::heredoc;
use super::instruction::{
    AddFiles, BuildArg, CommandLine, CopyFiles, FromStage, Healthcheck, Heredoc, InlineFile, Instruction, KeyValue,
    RunCommand, RunNetwork, RunSecurity, Transfer,
};
use super::mount::{self, MountFlag};
use super::suggest;

/// All words, in upper case.
const WORDS: [&str; 18] = [
    "FROM",
    "RUN",
    "COPY",
    "ADD",
    "ARG",
    "ENV",
    "CMD",
    "ENTRYPOINT",
    "WORKDIR",
    "USER",
    "LABEL",
    "EXPOSE",
    "VOLUME",
    "SHELL",
    "STOPSIGNAL",
    "HEALTHCHECK",
    "ONBUILD",
    "MAINTAINER",
];

/// Types a line; `line` is its text as it was framed.
pub(super) fn instruction(frame: &Frame, heredocs: &[Heredoc], line: &str) -> Result<Instruction, Refusal> {
    Ok(match frame.word.text.to_ascii_lowercase().as_str() {
        "add" => Instruction::Add(add(frame, heredocs)?),
        "arg" => Instruction::Arg(arg(frame)?),
        "cmd" => Instruction::Cmd(command_without_flags(frame)?),
        "copy" => Instruction::Copy(copy(frame, heredocs)?),
        "entrypoint" => Instruction::Entrypoint(command_without_flags(frame)?),
        "env" => Instruction::Env(pairs(frame, "ENV")?),
        "expose" => Instruction::Expose(expose(frame)?),
        "from" => Instruction::From(from(frame)?),
        "healthcheck" => Instruction::Healthcheck(healthcheck(frame)?),
        "label" => Instruction::Label(pairs(frame, "LABEL")?),
        "maintainer" => Instruction::Maintainer(one_argument(frame, "MAINTAINER")?),
        "onbuild" => Instruction::Onbuild(onbuild(frame, heredocs, line)?),
        "run" => Instruction::Run(run(frame, heredocs)?),
        "shell" => Instruction::Shell(shell(frame)?),
        "stopsignal" => match frame.arguments.as_slice() {
            [signal] => Instruction::StopSignal(signal.text.clone()),
            _ => return Err("STOPSIGNAL requires exactly one argument".into()),
        },
        "user" => Instruction::User(one_argument(frame, "USER")?),
        "volume" => Instruction::Volume(volume(frame)?),
        "workdir" => Instruction::Workdir(one_argument(frame, "WORKDIR")?),
        _ => return Err(unknown(&frame.word)),
    })
}

fn unknown(word: &Part) -> Refusal {
    let upper = word.text.to_uppercase();
    let suggestion = suggest::closest(&upper, WORDS).map(|found| match word.text.to_lowercase() == word.text {
        true => found.to_lowercase(),
        false => found.to_owned(),
    });
    const SHOWN: usize = 60;
    let mut shown: String = word.text.chars().take(SHOWN).collect();
    if shown.len() < word.text.len() {
        shown.push('…');
    }
    Refusal {
        message: format!("unknown instruction: {shown}"),
        range: Some(word.range.clone()),
        suggestion,
        hint: None,
    }
}

fn texts(parts: &[Part]) -> Vec<String> {
    parts.iter().map(|part| part.text.clone()).collect()
}

fn no_flags(frame: &Frame) -> Result<(), Refusal> {
    Flags::check(&frame.flags, &[]).map(|_| ())
}

fn at_least_one(frame: &Frame, word: &str) -> Result<(), Refusal> {
    match frame.arguments.is_empty() {
        true => Err(format!("{word} requires at least one argument").into()),
        false => Ok(()),
    }
}

fn one_argument(frame: &Frame, word: &str) -> Result<String, Refusal> {
    let [argument] = frame.arguments.as_slice() else {
        return Err(format!("{word} requires exactly one argument").into());
    };
    no_flags(frame)?;
    Ok(argument.text.clone())
}

fn command_line(arguments: &[Part], json: bool) -> CommandLine {
    match json {
        true => CommandLine::Exec(texts(arguments)),
        false => CommandLine::Shell(texts(arguments).join(" ")),
    }
}

fn command_without_flags(frame: &Frame) -> Result<CommandLine, Refusal> {
    no_flags(frame)?;
    Ok(command_line(&frame.arguments, frame.json))
}

fn from(frame: &Frame) -> Result<FromStage, Refusal> {
    let (base, name) = match frame.arguments.as_slice() {
        [base] => (base, None),
        [base, keyword, name] if keyword.text.eq_ignore_ascii_case("as") => (base, Some(stage_name(name)?)),
        _ => return Err("FROM requires either one or three arguments".into()),
    };
    let flags = Flags::check(&frame.flags, &[("platform", Takes::Value)])?;
    Ok(FromStage { base: base.text.clone(), name, platform: flags.text("platform") })
}

fn stage_name(part: &Part) -> Result<String, Refusal> {
    let name = part.text.to_lowercase();
    let mut bytes = name.bytes();
    let valid = bytes.next().is_some_and(|byte| byte.is_ascii_lowercase())
        && bytes.all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'));
    if !valid {
        let message =
            format!("invalid name for build stage: {:?}, name can't start with a number or contain symbols", part.text);
        return Err(Refusal { range: Some(part.range.clone()), ..message.into() });
    }
    Ok(name)
}

fn run(frame: &Frame, heredocs: &[Heredoc]) -> Result<RunCommand, Refusal> {
    let flags = Flags::check(
        &frame.flags,
        &[("mount", Takes::Values), ("network", Takes::Value), ("security", Takes::Value), ("device", Takes::Values)],
    )?;
    let at = |range| move |refusal: Refusal| Refusal { range: Some(range), ..refusal };
    let devices = flags
        .values("device")
        .map(|(value, range)| mount::device(value).map_err(at(range)))
        .collect::<Result<_, _>>()?;
    let mounts = flags
        .values("mount")
        .map(|(value, range)| MountFlag::parse(value).map_err(at(range)))
        .collect::<Result<_, _>>()?;
    let refuse = |flag, message: String| Refusal { range: flags.range(flag), ..message.into() };
    let network = match flags.range("network").map(|_| flags.value("network").unwrap_or_default()) {
        None => None,
        Some("default") => Some(RunNetwork::Default),
        Some("none") => Some(RunNetwork::None),
        Some("host") => Some(RunNetwork::Host),
        Some(other) => return Err(refuse("network", format!("invalid network mode {other:?}"))),
    };
    let security = match flags.range("security").map(|_| flags.value("security").unwrap_or_default()) {
        None => None,
        Some("sandbox") => Some(RunSecurity::Sandbox),
        Some("insecure") => Some(RunSecurity::Insecure),
        Some(other) => return Err(refuse("security", format!("security {other:?} is not valid"))),
    };
    let command = command_line(&frame.arguments, frame.json);
    Ok(RunCommand { command, heredocs: heredocs.to_vec(), mounts, network, security, devices })
}

/// Splits the arguments into sources and a destination.
fn transfer(frame: &Frame, heredocs: &[Heredoc], flags: &Flags<'_>, word: &str) -> Result<Transfer, Refusal> {
    let Some((destination, sources)) = frame.arguments.split_last() else {
        return Err(no_destination(word));
    };
    let announced = |text: &str| heredoc::heredoc(text).ok().flatten();
    if announced(&destination.text).is_some() {
        let message = format!("{word} cannot accept a heredoc as a destination");
        return Err(Refusal { range: Some(destination.range.clone()), ..message.into() });
    }
    let mut transfer = Transfer {
        destination: destination.text.clone(),
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        link: flags.truth("link").unwrap_or(false),
        exclude: flags.values("exclude").map(|(pattern, _)| pattern.to_owned()).collect(),
        ..Transfer::default()
    };
    for source in sources {
        match announced(&source.text) {
            Some(found) => {
                // Of several with one name the last is meant.
                let body = heredocs.iter().rev().find(|heredoc| heredoc.name == found.name);
                let content = body.map(|body| Heredoc { chomp: found.chomp, ..body.clone() }.chomped());
                transfer.inline_files.push(InlineFile {
                    name: found.name,
                    content: content.unwrap_or_default(),
                    expand: found.expand,
                });
            }
            None => transfer.sources.push(source.text.clone()),
        }
    }
    Ok(transfer)
}

fn no_destination(word: &str) -> Refusal {
    format!("{word} requires at least two arguments, but only one was provided. Destination could not be determined")
        .into()
}

fn copy(frame: &Frame, heredocs: &[Heredoc]) -> Result<CopyFiles, Refusal> {
    if frame.arguments.len() < 2 {
        return Err(no_destination("COPY"));
    }
    let flags = Flags::check(
        &frame.flags,
        &[
            ("from", Takes::Value),
            ("chown", Takes::Value),
            ("chmod", Takes::Value),
            ("link", Takes::Truth),
            ("parents", Takes::Truth),
            ("exclude", Takes::Values),
        ],
    )?;
    Ok(CopyFiles {
        transfer: transfer(frame, heredocs, &flags, "COPY")?,
        from: flags.text("from"),
        parents: flags.truth("parents").unwrap_or(false),
    })
}

fn add(frame: &Frame, heredocs: &[Heredoc]) -> Result<AddFiles, Refusal> {
    if frame.arguments.len() < 2 {
        return Err(no_destination("ADD"));
    }
    let flags = Flags::check(
        &frame.flags,
        &[
            ("chown", Takes::Value),
            ("chmod", Takes::Value),
            ("link", Takes::Truth),
            ("checksum", Takes::Value),
            ("keep-git-dir", Takes::Truth),
            ("unpack", Takes::Truth),
            ("exclude", Takes::Values),
        ],
    )?;
    Ok(AddFiles {
        transfer: transfer(frame, heredocs, &flags, "ADD")?,
        checksum: flags.text("checksum"),
        keep_git_dir: flags.truth("keep-git-dir"),
        unpack: flags.truth("unpack"),
    })
}

/// Flags of `ARG` are not looked at, as BuildKit does not either.
fn arg(frame: &Frame) -> Result<Vec<BuildArg>, Refusal> {
    at_least_one(frame, "ARG")?;
    let arg = |part: &Part| match part.text.split_once('=') {
        Some(("", _)) => Err(Refusal { range: Some(part.range.clone()), ..blank_name("ARG") }),
        Some((name, default)) => Ok(BuildArg { name: name.to_owned(), default: Some(default.to_owned()) }),
        None => Ok(BuildArg { name: part.text.clone(), default: None }),
    };
    frame.arguments.iter().map(arg).collect()
}

fn blank_name(word: &str) -> Refusal {
    format!("{word} names can not be blank").into()
}

fn pairs(frame: &Frame, word: &str) -> Result<Vec<KeyValue>, Refusal> {
    no_flags(frame)?;
    at_least_one(frame, word)?;
    let pair = |parts: &[Part]| match parts {
        [key, value, separator] if !key.text.is_empty() => {
            Ok(KeyValue { key: key.text.clone(), value: value.text.clone(), legacy: separator.text.is_empty() })
        }
        _ => Err(Refusal { range: parts.first().map(|part| part.range.clone()), ..blank_name(word) }),
    };
    frame.arguments.chunks(3).map(pair).collect()
}

fn expose(frame: &Frame) -> Result<Vec<String>, Refusal> {
    at_least_one(frame, "EXPOSE")?;
    no_flags(frame)?;
    let mut ports = texts(&frame.arguments);
    ports.sort();
    Ok(ports)
}

fn volume(frame: &Frame) -> Result<Vec<String>, Refusal> {
    at_least_one(frame, "VOLUME")?;
    no_flags(frame)?;
    let volume = |part: &Part| match part.text.trim() {
        "" => Err(Refusal {
            range: Some(part.range.clone()),
            ..Refusal::from("VOLUME specified can not be an empty string")
        }),
        volume => Ok(volume.to_owned()),
    };
    frame.arguments.iter().map(volume).collect()
}

fn shell(frame: &Frame) -> Result<Vec<String>, Refusal> {
    no_flags(frame)?;
    at_least_one(frame, "SHELL")?;
    if !frame.json {
        return Err(Refusal {
            hint: Some("write it as SHELL [\"/bin/sh\", \"-c\"]".to_owned()),
            ..Refusal::from("SHELL requires the arguments to be in JSON form")
        });
    }
    Ok(texts(&frame.arguments))
}

fn onbuild(frame: &Frame, heredocs: &[Heredoc], line: &str) -> Result<String, Refusal> {
    let Some(trigger) = &frame.trigger else {
        return Err("ONBUILD requires at least one argument".into());
    };
    no_flags(frame)?;
    let refuse = |message: String| Err(Refusal { range: Some(trigger.word.range.clone()), ..message.into() });
    match trigger.word.text.to_uppercase().as_str() {
        "ONBUILD" => return refuse("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".to_owned()),
        word @ ("MAINTAINER" | "FROM") => return refuse(format!("{word} isn't allowed as an ONBUILD trigger")),
        _ => {}
    }
    let mut text = line[frame.word.range.end..].trim_start_matches([' ', '\t', '\n', '\r', '\x0C']).to_owned();
    for heredoc in heredocs {
        text.push('\n');
        text.push_str(&String::from_utf8_lossy(&heredoc.content));
        text.push_str(&heredoc.name);
    }
    Ok(text)
}

fn healthcheck(frame: &Frame) -> Result<Healthcheck, Refusal> {
    let Some((kind, command)) = frame.arguments.split_first() else {
        return Err("HEALTHCHECK requires at least one argument".into());
    };
    let upper = kind.text.to_uppercase();
    if upper == "NONE" {
        return match command.is_empty() {
            true => Ok(Healthcheck::None),
            false => Err("HEALTHCHECK NONE takes no arguments".into()),
        };
    }
    let flags = Flags::check(
        &frame.flags,
        &[
            ("interval", Takes::Value),
            ("timeout", Takes::Value),
            ("start-period", Takes::Value),
            ("start-interval", Takes::Value),
            ("retries", Takes::Value),
        ],
    )?;
    if upper != "CMD" {
        let message = format!("Unknown type {upper:?} in HEALTHCHECK (try CMD)");
        return Err(Refusal { range: Some(kind.range.clone()), ..message.into() });
    }
    if command.is_empty() {
        return Err("Missing command after HEALTHCHECK CMD".into());
    }
    let interval = |name: &str| {
        let refuse = |message: String| Refusal { range: flags.range(name), ..message.into() };
        let duration = flags.value(name).map_or(Ok(0), duration).map_err(refuse)?;
        match u64::try_from(duration) {
            Ok(0) => Ok(Duration::ZERO),
            Ok(nanos @ 1_000_000..) => Ok(Duration::from_nanos(nanos)),
            Ok(_) | Err(_) => Err(refuse(format!("Interval {name:?} cannot be less than 1ms"))),
        }
    };
    Ok(Healthcheck::Command {
        command: command_line(command, frame.json),
        interval: interval("interval")?,
        timeout: interval("timeout")?,
        start_period: interval("start-period")?,
        start_interval: interval("start-interval")?,
        retries: flags
            .value("retries")
            .map_or(Ok(0), retries)
            .map_err(|message| Refusal { range: flags.range("retries"), ..message.into() })?,
    })
}

fn retries(text: &str) -> Result<u32, String> {
    let number: i32 = text.parse().map_err(|_| format!("--retries is not a number ({text})"))?;
    u32::try_from(number).map_err(|_| format!("--retries cannot be negative ({number})"))
}

/// Reads a duration as Go writes them, `1h30m` or `1.5s`, in nanoseconds.
fn duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0.0_f64;
    let mut exact = 0_i64;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(number_end);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        rest = after;
        if !number.bytes().any(|byte| byte.is_ascii_digit()) || number.matches('.').count() > 1 {
            return Err(invalid());
        }
        let nanos: i64 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60 * 1_000_000_000,
            "h" => 3600 * 1_000_000_000,
            "" => return Err(format!("time: missing unit in duration {text:?}")),
            unit => return Err(format!("time: unknown unit {unit:?} in duration {text:?}")),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
        exact = whole.checked_mul(nanos).and_then(|value| exact.checked_add(value)).ok_or_else(invalid)?;
        if !fraction.is_empty() {
            total += format!("0.{fraction}").parse::<f64>().map_err(|_| invalid())? * nanos as f64;
        }
    }
    let sum = exact.checked_add(total as i64).ok_or_else(invalid)?;
    Ok(if negative { -sum } else { sum })
}

//! `slipway top`: the processes of a container.

use std::process::ExitCode;

use engine::ops;
use engine::ops::top::ListedProcess;
use jiff::Timestamp;

use crate::session::{Session, Threads};
use crate::{clock, table, terminal};

/// Show the processes of a container
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or ID of a container
    container: String,
    /// As for ps: `-o pid,user,comm` chooses the columns
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "PS OPTIONS")]
    options: Vec<String>,
}

/// A heading, and what stands under it.
type Field = (&'static str, fn(&ListedProcess, &Machine) -> String);

/// What processes are told against.
struct Machine {
    passwd: String,
    /// When it was started, in seconds since 1970.
    started: i64,
}

impl Machine {
    fn user(&self, uid: u32) -> String {
        let is_it = |line: &&str| line.split(':').nth(2) == Some(&uid.to_string());
        let name = self.passwd.lines().find(is_it).and_then(|line| line.split(':').next());
        name.map_or_else(|| uid.to_string(), str::to_owned)
    }
}

fn field(name: &str) -> Option<Field> {
    Some(match name {
        "pid" => ("PID", |process, _| process.pid.to_string()),
        "ppid" => ("PPID", |process, _| process.parent.to_string()),
        "uid" => ("UID", |process, _| process.uid.to_string()),
        "user" | "euser" | "uname" => ("USER", |process, machine| machine.user(process.uid)),
        "comm" | "ucmd" => ("COMMAND", |process, _| process.name.clone()),
        "args" | "command" => ("COMMAND", |process, _| process.command.clone()),
        "cmd" => ("CMD", |process, _| process.command.clone()),
        "stat" | "s" | "state" => ("STAT", |process, _| process.state.clone()),
        "tty" | "tt" | "tname" => ("TTY", |process, _| tty(process.terminal)),
        "time" | "cputime" => ("TIME", |process, _| clock_time(process.time)),
        "stime" | "start" => ("STIME", stime),
        "rss" => ("RSS", |process, _| process.resident.to_string()),
        "vsz" => ("VSZ", |process, _| process.virtual_size.to_string()),
        "c" => ("C", |_, _| "0".into()),
        _ => return None,
    })
}

fn tty(number: u32) -> String {
    match (number >> 8 & 0xfff, number & 0xff) {
        (0, 0) => "?".into(),
        (136..=143, minor) => format!("pts/{minor}"),
        (_, minor) => format!("tty{minor}"),
    }
}

fn clock_time(seconds: u64) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

fn stime(process: &ListedProcess, machine: &Machine) -> String {
    let start = machine.started.saturating_add(i64::try_from(process.start).unwrap_or_default());
    Timestamp::from_second(start).map_or_else(|_| "?".into(), |time| time.strftime("%H:%M").to_string())
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let fields = fields(&args.options)?;
    let engine = session.engine()?;
    let processes = session.wait(Threads::One, ops::top::top(&engine, args.container, clock::now()))?;
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let started = stat.lines().find_map(|line| line.strip_prefix("btime ")?.parse().ok());
    let machine = Machine {
        passwd: std::fs::read_to_string("/etc/passwd").unwrap_or_default(),
        started: started.unwrap_or_default(),
    };
    let headings: Vec<&str> = fields.iter().map(|(heading, _)| *heading).collect();
    let rows: Vec<Vec<String>> =
        processes.iter().map(|process| fields.iter().map(|(_, text)| text(process, &machine)).collect()).collect();
    terminal::print_line(&table::render(&headings, &rows))?;
    Ok(ExitCode::SUCCESS)
}

/// Reads `-o a,b` and `-ef`; the latter is what docker shows when nothing is given.
fn fields(options: &[String]) -> anyhow::Result<Vec<Field>> {
    let usual = ("UID", (|process, machine| machine.user(process.uid)) as fn(&ListedProcess, &Machine) -> String);
    let words: Vec<&str> = options.iter().map(String::as_str).collect();
    let list = match words[..] {
        [] | ["-ef" | "-eF" | "ef"] => "",
        ["-o" | "o" | "-eo" | "eo", list] => list,
        [word] if word.starts_with("-o") || word.starts_with("-eo") => {
            word.trim_start_matches('-').trim_start_matches('e').trim_start_matches('o')
        }
        _ => anyhow::bail!("of the options of ps there are -ef and -o FIELD,FIELD…"),
    };
    if list.is_empty() {
        let others = ["pid", "ppid", "c", "stime", "tty", "time", "cmd"];
        return Ok([usual].into_iter().chain(others.into_iter().filter_map(field)).collect());
    }
    list.split(',').map(|name| field(name).ok_or_else(|| anyhow::anyhow!("unknown column `{name}`"))).collect()
}

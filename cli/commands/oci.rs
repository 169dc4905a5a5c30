//! `slipway oci`: runs bundles with runc's command line, so that podman and containerd can call it.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Subcommand, ValueEnum};
use engine::ops::oci::{
    Attention, BundleError, Bundles, CreateOptions, ExecOptions, Process, State, Warning, example, features,
    load_process, resources, restart_sealed,
};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::{clock, table, terminal};

mod signals;

/// The name under which the program takes this command's arguments at once.
const OWN_NAME: &str = "slipway-oci";

/// Where states are when nothing else is said.
const DEFAULT_ROOT: &str = "/run/slipway/oci";

const EXAMPLES: &str = "\
Examples:
  slipway oci run -b bundle box                    Run the bundle in the folder `bundle`
  slipway oci exec box ps                          Run a program in it
  podman --runtime /usr/local/bin/slipway-oci run alpine
  ctr run --runc-binary /usr/local/bin/slipway-oci docker.io/library/alpine:3 box

Called under the name slipway-oci (make a link), it takes these arguments without `oci`.";

/// Run bundles of the OCI runtime-spec, with runc's command line
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, version = VERSION, disable_help_subcommand = true)]
pub(crate) struct Args {
    /// Folder of the containers' states
    #[arg(long, value_name = "DIR", global = true)]
    root: Option<PathBuf>,
    /// File that takes errors, too
    #[arg(long, value_name = "FILE", global = true)]
    log: Option<PathBuf>,
    /// How errors are written there
    #[arg(long, value_name = "FORMAT", default_value = "text", hide_possible_values = true, global = true)]
    log_format: LogFormat,
    /// Taken for other runtimes' sake: cgroups are always made by this program, which warns that they are
    #[arg(long, global = true)]
    systemd_cgroup: bool,
    /// Taken for other runtimes' sake
    #[arg(long, global = true, hide = true)]
    debug: bool,
    /// Taken for other runtimes' sake
    #[arg(
        long = "rootless",
        id = "rootless_mode",
        hide = true,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    rootless: Option<String>,
    #[command(subcommand)]
    verb: Verb,
}

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\nspec: 1.2.1");

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Create a container, which waits to be started
    Create {
        #[command(flatten)]
        create: CreateArgs,
        /// Name of the container
        id: String,
    },
    /// Start the program of a created container
    Start {
        /// Name of the container
        id: String,
    },
    /// Create a container, start it, and wait until it ends
    Run {
        #[command(flatten)]
        create: CreateArgs,
        /// Do not wait
        #[arg(short, long)]
        detach: bool,
        /// Leave the container when it has ended
        #[arg(long)]
        keep: bool,
        /// Taken for other runtimes' sake
        #[arg(long, hide = true)]
        no_subreaper: bool,
        /// Name of the container
        id: String,
    },
    /// Print what is known of a container, as JSON
    State {
        /// Name of the container
        id: String,
    },
    /// Send a signal to a container
    Kill {
        /// To every process, not the first one alone
        #[arg(short, long)]
        all: bool,
        /// Name of the container
        id: String,
        /// Name or number of the signal
        #[arg(default_value = "SIGTERM", value_parser = signals::parse)]
        signal: i32,
    },
    /// Remove what is left of a container
    Delete {
        /// End it first; nothing there is fine, too
        #[arg(short, long)]
        force: bool,
        /// Name of the container
        id: String,
    },
    /// Run one more program in a container
    Exec(Box<ExecArgs>),
    /// List containers
    #[command(visible_alias = "ls")]
    List {
        /// table or json
        #[arg(short, long, default_value = "table", hide_possible_values = true)]
        format: ListFormat,
        /// Names alone
        #[arg(short, long)]
        quiet: bool,
    },
    /// List the processes of a container
    Ps {
        /// table or json
        #[arg(short, long, default_value = "table", hide_possible_values = true)]
        format: ListFormat,
        /// Name of the container
        id: String,
        /// Options of `ps`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Stop all processes of a container where they are
    Pause {
        /// Name of the container
        id: String,
    },
    /// Let them go on
    Resume {
        /// Name of the container
        id: String,
    },
    /// Give a container other limits
    Update {
        /// File with limits as JSON; - reads standard input
        #[arg(short, long, value_name = "FILE")]
        resources: Option<PathBuf>,
        #[command(flatten)]
        limits: LimitArgs,
        /// Name of the container
        id: String,
    },
    /// Print what this runtime can do, as JSON
    Features,
    /// Write a config.json to start from
    Spec {
        /// Folder to write it to
        #[arg(short, long, value_name = "DIR", default_value = ".")]
        bundle: PathBuf,
        /// For a plain user
        #[arg(long = "rootless", id = "for_user")]
        rootless: bool,
    },
}

#[derive(Debug, clap::Args)]
struct CreateArgs {
    /// Folder with config.json
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Socket that takes the terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// File for the number of the first process
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Further descriptors for the program, from 3 on
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
    /// Move the root instead of exchanging it
    #[arg(long)]
    no_pivot: bool,
    /// Stay in the session keyring
    #[arg(long)]
    no_new_keyring: bool,
}

#[derive(Debug, clap::Args)]
struct ExecArgs {
    /// Socket that takes the terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Where the program starts
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// Environment variable
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// User, and group
    #[arg(short, long, value_name = "UID[:GID]")]
    user: Option<String>,
    /// Further groups
    #[arg(short = 'g', long, value_name = "GID")]
    additional_gids: Vec<u32>,
    /// File with the process as JSON
    #[arg(short, long, value_name = "FILE")]
    process: Option<PathBuf>,
    /// Do not wait
    #[arg(short, long)]
    detach: bool,
    /// File for the number of the process
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Forbid gaining privileges
    #[arg(long)]
    no_new_privs: bool,
    /// Capability to add
    #[arg(short, long, value_name = "CAPABILITY")]
    cap: Vec<String>,
    /// Further descriptors for the program, from 3 on
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
    /// Join a paused container, too: the program then waits
    #[arg(long)]
    ignore_paused: bool,
    /// Name of the container
    id: String,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct LimitArgs {
    /// Bytes of memory
    #[arg(long, allow_hyphen_values = true)]
    memory: Option<i64>,
    /// Bytes of memory that are reserved
    #[arg(long, allow_hyphen_values = true)]
    memory_reservation: Option<i64>,
    /// Bytes of memory and swap
    #[arg(long, allow_hyphen_values = true)]
    memory_swap: Option<i64>,
    /// Microseconds of a processor in each period
    #[arg(long, allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// Microseconds
    #[arg(long)]
    cpu_period: Option<u64>,
    /// Weight against others
    #[arg(long, visible_alias = "cpu-shares")]
    cpu_share: Option<u64>,
    /// Which processors
    #[arg(long)]
    cpuset_cpus: Option<String>,
    /// Which nodes of memory
    #[arg(long)]
    cpuset_mems: Option<String>,
    /// How many processes
    #[arg(long, allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Weight of reading and writing
    #[arg(long)]
    blkio_weight: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ListFormat {
    Table,
    Json,
}

/// The arguments of this program; under its other name, those of this command.
pub(crate) fn arguments() -> Vec<OsString> {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    if name.is_some_and(|name| name == OWN_NAME) {
        arguments.insert(1, "oci".into());
    }
    arguments
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (log, format) = (args.log.clone(), args.log_format);
    let result = run_verb(args);
    if let (Err(error), Some(log)) = (&result, log) {
        // It cannot be told anywhere that it cannot be told there.
        let _ = write_log(&log, format, "error", &format!("{error:#}"));
    }
    result
}

fn run_verb(args: Args) -> anyhow::Result<ExitCode> {
    if matches!(args.verb, Verb::Create { .. } | Verb::Run { .. } | Verb::Exec(_)) {
        let arguments: Vec<OsString> = std::env::args_os().collect();
        restart_sealed(&arguments).context("cannot protect this program from containers")?;
    }
    let log = args.log.map(|path| (path, args.log_format));
    if args.systemd_cgroup && matches!(args.verb, Verb::Create { .. } | Verb::Run { .. }) {
        warn_of(
            "--systemd-cgroup: the container's cgroup is made by this program, and systemd does not know it",
            log.as_ref(),
        );
    }
    let warn = |warnings: &[Warning]| warn(warnings, log.as_ref());
    let root = args.root.unwrap_or_else(|| PathBuf::from(DEFAULT_ROOT));
    let bundles = Bundles::new(&root);
    match args.verb {
        Verb::Create { create, id } => {
            let options = options(create)?;
            warn(&bundles.create(&id, &options)?);
        }
        Verb::Start { id } => bundles.start(&id)?,
        Verb::Run { create, detach, keep, no_subreaper: _, id } => {
            let options = options(create)?;
            return run_foreground(&bundles, &id, &options, detach, keep, &warn);
        }
        Verb::State { id } => print(&serde_json::to_value(bundles.state(&id)?)?)?,
        Verb::Kill { all, id, signal } => bundles.kill(&id, signal, all)?,
        Verb::Delete { force, id } => bundles.delete(&id, force)?,
        Verb::Exec(exec) => {
            return run_exec(&bundles, *exec, &warn).map_err(|error| Failure::new(error).code(255).into());
        }
        Verb::List { format, quiet } => list(&bundles.list()?, format, quiet)?,
        Verb::Ps { format, id, options } => processes(&bundles.processes(&id)?, format, &options)?,
        Verb::Pause { id } => bundles.pause(&id, true)?,
        Verb::Resume { id } => bundles.pause(&id, false)?,
        Verb::Update { resources: file, limits, id } => {
            let text = match file {
                Some(path) if path == Path::new("-") => {
                    let mut text = String::new();
                    std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
                    text
                }
                Some(path) => {
                    std::fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?
                }
                None => limits_as_json(&limits).to_string(),
            };
            warn(&bundles.update(&id, &resources(&text).context("the limits are not those of a spec")?)?);
        }
        Verb::Features => print(&features())?,
        Verb::Spec { bundle, rootless } => write_spec(&bundle, rootless)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Takes the flags of `create` and `run`.
fn options(args: CreateArgs) -> anyhow::Result<CreateOptions> {
    check_descriptors(args.preserve_fds)?;
    Ok(CreateOptions {
        bundle: args.bundle,
        pid_file: args.pid_file,
        console_socket: args.console_socket,
        preserve_fds: args.preserve_fds,
        no_pivot: args.no_pivot,
        no_new_keyring: args.no_new_keyring,
        now: clock::now().to_string(),
    })
}

/// Makes sure that the descriptors to pass on are there; one of our own would take the place of a missing one.
fn check_descriptors(count: u32) -> anyhow::Result<()> {
    let listed: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")
        .context("cannot list descriptors")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for number in 3..3 + i64::from(count) {
        if !listed.iter().any(|&open| i64::from(open) == number) {
            bail!("descriptor {number} is to be preserved, but it is not open");
        }
    }
    Ok(())
}

/// Tells warnings to the log, if there is one: what is on standard error looks as if the container said it.
fn warn(warnings: &[Warning], log: Option<&(PathBuf, LogFormat)>) {
    warnings.iter().for_each(|warning| warn_of(&warning.to_string(), log));
}

fn warn_of(warning: &str, log: Option<&(PathBuf, LogFormat)>) {
    match log {
        // As for errors.
        Some((path, format)) => drop(write_log(path, *format, "warning", warning)),
        None => terminal::note(&format!("warning: {warning}")),
    }
}

fn run_foreground(
    bundles: &Bundles,
    id: &str,
    options: &CreateOptions,
    detach: bool,
    keep: bool,
    warn: &dyn Fn(&[Warning]),
) -> anyhow::Result<ExitCode> {
    let attention = (!detach).then(Attention::new);
    let foreground = bundles.run(id, options)?;
    warn(foreground.container.warnings());
    let Some(attention) = attention else {
        foreground.detach();
        return Ok(ExitCode::SUCCESS);
    };
    let attended = match options.console_socket {
        Some(_) => None,
        None => Some(attention.attend(&foreground.container)?),
    };
    let status = foreground.wait(keep)?;
    if let Some(attended) = attended {
        attended.finish();
    }
    Ok(ExitCode::from(u8::try_from(status.shell_code()).unwrap_or(255)))
}

fn run_exec(bundles: &Bundles, args: ExecArgs, warn: &dyn Fn(&[Warning])) -> anyhow::Result<ExitCode> {
    check_descriptors(args.preserve_fds)?;
    let options = ExecOptions {
        pid_file: args.pid_file.clone(),
        console_socket: args.console_socket.clone(),
        preserve_fds: args.preserve_fds,
        ignore_paused: args.ignore_paused,
    };
    let (id, detach) = (args.id.clone(), args.detach);
    let process = match &args.process {
        Some(path) => load_process(path)?,
        None => changed(bundles.process(&id)?, &args)?,
    };
    if process.terminal() == Some(true) && detach && options.console_socket.is_none() {
        return Err(
            BundleError::Console { what: "the process wants a terminal, and no console socket is given" }.into()
        );
    }
    let attention = (!detach).then(Attention::new);
    let container = bundles.exec(&id, process, &options)?;
    warn(container.warnings());
    let Some(attention) = attention else {
        container.detach();
        return Ok(ExitCode::SUCCESS);
    };
    let attended = match options.console_socket {
        Some(_) => None,
        None => Some(attention.attend(&container)?),
    };
    let status = container.wait()?;
    if let Some(attended) = attended {
        attended.finish();
    }
    Ok(ExitCode::from(u8::try_from(status.shell_code()).unwrap_or(255)))
}

/// The container's process, with what the flags change.
fn changed(process: Process, args: &ExecArgs) -> anyhow::Result<Process> {
    if args.command.is_empty() {
        bail!("no program is given, and no --process");
    }
    let mut value = serde_json::to_value(process)?;
    value["args"] = json!(args.command);
    value["terminal"] = json!(args.tty);
    if let Some(cwd) = &args.cwd {
        if !cwd.is_absolute() {
            bail!("`{}` is not an absolute path", cwd.display());
        }
        value["cwd"] = json!(cwd);
    }
    let mut env: Vec<Value> = value["env"].as_array().cloned().unwrap_or_default();
    env.extend(args.env.iter().map(|variable| json!(variable)));
    value["env"] = json!(env);
    if let Some(user) = &args.user {
        let number =
            |text: &str| text.parse::<u32>().with_context(|| format!("`{text}` is not a number of a user or group"));
        let (uid, gid) = match user.split_once(':') {
            Some((uid, gid)) => (number(uid)?, Some(number(gid)?)),
            None => (number(user)?, None),
        };
        value["user"]["uid"] = json!(uid);
        if let Some(gid) = gid {
            value["user"]["gid"] = json!(gid);
        }
    }
    if !args.additional_gids.is_empty() {
        value["user"]["additionalGids"] = json!(args.additional_gids);
    }
    if args.no_new_privs {
        value["noNewPrivileges"] = json!(true);
    }
    for name in &args.cap {
        let name = name.to_uppercase();
        let name = if name.starts_with("CAP_") { name } else { format!("CAP_{name}") };
        for set in ["bounding", "effective", "permitted"] {
            let list = &mut value["capabilities"][set];
            match list.as_array_mut() {
                Some(list) if list.iter().any(|known| *known == json!(name)) => {}
                Some(list) => list.push(json!(name)),
                None => *list = json!([name]),
            }
        }
    }
    serde_json::from_value(value).context("the flags do not make a process")
}

fn list(states: &[State], format: ListFormat, quiet: bool) -> anyhow::Result<()> {
    if quiet {
        return states.iter().try_for_each(|state| Ok(terminal::print_line(&state.id)?));
    }
    if format == ListFormat::Json {
        return print_compact(&serde_json::to_value(states)?);
    }
    let rows: Vec<Vec<String>> = states
        .iter()
        .map(|state| {
            let bundle = state.bundle.display().to_string();
            let (pid, status) = (state.pid.to_string(), state.status.to_string());
            vec![state.id.clone(), pid, status, bundle, state.created.clone(), state.owner.clone()]
        })
        .collect();
    Ok(terminal::print_line(&table::render(&["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"], &rows))?)
}

#[expect(clippy::disallowed_methods, reason = "runc's `ps` takes the options of the system's, so that is what it runs")]
fn processes(pids: &[u32], format: ListFormat, options: &[String]) -> anyhow::Result<()> {
    if format == ListFormat::Json {
        return print_compact(&json!(pids));
    }
    let default = ["-ef".to_owned()];
    let options = if options.is_empty() { &default[..] } else { options };
    let output = std::process::Command::new("ps").args(options).output().context("cannot run `ps`")?;
    if !output.status.success() {
        bail!("`ps`: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let head = lines.next().unwrap_or_default();
    let Some(column) = head.split_whitespace().position(|name| name == "PID") else {
        bail!("`ps` has no column PID with these options");
    };
    terminal::print_line(head)?;
    for line in lines {
        let pid = line.split_whitespace().nth(column).and_then(|word| word.parse::<u32>().ok());
        if pid.is_some_and(|pid| pids.contains(&pid)) {
            terminal::print_line(&terminal::printable(line))?;
        }
    }
    Ok(())
}

fn limits_as_json(limits: &LimitArgs) -> Value {
    let mut value = json!({});
    let mut set = |group: &str, name: &str, limit: Value| {
        if !limit.is_null() {
            value[group][name] = limit;
        }
    };
    set("memory", "limit", json!(limits.memory));
    set("memory", "reservation", json!(limits.memory_reservation));
    set("memory", "swap", json!(limits.memory_swap));
    set("cpu", "quota", json!(limits.cpu_quota));
    set("cpu", "period", json!(limits.cpu_period));
    set("cpu", "shares", json!(limits.cpu_share));
    set("cpu", "cpus", json!(limits.cpuset_cpus));
    set("cpu", "mems", json!(limits.cpuset_mems));
    set("pids", "limit", json!(limits.pids_limit));
    set("blockIO", "weight", json!(limits.blkio_weight));
    value
}

fn write_spec(bundle: &Path, rootless: bool) -> anyhow::Result<()> {
    let who = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let text = serde_json::to_string_pretty(&example(rootless.then_some(who))?)?;
    let path = bundle.join("config.json");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .with_context(|| format!("cannot make `{}`", path.display()))?;
    file.write_all(text.as_bytes()).and_then(|()| file.write_all(b"\n"))?;
    Ok(())
}

fn print(value: &Value) -> anyhow::Result<()> {
    Ok(terminal::print_json(&serde_json::to_string_pretty(value)?)?)
}

fn print_compact(value: &Value) -> anyhow::Result<()> {
    Ok(terminal::print_json(&value.to_string())?)
}

/// Appends a line to the log, where podman and containerd look for what went wrong.
fn write_log(path: &Path, format: LogFormat, level: &str, message: &str) -> std::io::Result<()> {
    let time = clock::now().to_string();
    let line = match format {
        LogFormat::Json => json!({"level": level, "msg": message, "time": time}).to_string(),
        LogFormat::Text => format!("time=\"{time}\" level={level} msg={}", json!(message)),
    };
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path)?;
    writeln!(file, "{line}")
}

//! `slipway run`: a program in a container of an image.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use clap::ValueEnum;
use engine::machine::MachineError;
use engine::ops;
use engine::ops::run::{Control, RunError, RunStreams};
use engine::runtime::StartError;
use rustix::termios;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::failure::{Failure, Interrupted};
use crate::flags::container;
use crate::progress::{self, OfRun};
use crate::session::{Session, Threads};
use crate::terminal;

/// What docker's exit code says when the container never ran.
const ENGINE_ERROR: u8 = 125;

const EXAMPLES: &str = "\
Examples:
  slipway run --rm debian:12 cat /etc/os-release
  slipway run -it debian:12                         A shell in a terminal
  slipway run -p 8080:80 -v $PWD/site:/usr/share/nginx/html:ro nginx
  slipway run -m 512m --cpus 1.5 --network none app

The exit code is the program's; 125 when slipway itself fails, 126 when the program cannot be
executed, 127 when it is not there, 128 and the signal when a signal ended it. A container and
what it wrote are gone when it ends.";

/// Run a program in a container of an image
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, disable_help_flag = true)]
pub(crate) struct Args {
    /// The image, then the program and its arguments in place of the image's
    #[arg(required = true, trailing_var_arg = true, value_name = "IMAGE [COMMAND] [ARG]")]
    pub(crate) image_and_command: Vec<OsString>,

    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    pub(crate) help: Option<bool>,
    /// Keep standard input open
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the program a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Run in the background; not supported yet
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Remove the container when it ends; it always is
    #[arg(long)]
    pub(crate) rm: bool,
    /// Name of the container
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Set an environment variable; a lone name takes the value from our environment
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// Start in this folder
    #[arg(short, long, value_name = "PATH")]
    pub(crate) workdir: Option<String>,
    /// Run as this user, names or numbers
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// Run this instead of the image's entrypoint
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) entrypoint: Option<String>,

    /// Mount a folder of the machine, or an empty one
    #[arg(short, long, value_name = "[SOURCE:]TARGET[:ro]", help_heading = "Files")]
    pub(crate) volume: Vec<String>,
    /// Mount, spelled out: type=bind|tmpfs|volume,source=…,target=…,readonly
    #[arg(long, value_name = "SPEC", help_heading = "Files")]
    pub(crate) mount: Vec<String>,
    /// Mount a folder in memory
    #[arg(long, value_name = "TARGET[:OPTIONS]", help_heading = "Files")]
    pub(crate) tmpfs: Vec<String>,
    /// Make the image's files read-only
    #[arg(long, help_heading = "Files")]
    pub(crate) read_only: bool,
    /// Size of /dev/shm
    #[arg(long, value_name = "BYTES", value_parser = super::bytes, help_heading = "Files")]
    pub(crate) shm_size: Option<u64>,

    /// Network: bridge, none or host
    #[arg(long, value_name = "MODE", default_value = "bridge", visible_alias = "net", help_heading = "Network")]
    pub(crate) network: String,
    /// Reach a port of the container on this machine
    #[arg(short, long, value_name = "[[IP:]PORT:]PORT[/PROTOCOL]", help_heading = "Network")]
    pub(crate) publish: Vec<String>,
    /// Host name
    #[arg(short = 'h', long, value_name = "NAME", help_heading = "Network")]
    pub(crate) hostname: Option<String>,
    /// Add a line to /etc/hosts
    #[arg(long, value_name = "HOST:IP", help_heading = "Network")]
    pub(crate) add_host: Vec<String>,
    /// Use this name server
    #[arg(long, value_name = "IP", help_heading = "Network")]
    pub(crate) dns: Vec<String>,

    /// Limit memory
    #[arg(short, long, value_name = "BYTES", value_parser = super::bytes, help_heading = "Limits")]
    pub(crate) memory: Option<u64>,
    /// Limit processors, as a fraction
    #[arg(long, value_name = "NUMBER", help_heading = "Limits")]
    pub(crate) cpus: Option<f64>,
    /// Limit the number of processes
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true, help_heading = "Limits")]
    pub(crate) pids_limit: Option<i64>,
    /// Set a limit
    #[arg(long, value_name = "NAME=SOFT[:HARD]", help_heading = "Limits")]
    pub(crate) ulimit: Vec<String>,

    /// Add a capability
    #[arg(long, value_name = "CAP", help_heading = "Rights")]
    pub(crate) cap_add: Vec<String>,
    /// Drop a capability
    #[arg(long, value_name = "CAP", help_heading = "Rights")]
    pub(crate) cap_drop: Vec<String>,
    /// Give the container all rights over the machine
    #[arg(long, help_heading = "Rights")]
    pub(crate) privileged: bool,
    /// no-new-privileges, seccomp=unconfined or seccomp=FILE
    #[arg(long, value_name = "OPTION", help_heading = "Rights")]
    pub(crate) security_opt: Vec<String>,
    /// Give the container a device of the machine
    #[arg(long, value_name = "PATH[:TARGET[:rwm]]", help_heading = "Rights")]
    pub(crate) device: Vec<String>,

    /// When to ask the registry for the image: missing, always or never
    #[arg(long, value_name = "WHEN", default_value = "missing", hide_possible_values = true, help_heading = "Image")]
    pub(crate) pull: PullArg,
    /// Run the image for this platform
    #[arg(long, value_name = "OS/ARCH", help_heading = "Image")]
    pub(crate) platform: Option<oci::Platform>,
    #[command(flatten)]
    pub(crate) registry: super::RegistryArgs,

    /// Run a small init that forwards signals and reaps processes
    #[arg(long)]
    pub(crate) init: bool,
    /// The signal that asks the program to stop
    #[arg(long, value_name = "SIGNAL")]
    pub(crate) stop_signal: Option<String>,
    /// Add a label to the container
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(crate) label: Vec<String>,
}

/// When `run` asks the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PullArg {
    /// When the store does not have the image.
    Missing,
    /// Always.
    Always,
    /// Never.
    Never,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let result = run_container(args, session);
    result.map_err(|error| match error.downcast_ref::<RunError>() {
        Some(RunError::Interrupted { signal }) => {
            session.abandon();
            Interrupted { signal: *signal }.into()
        }
        None if error.is::<Failure>() => error,
        _ => explain(error).into(),
    })
}

/// Gives an error docker's exit code, and advice.
fn explain(error: anyhow::Error) -> Failure {
    let code = match error.downcast_ref::<RunError>() {
        Some(RunError::Start(start)) => u8::try_from(start.exit_code()).unwrap_or(ENGINE_ERROR),
        _ => ENGINE_ERROR,
    };
    let not_root = !rustix::process::geteuid().is_root() && matches!(error.downcast_ref(), Some(RunError::Start(_)));
    let no_network = match error.downcast_ref() {
        Some(RunError::Network(_) | RunError::Start(StartError::Network(_))) => true,
        Some(RunError::Machine(error)) => matches!(error, MachineError::Network(_)),
        _ => false,
    };
    let failure = Failure::new(error).code(code);
    match code {
        _ if no_network => failure.hint("--network host and --network none need no bridge"),
        ENGINE_ERROR if not_root => failure.hint("containers need root for now"),
        127 => failure.hint("the program must be in the image; `slipway run --entrypoint sh …` lets you look around"),
        _ => failure,
    }
}

fn run_container(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let streams = streams(&args)?;
    let insecure = match (args.registry.insecure, image(&args)?.parse::<oci::Reference>()) {
        (true, Ok(reference)) => vec![reference.registry().to_owned()],
        _ => Vec::new(),
    };
    let options = container::parse(&args)?;
    let engine = session.engine_for(&insecure.iter().map(String::as_str).collect::<Vec<_>>())?;
    let view = progress::of_transfer(session.progress());
    let raw = Mutex::new(None);
    let wants_raw = args.tty && args.interactive;
    // Not before: while an image is pulled, Ctrl-C is ours and not the container's.
    let events = OfRun::new(view.clone(), || {
        if wants_raw {
            *raw.lock().unwrap_or_else(PoisonError::into_inner) = RawTerminal::begin().ok();
        }
    });
    let finished = session.wait_with(Threads::One, async {
        let control = Signals::listen(args.tty)?;
        ops::run::run(&engine, options, streams, control, &events, session.cancel()).await.map_err(anyhow::Error::from)
    });
    drop(events);
    drop(raw);
    view.finish();
    let status = finished?.status;
    if status.oom_killed {
        terminal::note("warning: the container ran out of memory, and the kernel killed a process in it");
    }
    // What a shell would show: 128 and the signal.
    Ok(ExitCode::from(u8::try_from(status.shell_code() & 0xff).unwrap_or(ENGINE_ERROR)))
}

fn image(args: &Args) -> anyhow::Result<&str> {
    let image = args.image_and_command.first().context("an image is required")?;
    image.to_str().with_context(|| format!("image `{}` is not text", image.display()))
}

fn streams(args: &Args) -> anyhow::Result<RunStreams> {
    if args.tty && args.interactive && !io::stdin().is_terminal() {
        let error = anyhow::anyhow!("the input device is not a TTY");
        return Err(Failure::new(error)
            .code(ENGINE_ERROR)
            .hint("leave -t out when standard input is redirected")
            .into());
    }
    // The files themselves: the buffers of `io::stdout()` would cut at line ends.
    let open = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map(File::from).context("cannot use a standard stream");
    Ok(RunStreams {
        stdin: match args.interactive {
            true => Some(Box::new(open(io::stdin().as_fd())?)),
            false => None,
        },
        stdout: Box::new(open(io::stdout().as_fd())?),
        stderr: Box::new(open(io::stderr().as_fd())?),
    })
}

/// Passes signals on to the container, as docker's `--sig-proxy` does.
struct Signals;

impl Signals {
    fn listen(tty: bool) -> anyhow::Result<mpsc::UnboundedReceiver<Control>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let forwarded = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
            SignalKind::quit(),
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
        ];
        for kind in forwarded {
            let (mut stream, sender) = (signal(kind)?, sender.clone());
            tokio::spawn(async move {
                while stream.recv().await.is_some() && sender.send(Control::Signal(kind.as_raw_value())).is_ok() {}
            });
        }
        if tty {
            let mut stream = signal(SignalKind::window_change())?;
            tokio::spawn(async move {
                while stream.recv().await.is_some() {
                    let Some(size) = terminal::size() else { continue };
                    if sender.send(Control::Resize(size)).is_err() {
                        break;
                    }
                }
            });
        }
        Ok(receiver)
    }
}

/// Gives every key to the container, until it is dropped.
pub(crate) struct RawTerminal(termios::Termios);

impl RawTerminal {
    /// Takes the terminal.
    pub(crate) fn begin() -> anyhow::Result<Self> {
        let before = termios::tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(io::stdin(), termios::OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that is gone needs no setting.
        let _: rustix::io::Result<()> = termios::tcsetattr(io::stdin(), termios::OptionalActions::Now, &self.0);
    }
}

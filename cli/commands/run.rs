//! `slipway run`: a program in a container of an image.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use engine::containers::{AttachEnd, Control, Ends, RunStreams};
use engine::ops;
use engine::ops::run::RunError;
use rustix::termios;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::create;
use crate::failure::{Failure, Interrupted};
use crate::flags::container::{self, ContainerArgs};
use crate::progress::{self, OfRun};
use crate::session::{Session, Threads};
use crate::terminal;

/// What docker's exit code says when the container never ran.
pub(crate) const ENGINE_ERROR: u8 = 125;

const EXAMPLES: &str = "\
Examples:
  slipway run --rm debian:12 cat /etc/os-release
  slipway run -it debian:12                         A shell in a terminal
  slipway run -d --name web -p 8080:80 -v $PWD/site:/usr/share/nginx/html:ro nginx
  slipway run -m 512m --cpus 1.5 --network none app

The exit code is the program's; 125 when slipway itself fails, 126 when the program cannot be
executed, 127 when it is not there, 128 and the signal when a signal ended it. Without --rm the
container stays when it ends: `slipway ps -a` lists it, `slipway rm` removes it.";

/// Run a program in a container of an image
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, disable_help_flag = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) container: ContainerArgs,
    /// Run in the background, and print the container's ID
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Leave the container with these keys
    #[arg(long, value_name = "KEYS")]
    pub(crate) detach_keys: Option<String>,
    /// Pass signals on to the program
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    pub(crate) sig_proxy: bool,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let result = if args.detach { run_detached(&args, session) } else { run_attached(&args, session) };
    result.map_err(|error| match error.downcast_ref::<RunError>() {
        Some(RunError::Interrupted { signal }) => {
            session.abandon();
            Interrupted { signal: *signal }.into()
        }
        None if error.is::<Failure>() => error,
        None if error.is::<Interrupted>() => error,
        _ => explain(error).into(),
    })
}

/// Gives an error docker's exit code, and advice.
fn explain(error: anyhow::Error) -> Failure {
    let code = error.downcast_ref::<RunError>().map_or(ENGINE_ERROR, RunError::exit_code);
    create::explain(error, code)
}

fn run_detached(args: &Args, session: &Session) -> anyhow::Result<ExitCode> {
    if !args.container.attach.is_empty() {
        anyhow::bail!("Conflicting options: -a and -d");
    }
    let options = container::parse(&args.container)?;
    let cidfile = create::CidFile::begin(args.container.cidfile.as_deref())?;
    let insecure = args.container.insecure()?;
    let engine = session.engine_for(&insecure.iter().map(String::as_str).collect::<Vec<_>>())?;
    let view = progress::of_transfer(session.progress());
    let events = OfRun::new(view.clone(), cidfile, || {});
    let run = ops::run::run_detached(&engine, options, &events, session.cancel());
    let result = session.wait(Threads::One, run);
    view.finish();
    terminal::print_line(&result?)?;
    Ok(ExitCode::SUCCESS)
}

fn run_attached(args: &Args, session: &Session) -> anyhow::Result<ExitCode> {
    let flags = &args.container;
    let streams = streams(flags.interactive && flags.attaches("stdin"), flags.tty, |name| flags.attaches(name))?;
    let detach_keys = terminal::detach_keys(args.detach_keys.as_deref())?;
    let mut options = container::parse(flags)?;
    options.config.attach_stdin = streams.stdin.is_some();
    options.config.stdin_once = flags.interactive;
    options.config.attach_stdout = flags.attaches("stdout");
    options.config.attach_stderr = flags.attaches("stderr");
    let cidfile = create::CidFile::begin(flags.cidfile.as_deref())?;
    let insecure = flags.insecure()?;
    let engine = session.engine_for(&insecure.iter().map(String::as_str).collect::<Vec<_>>())?;
    let view = progress::of_transfer(session.progress());
    let raw = Mutex::new(None);
    let wants_raw = flags.tty && flags.interactive;
    // Not before: while an image is pulled, Ctrl-C is ours and not the container's.
    let events = OfRun::new(view.clone(), cidfile, || {
        if wants_raw {
            *raw.lock().unwrap_or_else(PoisonError::into_inner) = RawTerminal::begin().ok();
        }
    });
    let size = if flags.tty { terminal::size() } else { None };
    let finished = session.wait_with(Threads::One, async {
        let ends = Ends { streams, detach_keys, control: Signals::listen(flags.tty, args.sig_proxy)? };
        let run = ops::run::run(&engine, options, size, ends, &events, session.cancel());
        run.await.map_err(anyhow::Error::from)
    });
    drop(events);
    drop(raw);
    view.finish();
    finish(finished?)
}

/// Tells how an attached program ended.
pub(crate) fn finish(end: AttachEnd) -> anyhow::Result<ExitCode> {
    match end {
        AttachEnd::Exited(exited) => {
            if exited.oom_killed {
                terminal::note("warning: the container ran out of memory, and the kernel killed a process in it");
            }
            // What a shell would show: 128 and the signal.
            Ok(ExitCode::from(u8::try_from(exited.code & 0xff).unwrap_or(ENGINE_ERROR)))
        }
        AttachEnd::Detached => {
            terminal::note("");
            Ok(ExitCode::SUCCESS)
        }
        AttachEnd::Lost => {
            Err(Failure::new(anyhow::anyhow!("the container's supervisor was killed")).code(ENGINE_ERROR).into())
        }
    }
}

/// Opens our standard streams for a program.
pub(crate) fn streams(stdin: bool, tty: bool, shown: impl Fn(&str) -> bool) -> anyhow::Result<RunStreams> {
    if tty && stdin && !io::stdin().is_terminal() {
        let error = anyhow::anyhow!("the input device is not a TTY");
        return Err(Failure::new(error)
            .code(ENGINE_ERROR)
            .hint("leave -t out when standard input is redirected")
            .into());
    }
    // The files themselves: the buffers of `io::stdout()` would cut at line ends.
    let open = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map(File::from).context("cannot use a standard stream");
    let sink = |name: &str, fd: BorrowedFd<'_>| -> anyhow::Result<Box<dyn io::Write + Send>> {
        Ok(if shown(name) { Box::new(open(fd)?) } else { Box::new(io::sink()) })
    };
    Ok(RunStreams {
        stdin: match stdin {
            true => Some(Box::new(open(io::stdin().as_fd())?)),
            false => None,
        },
        stdout: sink("stdout", io::stdout().as_fd())?,
        stderr: sink("stderr", io::stderr().as_fd())?,
    })
}

/// Passes signals on to the container, as docker's `--sig-proxy` does.
pub(crate) struct Signals;

impl Signals {
    /// Listens; only to the terminal's size when signals are not to be passed on.
    pub(crate) fn listen(tty: bool, proxy: bool) -> anyhow::Result<mpsc::UnboundedReceiver<Control>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let forwarded = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
            SignalKind::quit(),
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
        ];
        for kind in forwarded.into_iter().filter(|_| proxy) {
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

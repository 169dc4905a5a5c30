//! The command line: arguments in, text or JSON out, and nothing else; what it does is in `engine`.
//!
//! | File | Owns |
//! | --- | --- |
//! | `args` | the global flags and the list of commands |
//! | `commands/` | one file per command: its flags and how its result is printed |
//! | `flags/` | words that flags share, and the long ones: `-o`, and how a container runs |
//! | `session` | what commands share: home, engine, async runtime, interrupts |
//! | `retries` | what a server's bucket makes it send again |
//! | `rootless` | where a plain user is root |
//! | `shell` | this terminal as the ends of a shell in a build's step |
//! | `objects` | what commands about networks and volumes share |
//! | `clock` | the one place that asks what time it is |
//! | `progress/` | the views of a build and of transfers |
//! | `each` | doing the same to several names |
//! | `template` | `--format`: tables, JSON, and Go templates |
//! | `table`, `units` | columns, sizes and times as docker prints them |
//! | `sink` | files and standard output as the ends of what commands write |
//! | `terminal` | standard output, and whether anybody looks at it |
//! | `memory` | copying and comparing bytes, which musl does slowly |
//! | `failure` | `error:`, `caused by:`, `hint:`, and the exit code |

mod args;
mod clock;
mod commands;
mod each;
mod failure;
mod flags;
#[cfg(all(target_arch = "x86_64", any(target_env = "musl", test)))]
mod memory;
mod objects;
mod progress;
mod retries;
mod rootless;
mod session;
mod shell;
mod sink;
mod table;
mod template;
mod terminal;
mod units;
mod verification;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

// musl's malloc halves the speed of everything that moves bytes.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    match arguments.get(1).and_then(|word| word.to_str()) {
        // Before anything starts a thread: this process forks, and stays small.
        Some(engine::supervisor::WORD) => {
            return ExitCode::from(engine::supervisor::main(&arguments[2..], clock::now, rootless::enter_again));
        }
        Some("exec") if rustix::process::geteuid().is_root() => {
            // It starts anew in any case; here, little was done that is done again. Why it cannot is told later, there.
            let _: io::Result<()> = engine::ops::oci::restart_sealed(&arguments);
        }
        _ => {}
    }
    let cli = match args::Cli::of(commands::oci::arguments()) {
        Ok(cli) => cli,
        Err(error) => return failure::usage(&error),
    };
    match commands::run(cli) {
        Ok(code) => code,
        Err(error) => failure::report(&error),
    }
}

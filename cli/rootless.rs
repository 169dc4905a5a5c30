//! Where a plain user is root: entering it, and what has to be said about it.

use std::path::PathBuf;
use std::sync::OnceLock;

use engine::runtime::{WorldError, enter as enter_world, world};

use crate::args::Command;
use crate::terminal;

static REFUSED: OnceLock<WorldError> = OnceLock::new();

/// Enters a plain user's world, for a command that works on images or containers.
///
/// Without it images can be handled still, and built as long as nothing runs; why there is none is told when it matters.
pub(crate) fn enter(command: &Command) {
    let needless = matches!(
        command,
        Command::Version(_)
            | Command::Completion(_)
            | Command::Oci(_)
            | Command::Serve(_)
            | Command::Registry(_)
            | Command::Login(_)
            | Command::Logout(_)
    );
    if !needless && let Err(error) = enter_world(places_of) {
        // It is the first one.
        let _ = REFUSED.set(error);
    }
}

/// Enters the world again that this process was started in.
pub(crate) fn enter_again() -> std::io::Result<()> {
    enter_world(places_of).map_err(std::io::Error::other)
}

/// Says what a build of a plain user had to do without.
pub(crate) fn warn() {
    if let Some(lacking) = world().and_then(|world| world.notice()) {
        terminal::note(&terminal::printable(&format!("warning: {lacking}")));
    }
}

/// Why containers need root, for somebody who is not.
pub(crate) fn advice() -> String {
    const GENERAL: &str = "a plain user's containers need user namespaces";
    let Some(error) = REFUSED.get() else { return GENERAL.to_owned() };
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    format!("{GENERAL}, or root: {}", causes.map(ToString::to_string).collect::<Vec<_>>().join(": "))
}

/// Where the files of a user's world may be: where such files belong, or where everybody may make a folder.
///
/// Nothing of the environment counts, or who came by `su` or `cron` would be in another world. Which of the two it is changes
/// all the same, when the first login makes the one: so a world that is in the other goes on there.
fn places_of(user: u32) -> Vec<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    let us = rustix::process::geteuid().as_raw();
    let usual = PathBuf::from(format!("/run/user/{user}"));
    let has_usual = usual.metadata().is_ok_and(|found| found.is_dir() && found.uid() == us);
    let other = format!("/tmp/slipway-{user}").into();
    if has_usual { vec![usual.join("slipway"), other] } else { vec![other] }
}

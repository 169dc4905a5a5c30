//! Commands that do the same to several things: what is done is printed, what fails does not stop the others.

use std::future::Future;
use std::process::ExitCode;

use crate::session::{Session, Threads};
use crate::{failure, terminal};

/// Does something to each of several names at once, and prints what came of them in their order.
///
/// # Errors
///
/// The last failure; those before are printed.
pub(crate) fn each<F, T, E>(
    session: &Session,
    names: &[String],
    work: impl Fn(String) -> F,
    show: impl Fn(&str, T) -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode>
where
    F: Future<Output = Result<T, E>>,
    E: Into<anyhow::Error>,
{
    let all = async {
        Ok::<_, anyhow::Error>(futures_util::future::join_all(names.iter().map(|name| work(name.clone()))).await)
    };
    let results = session.wait_or_drop(Threads::One, all)?;
    let mut last: Option<anyhow::Error> = None;
    for (name, result) in names.iter().zip(results) {
        match result {
            Ok(value) => show(name, value)?,
            Err(error) => {
                if let Some(error) = last.replace(error.into()) {
                    failure::note_error(&error);
                }
            }
        }
    }
    last.map_or(Ok(ExitCode::SUCCESS), Err)
}

/// Prints the name.
pub(crate) fn print_name<T>(name: &str, _: T) -> anyhow::Result<()> {
    Ok(terminal::print_line(name)?)
}

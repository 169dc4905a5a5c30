//! Tells where the ports of a container are published.

use jiff::Timestamp;
use supervisor::ContainerError;
use supervisor::config::PortBinding;

use crate::Engine;
use crate::containers;

/// Returns the ports of a container that are published, `80/tcp`, and where each is; nothing when it does not run.
///
/// # Errors
///
/// When there is no such container.
pub async fn port(
    engine: &Engine,
    name: String,
    now: Timestamp,
) -> Result<Vec<(String, Vec<PortBinding>)>, ContainerError> {
    let all = containers::all(engine);
    store::blocking::run(move || {
        let state = all.find(&name)?.state(now)?;
        let ports = if state.status.is_alive() { state.ports } else { Default::default() };
        let mut ports: Vec<_> = ports.into_iter().collect();
        // By their numbers, as docker has them.
        ports.sort_by_key(|(port, _)| {
            let (number, protocol) = port.split_once('/').unwrap_or((port, ""));
            (number.parse::<u16>().unwrap_or_default(), protocol.to_owned())
        });
        Ok(ports)
    })
    .await
}

//! `slipway info`: what this machine can do for containers, and what is here.

use std::process::ExitCode;

use engine::ops;
use engine::ops::info::Info;
use serde_json::{Value, json};

use crate::session::{Session, Threads};
use crate::template::{self, Format};
use crate::{clock, terminal, units};

const EXAMPLES: &str = "\
Examples:
  slipway info
  slipway info --format '{{.CgroupVersion}} {{.Driver}}'
  slipway info --format json | jq .Warnings";

/// Show what this machine can do for containers and what it cannot, and what is here
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Print JSON, or what a Go template makes of it
    #[arg(short, long, value_name = "FORMAT", value_parser = template::format)]
    format: Option<Format>,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let engine = session.engine()?;
    let info = session.wait(Threads::One, ops::info::info(&engine, clock::now()))?;
    match args.format {
        None | Some(Format::Table) => {
            terminal::print_line(&text(&info))?;
            for warning in &info.warnings {
                terminal::note(&terminal::printable(&format!("WARNING: {warning}")));
            }
        }
        Some(Format::Json) => terminal::print_json(&value(&info).to_string())?,
        Some(Format::Text(template) | Format::TableOf(template)) => {
            terminal::print_line(&template::render(&template, &value(&info))?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Docker's members, as far as they mean something here, and ours below `Slipway`.
fn value(info: &Info) -> Value {
    let has = |name: &str| {
        let mut writable = info.machine.cgroups.iter().filter(|one| one.writable);
        writable.any(|one| one.controllers.iter().any(|controller| controller == name))
    };
    let cgroups = info.machine.cgroups.iter().map(|one| {
        json!({
            "Version": one.version,
            "Controllers": one.controllers,
            "Path": one.base,
            "Writable": one.writable,
        })
    });
    let rootless = info.rootless.as_ref().map(|rootless| json!({ "Users": rootless.users, "Uplink": rootless.uplink }));
    let mut security = vec!["name=seccomp,profile=builtin"];
    security.extend(info.rootless.as_ref().map(|_| "name=rootless"));
    json!({
        "Containers": info.running + info.paused + info.stopped,
        "ContainersRunning": info.running,
        "ContainersPaused": info.paused,
        "ContainersStopped": info.stopped,
        "Images": info.images,
        "Driver": "overlay",
        "DriverStatus": [["Backing Filesystem", info.file_system], ["userxattr", info.rootless.is_some().to_string()]],
        "DockerRootDir": info.home,
        "CgroupDriver": if info.machine.cgroups.iter().any(|one| one.writable) { "cgroupfs" } else { "none" },
        "CgroupVersion": cgroup_version(info),
        "MemoryLimit": has("memory"),
        "CpuCfsQuota": has("cpu"),
        "CPUShares": has("cpu"),
        "CPUSet": has("cpuset"),
        "PidsLimit": has("pids"),
        "KernelVersion": info.kernel,
        "OperatingSystem": info.system,
        "OSType": std::env::consts::OS,
        "Architecture": std::env::consts::ARCH,
        "NCPU": info.processors,
        "MemTotal": info.memory,
        "Name": info.name,
        "ServerVersion": env!("CARGO_PKG_VERSION"),
        "SecurityOptions": security,
        "Warnings": info.warnings,
        "Slipway": {
            "FreeBytes": info.free,
            "Overlay": info.machine.no_overlay.is_none(),
            "OverlayUserXattr": info.machine.no_user_xattr.is_none(),
            "Hybrid": is_hybrid(info),
            "Cgroups": cgroups.collect::<Vec<_>>(),
            "Namespaces": info.machine.namespaces,
            "Nftables": info.machine.no_nftables.is_none(),
            "Emulated": info.emulated,
            "Rootless": rootless,
        },
    })
}

/// The version that limits containers.
fn cgroup_version(info: &Info) -> &'static str {
    let any = |version: u32| info.machine.cgroups.iter().any(|one| one.version == version);
    match (any(1), any(2)) {
        (true, _) => "1",
        (false, true) => "2",
        (false, false) => "",
    }
}

/// Whether the other one is there, too.
fn is_hybrid(info: &Info) -> bool {
    cgroup_version(info) == "1" && info.machine.unified
}

fn text(info: &Info) -> String {
    let machine = &info.machine;
    let able = |reason: &Option<String>| reason.as_ref().map_or("yes".to_owned(), |reason| format!("no ({reason})"));
    let mut lines = vec![
        format!("Containers: {}", info.running + info.paused + info.stopped),
        format!(" Running: {}", info.running),
        format!(" Paused: {}", info.paused),
        format!(" Stopped: {}", info.stopped),
        format!("Images: {}", info.images),
        format!("Version: {}", env!("CARGO_PKG_VERSION")),
        format!("Home: {}", info.home.display()),
        format!(" File System: {}", info.file_system),
        format!(" Free: {}", units::size(info.free)),
        format!("Overlay: {}", able(&machine.no_overlay)),
        format!(" userxattr: {}", able(&machine.no_user_xattr)),
        format!("Cgroup Version: {}{}", cgroup_version(info), if is_hybrid(info) { " (hybrid)" } else { "" }),
    ];
    for one in &machine.cgroups {
        let lacks = if one.writable { "" } else { " (not to be changed)" };
        lines.push(format!(" {}: {}{lacks}", one.base.display(), one.controllers.join(" ")));
    }
    lines.push(format!("Namespaces: {}", machine.namespaces.join(" ")));
    lines.push(format!("nftables: {}", able(&machine.no_nftables)));
    match &info.rootless {
        None => lines.push("Rootless: no".into()),
        Some(rootless) => {
            lines.push("Rootless: yes".into());
            lines.push(format!(" Users: {}", rootless.users));
            lines.push(format!(" Way Out: {}", rootless.uplink.as_deref().unwrap_or("none")));
        }
    }
    let emulated = if info.emulated.is_empty() { "none".into() } else { info.emulated.join(" ") };
    lines.extend([
        format!("Emulated Machines: {emulated}"),
        format!("Kernel Version: {}", info.kernel),
        format!("Operating System: {}", info.system),
        format!("Architecture: {}", std::env::consts::ARCH),
        format!("CPUs: {}", info.processors),
        format!("Total Memory: {}", units::binary_size(info.memory)),
        format!("Name: {}", info.name),
    ]);
    lines.join("\n")
}

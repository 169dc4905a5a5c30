//! The flags of `run` made into what the engine takes.

use std::path::{Path, PathBuf};

use anyhow::Context;
use builder::PullPolicy;
use engine::devices::Device;
use engine::machine::NetworkChoice;
use engine::ops::run::{RunMount, RunOptions};
use engine::runtime::{LinuxSeccomp, Seccomp};

use crate::commands::run::{Args, PullArg};
use crate::failure::Failure;
use crate::{clock, terminal, units};

/// Reads the flags.
pub(crate) fn parse(args: &Args) -> anyhow::Result<RunOptions> {
    for (asked, flag) in [(args.detach, "--detach"), (args.init, "--init")] {
        if asked {
            let hint = "containers run in the foreground for now";
            return Err(Failure::new(anyhow::anyhow!("{flag} is not supported yet")).code(125).hint(hint).into());
        }
    }
    let words: Vec<String> = args
        .image_and_command
        .iter()
        .map(|word| word.to_str().map(str::to_owned).with_context(|| format!("`{}` is not text", word.display())))
        .collect::<Result<_, _>>()?;
    let (image, command) = words.split_first().context("an image is required")?;
    let mut run = RunOptions::new(image, clock::now());
    run.command = command.to_vec();
    run.entrypoint = args.entrypoint.as_ref().map(|program| match program.as_str() {
        "" => Vec::new(),
        program => vec![program.to_owned()],
    });
    if let Some(platform) = &args.platform {
        run.platform = platform.clone();
    }
    run.pull = match args.pull {
        PullArg::Missing => PullPolicy::Missing,
        PullArg::Always => PullPolicy::Always,
        PullArg::Never => PullPolicy::Never,
    };
    run.env = environment(args)?;
    run.workdir = match &args.workdir {
        Some(path) if !path.starts_with('/') => anyhow::bail!("the working directory `{path}` must be absolute"),
        path => path.clone(),
    };
    run.user.clone_from(&args.user);
    run.hostname.clone_from(&args.hostname);
    run.terminal = args.tty.then(terminal::size);
    for text in &args.volume {
        run.mounts.push(volume(text).with_context(|| format!("--volume `{text}`"))?);
    }
    for text in &args.mount {
        run.mounts.push(mount(text).with_context(|| format!("--mount `{text}`"))?);
    }
    for text in &args.tmpfs {
        run.mounts.push(tmpfs(text).with_context(|| format!("--tmpfs `{text}`"))?);
    }
    run.network = match args.network.as_str() {
        "bridge" | "default" => NetworkChoice::Default,
        "none" => NetworkChoice::None,
        "host" => NetworkChoice::Host,
        other => anyhow::bail!("network `{other}` not found; there are bridge, none and host"),
    };
    for text in &args.publish {
        run.publish.extend(engine::runtime::parse_ports(text).context("--publish")?);
    }
    run.add_hosts =
        args.add_host.iter().map(|text| super::host(text).context("--add-host")).collect::<Result<_, _>>()?;
    let dns = |text: &String| text.parse().with_context(|| format!("--dns `{text}` is no address"));
    run.dns = args.dns.iter().map(dns).collect::<Result<_, _>>()?;
    limits(args, &mut run)?;
    rights(args, &mut run)?;
    Ok(run)
}

fn limits(args: &Args, run: &mut RunOptions) -> anyhow::Result<()> {
    /// The kernel refuses less, docker says so.
    const LEAST_MEMORY: u64 = 6 << 20;
    run.shm_size = args.shm_size;
    run.memory = args.memory.filter(|&bytes| bytes > 0);
    if run.memory.is_some_and(|bytes| bytes < LEAST_MEMORY) {
        anyhow::bail!("minimum memory limit allowed is 6MB");
    }
    if let Some(cpus) = args.cpus.filter(|&cpus| cpus != 0.0) {
        anyhow::ensure!((0.01..=1e6).contains(&cpus), "--cpus {cpus} is not between 0.01 and a million");
        #[expect(clippy::cast_possible_truncation, reason = "checked just above")]
        let nano_cpus = (cpus * 1e9) as i64;
        run.nano_cpus = Some(nano_cpus);
    }
    run.pids_limit = args.pids_limit;
    run.ulimits = args.ulimit.iter().map(|text| super::ulimit(text).context("--ulimit")).collect::<Result<_, _>>()?;
    Ok(())
}

fn rights(args: &Args, run: &mut RunOptions) -> anyhow::Result<()> {
    run.cap_add.clone_from(&args.cap_add);
    run.cap_drop.clone_from(&args.cap_drop);
    run.privileged = args.privileged;
    run.read_only = args.read_only;
    for option in &args.security_opt {
        match option.split_once([':', '=']).unwrap_or((option, "")) {
            ("no-new-privileges", "" | "true") => run.no_new_privileges = true,
            ("no-new-privileges", "false") => run.no_new_privileges = false,
            ("seccomp", "unconfined") => run.seccomp = Seccomp::Unconfined,
            ("seccomp", path) => run.seccomp = Seccomp::Profile(Box::new(seccomp_profile(Path::new(path))?)),
            // What there is without AppArmor and SELinux, which we do not set up.
            ("apparmor", "unconfined") | ("label", "disable") => {}
            ("apparmor" | "label", _) => anyhow::bail!("--security-opt `{option}` is not supported yet"),
            _ => anyhow::bail!("--security-opt `{option}` is not known"),
        }
    }
    run.devices = args.device.iter().map(|text| device(text)).collect::<Result<_, _>>()?;
    Ok(())
}

fn seccomp_profile(path: &Path) -> anyhow::Result<LinuxSeccomp> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read seccomp profile `{}`", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("`{}` is no seccomp profile", path.display()))
}

/// Reads `PATH[:TARGET][:rwm]`.
fn device(text: &str) -> anyhow::Result<Device> {
    let is_access = |text: &str| !text.is_empty() && text.bytes().all(|byte| b"rwm".contains(&byte));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, access) = match parts[..] {
        [source] => (source, source, "rwm"),
        [source, access] if is_access(access) => (source, source, access),
        [source, target] => (source, target, "rwm"),
        [source, target, access] if is_access(access) => (source, target, access),
        _ => anyhow::bail!("--device `{text}` is not of the form PATH[:TARGET[:rwm]]"),
    };
    Ok(Device { source: source.into(), target: target.into(), access: access.into() })
}

/// The files' variables first, so that those of the command line win.
fn environment(args: &Args) -> anyhow::Result<Vec<String>> {
    let mut all = Vec::new();
    let mut add = |text: &str| -> anyhow::Result<()> {
        all.extend(super::variable(text)?.map(|(name, value)| format!("{name}={value}")));
        Ok(())
    };
    for path in &args.env_file {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_start();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let name = line.split('=').next().unwrap_or_default();
            let place = || format!("`{}`, line {}", path.display(), number + 1);
            anyhow::ensure!(!name.contains(char::is_whitespace), "{}: `{name}` has a blank in it", place());
            add(line).with_context(place)?;
        }
    }
    for text in &args.env {
        add(text).context("--env")?;
    }
    Ok(all)
}

/// Reads `[SOURCE:]TARGET[:OPTIONS]`.
fn volume(text: &str) -> anyhow::Result<RunMount> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, flags) = match parts[..] {
        [target] => (None, target, ""),
        [target, flags] if !flags.starts_with('/') => (None, target, flags),
        [source, target] => (Some(source), target, ""),
        [source, target, flags] => (Some(source), target, flags),
        _ => anyhow::bail!("it is not of the form [SOURCE:]TARGET[:ro]"),
    };
    let (source, target) = match source {
        // `name:/target` looks like a target with flags to the rule above.
        None if !target.starts_with('/') => anyhow::bail!("the target `{target}` must be an absolute path"),
        source => (source, target_path(target)?),
    };
    let mut read_only = false;
    for flag in flags.split(',').filter(|flag| !flag.is_empty()) {
        match flag {
            "ro" | "readonly" => read_only = true,
            // Labels and propagation as on the machine, and the container is alone with its copy.
            "rw" | "z" | "Z" | "cached" | "delegated" | "consistent" | "rprivate" | "private" => {}
            other => anyhow::bail!("unknown option `{other}`"),
        }
    }
    match source {
        None => Ok(RunMount::Volume { target, read_only }),
        Some(source) => Ok(RunMount::Bind { source: source_path(source)?, target, read_only, create: true }),
    }
}

/// Reads `type=bind|tmpfs|volume,source=…,target=…,readonly`.
fn mount(text: &str) -> anyhow::Result<RunMount> {
    let (mut kind, mut source, mut target) = ("volume".to_owned(), None, None);
    let (mut read_only, mut size, mut mode) = (false, None, None);
    for (key, value) in super::fields(text)? {
        match (key.as_str(), value) {
            ("type", Some(value)) => kind = value,
            ("source" | "src", Some(value)) => source = Some(value),
            ("target" | "dst" | "destination", Some(value)) => target = Some(value),
            ("readonly" | "ro", value) => read_only = super::boolean(&key, value.as_deref())?,
            ("tmpfs-size", Some(value)) => size = Some(units::parse_size(&value).map_err(anyhow::Error::msg)?),
            ("tmpfs-mode", Some(value)) => mode = Some(octal(&value)?),
            ("consistency", _) => {}
            ("bind-propagation", Some(value)) if value == "rprivate" || value == "private" => {}
            (key @ ("bind-propagation" | "volume-nocopy"), _) => anyhow::bail!("`{key}` is not supported yet"),
            (key, _) => anyhow::bail!("unknown key `{key}`"),
        }
    }
    let target = target_path(&target.context("it has no target")?)?;
    match kind.as_str() {
        "bind" => {
            let source = source_path(&source.context("a bind has a source")?)?;
            Ok(RunMount::Bind { source, target, read_only, create: false })
        }
        "tmpfs" => Ok(RunMount::Tmpfs { target, size, mode, read_only }),
        "volume" if source.is_none() => Ok(RunMount::Volume { target, read_only }),
        "volume" => anyhow::bail!("named volumes are not supported yet"),
        other => anyhow::bail!("type `{other}` is none of bind, tmpfs and volume"),
    }
}

/// Reads `TARGET[:size=…,mode=…,ro]`.
fn tmpfs(text: &str) -> anyhow::Result<RunMount> {
    let (target, flags) = text.split_once(':').unwrap_or((text, ""));
    let (mut size, mut mode, mut read_only) = (None, None, false);
    for (key, value) in super::fields(flags)? {
        match (key.as_str(), value) {
            ("size", Some(value)) => size = Some(units::parse_size(&value).map_err(anyhow::Error::msg)?),
            ("mode", Some(value)) => mode = Some(octal(&value)?),
            ("ro", None) => read_only = true,
            ("" | "rw" | "nosuid" | "nodev" | "noexec", None) => {}
            (key, _) => anyhow::bail!("unknown option `{key}`"),
        }
    }
    Ok(RunMount::Tmpfs { target: target_path(target)?, size, mode, read_only })
}

fn octal(text: &str) -> anyhow::Result<u32> {
    u32::from_str_radix(text, 8).with_context(|| format!("mode `{text}` is not octal"))
}

fn target_path(text: &str) -> anyhow::Result<String> {
    anyhow::ensure!(text.starts_with('/'), "the target `{text}` must be an absolute path");
    anyhow::ensure!(!text.trim_matches('/').is_empty(), "the target must not be `/`");
    Ok(text.into())
}

/// A path of the machine; what has no slash is the name of a volume.
fn source_path(text: &str) -> anyhow::Result<PathBuf> {
    if !text.contains('/') && text != "." && text != ".." {
        anyhow::bail!("named volumes are not supported yet; write ./{text} for a folder");
    }
    std::path::absolute(text).with_context(|| format!("cannot use `{text}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<RunMount, String> {
        volume(text).map_err(|error| error.to_string())
    }

    #[test]
    fn volumes_are_read_as_docker_does() {
        let bind = |source: &str, target: &str, read_only| {
            Ok(RunMount::Bind { source: source.into(), target: target.into(), read_only, create: true })
        };
        assert_eq!(read("/a:/b"), bind("/a", "/b", false));
        assert_eq!(read("/a:/b:ro"), bind("/a", "/b", true));
        assert_eq!(read("/b"), Ok(RunMount::Volume { target: "/b".into(), read_only: false }));
        assert!(read("name:/b").is_err_and(|error| error.contains("named volumes")));
        for text in ["b", "/a:b", "/a:/", "/a:/b:x", "/a:/b:ro:x"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn mounts_are_read_as_docker_does() {
        let tmpfs = RunMount::Tmpfs { target: "/t".into(), size: Some(1 << 20), mode: Some(0o700), read_only: false };
        assert_eq!(mount("type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=700").ok(), Some(tmpfs));
        let bind = RunMount::Bind { source: "/a".into(), target: "/b".into(), read_only: true, create: false };
        assert_eq!(mount("type=bind,src=/a,target=/b,readonly").ok(), Some(bind));
        for text in [
            "type=bind,target=/b",
            "type=bind,src=/a",
            "type=x,target=/b",
            "type=bind,what=1",
            "type=bind,src=/a,target=/b,bind-propagation=shared",
        ] {
            assert!(mount(text).is_err(), "{text}");
        }
    }
}

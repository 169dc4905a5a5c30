//! How a `RUN` step becomes a container: `builder::Executor` filled in with `runtime`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use builder::{ExecStep, ExecuteError, Executor, ExitStatus, MountKind, Network, Security, Stream};
use oci_spec::runtime::{Mount, MountBuilder, Spec};
use runtime::{ContainerConfig, Pool, Rootfs, SpecOptions, Stdio, Ulimit, UserIds};

use crate::machine::{self, EtcFiles, NetworkChoice, PrivateFolder, SharedFiles};
use crate::ssh::Forwarded;

/// Runs the steps of one build as containers.
#[derive(Clone, Debug, Default)]
pub struct ContainerExecutor {
    /// What a step leaves for the next one.
    pool: Arc<Pool>,
    /// What all of them mount.
    files: Arc<SharedFiles>,
}

/// Why a step did not become a container.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum StepError {
    #[error(transparent)]
    Machine(#[from] machine::MachineError),
    #[error(transparent)]
    Network(#[from] runtime::network::NetworkError),
    #[error("cannot describe the container")]
    Spec(#[from] runtime::SpecError),
    #[error("cannot describe a mount")]
    Mount(#[from] oci_spec::OciSpecError),
    #[error("`{address}` of --add-host is not an IP address")]
    Host { address: String, source: std::net::AddrParseError },
    #[error("cannot offer a secret")]
    Secret(#[source] io::Error),
    #[error("cannot offer the SSH agent `{}`", path.display())]
    Agent { path: PathBuf, source: io::Error },
    #[error("a step needs root, or a user namespace, to run in")]
    NotRoot(#[source] runtime::StartError),
    #[error(transparent)]
    Start(#[from] runtime::StartError),
    #[error(transparent)]
    Wait(#[from] runtime::WaitError),
    #[error("cannot signal the container")]
    Signal(#[source] io::Error),
}

/// Kills at once.
const SIGKILL: i32 = 9;

impl Executor for ContainerExecutor {
    fn expect(&self, network: Network) {
        machine::expect_network_in(choice(network), &self.pool);
    }

    fn execute(&self, step: &ExecStep<'_>) -> Result<ExitStatus, ExecuteError> {
        if step.cancel.is_cancelled() {
            return Err(ExecuteError::Cancelled);
        }
        let result = self.run(step);
        if !matches!(result, Ok(ExitStatus { code: 0, .. })) {
            // Whoever looks at what it left may mount that.
            self.pool.await_unmounted();
        }
        if step.cancel.is_cancelled() {
            return Err(ExecuteError::Cancelled);
        }
        match result {
            Ok(status) => Ok(status),
            Err(StepError::Start(error)) if error.exit_code() != 125 => {
                // As a shell would say it, on the step's own output.
                (step.output)(Stream::Stderr, describe(&error).as_bytes());
                Ok(ExitStatus { code: error.exit_code(), out_of_memory: false })
            }
            Err(error) => Err(ExecuteError::Start(Box::new(error))),
        }
    }
}

pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text.push('\n');
    text
}

impl ContainerExecutor {
    fn run(&self, step: &ExecStep<'_>) -> Result<ExitStatus, StepError> {
        let (container, _agents) = self.launch(step, Stdio::pipes())?;
        let controls = container.controls().map_err(StepError::Signal)?;
        let _guard = step.cancel.on_cancel(move || {
            // When it is gone already, it need not be killed.
            let _: io::Result<()> = controls.kill(SIGKILL);
        });
        let output = &mut |number, bytes: &[u8]| {
            let stream = if number == 2 { Stream::Stderr } else { Stream::Stdout };
            (step.output)(stream, bytes);
        };
        let status = container.run(output).map_err(|error| match error {
            runtime::RunError::Start(error) => start_failed(error),
            runtime::RunError::Wait(error) => error.into(),
        })?;
        Ok(ExitStatus { code: status.shell_code(), out_of_memory: status.oom_killed })
    }

    /// Makes the container of a step. What comes with it leads to SSH agents, and must live as long as the container.
    fn launch(&self, step: &ExecStep<'_>, stdio: Stdio) -> Result<(runtime::Launched, Vec<Forwarded>), StepError> {
        let network = machine::prepare_network_in(choice(step.network), &self.pool)?;
        // They are there until the container has mounted them: nobody else shall find them.
        let mut secrets = Secrets::default();
        let mut agents = Vec::new();
        let terminal = matches!(stdio, Stdio::Terminal { .. });
        let spec = describe_step(step, &network, &self.files, terminal, &mut secrets, &mut agents)?;
        let config = ContainerConfig {
            id: machine::new_id(),
            spec,
            rootfs: Rootfs::Overlay {
                lower: step.rootfs.lower.clone(),
                upper: step.rootfs.upper.clone(),
                work: step.rootfs.work.clone(),
                volatile: true,
            },
            stdio,
            network,
            cgroup_parent: step.cgroup_parent.map(str::to_owned),
            die_with_parent: true,
        };
        let mut container = runtime::launch_in_pool(config, &self.pool).map_err(start_failed)?;
        if !secrets.is_empty() {
            container.mounted().map_err(start_failed)?;
        }
        Ok((container, agents))
    }

    /// Starts the container of a step.
    pub(crate) fn start(
        &self,
        step: &ExecStep<'_>,
        stdio: Stdio,
    ) -> Result<(runtime::Container, Vec<Forwarded>), StepError> {
        let (container, agents) = self.launch(step, stdio)?;
        Ok((container.started().map_err(start_failed)?, agents))
    }
}

fn choice(network: Network) -> NetworkChoice {
    match network {
        Network::Default => NetworkChoice::Default,
        Network::None => NetworkChoice::None,
        Network::Host => NetworkChoice::Host,
    }
}

fn start_failed(error: runtime::StartError) -> StepError {
    match error.exit_code() {
        125 if !rustix::process::geteuid().is_root() => StepError::NotRoot(error),
        _ => StepError::Start(error),
    }
}

/// Docker's word for the machine itself in `--add-host`.
const HOST_GATEWAY: &str = "host-gateway";

fn describe_step(
    step: &ExecStep<'_>,
    network: &runtime::network::Network,
    files: &SharedFiles,
    terminal: bool,
    secrets: &mut Secrets,
    agents: &mut Vec<Forwarded>,
) -> Result<Spec, StepError> {
    let mut hosts = Vec::new();
    for host in step.add_hosts {
        let address = match (host.address.as_str(), network.gateway()) {
            // The machine itself, as the step reaches it: the bridge's own address, or else no other machine at all.
            (HOST_GATEWAY, Some(gateway)) => Ok(gateway.into()),
            (HOST_GATEWAY, None) => Ok(std::net::Ipv4Addr::LOCALHOST.into()),
            (address, _) => address.parse(),
        };
        let address = address.map_err(|source| StepError::Host { address: host.address.clone(), source })?;
        hosts.push((host.name.clone(), address));
    }
    let etc = EtcFiles {
        hostname: &step.hostname,
        address: network.address().map(Into::into),
        hosts: &hosts,
        dns: &[],
        host_network: network.is_host(),
    };
    let privileged = step.security == Security::Insecure;
    let defaults = SpecOptions::default();
    let mut spec = runtime::default_spec(&SpecOptions {
        args: step.argv.clone(),
        env: step.env.iter().map(|(name, value)| format!("{name}={value}")).collect(),
        cwd: step.cwd.clone(),
        user: UserIds { uid: step.user.uid, gid: step.user.gid, additional_gids: step.user.additional_gids.clone() },
        hostname: step.hostname.clone(),
        privileged,
        terminal,
        mounts: etc.share(files)?,
        host_network: network.is_host(),
        shm_size: step.shm_size.unwrap_or(defaults.shm_size),
        ulimits: step.ulimits.iter().map(ulimit).collect(),
        ..defaults
    })?;
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    if step.shm_size.is_some() {
        // As BuildKit does it: whoever asks for a larger one may also execute what is there.
        for mount in mounts.iter_mut().filter(|mount| mount.destination() == Path::new("/dev/shm")) {
            let options = mount.options().clone().unwrap_or_default();
            let kept = options.into_iter().filter(|option| !["noexec", "nodev"].contains(&option.as_str()));
            mount.set_options(Some(kept.collect())).set_source(Some("tmpfs".into()));
        }
    }
    for mount in &step.mounts {
        mounts.push(describe_mount(Path::new(&mount.target), &mount.kind, secrets, agents)?);
    }
    spec.set_mounts(Some(mounts));
    Ok(spec)
}

/// Docker writes -1 for no limit.
pub(crate) fn ulimit(limit: &builder::Ulimit) -> Ulimit {
    let value = |number: i64| u64::try_from(number).unwrap_or(u64::MAX);
    Ulimit { name: limit.name.clone(), soft: value(limit.soft), hard: value(limit.hard) }
}

fn describe_mount(
    target: &Path,
    kind: &MountKind,
    secrets: &mut Secrets,
    agents: &mut Vec<Forwarded>,
) -> Result<Mount, StepError> {
    let mount = |kind: &str, source: &Path, options: Vec<String>| {
        MountBuilder::default().destination(target).typ(kind).source(source).options(options).build()
    };
    let lowers = |folders: &[PathBuf]| -> Vec<String> {
        folders.iter().map(|folder| format!("lowerdir+={}", folder.display())).collect()
    };
    let mount = match kind {
        MountKind::Bind { source, read_only } => {
            let access = if *read_only { "ro" } else { "rw" };
            mount("bind", source, vec!["rbind".into(), access.into()])
        }
        MountKind::Merged { lower } => {
            let mut options = lowers(lower);
            options.push("ro".into());
            mount("overlay", Path::new("overlay"), options)
        }
        MountKind::Overlay(overlay) => {
            let mut options = lowers(&overlay.lower);
            options.push(format!("upperdir={}", overlay.upper.display()));
            options.push(format!("workdir={}", overlay.work.display()));
            mount("overlay", Path::new("overlay"), options)
        }
        MountKind::Tmpfs { size } => {
            let mut options: Vec<String> = ["nosuid", "nodev", "mode=1777"].map(str::to_owned).into();
            options.extend(size.map(|size| format!("size={size}")));
            mount("tmpfs", Path::new("tmpfs"), options)
        }
        MountKind::Secret { value, mode, uid, gid } => {
            let path = secrets.add(value, *mode, *uid, *gid).map_err(StepError::Secret)?;
            mount("bind", &path, vec!["bind".into(), "ro".into()])
        }
        MountKind::Agent { socket, mode, uid, gid } => {
            let agent = Forwarded::start(socket, *mode, *uid, *gid)
                .map_err(|source| StepError::Agent { path: socket.clone(), source })?;
            let mounted = mount("bind", &agent.path, vec!["bind".into(), "ro".into()]);
            agents.push(agent);
            mounted
        }
    };
    Ok(mount?)
}

/// Files in memory that are there only until the container has mounted them.
#[derive(Debug, Default)]
struct Secrets {
    /// Where they are, once there is one.
    folder: Option<PrivateFolder>,
    count: usize,
}

impl Secrets {
    fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn add(&mut self, value: &[u8], mode: u32, uid: u32, gid: u32) -> io::Result<PathBuf> {
        let folder = match self.folder.take() {
            Some(folder) => folder,
            None => PrivateFolder::new()?,
        };
        let path = self.folder.insert(folder).path().join(self.count.to_string());
        self.count += 1;
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(value)?;
        fchown(&file, Some(uid), Some(gid))?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_is_minus_one() {
        let limit = builder::Ulimit { name: "nofile".into(), soft: 1024, hard: -1 };
        assert_eq!(ulimit(&limit), Ulimit { name: "nofile".into(), soft: 1024, hard: u64::MAX });
    }

    #[test]
    fn a_secret_is_gone_once_it_is_mounted_and_nobody_else_reaches_it_before() {
        let mut secrets = Secrets::default();
        let path = secrets.add(b"x", 0o444, 0, 0).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"x");
        let other = secrets.add(b"y", 0o400, 0, 0).unwrap();
        let folder = path.parent().unwrap();
        assert_eq!(
            (other.parent(), fs::metadata(folder).unwrap().permissions().mode() & 0o7777),
            (Some(folder), 0o700)
        );
        drop(secrets);
        assert!(!folder.exists());
    }
}

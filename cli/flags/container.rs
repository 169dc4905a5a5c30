//! The flags of `create` and `run` made into what the engine takes.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Context;
use builder::PullPolicy;
use clap::ValueEnum;
use engine::containers::config::{Config, DeviceMapping, HostConfig, PortBinding, RestartPolicy, Ulimit};
use engine::ops::create::CreateOptions;
use engine::runtime::{LinuxSeccomp, PortMapping, parse_ports};
use oci::HealthConfig;

use super::network::NetworkArgs;
use super::{mounts, network};
use crate::{clock, terminal, units};

/// How a container is made.
#[derive(Debug, clap::Args)]
pub(crate) struct ContainerArgs {
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
    /// Attach only to these of stdin, stdout and stderr
    #[arg(short, long, value_name = "STREAM")]
    pub(crate) attach: Vec<String>,
    /// Remove the container when it ends
    #[arg(long)]
    pub(crate) rm: bool,
    /// Name of the container
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Write the container's ID to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) cidfile: Option<PathBuf>,
    /// When to start it again: no, on-failure, on-failure:TIMES, always or unless-stopped
    #[arg(long, value_name = "POLICY", default_value = "no")]
    pub(crate) restart: String,
    /// Run a small init that forwards signals and reaps processes
    #[arg(long)]
    pub(crate) init: bool,
    /// The signal that asks the program to stop
    #[arg(long, value_name = "SIGNAL")]
    pub(crate) stop_signal: Option<String>,
    /// How many seconds to wait after that signal before killing; -1 waits for ever
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true)]
    pub(crate) stop_timeout: Option<i64>,
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
    /// Add a group, a name or a number
    #[arg(long, value_name = "GROUP")]
    pub(crate) group_add: Vec<String>,
    /// Run this instead of the image's entrypoint
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) entrypoint: Option<String>,
    /// Add a label to the container
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(crate) label: Vec<String>,
    /// Read labels from a file
    #[arg(long, value_name = "FILE")]
    pub(crate) label_file: Vec<PathBuf>,

    /// Mount a folder of the machine, or a volume
    #[arg(short, long, value_name = "[SOURCE:]TARGET[:OPTIONS]", help_heading = "Files")]
    pub(crate) volume: Vec<String>,
    /// Mount, spelled out: type=bind|tmpfs|volume,source=…,target=…,readonly
    #[arg(long, value_name = "SPEC", help_heading = "Files")]
    pub(crate) mount: Vec<String>,
    /// Mount a folder in memory
    #[arg(long, value_name = "TARGET[:OPTIONS]", help_heading = "Files")]
    pub(crate) tmpfs: Vec<String>,
    /// Mount what another container has mounted
    #[arg(long, value_name = "CONTAINER[:ro]", help_heading = "Files")]
    pub(crate) volumes_from: Vec<String>,
    /// Make the image's files read-only
    #[arg(long, help_heading = "Files")]
    pub(crate) read_only: bool,
    /// Size of /dev/shm
    #[arg(long, value_name = "BYTES", value_parser = crate::commands::bytes, help_heading = "Files")]
    pub(crate) shm_size: Option<u64>,

    #[command(flatten)]
    pub(crate) networks: NetworkArgs,
    /// Reach a port of the container on this machine
    #[arg(short, long, value_name = "[[IP:]PORT:]PORT[/PROTOCOL]", help_heading = "Network")]
    pub(crate) publish: Vec<String>,
    /// Reach every port that is exposed, on ports that are picked
    #[arg(short = 'P', long, help_heading = "Network")]
    pub(crate) publish_all: bool,
    /// Note that the program listens on a port
    #[arg(long, value_name = "PORT[/PROTOCOL]", help_heading = "Network")]
    pub(crate) expose: Vec<String>,
    /// Host name
    #[arg(short = 'h', long, value_name = "NAME", help_heading = "Network")]
    pub(crate) hostname: Option<String>,
    /// Domain name
    #[arg(long, value_name = "NAME", help_heading = "Network")]
    pub(crate) domainname: Option<String>,
    /// Add a line to /etc/hosts
    #[arg(long, value_name = "HOST:IP", help_heading = "Network")]
    pub(crate) add_host: Vec<String>,
    /// Use this name server
    #[arg(long, value_name = "IP", help_heading = "Network")]
    pub(crate) dns: Vec<String>,
    /// Search names in this domain
    #[arg(long, value_name = "DOMAIN", help_heading = "Network")]
    pub(crate) dns_search: Vec<String>,
    /// Set an option of the resolver
    #[arg(long, visible_alias = "dns-opt", value_name = "OPTION", help_heading = "Network")]
    pub(crate) dns_option: Vec<String>,

    /// Limit memory
    #[arg(short, long, value_name = "BYTES", value_parser = crate::commands::bytes, help_heading = "Limits")]
    pub(crate) memory: Option<u64>,
    /// Limit memory and swap together; -1 is no limit
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, help_heading = "Limits")]
    pub(crate) memory_swap: Option<String>,
    /// Take memory away last below this
    #[arg(long, value_name = "BYTES", value_parser = crate::commands::bytes, help_heading = "Limits")]
    pub(crate) memory_reservation: Option<u64>,
    /// Limit processors, as a fraction
    #[arg(long, value_name = "NUMBER", help_heading = "Limits")]
    pub(crate) cpus: Option<f64>,
    /// Run on these processors
    #[arg(long, value_name = "LIST", help_heading = "Limits")]
    pub(crate) cpuset_cpus: Option<String>,
    /// Use memory of these nodes
    #[arg(long, value_name = "LIST", help_heading = "Limits")]
    pub(crate) cpuset_mems: Option<String>,
    /// Weight against other containers, 1024 by default
    #[arg(short, long, value_name = "WEIGHT", help_heading = "Limits")]
    pub(crate) cpu_shares: Option<i64>,
    /// Limit the number of processes
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true, help_heading = "Limits")]
    pub(crate) pids_limit: Option<i64>,
    /// Set a limit
    #[arg(long, value_name = "NAME=SOFT[:HARD]", help_heading = "Limits")]
    pub(crate) ulimit: Vec<String>,
    /// Weight when the kernel looks for memory, -1000 to 1000
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true, help_heading = "Limits")]
    pub(crate) oom_score_adj: Option<i32>,
    /// Make the container's cgroup below this one
    #[arg(long, value_name = "PATH", help_heading = "Limits")]
    pub(crate) cgroup_parent: Option<String>,

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
    /// Set a kernel setting of the container's own
    #[arg(long, value_name = "NAME=VALUE", help_heading = "Rights")]
    pub(crate) sysctl: Vec<String>,

    /// Run this shell command to see whether the container is well
    #[arg(long, value_name = "COMMAND", help_heading = "Health")]
    pub(crate) health_cmd: Option<String>,
    /// Time between checks
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration, help_heading = "Health")]
    pub(crate) health_interval: Option<i64>,
    /// How long a check may take
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration, help_heading = "Health")]
    pub(crate) health_timeout: Option<i64>,
    /// How many failures in a row make the container unhealthy
    #[arg(long, value_name = "NUMBER", help_heading = "Health")]
    pub(crate) health_retries: Option<u32>,
    /// How long failures after the start do not count
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration, help_heading = "Health")]
    pub(crate) health_start_period: Option<i64>,
    /// Time between checks meanwhile
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration, help_heading = "Health")]
    pub(crate) health_start_interval: Option<i64>,
    /// Do not run the image's check
    #[arg(long, help_heading = "Health")]
    pub(crate) no_healthcheck: bool,

    /// Where output is kept: json-file, k8s-file or none
    #[arg(long, value_name = "DRIVER", help_heading = "Log")]
    pub(crate) log_driver: Option<String>,
    /// max-size=BYTES, max-file=NUMBER
    #[arg(long, value_name = "NAME=VALUE", help_heading = "Log")]
    pub(crate) log_opt: Vec<String>,

    /// When to ask the registry for the image: missing, always or never
    #[arg(long, value_name = "WHEN", default_value = "missing", hide_possible_values = true, help_heading = "Image")]
    pub(crate) pull: PullArg,
    /// Run the image for this platform
    #[arg(long, value_name = "OS/ARCH", help_heading = "Image")]
    pub(crate) platform: Option<oci::Platform>,
    #[command(flatten)]
    pub(crate) registry: crate::commands::RegistryArgs,
}

/// When the registry is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PullArg {
    /// When the store does not have the image.
    Missing,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl ContainerArgs {
    /// Returns the image as it was written.
    pub(crate) fn image(&self) -> anyhow::Result<&str> {
        let image = self.image_and_command.first().context("an image is required")?;
        image.to_str().with_context(|| format!("image `{}` is not text", image.display()))
    }

    /// Returns the registry that may be talked to without a trusted certificate.
    pub(crate) fn insecure(&self) -> anyhow::Result<Vec<String>> {
        Ok(match (self.registry.insecure, self.image()?.parse::<oci::Reference>()) {
            (true, Ok(reference)) => vec![reference.registry().to_owned()],
            _ => Vec::new(),
        })
    }

    /// Tells whether a stream is shown or fed: all that make sense, when none is named.
    pub(crate) fn attaches(&self, stream: &str) -> bool {
        self.attach.is_empty() || self.attach.iter().any(|name| name.eq_ignore_ascii_case(stream))
    }
}

/// Reads the flags.
pub(crate) fn parse(args: &ContainerArgs) -> anyhow::Result<CreateOptions> {
    let words: Vec<String> = args
        .image_and_command
        .iter()
        .map(|word| word.to_str().map(str::to_owned).with_context(|| format!("`{}` is not text", word.display())))
        .collect::<Result<_, _>>()?;
    let (image, command) = words.split_first().context("an image is required")?;
    let mut options = CreateOptions::new(image, clock::now());
    options.name.clone_from(&args.name);
    if let Some(platform) = &args.platform {
        options.platform = platform.clone();
    }
    options.pull = match args.pull {
        PullArg::Missing => PullPolicy::Missing,
        PullArg::Always => PullPolicy::Always,
        PullArg::Never => PullPolicy::Never,
    };
    for text in &args.volume {
        options.mounts.push(mounts::volume(text).with_context(|| format!("--volume `{text}`"))?);
    }
    for text in &args.mount {
        options.mounts.push(mounts::mount(text).with_context(|| format!("--mount `{text}`"))?);
    }
    for text in &args.tmpfs {
        options.mounts.push(mounts::tmpfs(text).with_context(|| format!("--tmpfs `{text}`"))?);
    }
    options.config = config(args, command)?;
    options.host_config = host_config(args)?;
    (options.host_config.network_mode, options.networks) = network::parse(&args.networks)?;
    if options.host_config.network_mode.starts_with("container:") {
        let published = !args.publish.is_empty() || args.publish_all;
        anyhow::ensure!(!published, "conflicting options: port publishing and the container type network mode");
        anyhow::ensure!(args.hostname.is_none(), "conflicting options: hostname and the network mode");
        let names = !args.dns.is_empty() || !args.add_host.is_empty();
        anyhow::ensure!(!names, "conflicting options: dns, custom host-to-IP mapping and the network mode");
    }
    Ok(options)
}

fn config(args: &ContainerArgs, command: &[String]) -> anyhow::Result<Config> {
    let mut config = Config {
        hostname: args.hostname.clone().unwrap_or_default(),
        domainname: args.domainname.clone().unwrap_or_default(),
        user: args.user.clone().unwrap_or_default(),
        tty: args.tty,
        open_stdin: args.interactive,
        env: read_environment(&args.env_file, &args.env)?,
        cmd: Some(command.to_vec()).filter(|command| !command.is_empty()),
        stop_signal: args.stop_signal.clone(),
        stop_timeout: args.stop_timeout,
        ..Config::default()
    };
    if let Some(signal) = &args.stop_signal {
        engine::signals::parse(signal)?;
    }
    config.entrypoint = args.entrypoint.as_ref().map(|program| match program.as_str() {
        "" => Vec::new(),
        program => vec![program.to_owned()],
    });
    config.working_dir = match &args.workdir {
        Some(path) if !path.starts_with('/') => anyhow::bail!("the working directory `{path}` must be absolute"),
        path => path.clone().unwrap_or_default(),
    };
    let mut labels = Vec::new();
    for path in &args.label_file {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        labels.extend(
            text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned),
        );
    }
    for label in labels.iter().chain(&args.label) {
        let (name, value) = label.split_once('=').unwrap_or((label, ""));
        anyhow::ensure!(!name.is_empty(), "--label `{label}` has no name before the `=`");
        config.labels.insert(name.into(), value.into());
    }
    for port in &args.expose {
        let mappings = parse_ports(port).context("--expose")?;
        expose(&mut config, &mappings);
    }
    for text in &args.publish {
        let mappings = parse_ports(text).context("--publish")?;
        expose(&mut config, &mappings);
    }
    config.healthcheck = health(args)?;
    Ok(config)
}

fn expose(config: &mut Config, mappings: &[PortMapping]) {
    for mapping in mappings {
        let port = format!("{}/{}", mapping.container_port, mapping.protocol);
        config.exposed_ports.insert(port, oci::image_config::Empty {});
    }
}

/// The check of the command line; none inherits the image's.
fn health(args: &ContainerArgs) -> anyhow::Result<Option<HealthConfig>> {
    let times = [args.health_interval, args.health_timeout, args.health_start_period, args.health_start_interval];
    let any = args.health_cmd.is_some() || args.health_retries.is_some() || times.iter().any(Option::is_some);
    if args.no_healthcheck {
        anyhow::ensure!(!any, "--no-healthcheck conflicts with --health-* options");
        return Ok(Some(HealthConfig { test: vec!["NONE".into()], ..HealthConfig::default() }));
    }
    let test = args.health_cmd.as_ref().map(|command| vec!["CMD-SHELL".into(), command.clone()]);
    let [interval, timeout, start_period, start_interval] = times.map(Option::unwrap_or_default);
    Ok(any.then(|| HealthConfig {
        test: test.unwrap_or_default(),
        interval,
        timeout,
        start_period,
        start_interval,
        retries: args.health_retries.unwrap_or_default().into(),
    }))
}

fn host_config(args: &ContainerArgs) -> anyhow::Result<HostConfig> {
    let some = |list: &Vec<String>| Some(list.clone()).filter(|list| !list.is_empty());
    let mut host = HostConfig {
        auto_remove: args.rm,
        restart_policy: restart_policy(&args.restart)?,
        readonly_rootfs: args.read_only,
        cap_add: some(&args.cap_add),
        cap_drop: some(&args.cap_drop),
        privileged: args.privileged,
        group_add: some(&args.group_add),
        dns_search: args.dns_search.clone(),
        dns_options: args.dns_option.clone(),
        publish_all_ports: args.publish_all,
        binds: some(&args.volume),
        volumes_from: some(&args.volumes_from),
        init: args.init.then_some(true),
        oom_score_adj: args.oom_score_adj.unwrap_or_default(),
        cgroup_parent: args.cgroup_parent.clone().unwrap_or_default(),
        ..HostConfig::default()
    };
    anyhow::ensure!(
        !host.auto_remove || host.restart_policy.name == "no",
        "conflicting options: cannot specify both --restart and --rm"
    );
    if args.tty
        && let Some(size) = terminal::size()
    {
        host.console_size = [size.rows, size.columns];
    }
    for text in &args.publish {
        for mapping in parse_ports(text).context("--publish")? {
            let (first, last) = (mapping.host_ports.start(), mapping.host_ports.end());
            let binding = PortBinding {
                host_ip: mapping.host_address.map(|address| address.to_string()).unwrap_or_default(),
                host_port: match (*first, *last) {
                    (0, _) => String::new(),
                    (first, last) if first == last => first.to_string(),
                    (first, last) => format!("{first}-{last}"),
                },
            };
            let port = format!("{}/{}", mapping.container_port, mapping.protocol);
            host.port_bindings.entry(port).or_default().get_or_insert_default().push(binding);
        }
    }
    for text in &args.add_host {
        if !text.ends_with("host-gateway") {
            super::host(text).context("--add-host")?;
        }
        host.extra_hosts.get_or_insert_default().push(text.clone());
    }
    for text in &args.dns {
        let address: std::net::IpAddr = text.parse().with_context(|| format!("--dns `{text}` is no address"))?;
        host.dns.push(address.to_string());
    }
    for text in &args.sysctl {
        let (name, value) =
            text.split_once('=').with_context(|| format!("--sysctl `{text}` is not of the form NAME=VALUE"))?;
        host.sysctls.insert(name.into(), value.into());
    }
    if let Some(driver) = &args.log_driver {
        host.log_config.kind.clone_from(driver);
    }
    for text in &args.log_opt {
        let (name, value) = text.split_once('=').with_context(|| format!("invalid logging option `{text}`"))?;
        host.log_config.config.insert(name.into(), value.into());
    }
    limits(args, &mut host)?;
    rights(args, &mut host)?;
    Ok(host)
}

/// Reads `on-failure:3` and the like.
pub(crate) fn restart_policy(text: &str) -> anyhow::Result<RestartPolicy> {
    let (name, count) = match text.split_once(':') {
        Some((name, count)) => (
            name,
            count.parse().map_err(|_| {
                anyhow::anyhow!("invalid restart policy format: maximum retry count must be an integer")
            })?,
        ),
        None => (text, 0),
    };
    let name = if name.is_empty() { "no" } else { name };
    anyhow::ensure!(
        ["no", "always", "unless-stopped", "on-failure"].contains(&name),
        "invalid restart policy: unknown policy '{name}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
    );
    anyhow::ensure!(
        count == 0 || name == "on-failure",
        "invalid restart policy: maximum retry count can only be used with 'on-failure'"
    );
    Ok(RestartPolicy { name: name.into(), maximum_retry_count: count })
}

/// Reads processors' time as docker takes it.
pub(crate) fn nano_cpus(cpus: f64) -> anyhow::Result<i64> {
    anyhow::ensure!((0.01..=1e6).contains(&cpus), "--cpus {cpus} is not between 0.01 and a million");
    #[expect(clippy::cast_possible_truncation, reason = "checked just above")]
    let nano_cpus = (cpus * 1e9) as i64;
    Ok(nano_cpus)
}

/// The kernel refuses less, docker says so.
const LEAST_MEMORY: i64 = 6 << 20;

/// Checks a limit of memory.
pub(crate) fn memory(bytes: u64) -> anyhow::Result<i64> {
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    anyhow::ensure!(bytes == 0 || bytes >= LEAST_MEMORY, "minimum memory limit allowed is 6MB");
    Ok(bytes)
}

/// Reads a limit of memory and swap.
pub(crate) fn memory_swap(text: &str, memory: i64) -> anyhow::Result<i64> {
    if text == "-1" {
        return Ok(-1);
    }
    let bytes = units::parse_size(text).map_err(anyhow::Error::msg).context("--memory-swap")?;
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    anyhow::ensure!(bytes == 0 || memory > 0, "you should always set the memory limit when using memory-swap limit");
    anyhow::ensure!(bytes == 0 || bytes >= memory, "minimum memoryswap limit should be larger than memory limit");
    Ok(bytes)
}

fn limits(args: &ContainerArgs, host: &mut HostConfig) -> anyhow::Result<()> {
    if let Some(size) = args.shm_size.filter(|&size| size > 0) {
        host.shm_size = i64::try_from(size).unwrap_or(i64::MAX);
    }
    host.memory = memory(args.memory.unwrap_or_default())?;
    if let Some(text) = &args.memory_swap {
        host.memory_swap = memory_swap(text, host.memory)?;
    }
    host.memory_reservation = i64::try_from(args.memory_reservation.unwrap_or_default()).unwrap_or(i64::MAX);
    anyhow::ensure!(
        host.memory == 0 || host.memory_reservation <= host.memory,
        "Minimum memory limit can not be less than memory reservation limit, see usage"
    );
    if let Some(cpus) = args.cpus.filter(|&cpus| cpus != 0.0) {
        host.nano_cpus = nano_cpus(cpus)?;
    }
    host.cpuset_cpus = args.cpuset_cpus.clone().unwrap_or_default();
    host.cpuset_mems = args.cpuset_mems.clone().unwrap_or_default();
    host.cpu_shares = args.cpu_shares.unwrap_or_default();
    host.pids_limit = args.pids_limit;
    for text in &args.ulimit {
        let limit = super::ulimit(text).context("--ulimit")?;
        let limit = Ulimit { name: limit.name, hard: limit.hard, soft: limit.soft };
        host.ulimits.get_or_insert_default().push(limit);
    }
    Ok(())
}

fn rights(args: &ContainerArgs, host: &mut HostConfig) -> anyhow::Result<()> {
    for option in &args.security_opt {
        let kept = match option.split_once([':', '=']).unwrap_or((option, "")) {
            ("no-new-privileges", "" | "true" | "false") => option.clone(),
            ("seccomp", "unconfined" | "builtin") => option.clone(),
            // With its content, so that it is the same at each start.
            ("seccomp", path) => format!("seccomp={}", seccomp_profile(Path::new(path))?),
            // What there is without AppArmor and SELinux, which we do not set up.
            ("apparmor", "unconfined") | ("label", "disable") => option.clone(),
            ("apparmor" | "label", _) => anyhow::bail!("--security-opt `{option}` is not supported yet"),
            _ => anyhow::bail!("--security-opt `{option}` is not known"),
        };
        host.security_opt.get_or_insert_default().push(kept);
    }
    host.devices = args.device.iter().map(|text| device(text)).collect::<Result<_, _>>()?;
    Ok(())
}

fn seccomp_profile(path: &Path) -> anyhow::Result<String> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read seccomp profile `{}`", path.display()))?;
    let no_profile = || format!("`{}` is no seccomp profile", path.display());
    serde_json::from_slice::<LinuxSeccomp>(&bytes).with_context(no_profile)?;
    let value: serde_json::Value = serde_json::from_slice(&bytes).with_context(no_profile)?;
    Ok(value.to_string())
}

/// Reads `PATH[:TARGET][:rwm]`.
fn device(text: &str) -> anyhow::Result<DeviceMapping> {
    let is_access = |text: &str| !text.is_empty() && text.bytes().all(|byte| b"rwm".contains(&byte));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, access) = match parts[..] {
        [source] => (source, source, "rwm"),
        [source, access] if is_access(access) => (source, source, access),
        [source, target] => (source, target, "rwm"),
        [source, target, access] if is_access(access) => (source, target, access),
        _ => anyhow::bail!("--device `{text}` is not of the form PATH[:TARGET[:rwm]]"),
    };
    Ok(DeviceMapping {
        path_on_host: source.into(),
        path_in_container: target.into(),
        cgroup_permissions: access.into(),
    })
}

/// The files' variables first, so that those of the command line win.
pub(crate) fn read_environment(files: &[PathBuf], settings: &[String]) -> anyhow::Result<Vec<String>> {
    let mut all = Vec::new();
    let mut add = |text: &str| -> anyhow::Result<()> {
        all.extend(super::variable(text)?.map(|(name, value)| format!("{name}={value}")));
        Ok(())
    };
    for path in files {
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
    for text in settings {
        add(text).context("--env")?;
    }
    Ok(all)
}

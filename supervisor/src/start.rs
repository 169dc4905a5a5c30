//! From a record to a running program: what docker does at each start.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use layer::{Tree, TreeError};
use oci::users::{UserError, Users};
use oci_spec::runtime::{LinuxDeviceBuilder, LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxResources, Spec};
use runtime::{
    ContainerConfig, MountKind, MountPoint, Rootfs, Seccomp, Size, SpecError, SpecOptions, StartError, Stdio, Stream,
    Ulimit, UserIds, etc_files,
};
use rustix::fs::{FileType, Stat, major, minor, stat};

use crate::config::DeviceMapping;
use crate::containers::Container;
use crate::network::{self, PrepareError, Prepared};
use crate::record::{self, Record};

/// Why a container did not start.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message documents its variant")]
pub enum StartContainerError {
    #[error("cannot read the container's files")]
    Tree(#[from] TreeError),
    #[error(transparent)]
    User(#[from] UserError),
    #[error("cannot write `{}`", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("`{}`, to be mounted at `{target}`, is not there", path.display())]
    MountSource { path: PathBuf, target: String, source: io::Error },
    #[error("`{text}` of --add-host is not of the form HOST:IP")]
    Host { text: String },
    #[error("the seccomp profile is not one")]
    Seccomp(#[source] serde_json::Error),
    #[error("device `{}`", path.display())]
    Device { path: PathBuf, source: io::Error },
    #[error("`{}` is not a device", path.display())]
    NotADevice { path: PathBuf },
    #[error("cannot describe a device")]
    Describe(#[from] oci_spec::OciSpecError),
    #[error("cannot describe the container")]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Network(#[from] PrepareError),
    #[error("failed to set up container networking")]
    Publish(#[from] runtime::network::PublishError),
    #[error("`{text}` is not a port mapping")]
    Port { text: String },
    #[error("cannot start the container")]
    Start(#[from] StartError),
}

impl StartContainerError {
    /// The exit code that `docker run` gives for it: 125, 126 or 127.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Start(error) => error.exit_code(),
            _ => 125,
        }
    }
}

/// A program that runs.
pub struct Started {
    /// The runtime's side of it.
    pub container: runtime::Container,
    /// What has to run beside it for its network, if anything.
    pub service: Option<runtime::network::Service>,
    /// Where it is on its networks.
    pub state: record::State,
    /// What is not as it was asked for, beside what the runtime says.
    pub warning: Option<String>,
}

/// Starts the program of a container on its layers, topmost first.
///
/// # Errors
///
/// When it does not come to run; then nothing is left.
pub fn start(
    container: &Container,
    lower: &[PathBuf],
    size: Option<Size>,
    now: Timestamp,
) -> Result<Started, StartContainerError> {
    let record = &container.record;
    let dirs = [container.upper()].into_iter().chain(lower.iter().cloned()).collect();
    let tree = Tree::of_layers(dirs)?;
    if record.host_config.auto_remove {
        // A volatile overlay leaves a mark that it may not be mounted again after a crash of the machine. There was none:
        // what does not outlive a crash is removed after one.
        let mark = container.work().join("work/incompat");
        layer::remove_tree(&mark).map_err(|source| StartContainerError::Write { path: mark, source })?;
    }
    let mut prepared = network::prepare(record, &container.all(), now)?;
    let mut state = record::State::default();
    network::note(record, &prepared.network, &container.all(), &mut state);
    network::publish(record, &mut prepared.network, &mut state)?;
    let spec = describe(container, &tree, &prepared)?;
    let warning = prepared.warning;
    let mut network = prepared.network;
    let service = network.take_service();
    let config = ContainerConfig {
        id: record.id.clone(),
        spec,
        rootfs: Rootfs::Overlay {
            lower: lower.to_vec(),
            upper: container.upper(),
            work: container.work(),
            // Nobody needs what it wrote after a crash of the machine when it goes away by itself.
            volatile: record.host_config.auto_remove,
        },
        stdio: match record.config.tty {
            true => Stdio::Terminal { size: size.or_else(|| console_size(record)) },
            false => Stdio::Streams {
                stdin: if record.config.open_stdin { Stream::Pipe } else { Stream::Null },
                stdout: Stream::Pipe,
                stderr: Stream::Pipe,
            },
        },
        network,
        cgroup_parent: Some(record.host_config.cgroup_parent.clone()).filter(|parent| !parent.is_empty()),
        die_with_parent: true,
    };
    let container = runtime::start(config)?;
    Ok(Started { container, service, state, warning })
}

fn console_size(record: &Record) -> Option<Size> {
    let [rows, columns] = record.host_config.console_size;
    (rows > 0 && columns > 0).then_some(Size { rows, columns })
}

/// Describes the container to the runtime: its program, user, environment, rights and mounts.
fn describe(container: &Container, tree: &Tree, prepared: &Prepared) -> Result<Spec, StartContainerError> {
    let record = &container.record;
    let (config, host) = (&record.config, &record.host_config);
    let user = find_user(tree, &config.user, host.group_add.as_deref().unwrap_or_default())?;
    let mut mounts = etc_mounts(container, prepared)?;
    let mut args = config.arguments();
    if host.init == Some(true) && !args.is_empty() {
        mounts.push(init_mount(container)?);
        args.splice(0..0, [INIT.to_owned(), "--".to_owned()]);
    }
    mounts.extend(record.mounts.iter().map(describe_mount).collect::<Result<Vec<_>, _>>()?);
    let devices = host.devices.iter().map(Device::find).collect::<Result<Vec<_>, _>>()?;
    let confined = runtime::rootless::is_confined();
    if confined {
        // Nobody there makes nodes: the machine's own are mounted.
        mounts.extend(devices.iter().map(Device::mount));
    }
    // A mount on a folder must come before those below it.
    mounts.sort_by_key(|mount| mount.target.split('/').filter(|name| !name.is_empty()).count());
    let positive = |number: i64| Some(number).filter(|&number| number > 0);
    let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let defaults = SpecOptions::default();
    let (no_new_privileges, seccomp) = security(host.security_opt.as_deref().unwrap_or_default())?;
    let mut spec = runtime::default_spec(&SpecOptions {
        args,
        env: environment(record, &user.home),
        cwd: text(&config.working_dir).unwrap_or_else(|| "/".into()),
        user: UserIds { uid: user.uid, gid: user.gid, additional_gids: user.additional_gids },
        hostname: hostname(record, prepared).to_owned(),
        domainname: config.domainname.clone(),
        terminal: config.tty,
        read_only: host.readonly_rootfs,
        privileged: host.privileged,
        cap_add: host.cap_add.clone().unwrap_or_default(),
        cap_drop: host.cap_drop.clone().unwrap_or_default(),
        no_new_privileges,
        seccomp,
        mounts,
        host_network: prepared.network.is_host(),
        shm_size: u64::try_from(host.shm_size).ok().filter(|&size| size > 0).unwrap_or(defaults.shm_size),
        ulimits: host.ulimits.iter().flatten().map(ulimit).collect(),
        memory: positive(host.memory),
        memory_swap: Some(host.memory_swap).filter(|&swap| swap != 0),
        memory_reservation: positive(host.memory_reservation),
        nano_cpus: positive(host.nano_cpus),
        cpu_shares: u64::try_from(host.cpu_shares).ok().filter(|&shares| shares > 0),
        cpuset_cpus: text(&host.cpuset_cpus),
        cpuset_mems: text(&host.cpuset_mems),
        pids_limit: host.pids_limit,
        oom_score_adj: Some(host.oom_score_adj).filter(|&score| score != 0),
        sysctls: host.sysctls.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
    })?;
    if let (Some(word), Some(linux)) = (spread(record), spec.linux_mut().as_mut()) {
        linux.set_rootfs_propagation(Some(word.to_owned()));
    }
    if !confined {
        add_devices(&mut spec, &devices)?;
    }
    Ok(spec)
}

/// One more program for a container that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOptions {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// `NAME=value`, over the container's.
    pub env: Vec<String>,
    /// `user[:group]`; the container's own when there is none.
    pub user: Option<String>,
    /// Where it starts; where the container does when there is none.
    pub workdir: Option<String>,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether it has all rights.
    pub privileged: bool,
}

/// Describes one more program to the runtime: as whom it runs, with which variables and rights.
///
/// # Errors
///
/// When nobody has the user's name, or the container's files cannot be read.
pub fn describe_exec(
    container: &Container,
    lower: &[PathBuf],
    options: &ExecOptions,
) -> Result<Spec, StartContainerError> {
    let record = &container.record;
    let (config, host) = (&record.config, &record.host_config);
    let dirs = [container.upper()].into_iter().chain(lower.iter().cloned()).collect();
    let tree = Tree::of_layers(dirs)?;
    let groups = host.group_add.as_deref().unwrap_or_default();
    let user = find_user(&tree, options.user.as_deref().unwrap_or(&config.user), groups)?;
    let mut env = environment(record, &user.home);
    if options.tty && !env.iter().any(|variable| variable.starts_with("TERM=")) {
        env.push("TERM=xterm".into());
    }
    merge_environment(&mut env, &options.env);
    let cwd = [options.workdir.as_ref(), Some(&config.working_dir)];
    let cwd = cwd.into_iter().flatten().find(|path| !path.is_empty());
    let (no_new_privileges, seccomp) = security(host.security_opt.as_deref().unwrap_or_default())?;
    Ok(runtime::default_spec(&SpecOptions {
        args: options.args.clone(),
        env,
        cwd: cwd.cloned().unwrap_or_else(|| "/".into()),
        user: UserIds { uid: user.uid, gid: user.gid, additional_gids: user.additional_gids },
        terminal: options.tty,
        privileged: options.privileged || host.privileged,
        cap_add: host.cap_add.clone().unwrap_or_default(),
        cap_drop: host.cap_drop.clone().unwrap_or_default(),
        no_new_privileges,
        seccomp,
        ulimits: host.ulimits.iter().flatten().map(ulimit).collect(),
        oom_score_adj: Some(host.oom_score_adj).filter(|&score| score != 0),
        ..SpecOptions::default()
    })?)
}

/// Docker writes -1 for no limit.
fn ulimit(limit: &crate::config::Ulimit) -> Ulimit {
    let value = |number: i64| u64::try_from(number).unwrap_or(u64::MAX);
    Ulimit { name: limit.name.clone(), soft: value(limit.soft), hard: value(limit.hard) }
}

/// Reads `no-new-privileges` and `seccomp=…`, where a profile is there with its content.
pub fn security(options: &[String]) -> Result<(bool, Seccomp), StartContainerError> {
    let (mut no_new_privileges, mut seccomp) = (false, Seccomp::Default);
    for option in options {
        match option.split_once([':', '=']).unwrap_or((option, "")) {
            ("no-new-privileges", value) => no_new_privileges = value != "false",
            ("seccomp", "unconfined") => seccomp = Seccomp::Unconfined,
            ("seccomp", "builtin") => seccomp = Seccomp::Default,
            ("seccomp", profile) => {
                let profile = serde_json::from_str(profile).map_err(StartContainerError::Seccomp)?;
                seccomp = Seccomp::Profile(Box::new(profile));
            }
            _ => {}
        }
    }
    Ok((no_new_privileges, seccomp))
}

/// Finds a user, and further groups, in the container's files.
///
/// # Errors
///
/// When nobody has that name.
pub fn find_user(tree: &Tree, text: &str, groups: &[String]) -> Result<oci::users::ProcessUser, StartContainerError> {
    const MAX: u64 = 10 << 20;
    let read = |path: &str| -> Result<String, StartContainerError> {
        Ok(String::from_utf8_lossy(&tree.read_small(path, MAX)?.unwrap_or_default()).into_owned())
    };
    let (passwd, group) = (read("etc/passwd")?, read("etc/group")?);
    let users = Users { passwd: &passwd, group: &group };
    let mut user = users.process_user(text)?;
    for group in groups {
        user.additional_gids.push(users.process_user(&format!("0:{group}"))?.gid);
    }
    Ok(user)
}

/// What docker sets, then the container's variables over it.
pub fn environment(record: &Record, home: &str) -> Vec<String> {
    const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let mut all: Vec<String> = vec![PATH.into(), format!("HOSTNAME={}", record.config.hostname)];
    if record.config.tty {
        all.push("TERM=xterm".into());
    }
    all.push(format!("HOME={home}"));
    merge_environment(&mut all, &record.config.env);
    all
}

/// Puts variables over others; one without `=` takes the other away.
pub fn merge_environment(all: &mut Vec<String>, over: &[String]) {
    for setting in over {
        let Some((name, _)) = setting.split_once('=') else {
            all.retain(|other| other.split('=').next() != Some(setting));
            continue;
        };
        match all.iter_mut().find(|other| other.split('=').next() == Some(name)) {
            Some(other) => other.clone_from(setting),
            None => all.push(setting.clone()),
        }
    }
}

/// Who shares a network shares its name there.
fn hostname<'a>(record: &'a Record, prepared: &'a Prepared) -> &'a str {
    prepared.other.as_ref().map_or(&record.config.hostname, |other| &other.record.config.hostname)
}

/// Docker's word for the machine itself in `--add-host`.
const HOST_GATEWAY: &str = "host-gateway";

/// The files in `/etc` that tell where the container is.
const ETC_FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// Writes the files in `/etc` that tell where the container is, and returns what to mount: those of another container
/// if the network is that one's.
fn etc_mounts(container: &Container, prepared: &Prepared) -> Result<Vec<MountPoint>, StartContainerError> {
    let folder = prepared.other.as_ref().unwrap_or(container).folder().join("etc");
    if prepared.other.is_none() {
        let failed = |path: &Path, source| StartContainerError::Write { path: path.to_owned(), source };
        fs::create_dir_all(&folder).map_err(|source| failed(&folder, source))?;
        let record = &container.record;
        let hostname = &record.config.hostname;
        let texts = [
            etc_files::hosts(hostname, &addresses(prepared), &extra_hosts(record, prepared)?),
            etc_files::hostname(hostname),
            resolv_conf(record, prepared),
        ];
        for (name, text) in ETC_FILES.into_iter().zip(texts) {
            let path = folder.join(name);
            // The container may have put a link in its place, but not here: only the file itself is mounted.
            let written = File::create(&path).and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                // For every user of the container, whatever our umask is.
                file.set_permissions(fs::Permissions::from_mode(0o644))
            });
            written.map_err(|source| failed(&path, source))?;
        }
    }
    let mount = |name: &str| MountPoint {
        target: format!("/etc/{name}"),
        kind: MountKind::Bind { source: folder.join(name), read_only: false },
    };
    Ok(ETC_FILES.into_iter().map(mount).collect())
}

/// Where docker has the init of `--init`.
const INIT: &str = "/sbin/docker-init";

/// Writes an init of the container's own: whatever it manages to do to it, it does to itself.
fn init_mount(container: &Container) -> Result<MountPoint, StartContainerError> {
    let path = container.folder().join("init");
    let written = File::create(&path).and_then(|mut file| {
        file.write_all(include_bytes!(concat!(env!("OUT_DIR"), "/init")))?;
        file.set_permissions(fs::Permissions::from_mode(0o755))
    });
    written.map_err(|source| StartContainerError::Write { path: path.clone(), source })?;
    Ok(MountPoint { target: INIT.to_owned(), kind: MountKind::Bind { source: path, read_only: true } })
}

/// The container's own addresses.
fn addresses(prepared: &Prepared) -> Vec<IpAddr> {
    let attached = prepared.network.attached();
    attached.iter().flat_map(|one| [Some(one.ipv4), one.ipv6]).flatten().map(|net| net.addr()).collect()
}

fn extra_hosts(record: &Record, prepared: &Prepared) -> Result<Vec<(String, IpAddr)>, StartContainerError> {
    let mut hosts = Vec::new();
    for text in record.host_config.extra_hosts.iter().flatten() {
        let bad = || StartContainerError::Host { text: text.clone() };
        let (name, address) = text.split_once([':', '=']).ok_or_else(bad)?;
        let address = match address.trim_start_matches('[').trim_end_matches(']') {
            HOST_GATEWAY => network::host_gateway(&prepared.network),
            address => address.parse().map_err(|_| bad())?,
        };
        hosts.push((name.to_owned(), address));
    }
    Ok(hosts)
}

/// The machine's resolvers, or those that were asked for; on networks with names, the one that knows these.
fn resolv_conf(record: &Record, prepared: &Prepared) -> String {
    // A machine without the file has no resolver; the container gets what takes its place.
    let host = fs::read("/etc/resolv.conf").unwrap_or_default();
    let host = String::from_utf8_lossy(&host);
    let asked = etc_files::Resolving {
        servers: match prepared.resolves {
            true => vec![runtime::network::NAME_SERVER.to_string()],
            false => record.host_config.dns.clone(),
        },
        search: record.host_config.dns_search.clone(),
        options: match (prepared.resolves, record.host_config.dns_options.as_slice()) {
            // A name without dots is a neighbor's.
            (true, []) => vec!["ndots:0".to_owned()],
            (_, options) => options.to_vec(),
        },
    };
    etc_files::resolv_conf(&host, prepared.network.is_host(), &asked)
}

fn describe_mount(mount: &record::Mount) -> Result<MountPoint, StartContainerError> {
    let (kind, source, mut options) = match mount.kind {
        record::MountKind::Tmpfs => ("tmpfs", PathBuf::from("tmpfs"), tmpfs_options(mount)),
        record::MountKind::Bind | record::MountKind::Volume => {
            let found = fs::canonicalize(&mount.source).map_err(|source| StartContainerError::MountSource {
                path: mount.source.clone(),
                target: mount.target.clone(),
                source,
            })?;
            // Docker's word for a bind without what is mounted below.
            let recursive = if mount.mode == "bind" { "bind" } else { "rbind" };
            ("bind", found, vec![recursive.to_owned()])
        }
    };
    options.push(match (mount.read_only, kind) {
        (false, _) => "rw".into(),
        // What is mounted below is read-only, too.
        (true, "bind") => "rro".into(),
        (true, _) => "ro".into(),
    });
    options.extend(Some(mount.propagation.clone()).filter(|word| !word.is_empty()));
    Ok(MountPoint { target: mount.target.clone(), kind: MountKind::Spelled { kind, source, options } })
}

/// Docker's options of a folder in memory, and then the user's.
fn tmpfs_options(mount: &record::Mount) -> Vec<String> {
    let mut options: Vec<String> = ["noexec", "nosuid", "nodev"].map(str::to_owned).into();
    options.push(format!("mode={:o}", mount.permissions.unwrap_or(0o1777)));
    options.extend(mount.size.map(|size| format!("size={size}")));
    for option in mount.mode.split(',').filter(|option| !option.is_empty()) {
        // The last word on a thing is the one that holds.
        let other = option.strip_prefix("no").map_or_else(|| format!("no{option}"), str::to_owned);
        options.retain(|known| *known != other && known != option);
        options.push(option.to_owned());
    }
    options
}

/// How far mounts spread that the machine or the container makes later, if any mount asks that they do.
fn spread(record: &Record) -> Option<&'static str> {
    let any = |words: [&str; 2]| record.mounts.iter().any(|mount| words.contains(&mount.propagation.as_str()));
    match (any(["shared", "rshared"]), any(["slave", "rslave"])) {
        (true, _) => Some("rshared"),
        (false, true) => Some("rslave"),
        (false, false) => None,
    }
}

/// A device of the machine that a container gets.
struct Device<'a> {
    wanted: &'a DeviceMapping,
    found: Stat,
    kind: LinuxDeviceType,
}

impl<'a> Device<'a> {
    fn find(wanted: &'a DeviceMapping) -> Result<Self, StartContainerError> {
        let path = || PathBuf::from(&wanted.path_on_host);
        let found = stat(&wanted.path_on_host)
            .map_err(|error| StartContainerError::Device { path: path(), source: error.into() })?;
        let kind = match FileType::from_raw_mode(found.st_mode) {
            FileType::CharacterDevice => LinuxDeviceType::C,
            FileType::BlockDevice => LinuxDeviceType::B,
            _ => return Err(StartContainerError::NotADevice { path: path() }),
        };
        Ok(Self { wanted, found, kind })
    }

    fn mount(&self) -> MountPoint {
        let source = PathBuf::from(&self.wanted.path_on_host);
        MountPoint { target: self.wanted.path_in_container.clone(), kind: MountKind::Bind { source, read_only: false } }
    }
}

/// Adds devices, and the right to use them.
fn add_devices(spec: &mut Spec, devices: &[Device<'_>]) -> Result<(), StartContainerError> {
    let Some(linux) = spec.linux_mut().as_mut() else { return Ok(()) };
    for &Device { wanted, ref found, kind } in devices {
        let (major, minor) = (i64::from(major(found.st_rdev)), i64::from(minor(found.st_rdev)));
        let node = LinuxDeviceBuilder::default()
            .path(&wanted.path_in_container)
            .typ(kind)
            .major(major)
            .minor(minor)
            .file_mode(found.st_mode & 0o777)
            .uid(found.st_uid)
            .gid(found.st_gid)
            .build()?;
        linux.devices_mut().get_or_insert_default().push(node);
        let right = LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(kind)
            .major(major)
            .minor(minor)
            .access(&wanted.cgroup_permissions)
            .build()?;
        let resources = linux.resources_mut().get_or_insert_with(LinuxResources::default);
        resources.devices_mut().get_or_insert_default().push(right);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_containers_variables_win_and_a_lone_name_takes_one_away() {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let mut all = words("PATH=/bin A=1 B=2");
        merge_environment(&mut all, &words("B=3 C=4 A"));
        assert_eq!(all, words("PATH=/bin B=3 C=4"));
    }

    #[test]
    fn security_options_are_read_as_docker_does() {
        let read = |option: &str| security(&[option.to_owned()]);
        assert!(matches!(read("no-new-privileges"), Ok((true, Seccomp::Default))));
        assert!(matches!(read("no-new-privileges:true"), Ok((true, _))));
        assert!(matches!(read("no-new-privileges=false"), Ok((false, _))));
        assert!(matches!(read("seccomp=unconfined"), Ok((false, Seccomp::Unconfined))));
        assert!(matches!(read("seccomp={\"defaultAction\":\"SCMP_ACT_ALLOW\"}"), Ok((_, Seccomp::Profile(_)))));
        assert!(read("seccomp={").is_err());
    }
}

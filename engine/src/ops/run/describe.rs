//! What a container of an image is made of: its program, user, environment and mounts.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use oci::users::Users;
use runtime::{MountKind, MountPoint, SpecOptions, UserIds};
use store::{Image, Snapshot};

use super::{RunError, RunMount, RunOptions};
use crate::devices;
use crate::machine::EtcFiles;
use crate::output::files::{self, FilesError};

/// Describes a container of an image to the runtime: its program, user, environment, rights and mounts.
pub(super) fn describe(
    image: &Image,
    options: &RunOptions,
    snapshot: &Snapshot,
    network: &runtime::network::Network,
    id: &str,
    beside: &Path,
) -> Result<runtime::Spec, RunError> {
    let config = &image.config.config;
    let tree = snapshot.tree().map_err(FilesError::Tree)?;
    let user = options.user.as_deref().unwrap_or(&config.user);
    let user = find_user(&tree, user)?;
    let hostname = match (&options.hostname, network.is_host()) {
        (Some(hostname), _) => hostname.clone(),
        (None, true) => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        (None, false) => id[..12].to_owned(),
    };
    let etc = EtcFiles {
        hostname: &hostname,
        address: network.address().map(Into::into),
        hosts: &options.add_hosts,
        dns: &options.dns,
        host_network: network.is_host(),
        of_step: false,
    };
    let mut mounts = etc.write(&beside.join("etc"))?;
    mounts.extend(describe_mounts(options, config.volumes.keys(), &tree, &beside.join("volumes"))?);
    let defaults = SpecOptions::default();
    let mut spec = runtime::default_spec(&SpecOptions {
        args: arguments(config, options),
        env: environment(config, options, &hostname, &user.home),
        cwd: match options.workdir.as_deref().unwrap_or(&config.working_dir) {
            "" => "/".into(),
            path => path.to_owned(),
        },
        user: UserIds { uid: user.uid, gid: user.gid, additional_gids: user.additional_gids },
        hostname,
        terminal: options.terminal.is_some(),
        read_only: options.read_only,
        privileged: options.privileged,
        cap_add: options.cap_add.clone(),
        cap_drop: options.cap_drop.clone(),
        no_new_privileges: options.no_new_privileges,
        seccomp: options.seccomp.clone(),
        mounts,
        host_network: network.is_host(),
        shm_size: options.shm_size.unwrap_or(defaults.shm_size),
        ulimits: options.ulimits.iter().map(crate::executor::ulimit).collect(),
        memory: options.memory.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        nano_cpus: options.nano_cpus,
        pids_limit: options.pids_limit,
        ..defaults
    })?;
    devices::add(&mut spec, &options.devices)?;
    Ok(spec)
}

/// The image's entrypoint and command, or what was given in their place: a new entrypoint drops the image's command.
fn arguments(config: &oci::ContainerConfig, options: &RunOptions) -> Vec<String> {
    let inherited = config.entrypoint.clone().unwrap_or_default();
    let entrypoint = options.entrypoint.clone().unwrap_or(inherited);
    let command = match (&options.command, &options.entrypoint) {
        (command, _) if !command.is_empty() => command.clone(),
        (_, Some(_)) => Vec::new(),
        (_, None) => config.cmd.clone().unwrap_or_default(),
    };
    [entrypoint, command].concat()
}

/// The image's variables under the user's, with those that docker adds.
fn environment(config: &oci::ContainerConfig, options: &RunOptions, hostname: &str, home: &str) -> Vec<String> {
    const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let mut all: Vec<String> = vec![PATH.into(), format!("HOSTNAME={hostname}")];
    if options.terminal.is_some() {
        all.push("TERM=xterm".into());
    }
    all.push(format!("HOME={home}"));
    for setting in config.env.iter().chain(&options.env) {
        let name = setting.split_once('=').map_or(setting.as_str(), |(name, _)| name);
        let same = |other: &String| other.split_once('=').is_some_and(|(other, _)| other == name);
        match all.iter_mut().find(|other| same(other)) {
            Some(other) => other.clone_from(setting),
            None => all.push(setting.clone()),
        }
    }
    all
}

pub(crate) fn find_user(tree: &layer::Tree, text: &str) -> Result<oci::users::ProcessUser, RunError> {
    const MAX: u64 = 10 << 20;
    let read = |path: &str| -> Result<String, RunError> {
        let bytes = tree.read_small(path, MAX).map_err(FilesError::Tree)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let (passwd, group) = (read("etc/passwd")?, read("etc/group")?);
    Ok(Users { passwd: &passwd, group: &group }.process_user(text)?)
}

/// Turns mounts into the runtime's, and adds a volume for each path of the image that nothing else is mounted on.
fn describe_mounts<'a>(
    options: &RunOptions,
    image_volumes: impl Iterator<Item = &'a String>,
    tree: &layer::Tree,
    volumes: &Path,
) -> Result<Vec<MountPoint>, RunError> {
    let tidy = |path: &str| path.trim_end_matches('/').to_owned();
    let taken: BTreeSet<String> = options.mounts.iter().map(|mount| tidy(mount.target())).collect();
    let further = image_volumes.filter(|path| !taken.contains(&tidy(path)));
    let further = further.map(|path| RunMount::Volume { target: path.clone(), read_only: false });
    let mut mounts = Vec::new();
    for (number, mount) in further.chain(options.mounts.iter().cloned()).enumerate() {
        mounts.push(match mount {
            RunMount::Bind { source, target, read_only, create } => {
                if create && !source.exists() {
                    fs::create_dir_all(&source)
                        .map_err(|source| RunError::Volume { target: target.clone(), source })?;
                }
                let found = fs::canonicalize(&source).map_err(|error| RunError::MountSource {
                    path: source,
                    target: target.clone(),
                    source: error,
                })?;
                MountPoint { target, kind: MountKind::Bind { source: found, read_only } }
            }
            RunMount::Tmpfs { target, size, mode, read_only } => {
                MountPoint { target, kind: MountKind::Tmpfs { size, mode, read_only } }
            }
            RunMount::Volume { target, read_only } => {
                let source = volumes.join(number.to_string());
                fs::create_dir_all(&source).map_err(|source| RunError::Volume { target: target.clone(), source })?;
                files::copy_out(tree, &target, &source)?;
                MountPoint { target, kind: MountKind::Bind { source, read_only } }
            }
        });
    }
    // A mount on a folder must come before those below it.
    mounts.sort_by_key(|mount: &MountPoint| mount.target.split('/').filter(|name| !name.is_empty()).count());
    Ok(mounts)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn options() -> RunOptions {
        RunOptions::new("x", Timestamp::UNIX_EPOCH)
    }

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_new_entrypoint_drops_the_images_command() {
        let config = oci::ContainerConfig {
            entrypoint: Some(words("/entry")),
            cmd: Some(words("default args")),
            ..oci::ContainerConfig::default()
        };
        assert_eq!(arguments(&config, &options()), words("/entry default args"));
        assert_eq!(arguments(&config, &RunOptions { command: words("a b"), ..options() }), words("/entry a b"));
        let other = Some(words("/other"));
        assert_eq!(arguments(&config, &RunOptions { entrypoint: other, ..options() }), words("/other"));
        let cleared = RunOptions { entrypoint: Some(Vec::new()), command: words("sh"), ..options() };
        assert_eq!(arguments(&config, &cleared), words("sh"));
    }

    #[test]
    fn the_users_variables_win_over_the_images() {
        let config = oci::ContainerConfig { env: words("PATH=/bin A=1 B=2"), ..oci::ContainerConfig::default() };
        let options = RunOptions { env: words("B=3 HOME=/h"), ..options() };
        let env = environment(&config, &options, "box", "/root");
        assert_eq!(env, words("PATH=/bin HOSTNAME=box HOME=/h A=1 B=3"));
    }
}

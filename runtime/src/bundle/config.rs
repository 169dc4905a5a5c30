//! `config.json`: read, and checked for what every container must have.

use super::BundleError;
use crate::start_error::StartError;
use oci_spec::runtime::{LinuxDeviceType, Process, Spec};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// No honest one is larger.
const LARGEST: u64 = 16 << 20;

/// Reads a file as JSON.
pub(super) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, BundleError> {
    let bytes = read(path)?;
    serde_json::from_slice(&bytes).map_err(|source| BundleError::Json { path: path.to_owned(), source })
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, BundleError> {
    let failed = |source| BundleError::File { path: path.to_owned(), source };
    if fs::metadata(path).map_err(failed)?.len() > LARGEST {
        return Err(failed(std::io::Error::from(std::io::ErrorKind::FileTooLarge)));
    }
    fs::read(path).map_err(failed)
}

/// Reads the `process` of `exec --process`.
pub fn load_process(path: &Path) -> Result<Process, BundleError> {
    let process: Process = read_json(path)?;
    check_process(&process)?;
    Ok(process)
}

/// A spec with its paths made absolute, and the bytes that it was read from.
pub(super) struct Config {
    pub(super) spec: Spec,
    pub(super) bytes: Vec<u8>,
    pub(super) bundle: PathBuf,
    pub(super) rootfs: PathBuf,
}

/// Reads the spec of a bundle.
pub(super) fn load(bundle: &Path) -> Result<Config, BundleError> {
    let failed = |path: &Path, source| BundleError::File { path: path.to_owned(), source };
    let bundle = bundle.canonicalize().map_err(|source| failed(bundle, source))?;
    let path = bundle.join("config.json");
    let bytes = read(&path)?;
    let mut spec: Spec =
        serde_json::from_slice(&bytes).map_err(|source| BundleError::Json { path: path.clone(), source })?;
    check(&spec)?;
    let root = spec.root().as_ref().map(|root| root.path().clone()).unwrap_or_default();
    if root.as_os_str().is_empty() {
        return Err(bad("the spec has no `root.path`").into());
    }
    let root = bundle.join(root);
    let rootfs = root.canonicalize().map_err(|source| failed(&root, source))?;
    if !rootfs.is_dir() {
        return Err(failed(&root, std::io::Error::from(std::io::ErrorKind::NotADirectory)));
    }
    if rootfs == Path::new("/") {
        return Err(bad("`root.path` is the root of this machine").into());
    }
    // A relative source is one of the bundle's.
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for mount in &mut mounts {
        let options = mount.options().as_deref().unwrap_or_default();
        let bind = mount.typ().as_deref() == Some("bind") || options.iter().any(|one| one == "bind" || one == "rbind");
        if let Some(source) = mount.source().as_ref().filter(|source| bind && source.is_relative()) {
            let source = bundle.join(source);
            mount.set_source(Some(source));
        }
    }
    spec.set_mounts(Some(mounts));
    allow_devices(&mut spec);
    if let Some(mut process) = spec.process().clone() {
        set_home(&mut process, &rootfs);
        spec.set_process(Some(process));
    }
    Ok(Config { spec, bytes, bundle, rootfs })
}

/// Gives a process without `HOME` that of its user, as the container's `/etc/passwd` has it, or `/`.
pub(super) fn set_home(process: &mut Process, root: &Path) {
    let mut env = process.env().clone().unwrap_or_default();
    if env.iter().any(|variable| variable.starts_with("HOME=")) {
        return;
    }
    let users = users(root).unwrap_or_default();
    let uid = process.user().uid().to_string();
    let home = users.lines().find_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        (fields.get(2) == Some(&uid.as_str())).then(|| fields.get(5).map(|home| (*home).to_owned())).flatten()
    });
    env.push(format!("HOME={}", home.filter(|home| home.starts_with('/')).unwrap_or_else(|| "/".to_owned())));
    process.set_env(Some(env));
}

/// Reads `/etc/passwd` of a container, which may be a link, a pipe, or endless.
fn users(root: &Path) -> Option<String> {
    const MOST: u64 = 1 << 20;
    let root = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = fs::File::from(rustix::fs::openat2(&root, "etc/passwd", flags, Mode::empty(), resolve).ok()?);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    file.take(MOST).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Adds the devices that every container may use to those of the spec, as runc does.
fn allow_devices(spec: &mut Spec) {
    let mut linux = spec.linux().clone().unwrap_or_default();
    let mut resources = linux.resources().clone().unwrap_or_default();
    let mut rules = vec![crate::spec::device_rule(false, LinuxDeviceType::A, None, None, "rwm")];
    rules.extend(resources.devices().clone().unwrap_or_default());
    rules.extend(crate::spec::allowed_devices());
    rules.push(crate::spec::device_rule(true, LinuxDeviceType::C, Some(10), Some(200), "rwm"));
    resources.set_devices(Some(rules));
    linux.set_resources(Some(resources));
    spec.set_linux(Some(linux));
}

fn bad(what: &str) -> StartError {
    StartError::BadSpec { what: what.to_owned() }
}

fn check(spec: &Spec) -> Result<(), StartError> {
    let version = spec.version();
    let numbers: Vec<_> = version.split(['-', '+']).next().unwrap_or_default().split('.').collect();
    match numbers.as_slice() {
        ["1", minor, _] if minor.parse::<u32>().is_ok() => {}
        _ => return Err(bad(&format!("`ociVersion` is `{version}`, and not of the versions 1"))),
    }
    let process = spec.process().as_ref().ok_or_else(|| bad("the spec has no `process`"))?;
    if spec.linux().is_none() {
        return Err(bad("the spec has no `linux`"));
    }
    let hooks = spec.hooks().as_ref();
    let prestart = hooks.and_then(|hooks| hooks.prestart().as_ref());
    let lists = hooks.into_iter().flat_map(|hooks| {
        [hooks.create_runtime(), hooks.create_container(), hooks.start_container(), hooks.poststart(), hooks.poststop()]
    });
    for hook in lists.flatten().chain(prestart).flatten() {
        crate::plan::check_hook(hook)?;
    }
    check_process(process)
}

fn check_process(process: &Process) -> Result<(), StartError> {
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(bad("`process.args` is empty"));
    }
    if !process.cwd().is_absolute() {
        return Err(bad("`process.cwd` is not an absolute path"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    fn spec(change: &Value) -> Spec {
        let mut value = json!({
            "ociVersion": "1.0.2", "root": {"path": "rootfs"}, "linux": {},
            "process": {"args": ["true"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
        });
        for (name, member) in change.as_object().unwrap() {
            value[name] = member.clone();
        }
        serde_json::from_value(value).unwrap()
    }

    #[rstest]
    #[case(json!({}), "")]
    #[case(json!({"ociVersion": "1.2.0-dev"}), "")]
    #[case(json!({"ociVersion": "2.0.0"}), "`ociVersion` is `2.0.0`, and not of the versions 1")]
    #[case(json!({"ociVersion": ""}), "`ociVersion` is ``, and not of the versions 1")]
    #[case(json!({"linux": null}), "the spec has no `linux`")]
    #[case(json!({"process": null}), "the spec has no `process`")]
    #[case(json!({"process": {"args": [], "cwd": "/", "user": {"uid": 0, "gid": 0}}}), "`process.args` is empty")]
    #[case(json!({"process": {"args": ["a"], "cwd": "x", "user": {"uid": 0, "gid": 0}}}), "`process.cwd` is not an absolute path")]
    #[case(json!({"hooks": {"poststop": [{"path": "x"}]}}), "the path of the hook `x` is not absolute")]
    #[case(json!({"hooks": {"prestart": [{"path": "/x", "timeout": 0}]}}), "the timeout of the hook `/x` is not positive")]
    fn a_spec_has_what_it_must_have(#[case] change: Value, #[case] message: &str) {
        let said = check(&spec(&change)).map_err(|error| error.to_string());
        assert_eq!(said.err().unwrap_or_default(), message);
    }
}

//! The flags of `create` and `run` that say what is mounted into a container: `-v`, `--mount`, `--tmpfs`.

use std::collections::BTreeMap;

use anyhow::Context;
use engine::mounts::{MountRequest, is_propagation};

use crate::units;

/// Reads `[SOURCE:]TARGET[:OPTIONS]`.
pub(crate) fn volume(text: &str) -> anyhow::Result<MountRequest> {
    anyhow::ensure!(!text.is_empty() && !text.contains("::"), "invalid spec: {text}: empty section between colons");
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, flags) = match parts[..] {
        [target] => (None, target, ""),
        [source, target] => (Some(source), target, ""),
        [source, target, flags] => (Some(source), target, flags),
        _ => anyhow::bail!("invalid spec: {text}: it is not of the form [SOURCE:]TARGET[:OPTIONS]"),
    };
    anyhow::ensure!(source != Some("") && !target.is_empty(), "invalid spec: {text}: empty section between colons");
    let target = target_path(target)?;
    let mut options = Options::default();
    for flag in flags.split(',').filter(|flag| !flag.is_empty()) {
        match flag {
            "ro" | "readonly" => options.read_only = true,
            "nocopy" => options.no_copy = true,
            flag if is_propagation(flag) => options.propagation = flag.to_owned(),
            // Labels and caches of other machines.
            "rw" | "z" | "Z" | "cached" | "delegated" | "consistent" => {}
            other => anyhow::bail!("invalid mode: {other}"),
        }
    }
    let Options { read_only, no_copy, propagation } = options;
    match source {
        Some(source) if source.contains('/') || [".", ".."].contains(&source) => {
            anyhow::ensure!(!no_copy, "invalid mode: nocopy is for volumes");
            let source = std::path::absolute(source).with_context(|| format!("cannot use `{source}`"))?;
            Ok(MountRequest::Bind { source, target, read_only, create: true, recursive: true, propagation })
        }
        name => {
            anyhow::ensure!(propagation.is_empty(), "invalid mode: {propagation} is for folders of the machine");
            let name = name.map(str::to_owned);
            Ok(MountRequest::Volume { name, target, read_only, no_copy, labels: BTreeMap::new() })
        }
    }
}

#[derive(Default)]
struct Options {
    read_only: bool,
    no_copy: bool,
    propagation: String,
}

/// Reads `type=bind|tmpfs|volume,source=…,target=…,readonly`.
pub(crate) fn mount(text: &str) -> anyhow::Result<MountRequest> {
    let (mut kind, mut source, mut target) = ("volume".to_owned(), None, None);
    let (mut options, mut recursive, mut labels) = (Options::default(), true, BTreeMap::new());
    let (mut size, mut mode) = (None, None);
    let mut of_kind: Vec<(&str, String)> = Vec::new();
    for (key, value) in super::fields(text)? {
        let needed = || value.clone().with_context(|| format!("invalid field '{key}' must be a key=value pair"));
        let flag = || super::boolean(&key, value.as_deref());
        match key.as_str() {
            "type" => kind = needed()?.to_ascii_lowercase(),
            "source" | "src" => source = Some(needed()?),
            "target" | "dst" | "destination" => target = Some(needed()?),
            "readonly" | "ro" => options.read_only = flag()?,
            "consistency" => drop(needed()?),
            "bind-propagation" => {
                options.propagation = needed()?;
                anyhow::ensure!(
                    is_propagation(&options.propagation),
                    "invalid propagation mode: {}",
                    options.propagation
                );
            }
            "bind-recursive" => match needed()?.as_str() {
                "enabled" | "writable" => {}
                "disabled" => recursive = false,
                "readonly" => {}
                other => anyhow::bail!("invalid value for bind-recursive: {other}"),
            },
            "bind-nonrecursive" => recursive = !flag()?,
            "volume-nocopy" => options.no_copy = flag()?,
            "volume-label" => {
                let label = needed()?;
                let (name, value) = label.split_once('=').unwrap_or((&label, ""));
                labels.insert(name.to_owned(), value.to_owned());
            }
            "volume-driver" => {
                let driver = needed()?;
                anyhow::ensure!(driver == "local", "volume driver `{driver}` is not there; there is local");
            }
            "tmpfs-size" => size = Some(units::parse_size(&needed()?).map_err(anyhow::Error::msg)?),
            "tmpfs-mode" => mode = Some(octal(&needed()?)?),
            _ => anyhow::bail!("unexpected key '{key}' in '{text}'"),
        }
        if let Some((prefix, _)) = key.split_once('-') {
            let prefix = ["bind", "volume", "tmpfs"].into_iter().find(|known| *known == prefix).unwrap_or_default();
            of_kind.push((prefix, key));
        }
    }
    anyhow::ensure!(["bind", "volume", "tmpfs"].contains(&kind.as_str()), "mount type unknown: \"{kind}\"");
    if let Some((other, _)) = of_kind.iter().find(|(prefix, _)| *prefix != kind) {
        anyhow::bail!("cannot mix '{other}-*' options with mount type '{kind}'");
    }
    let target = target_path(&target.context("target is required")?)?;
    let Options { read_only, no_copy, propagation } = options;
    match kind.as_str() {
        "bind" => {
            let source = source.context("invalid mount config for type \"bind\": field Source must not be empty")?;
            let source = std::path::absolute(&source).with_context(|| format!("cannot use `{source}`"))?;
            Ok(MountRequest::Bind { source, target, read_only, create: false, recursive, propagation })
        }
        "tmpfs" => {
            anyhow::ensure!(source.is_none(), "invalid mount config for type \"tmpfs\": field Source must not be set");
            Ok(MountRequest::Tmpfs { target, size, mode, read_only, options: Vec::new() })
        }
        _ => {
            let name = source.filter(|name| !name.is_empty());
            Ok(MountRequest::Volume { name, target, read_only, no_copy, labels })
        }
    }
}

/// Reads `TARGET[:size=…,mode=…,ro]`.
pub(crate) fn tmpfs(text: &str) -> anyhow::Result<MountRequest> {
    const FLAGS: [&str; 8] = ["exec", "noexec", "suid", "nosuid", "dev", "nodev", "noatime", "relatime"];
    let (target, flags) = text.split_once(':').unwrap_or((text, ""));
    let (mut size, mut mode, mut read_only, mut options) = (None, None, false, Vec::new());
    for (key, value) in super::fields(flags)? {
        match (key.as_str(), value) {
            ("size", Some(value)) => size = Some(units::parse_size(&value).map_err(anyhow::Error::msg)?),
            ("mode", Some(value)) => mode = Some(octal(&value)?),
            ("ro", None) => read_only = true,
            ("" | "rw", None) => {}
            (flag, None) if FLAGS.contains(&flag) => options.push(key),
            (key @ ("uid" | "gid" | "nr_inodes"), Some(value)) if value.bytes().all(|byte| byte.is_ascii_digit()) => {
                options.push(format!("{key}={value}"));
            }
            (key, _) => anyhow::bail!("invalid tmpfs option [\"{key}\"]"),
        }
    }
    Ok(MountRequest::Tmpfs { target: target_path(target)?, size, mode, read_only, options })
}

fn octal(text: &str) -> anyhow::Result<u32> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
    mode.with_context(|| format!("mode `{text}` is not octal"))
}

fn target_path(text: &str) -> anyhow::Result<String> {
    anyhow::ensure!(text.starts_with('/'), "invalid mount path: '{text}' mount path must be absolute");
    let names = std::path::Path::new(text).components().filter(|part| matches!(part, std::path::Component::Normal(_)));
    anyhow::ensure!(names.count() > 0, "invalid specification: destination can't be '/'");
    Ok(text.into())
}

/// The path that a relative one of a test is.
#[cfg(test)]
fn here(path: &str) -> std::path::PathBuf {
    std::path::absolute(path).expect("a path")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(source: &str, target: &str, read_only: bool, propagation: &str) -> MountRequest {
        MountRequest::Bind {
            source: source.into(),
            target: target.into(),
            read_only,
            create: true,
            recursive: true,
            propagation: propagation.into(),
        }
    }

    fn named(name: Option<&str>, target: &str, read_only: bool, no_copy: bool) -> MountRequest {
        let labels = BTreeMap::new();
        MountRequest::Volume { name: name.map(str::to_owned), target: target.into(), read_only, no_copy, labels }
    }

    #[test]
    fn volumes_are_read_as_docker_does() {
        let read = |text: &str| volume(text).map_err(|error| error.to_string());
        assert_eq!(read("/a:/b"), Ok(bind("/a", "/b", false, "")));
        assert_eq!(read("/a:/b:ro,rslave,Z"), Ok(bind("/a", "/b", true, "rslave")));
        assert_eq!(read("./a:/b"), Ok(bind(here("a").to_str().expect("text"), "/b", false, "")));
        assert_eq!(read("/b"), Ok(named(None, "/b", false, false)));
        assert_eq!(read("data:/b:nocopy"), Ok(named(Some("data"), "/b", false, true)));
        for (text, expected) in [
            ("b", "mount path must be absolute"),
            ("/a:b", "mount path must be absolute"),
            ("/a:/", "destination can't be '/'"),
            ("/a:/..", "destination can't be '/'"),
            ("/a:/b:x", "invalid mode: x"),
            ("/a:/b:ro:x", "not of the form"),
            (":/b", "empty section between colons"),
            ("/a::ro", "empty section between colons"),
            ("/a:/b:nocopy", "is for volumes"),
            ("data:/b:rshared", "is for folders"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn mounts_are_read_as_docker_does() {
        let read = |text: &str| mount(text).map_err(|error| error.to_string());
        let fast = |mode, options| MountRequest::Tmpfs {
            target: "/t".into(),
            size: Some(1 << 20),
            mode,
            read_only: false,
            options,
        };
        assert_eq!(read("type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=700"), Ok(fast(Some(0o700), vec![])));
        assert_eq!(tmpfs("/t:size=1m,exec,uid=5").ok(), Some(fast(None, vec!["exec".into(), "uid=5".into()])));
        assert_eq!(read("source=data,target=/b"), Ok(named(Some("data"), "/b", false, false)));
        assert_eq!(read("target=/b,volume-nocopy"), Ok(named(None, "/b", false, true)));
        let MountRequest::Bind { create, recursive, propagation, .. } =
            read("type=bind,src=/a,target=/b,readonly,bind-propagation=shared,bind-recursive=disabled").expect("good")
        else {
            panic!("a bind")
        };
        assert_eq!((create, recursive, propagation.as_str()), (false, false, "shared"));
        for (text, expected) in [
            ("type=bind,target=/b", "field Source must not be empty"),
            ("type=bind,src=/a", "target is required"),
            ("type=x,target=/b", "mount type unknown"),
            ("type=bind,src=/a,target=/b,what=1", "unexpected key 'what'"),
            ("type=bind,src=/a,target=/b,bind-propagation=x", "invalid propagation mode"),
            ("type=tmpfs,src=/a,target=/b", "field Source must not be set"),
            ("type=tmpfs,target=/b,volume-nocopy", "cannot mix 'volume-*' options with mount type 'tmpfs'"),
            ("type=volume,target=/b,tmpfs-size=1m", "cannot mix 'tmpfs-*' options"),
            ("type=tmpfs,target=/b,tmpfs-mode=9", "not octal"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert!(tmpfs("/t:what").is_err() && tmpfs("t").is_err() && tmpfs("/t:uid=x").is_err());
    }
}

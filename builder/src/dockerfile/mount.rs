//! `RUN --mount` and `--device`: the text as written, and what it means once expanded.

use super::expand::ExpandError;
use super::flags::Refusal;
use super::instruction::Device;
use super::suggest;

/// A `--mount` of a `RUN`, not yet expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountFlag {
    /// The value of the flag, comma-separated.
    pub text: String,
    /// `from=`, which never holds a variable.
    pub from: Option<String>,
}

/// A mount of a `RUN`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mount {
    /// What is mounted.
    pub kind: MountKind,
    /// The stage or image it comes from; the context when there is none.
    pub from: Option<String>,
    /// The path inside of where it comes from; for a secret another spelling of `id`.
    pub source: Option<String>,
    /// Where it is mounted; relative to the working directory.
    pub target: Option<String>,
    /// Whether it is read-only, by flag or by the kind's default.
    pub read_only: bool,
    /// `size` of a tmpfs in bytes.
    pub size: Option<u64>,
    /// `id`.
    pub id: Option<String>,
    /// `sharing` of a cache.
    pub sharing: Option<Sharing>,
    /// Whether a missing secret or SSH agent is an error.
    pub required: bool,
    /// The environment variable that receives a secret.
    pub env: Option<String>,
    /// `mode`.
    pub mode: Option<u32>,
    /// `uid`.
    pub uid: Option<u32>,
    /// `gid`.
    pub gid: Option<u32>,
}

/// What a mount is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MountKind {
    /// Files of the context, a stage or an image.
    #[default]
    Bind,
    /// A folder that outlives the build.
    Cache,
    /// Memory.
    Tmpfs,
    /// A secret of the caller.
    Secret,
    /// The caller's SSH agent.
    Ssh,
}

impl MountKind {
    /// Returns the word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Cache => "cache",
            Self::Tmpfs => "tmpfs",
            Self::Secret => "secret",
            Self::Ssh => "ssh",
        }
    }

    const ALL: [Self; 5] = [Self::Bind, Self::Cache, Self::Tmpfs, Self::Secret, Self::Ssh];
}

/// Who may use a cache at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Everyone.
    Shared,
    /// A second user gets another folder.
    Private,
    /// A second user waits.
    Locked,
}

/// Why a `--mount` means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct MountError {
    /// What is wrong, as BuildKit words it.
    pub message: String,
    /// The word that was probably meant.
    pub suggestion: Option<String>,
}

impl From<String> for MountError {
    fn from(message: String) -> Self {
        Self { message, suggestion: None }
    }
}

impl From<ExpandError> for MountError {
    fn from(error: ExpandError) -> Self {
        error.to_string().into()
    }
}

/// The keys there are, the common spellings first.
const KEYS: [&str; 19] = [
    "type",
    "target",
    "source",
    "from",
    "id",
    "sharing",
    "required",
    "readonly",
    "size",
    "mode",
    "uid",
    "gid",
    "env",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
];

impl MountFlag {
    /// Checks what can be checked before variables are known.
    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        let fields = csv(text).map_err(|problem| format!("failed to parse csv mounts: {problem}"))?;
        let mut from = None;
        for (key, value) in fields.iter().filter_map(|field| field.split_once('=')) {
            if !key.eq_ignore_ascii_case("from") {
                continue;
            }
            if value.find('$').is_some_and(|index| index != value.len() - 1) {
                return Err(Refusal {
                    hint: Some("write FROM <image> AS <name>, and from=<name>".to_owned()),
                    ..Refusal::from("'from' doesn't support variable expansion, define alias stage instead")
                });
            }
            from = Some(value.to_owned()).filter(|value| !value.is_empty());
        }
        Ok(Self { text: text.to_owned(), from })
    }

    /// Returns what the flag means, expanding every value but `from`.
    pub fn resolve(&self, expand: &mut dyn FnMut(&str) -> Result<String, ExpandError>) -> Result<Mount, MountError> {
        let mut mount = Mount { from: self.from.clone(), ..Mount::default() };
        let mut read_only = None;
        let fields = csv(&self.text).map_err(|problem| format!("failed to parse csv mounts: {problem}"))?;
        for field in &fields {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key.to_lowercase(), Some(value)),
                None => (field.to_lowercase(), None),
            };
            let value = match (key.as_str(), value) {
                ("from", Some(_)) => continue,
                (_, Some(value)) => expand(value)?,
                ("readonly" | "ro" | "readwrite" | "rw" | "required", None) => "true".to_owned(),
                (_, None) => return Err(format!("invalid field '{field}' must be a key=value pair").into()),
            };
            mount.set(&key, value, field, &mut read_only)?;
        }
        mount.read_only = read_only.unwrap_or(!matches!(mount.kind, MountKind::Cache | MountKind::Tmpfs));
        mount.check()?;
        Ok(mount)
    }
}

impl Mount {
    /// Sets one field, in the order they are written: some depend on the `type` before them.
    fn set(&mut self, key: &str, value: String, field: &str, read_only: &mut Option<bool>) -> Result<(), MountError> {
        let text = |value: String| Some(value).filter(|value| !value.is_empty());
        let number = |radix| {
            let digits = value.bytes().all(|byte| byte.is_ascii_digit());
            let number = u32::from_str_radix(&value, radix).ok().filter(|_| digits);
            number.map(Some).ok_or_else(|| format!("invalid value {value} for {key}"))
        };
        let truth = || truth(&value).ok_or_else(|| format!("invalid value for {key}: {value}"));
        let only_for = |allowed: bool| match allowed {
            true => Ok(()),
            false => Err(format!("unexpected key '{key}' for mount type '{}'", self.kind.name())),
        };
        match key {
            "type" => self.kind = kind(&value)?,
            "source" | "src" => self.source = text(value),
            "target" | "dst" | "destination" => self.target = text(value),
            "readonly" | "ro" => *read_only = Some(truth()?),
            "readwrite" | "rw" => *read_only = Some(!truth()?),
            "required" => {
                only_for(matches!(self.kind, MountKind::Secret | MountKind::Ssh))?;
                self.required = truth()?;
            }
            "size" => {
                only_for(self.kind == MountKind::Tmpfs)?;
                self.size = Some(size(&value).ok_or_else(|| format!("invalid value for {key}: {value}"))?);
            }
            "id" => self.id = text(value),
            "sharing" => self.sharing = Some(sharing(&value)?),
            "mode" => self.mode = number(8)?,
            "uid" => self.uid = number(10)?,
            "gid" => self.gid = number(10)?,
            "env" => self.env = Some(value),
            _ => {
                let suggestion = suggest::closest(key, KEYS).map(str::to_owned);
                return Err(MountError { message: format!("unexpected key '{key}' in '{field}'"), suggestion });
            }
        }
        Ok(())
    }

    /// Checks the fields against each other.
    fn check(&self) -> Result<(), MountError> {
        let kind = self.kind.name();
        if matches!(self.kind, MountKind::Bind | MountKind::Tmpfs) {
            for (key, number) in [("mode", self.mode), ("uid", self.uid), ("gid", self.gid)] {
                if number.is_some() {
                    return Err(format!("{key} not allowed for {kind:?} type mounts").into());
                }
            }
        }
        let problem = match self.kind {
            MountKind::Secret if self.from.is_some() => "secret mount should not have a from",
            MountKind::Secret if self.sharing.is_some() => "secret mount should not define sharing",
            MountKind::Secret if self.source.is_none() && self.target.is_none() && self.id.is_none() => {
                "invalid secret mount. one of source, target required"
            }
            MountKind::Secret if self.source.is_some() && self.id.is_some() => "both source and id can't be set",
            kind if kind != MountKind::Cache && self.sharing.is_some() => {
                return Err(format!("invalid cache sharing set for {} mount", kind.name()).into());
            }
            _ => return Ok(()),
        };
        Err(problem.to_owned().into())
    }
}

fn kind(value: &str) -> Result<MountKind, MountError> {
    let lower = value.to_lowercase();
    MountKind::ALL.into_iter().find(|kind| kind.name() == lower).ok_or_else(|| MountError {
        message: format!("unsupported mount type {value:?}"),
        suggestion: suggest::closest(value, MountKind::ALL.map(MountKind::name)).map(str::to_owned),
    })
}

fn sharing(value: &str) -> Result<Sharing, MountError> {
    match value.to_lowercase().as_str() {
        "shared" => Ok(Sharing::Shared),
        "private" => Ok(Sharing::Private),
        "locked" => Ok(Sharing::Locked),
        _ => Err(MountError {
            message: format!("unsupported sharing value {value:?}"),
            suggestion: suggest::closest(value, ["shared", "private", "locked"]).map(str::to_owned),
        }),
    }
}

/// Reads a truth value as Go does.
fn truth(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Reads a size such as `64m` or `1.5 GiB`, in powers of 1024.
fn size(value: &str) -> Option<u64> {
    let end = value.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ')? + 1;
    let (number, unit) = value.split_at(end);
    let number = number.strip_suffix(' ').unwrap_or(number);
    let plain = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let number: f64 = number.parse().ok().filter(|_| plain)?;
    let unit = unit.to_ascii_lowercase();
    let power = match unit.as_str() {
        "" | "b" => 0,
        _ => {
            let (prefix, rest) = unit.split_at_checked(1)?;
            if !matches!(rest, "" | "b" | "ib") {
                return None;
            }
            "kmgtp".find(prefix)? + 1
        }
    };
    let bytes = number * 1024_f64.powi(i32::try_from(power).ok()?);
    (bytes < i64::MAX as f64).then_some(bytes as u64)
}

/// Reads a `--device`.
pub(super) fn device(value: &str) -> Result<Device, Refusal> {
    let fields = csv(value).map_err(|problem| format!("failed to parse csv devices: {problem}"))?;
    let mut device = Device::default();
    for field in fields {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(value)),
            None => (field.to_lowercase(), None),
        };
        match (key.as_str(), value) {
            ("required", None) => device.required = true,
            ("required", Some(value)) => {
                device.required = truth(value).ok_or_else(|| format!("invalid value for required: {value}"))?;
            }
            ("name", Some(value)) if device.name.is_empty() => device.name = value.to_owned(),
            ("name", Some(_)) => return Err(format!("device name already set to {}", device.name).into()),
            // A device's own name has a `=` in it.
            _ if device.name.is_empty() => device.name = field,
            (_, None) => return Err(format!("invalid field '{field}' must be a key=value pair").into()),
            (key, Some(_)) => {
                let suggestion = suggest::closest(key, ["name", "required"]).map(str::to_owned);
                return Err(Refusal { suggestion, ..format!("unexpected key '{key}' in '{field}'").into() });
            }
        }
    }
    Ok(device)
}

/// Splits one line of comma-separated values; a field in quotes may hold commas, and `""` for a quote.
fn csv(line: &str) -> Result<Vec<String>, String> {
    let line = line.strip_suffix('\n').map_or(line, |line| line.strip_suffix('\r').unwrap_or(line));
    if line.is_empty() {
        return Err("EOF".to_owned());
    }
    let place =
        |rest: &str, what: &str| Err(format!("parse error on line 1, column {}: {what}", line.len() - rest.len() + 1));
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let Some(mut quoted) = rest.strip_prefix('"') else {
            let end = rest.find(',').unwrap_or(rest.len());
            if let Some(quote) = rest[..end].find('"') {
                return place(&rest[quote..], "bare \" in non-quoted field");
            }
            fields.push(rest[..end].to_owned());
            match rest.get(end + 1..) {
                Some(after) => rest = after,
                None => return Ok(fields),
            }
            continue;
        };
        let mut field = String::new();
        loop {
            let Some(end) = quoted.find('"') else {
                return place(quoted, "extraneous or missing \" in quoted-field");
            };
            field.push_str(&quoted[..end]);
            let after = &quoted[end + 1..];
            match after.as_bytes().first() {
                Some(b'"') => {
                    field.push('"');
                    quoted = &after[1..];
                }
                Some(b',') => {
                    fields.push(field);
                    rest = &after[1..];
                    break;
                }
                None => {
                    fields.push(field);
                    return Ok(fields);
                }
                Some(_) => return place(&quoted[end..], "extraneous or missing \" in quoted-field"),
            }
        }
    }
}

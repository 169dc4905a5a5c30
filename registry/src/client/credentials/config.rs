//! [`Config`]: a credential file in memory, and writing it so that it is there whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde_json::{Map, Value, json};

use super::{Credential, CredentialError, Keys, MAX_LEN, TOKEN_USER};

/// A credential file in memory; members that we do not know stay as they are.
pub(super) struct Config {
    path: PathBuf,
    members: Map<String, Value>,
}

impl Config {
    pub(super) fn empty(path: &Path) -> Self {
        Self { path: path.to_owned(), members: Map::new() }
    }

    pub(super) fn read(path: &Path) -> Result<Option<Self>, CredentialError> {
        let failed = |source| CredentialError::Read { path: path.into(), source };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut bytes = Vec::new();
        file.take(MAX_LEN).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.trim_ascii().is_empty() {
            return Ok(None);
        }
        let members =
            serde_json::from_slice(&bytes).map_err(|source| CredentialError::Json { path: path.into(), source })?;
        Ok(Some(Self { path: path.to_owned(), members }))
    }

    fn malformed(&self, what: impl Into<String>) -> CredentialError {
        CredentialError::Malformed { path: self.path.clone(), what: what.into() }
    }

    pub(super) fn auths(&self) -> Option<&Map<String, Value>> {
        self.members.get("auths").and_then(Value::as_object)
    }

    pub(super) fn auths_mut(&mut self) -> Result<&mut Map<String, Value>, CredentialError> {
        let malformed = self.malformed("`auths` is not an object");
        let auths = self.members.entry("auths").or_insert_with(|| json!({}));
        if auths.is_null() {
            *auths = json!({});
        }
        auths.as_object_mut().ok_or(malformed)
    }

    /// Returns the program that keeps this registry's credentials, if it is not this file.
    pub(super) fn helper(&self, keys: &Keys) -> Result<Option<String>, CredentialError> {
        let own = self.members.get("credHelpers").and_then(Value::as_object);
        let own = own.and_then(|helpers| helpers.iter().find(|(key, _)| keys.matches(key))).map(|(_, name)| name);
        let name = own.or_else(|| self.members.get("credsStore")).and_then(Value::as_str).unwrap_or_default();
        if name.is_empty() {
            return Ok(None);
        }
        if name.contains(['/', '\0']) {
            return Err(CredentialError::HelperName { path: self.path.clone(), name: name.into() });
        }
        Ok(Some(format!("docker-credential-{name}")))
    }

    /// Reads one value of `auths`.
    pub(super) fn entry(&self, entry: &Value) -> Result<Option<Credential>, CredentialError> {
        let text = |name: &str| entry.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        if let Some(token) = text("identitytoken") {
            return Ok(Some(Credential::Identity { token: token.into() }));
        }
        if let Some(token) = text("registrytoken") {
            return Ok(Some(Credential::Bearer { token: token.into() }));
        }
        let Some(auth) = text("auth") else {
            let both = text("username").zip(text("password"));
            return Ok(both.map(|(username, password)| Credential::Password {
                username: username.into(),
                password: password.into(),
            }));
        };
        let bytes = STANDARD
            .decode(auth.trim())
            .or_else(|_| STANDARD_NO_PAD.decode(auth.trim()))
            .map_err(|_| self.malformed("an `auth` is not base64"))?;
        let pair = String::from_utf8(bytes).map_err(|_| self.malformed("an `auth` is not UTF-8"))?;
        let (username, password) = pair.split_once(':').ok_or_else(|| self.malformed("an `auth` has no colon"))?;
        // Docker once padded the password with zero bytes.
        let password = password.trim_end_matches('\0');
        if username == TOKEN_USER {
            return Ok((!password.is_empty()).then(|| Credential::Identity { token: password.into() }));
        }
        Ok(Some(Credential::Password { username: username.into(), password: password.into() }))
    }

    /// Writes the file whole, readable by its owner only. A link is followed, so that it stays a link.
    pub(super) fn write(&self, path: &Path) -> Result<(), CredentialError> {
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let failed = |source| CredentialError::Write { path: target.clone(), source };
        let mut text = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
        serde::Serialize::serialize(&self.members, &mut serializer).map_err(|error| failed(error.into()))?;
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = target.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        let mut temporary_name = std::ffi::OsString::from(".");
        temporary_name.push(name);
        temporary_name.push(format!(".{}", std::process::id()));
        let temporary = folder.join(temporary_name);
        let written = (|| {
            // Our own leftover, from a killed process that had our number: the folder is locked.
            match fs::remove_file(&temporary) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            if let Ok(old) = fs::metadata(&target) {
                let new = file.metadata()?;
                if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
                    // Under sudo, the file stays its owner's.
                    std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()))?;
                }
            }
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&temporary, &target)?;
            File::open(folder)?.sync_all()
        })();
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written.map_err(failed)
    }
}

/// Keeps other processes of ours from changing the same file, without leaving a lock file beside it.
pub(super) struct FolderLock(#[expect(dead_code, reason = "closing it is what unlocks")] File);

impl FolderLock {
    pub(super) fn take(path: &Path) -> Result<Self, CredentialError> {
        let failed = |source| CredentialError::Write { path: path.into(), source };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.recursive(true).create(folder).map_err(failed)?;
        let folder = File::open(folder).map_err(failed)?;
        folder.lock().map_err(failed)?;
        Ok(Self(folder))
    }
}

//! [`Helper`]: programs that keep credentials, asked by docker's protocol.
//!
//! ```text
//! docker-credential-NAME get    < server           > {"ServerURL":…,"Username":…,"Secret":…}
//! docker-credential-NAME store  < {"ServerURL":…,"Username":…,"Secret":…}
//! docker-credential-NAME erase  < server
//! ```
//!
//! What went wrong stands on the standard output, with a status other than 0.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::json;

use super::{Credential, CredentialError, MAX_LEN, TOKEN_USER};

/// How long a helper may take; it may ask its user to unlock something.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// One helper program.
pub(super) struct Helper<'a> {
    /// `docker-credential-NAME`
    pub(super) program: String,
    /// Where to look for it, in the form of `PATH`, instead of in this process's.
    pub(super) folders: Option<&'a OsStr>,
}

impl Helper<'_> {
    /// Asks for the credential for a server.
    pub(super) fn get(&self, key: &str) -> Result<Option<Credential>, CredentialError> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Answer {
            #[serde(default)]
            username: String,
            #[serde(default)]
            secret: String,
        }

        let answer = match self.run("get", key) {
            Ok(answer) => answer,
            Err(CredentialError::Helper { said, .. }) if said.contains("credentials not found") => return Ok(None),
            Err(error) => return Err(error),
        };
        let answer: Answer = serde_json::from_slice(&answer)
            .map_err(|source| CredentialError::HelperAnswer { program: self.program.clone(), source })?;
        if answer.username.is_empty() && answer.secret.is_empty() {
            return Ok(None);
        }
        Ok(Some(if answer.username == TOKEN_USER {
            Credential::Identity { token: answer.secret }
        } else {
            Credential::Password { username: answer.username, password: answer.secret }
        }))
    }

    /// Has a credential kept.
    pub(super) fn store(&self, key: &str, username: &str, secret: &str) -> Result<(), CredentialError> {
        let request = json!({ "ServerURL": key, "Username": username, "Secret": secret });
        self.run("store", &request.to_string()).map(drop)
    }

    /// Has a credential forgotten.
    pub(super) fn erase(&self, key: &str) -> Result<(), CredentialError> {
        self.run("erase", key).map(drop)
    }

    /// Runs `docker-credential-NAME VERB`: the request on its standard input, the answer or the error on its output.
    #[expect(clippy::disallowed_methods, reason = "credential helpers are programs, by docker's protocol")]
    fn run(&self, verb: &str, request: &str) -> Result<Vec<u8>, CredentialError> {
        let program = &self.program;
        let start = |source| CredentialError::HelperStart { program: program.clone(), source };
        let mut command = match self.folders {
            Some(folders) => {
                let found =
                    std::env::split_paths(folders).map(|folder| folder.join(program)).find(|path| path.is_file());
                Command::new(found.ok_or_else(|| start(io::ErrorKind::NotFound.into()))?)
            }
            None => Command::new(program),
        };
        command.arg(verb).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(start)?;
        let mut stdin = child.stdin.take().expect("standard input was asked for");
        // A helper that ends without reading breaks the pipe; its exit status says more than that.
        let sent = stdin.write_all(request.as_bytes());
        drop(stdin);
        let stdout = child.stdout.take().expect("standard output was asked for");
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let mut answer = Vec::new();
            let read = stdout.take(MAX_LEN).read_to_end(&mut answer);
            // Nobody listens any more when the helper was too slow.
            let _ = sender.send(read.map(|_| answer));
        });
        let answer = match receiver.recv_timeout(PATIENCE) {
            Ok(answer) => answer.map_err(start)?,
            Err(_) => {
                child.kill().map_err(start)?;
                child.wait().map_err(start)?;
                return Err(CredentialError::HelperSlow { program: program.clone() });
            }
        };
        let status = child.wait().map_err(start)?;
        if !status.success() {
            let text = String::from_utf8_lossy(&answer);
            let said = text.trim().chars().filter(|c| !c.is_control()).take(300).collect::<String>();
            let said = if said.is_empty() { status.to_string() } else { said };
            return Err(CredentialError::Helper { program: program.clone(), said });
        }
        sent.map_err(start)?;
        Ok(answer)
    }
}

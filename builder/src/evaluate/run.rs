//! `RUN`: the command that its form and heredocs mean, and its mounts.

use super::{Evaluator, PROXY_ARGS, Result, StageWalk, absolute, file_name};
use crate::dockerfile::{
    CommandLine, Escape, Mount, MountKind, RunCommand, RunNetwork, RunSecurity, Sharing, Statement, expand,
};
use crate::executor::{Network, Security};
use crate::fault::Fault;
use crate::files::copy::Selection;
use crate::files::path::clean;
use crate::graph::{
    CopyOperation, CopySource, ExecOperation, MountOperation, MountSource, Origin, SecretFile, StepIndex, StepKind,
};
use crate::image_state::Env;

impl Evaluator<'_> {
    pub(super) fn run(
        &mut self,
        walk: &mut StageWalk,
        run: &RunCommand,
        statement: &Statement,
        escape: Escape,
    ) -> Result<()> {
        if let Some(device) = run.devices.first() {
            let fault = Fault::new(format!("RUN --device={} is not supported yet", device.name));
            return Err(self.fault(fault, Some(&statement.span)));
        }
        let mut mounts = Vec::new();
        let argv = match (&run.command, run.heredocs.as_slice()) {
            (command, []) => walk.state.arguments(command),
            (CommandLine::Shell(text), [heredoc, rest @ ..]) => {
                let alone = rest.is_empty()
                    && text.trim().trim_start_matches(|c: char| c.is_ascii_digit()).starts_with("<<")
                    && !text.trim().contains(char::is_whitespace);
                let body = String::from_utf8_lossy(&heredoc.chomped()).into_owned();
                if alone && body.starts_with("#!") && walk.state.platform.os != "windows" {
                    let name = self.at(statement, file_name(&heredoc.name))?;
                    let command = walk.state.in_shell(&format!("/dev/pipes/{name}"));
                    let source = MountSource::Script { name, content: heredoc.chomped() };
                    mounts.push(MountOperation { target: "/dev/pipes/".into(), source });
                    command
                } else if alone {
                    walk.state.in_shell(&body)
                } else {
                    let mut script = text.clone();
                    for heredoc in &run.heredocs {
                        script.push('\n');
                        script.push_str(&String::from_utf8_lossy(&heredoc.content));
                        script.push_str(&heredoc.name);
                    }
                    walk.state.in_shell(&script)
                }
            }
            (CommandLine::Exec(_), _) => {
                return Err(self.fault(Fault::new("a heredoc needs the shell form of RUN"), Some(&statement.span)));
            }
        };
        if argv.is_empty() {
            return Err(self.fault(Fault::new("RUN has nothing to run"), Some(&statement.span)));
        }
        for flag in &run.mounts {
            let env = &walk.state.env;
            let mount = flag.resolve(&mut |text| expand::word(text, env, escape));
            let mount = mount.map_err(|error| {
                let hint = error.suggestion.map(|word| format!("did you mean `{word}`?"));
                self.fault(Fault { hint, ..Fault::new(error.message) }, Some(&statement.span))
            })?;
            let agents = mounts.iter().filter(|mount| matches!(mount.source, MountSource::Ssh { .. })).count();
            let mount = self.mount(walk, mount, agents, statement)?;
            mounts.push(mount);
        }
        let allow = self.context.request.allow;
        let network = match run.network {
            None | Some(RunNetwork::Default) => self.context.request.network,
            Some(RunNetwork::None) => Network::None,
            Some(RunNetwork::Host) if allow.network_host || self.context.request.network == Network::Host => {
                Network::Host
            }
            Some(RunNetwork::Host) => {
                let fault =
                    Fault::new("RUN --network=host is not allowed").hint("allow it with `--allow network.host`");
                return Err(self.fault(fault, Some(&statement.span)));
            }
        };
        let security = match run.security {
            None | Some(RunSecurity::Sandbox) => Security::Sandbox,
            Some(RunSecurity::Insecure) if allow.security_insecure => Security::Insecure,
            Some(RunSecurity::Insecure) => {
                let fault = Fault::new("RUN --security=insecure is not allowed")
                    .hint("allow it with `--allow security.insecure`");
                return Err(self.fault(fault, Some(&statement.span)));
            }
        };
        let created_by = walk.state.run_history(&argv);
        let title = argv.join(" ");
        let hostname = self.context.request.build_args.get("BUILDKIT_SANDBOX_HOSTNAME").cloned();
        let operation = ExecOperation {
            base: walk.state.top,
            argv,
            env: walk.state.env.to_vec(),
            args: walk.state.args.iter().map(|(name, _)| name.clone()).collect(),
            hidden_env: self.proxies(&walk.state.env),
            cwd: absolute(&walk.state.working_dir()),
            user: walk.state.config.user.clone(),
            hostname: hostname.unwrap_or_else(|| "buildkitsandbox".into()),
            mounts,
            network,
            security,
            title,
        };
        let name = self.step_name(walk, &statement.text);
        let step = self.push(walk, StepKind::Exec(operation), name, statement);
        walk.state.note_step(created_by, step);
        Ok(())
    }

    fn proxies(&self, env: &Env) -> Vec<(String, String)> {
        let given = &self.context.request.build_args;
        let names = PROXY_ARGS.iter().flat_map(|name| [(*name).to_owned(), name.to_lowercase()]);
        names
            .filter_map(|name| Some((given.get(&name)?.clone(), name)))
            .filter(|(_, name)| env.get(name).is_none())
            .map(|(value, name)| (name, value))
            .collect()
    }

    /// Resolves a mount; `agents` are those of SSH before it.
    fn mount(
        &mut self,
        walk: &StageWalk,
        mount: Mount,
        agents: usize,
        statement: &Statement,
    ) -> Result<MountOperation> {
        let refuse =
            |evaluator: &Self, message: String| Err(evaluator.fault(Fault::new(message), Some(&statement.span)));
        let in_working_dir = |target: &str| {
            if target.starts_with('/') {
                absolute(target)
            } else {
                absolute(&format!("{}/{target}", walk.state.working_dir()))
            }
        };
        let given = mount.target.as_deref().filter(|target| !target.is_empty());
        if mount.kind == MountKind::Secret {
            let id = mount.source.clone().or(mount.id.clone()).filter(|id| !id.is_empty());
            let id = id.or_else(|| given.map(|target| base_name(target).to_owned()));
            let Some(id) = id else { return refuse(self, "a secret mount needs an `id` or a `target`".into()) };
            let is_file = given.is_some() || mount.env.is_none();
            let file = SecretFile {
                mode: mount.mode.unwrap_or(0o400),
                uid: mount.uid.unwrap_or(0),
                gid: mount.gid.unwrap_or(0),
            };
            let target = given.map_or_else(|| absolute(&format!("/run/secrets/{}", base_name(&id))), in_working_dir);
            let source =
                MountSource::Secret { id, file: is_file.then_some(file), env: mount.env, required: mount.required };
            return Ok(MountOperation { target, source });
        }
        if mount.kind == MountKind::Ssh {
            let socket = SecretFile {
                mode: mount.mode.unwrap_or(0o600),
                uid: mount.uid.unwrap_or(0),
                gid: mount.gid.unwrap_or(0),
            };
            let id = mount.id.filter(|id| !id.is_empty()).unwrap_or_else(|| "default".into());
            let target = given.map_or_else(|| format!("/run/buildkit/ssh_agent.{agents}"), in_working_dir);
            return Ok(MountOperation { target, source: MountSource::Ssh { id, socket, required: mount.required } });
        }
        let Some(given) = given else { return refuse(self, "a mount needs a `target`".into()) };
        let target = in_working_dir(given);
        if target == "/" {
            return refuse(self, format!("invalid mount target \"{target}\""));
        }
        let path = absolute(mount.source.as_deref().unwrap_or("/"));
        let source = match mount.kind {
            MountKind::Tmpfs => MountSource::Tmpfs { size: mount.size.filter(|size| *size > 0) },
            MountKind::Cache => {
                let id = mount.id.clone().filter(|id| !id.is_empty()).unwrap_or_else(|| absolute_or_same(given));
                let namespace = self.context.request.build_args.get("BUILDKIT_CACHE_MOUNT_NS");
                let seed = match &mount.from {
                    Some(from) => {
                        let origin = self.origin(from, walk.index, statement)?;
                        Some(self.copied(walk, origin, &path, "/", statement))
                    }
                    None => None,
                };
                MountSource::Cache {
                    id: format!("{}/{id}", namespace.map_or("", String::as_str)),
                    sharing: mount.sharing.unwrap_or(Sharing::Shared),
                    seed,
                    mode: mount.mode.unwrap_or(0o755),
                    uid: mount.uid.unwrap_or(0),
                    gid: mount.gid.unwrap_or(0),
                    read_only: mount.read_only,
                }
            }
            MountKind::Bind | MountKind::Secret | MountKind::Ssh => {
                let origin = match &mount.from {
                    Some(from) => self.origin(from, walk.index, statement)?,
                    None => Origin::Context,
                };
                match origin {
                    Origin::Step(_) => MountSource::Bind { origin, path, read_only: mount.read_only },
                    // What is mounted of a context is what COPY would take: less what is ignored, owned by root.
                    Origin::Context | Origin::Named(_) => {
                        let step = self.copied(walk, origin, &path, "/mounted", statement);
                        let origin = Origin::Step(Some(step));
                        MountSource::Bind { origin, path: "/mounted".into(), read_only: mount.read_only }
                    }
                }
            }
        };
        Ok(MountOperation { target, source })
    }

    /// Adds a step that copies a path onto nothing.
    fn copied(
        &mut self,
        walk: &StageWalk,
        origin: Origin,
        path: &str,
        destination: &str,
        statement: &Statement,
    ) -> StepIndex {
        let sources = vec![CopySource::Files { origin, selection: literal(path), unpack: false }];
        let operation =
            CopyOperation { base: None, sources, destination: destination.into(), chown: None, chmod: None };
        let name = format!("[{}mount] {path}", self.label(walk.index));
        self.push(walk, StepKind::Copy(operation), name, statement)
    }
}

/// Selects a path without wildcards.
fn literal(path: &str) -> Selection {
    Selection { path: clean(path.as_bytes()), literal: true, ..Selection::default() }
}

/// Cleans a cache's default ID as Go's `path.Clean` does, which leaves a relative path relative.
fn absolute_or_same(path: &str) -> String {
    let cleaned = absolute(path);
    if path.starts_with('/') { cleaned } else { cleaned[1..].to_owned() }
}

fn base_name(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or(path)
}

//! [`ImageState`]: what an image's config will be, as the instructions of a stage change it.

use std::collections::{BTreeMap, HashMap};

use oci::image_config::Empty;
use oci::{ContainerConfig, HealthConfig, History, ImageConfig, Platform};

use crate::dockerfile::expand::Lookup;
use crate::dockerfile::{CommandLine, Healthcheck};
use crate::events::Surroundings;
use crate::executor::{Network, Security};
use crate::fault::Fault;
use crate::go;
use crate::graph::StepIndex;

/// Where programs are found when an image does not say.
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The comment of every history line that a Dockerfile makes, which tools look for.
const COMMENT: &str = "buildkit.dockerfile.v0";

/// Variables in the order in which they were last set, as `RUN` gets them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Env {
    /// `None` where one was before it moved to the end.
    slots: Vec<Option<(String, String)>>,
    /// Where each is.
    places: HashMap<String, usize>,
}

impl Env {
    /// Sets a variable; it moves to the end.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        let end = self.slots.len();
        match self.places.get_mut(name) {
            Some(place) => self.slots[std::mem::replace(place, end)] = None,
            None => {
                self.places.insert(name.to_owned(), end);
            }
        }
        self.slots.push(Some((name.to_owned(), value.to_owned())));
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.slots.get(*self.places.get(name)?)?.as_ref()?;
        Some(value)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.slots.iter().flatten().map(|(name, _)| name.as_str())
    }

    /// Returns all of them, in order.
    pub(crate) fn to_vec(&self) -> Vec<(String, String)> {
        self.slots.iter().flatten().cloned().collect()
    }
}

impl Lookup for Env {
    fn lookup(&self, name: &str) -> Option<&str> {
        self.get(name)
    }
}

/// A line of history, whose time is known only when its step has run.
#[derive(Clone, Debug)]
pub(crate) enum HistoryLine {
    /// The base image's.
    Base(History),
    /// An instruction's. Its time is that of the step, or of the line before it.
    Instruction {
        /// What it says.
        created_by: String,
        /// The step that made its layer.
        step: Option<StepIndex>,
    },
}

/// An image in the making.
#[derive(Clone, Debug)]
pub(crate) struct ImageState {
    pub(crate) platform: Platform,
    pub(crate) author: Option<String>,
    pub(crate) config: ContainerConfig,
    pub(crate) history: Vec<HistoryLine>,
    /// When the base image was made.
    pub(crate) base_created: Option<String>,
    /// `ARG` and `ENV` together: what expansion and `RUN` see.
    pub(crate) env: Env,
    /// The `ARG`s so far, for the history of `RUN`.
    pub(crate) args: Vec<(String, Option<String>)>,
    /// The step that made the files; `None` when there are none.
    pub(crate) top: Option<StepIndex>,
    /// Whether `CMD` was set in this very stage.
    cmd_is_set: bool,
    /// Where each variable of `config.env` is.
    env_places: HashMap<String, usize>,
}

impl ImageState {
    /// Starts with nothing: `FROM scratch`.
    pub(crate) fn scratch(platform: &Platform) -> Self {
        let working_dir = if platform.os == "windows" { "\\" } else { "/" };
        let config = ContainerConfig { working_dir: working_dir.into(), ..ContainerConfig::default() };
        Self::start(platform, None, config, Vec::new(), None, None)
    }

    /// Starts from an image.
    pub(crate) fn of_image(platform: &Platform, image: &ImageConfig, layers: usize, top: StepIndex) -> Self {
        // Members that only old builders or runtimes know do not describe the new image.
        let config = ContainerConfig { other: serde_json::Map::new(), ..image.config.clone() };
        let platform = Platform {
            os_version: image.os_version.clone(),
            os_features: image.os_features.clone(),
            ..platform.clone()
        };
        let history = normalized_history(&image.history, layers, image.created.as_deref());
        let history = history.into_iter().map(HistoryLine::Base).collect();
        let top = (layers > 0).then_some(top);
        Self::start(&platform, image.author.clone(), config, history, image.created.clone(), top)
    }

    fn start(
        platform: &Platform,
        author: Option<String>,
        mut config: ContainerConfig,
        history: Vec<HistoryLine>,
        base_created: Option<String>,
        top: Option<StepIndex>,
    ) -> Self {
        let has_path =
            config.env.iter().any(|variable| variable.split_once('=').is_some_and(|(name, _)| name == "PATH"));
        if !has_path && platform.os != "windows" {
            config.env.push(format!("PATH={DEFAULT_PATH}"));
        }
        let (mut env, mut env_places) = (Env::default(), HashMap::new());
        for (place, variable) in config.env.iter().enumerate() {
            let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
            env.set(name, value);
            env_places.entry(name.to_owned()).or_insert(place);
        }
        Self {
            platform: platform.clone(),
            author,
            config,
            history,
            base_created,
            env,
            args: Vec::new(),
            top,
            cmd_is_set: false,
            env_places,
        }
    }

    /// Continues an earlier stage: `FROM stage`.
    pub(crate) fn of_stage(stage: &Self) -> Self {
        Self { cmd_is_set: false, ..stage.clone() }
    }

    /// Returns what a process sees here beside the files.
    pub(crate) fn surroundings(&self, network: Network) -> Surroundings {
        Surroundings {
            env: self.env.to_vec(),
            cwd: self.working_dir(),
            user: self.config.user.clone(),
            shell: self.config.shell.clone(),
            network,
            security: Security::Sandbox,
        }
    }

    /// Adds a line of history for an instruction that leaves the files alone.
    pub(crate) fn note(&mut self, created_by: impl Into<String>) {
        self.history.push(HistoryLine::Instruction { created_by: created_by.into(), step: None });
    }

    /// Adds a line of history for a step that made a layer.
    pub(crate) fn note_step(&mut self, created_by: impl Into<String>, step: StepIndex) {
        self.history.push(HistoryLine::Instruction { created_by: created_by.into(), step: Some(step) });
        self.top = Some(step);
    }

    /// `ENV`.
    pub(crate) fn set_env(&mut self, pairs: &[(String, String)]) {
        for (name, value) in pairs {
            self.env.set(name, value);
            let variable = format!("{name}={value}");
            match self.env_places.get(name) {
                Some(place) => self.config.env[*place] = variable,
                None => {
                    self.env_places.insert(name.clone(), self.config.env.len());
                    self.config.env.push(variable);
                }
            }
        }
        self.note(format!("ENV {}", joined(pairs)));
    }

    /// `LABEL`.
    pub(crate) fn set_labels(&mut self, pairs: &[(String, String)]) {
        self.config.labels.extend(pairs.iter().cloned());
        self.note(format!("LABEL {}", joined(pairs)));
    }

    /// `CMD`.
    pub(crate) fn set_cmd(&mut self, command: &CommandLine) {
        let arguments = self.arguments(command);
        self.note(format!("CMD {}", go::quote_all(&arguments)));
        self.config.cmd = (!arguments.is_empty()).then_some(arguments);
        self.config.args_escaped = true;
        self.cmd_is_set = true;
    }

    /// `ENTRYPOINT`: the base's `CMD` was meant for the base's entrypoint, so it goes.
    pub(crate) fn set_entrypoint(&mut self, command: &CommandLine) {
        let arguments = self.arguments(command);
        self.note(format!("ENTRYPOINT {}", go::quote_all(&arguments)));
        self.config.entrypoint = (!arguments.is_empty()).then_some(arguments);
        if !self.cmd_is_set {
            self.config.cmd = None;
        }
    }

    /// `EXPOSE`.
    pub(crate) fn expose(&mut self, ports: Vec<String>) {
        self.note(format!("EXPOSE {}", go::list(&ports)));
        self.config.exposed_ports.extend(ports.into_iter().map(|port| (port, Empty {})));
    }

    /// `VOLUME`.
    pub(crate) fn add_volumes(&mut self, volumes: Vec<String>) -> Result<(), Fault> {
        if volumes.iter().any(String::is_empty) {
            return Err(Fault::new("VOLUME specified can not be an empty string"));
        }
        self.note(format!("VOLUME {}", go::list(&volumes)));
        self.config.volumes.extend(volumes.into_iter().map(|volume| (volume, Empty {})));
        Ok(())
    }

    /// `HEALTHCHECK`.
    pub(crate) fn set_healthcheck(&mut self, check: &Healthcheck) {
        let nanos = |duration: &std::time::Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
        let health = match check {
            Healthcheck::None => HealthConfig { test: vec!["NONE".into()], ..HealthConfig::default() },
            Healthcheck::Command { command, interval, timeout, start_period, start_interval, retries } => {
                HealthConfig {
                    test: match command {
                        CommandLine::Shell(text) => vec!["CMD-SHELL".into(), text.clone()],
                        CommandLine::Exec(arguments) => {
                            ["CMD".into()].into_iter().chain(arguments.iter().cloned()).collect()
                        }
                    },
                    interval: nanos(interval),
                    timeout: nanos(timeout),
                    start_period: nanos(start_period),
                    start_interval: nanos(start_interval),
                    retries: i64::from(*retries),
                }
            }
        };
        let time = |nanos: i64| go::duration(std::time::Duration::from_nanos(nanos.unsigned_abs()));
        self.note(format!(
            "HEALTHCHECK {{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
            go::list(&health.test),
            time(health.interval),
            time(health.timeout),
            time(health.start_period),
            time(health.start_interval),
            health.retries
        ));
        self.config.healthcheck = Some(health);
    }

    /// Returns a command's arguments, with the shell before the shell form.
    pub(crate) fn arguments(&self, command: &CommandLine) -> Vec<String> {
        match command {
            CommandLine::Exec(arguments) => arguments.clone(),
            CommandLine::Shell(text) => self.in_shell(text),
        }
    }

    /// Returns the arguments that make the stage's shell run some text.
    pub(crate) fn in_shell(&self, text: &str) -> Vec<String> {
        let default = || match self.platform.os.as_str() {
            "windows" => vec!["cmd".into(), "/S".into(), "/C".into()],
            _ => vec!["/bin/sh".into(), "-c".into()],
        };
        let mut arguments = if self.config.shell.is_empty() { default() } else { self.config.shell.clone() };
        arguments.push(text.to_owned());
        arguments
    }

    /// Returns the working directory, absolute and with `/` on every system.
    pub(crate) fn working_dir(&self) -> String {
        match self.config.working_dir.as_str() {
            "" => "/".into(),
            path if self.platform.os == "windows" => path.replace('\\', "/"),
            path => path.to_owned(),
        }
    }

    /// Writes what the history says of a `RUN`: the `ARG`s in force, each once, then the arguments.
    pub(crate) fn run_history(&self, arguments: &[String]) -> String {
        let mut order: Vec<&str> = Vec::new();
        let mut values = BTreeMap::new();
        for (name, value) in &self.args {
            if !order.contains(&name.as_str()) {
                order.push(name);
            }
            values.insert(name.as_str(), self.env.get(name).or(value.as_deref()).unwrap_or_default());
        }
        let mut words = Vec::new();
        if !order.is_empty() {
            words.push(format!("|{}", order.len()));
            words.extend(order.iter().map(|name| format!("{name}={}", values[name])));
        }
        words.extend(arguments.iter().cloned());
        format!("RUN {} # buildkit", words.join(" "))
    }

    /// Returns the config, given when each step's layer was made. `layers` are the image's.
    pub(crate) fn finish(
        &self,
        labels: &BTreeMap<String, String>,
        layers: Vec<oci::DiffId>,
        created_of: &dyn Fn(StepIndex) -> jiff::Timestamp,
        epoch: Option<jiff::Timestamp>,
    ) -> ImageConfig {
        let mut config = self.config.clone();
        config.labels.extend(labels.clone());
        let base: Option<jiff::Timestamp> = self.base_created.as_deref().and_then(|text| text.parse().ok());
        // What makes no layer takes the time of what came before it, so that building again gives the same image.
        let mut time = base.unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let mut newest = time;
        let mut history = Vec::with_capacity(self.history.len());
        for line in &self.history {
            history.push(match line {
                HistoryLine::Base(line) => line.clone(),
                HistoryLine::Instruction { created_by, step } => {
                    if let Some(step) = step {
                        time = created_of(*step);
                        newest = newest.max(time);
                    }
                    History {
                        created: Some(epoch.unwrap_or(time).to_string()),
                        created_by: Some(created_by.clone()),
                        author: None,
                        comment: Some(COMMENT.into()),
                        empty_layer: step.is_none(),
                    }
                }
            });
        }
        ImageConfig {
            architecture: self.platform.architecture.clone(),
            variant: self.platform.variant.clone(),
            os: self.platform.os.clone(),
            os_version: self.platform.os_version.clone(),
            os_features: self.platform.os_features.clone(),
            created: Some(epoch.unwrap_or(newest).to_string()),
            author: self.author.clone(),
            config,
            rootfs: oci::RootFs { diff_ids: layers, ..oci::RootFs::default() },
            history,
            other: serde_json::Map::new(),
        }
    }
}

fn joined(pairs: &[(String, String)]) -> String {
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

/// Makes a base image's history speak of as many layers as there are: some images in the wild do not.
fn normalized_history(history: &[History], layers: usize, created: Option<&str>) -> Vec<History> {
    let mut history = history.to_vec();
    let mut surplus = history.iter().filter(|line| !line.empty_layer).count().saturating_sub(layers);
    for line in history.iter_mut().filter(|line| !line.empty_layer) {
        if surplus == 0 {
            break;
        }
        line.empty_layer = true;
        surplus -= 1;
    }
    let told = history.iter().filter(|line| !line.empty_layer).count();
    let missing = History {
        created: created.map(str::to_owned),
        comment: Some("not in the base image's history".into()),
        ..History::default()
    };
    history.extend(std::iter::repeat_n(missing, layers - told));
    history
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m15_a_base_whose_history_miscounts_its_layers_is_mended() {
        let line = |empty_layer| History { empty_layer, ..History::default() };
        for (lines, layers) in [(vec![false, true, false], 1), (vec![true], 2), (vec![], 3), (vec![false, false], 0)] {
            let lines: Vec<History> = lines.into_iter().map(line).collect();
            let mended = normalized_history(&lines, layers, None);
            assert_eq!(mended.iter().filter(|line| !line.empty_layer).count(), layers);
        }
    }

    #[test]
    fn m1_an_entrypoint_resets_the_command_of_the_base_only() {
        let mut state = ImageState::scratch(&Platform::linux("amd64"));
        state.set_cmd(&CommandLine::Exec(vec!["a".into()]));
        state.set_entrypoint(&CommandLine::Shell("e".into()));
        assert_eq!(state.config.cmd, Some(vec!["a".into()]));
        let mut next = ImageState::of_stage(&state);
        next.set_entrypoint(&CommandLine::Exec(vec!["f".into()]));
        assert_eq!(next.config.cmd, None);
    }

    #[test]
    fn the_history_of_run_names_each_argument_once() {
        let mut state = ImageState::scratch(&Platform::linux("amd64"));
        for (name, value) in [("A", Some("1")), ("B", None), ("A", Some("2"))] {
            state.args.push((name.into(), value.map(str::to_owned)));
            if let Some(value) = value {
                state.env.set(name, value);
            }
        }
        assert_eq!(state.run_history(&state.in_shell("x")), "RUN |2 A=2 B= /bin/sh -c x # buildkit");
    }
}

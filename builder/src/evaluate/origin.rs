//! Where files and bases come from: stages, images, and contexts that take their names.

use oci::{Platform, Reference};

use super::{Evaluator, Result};
use crate::dockerfile::Statement;
use crate::error::BuildError;
use crate::fault::Fault;
use crate::files::copy::Selection;
use crate::graph::{
    CopyOperation, CopySource, FetchOperation, HttpOperation, Origin, SourceStep, Step, StepIndex, StepKind,
};
use crate::image_state::ImageState;
use crate::plan::From;
use crate::remote::without_credentials;
use crate::request::NamedContext;
use crate::source::ImageSourceError;

impl<'a> Evaluator<'a> {
    /// Finds the `--build-context` that a name means: literally, or as another way to write the same image. One for the
    /// platform, `NAME::OS/ARCH`, comes before one for all.
    fn named_context(&self, name: &str, platform: &Platform) -> Option<(&'a str, &'a NamedContext)> {
        let contexts = &self.context.request.named_contexts;
        if contexts.is_empty() || name.eq_ignore_ascii_case("scratch") || name.eq_ignore_ascii_case("context") {
            return None;
        }
        let wanted: Option<Reference> = name.parse().ok();
        let is_meant = |other: &str| {
            other == name
                || wanted.is_some() && other.parse().ok().is_some_and(|other: Reference| Some(other) == wanted)
        };
        let platform = platform.to_string();
        let of_platform = |key: &&String| {
            key.split_once("::").is_some_and(|(other, for_platform)| for_platform == platform && is_meant(other))
        };
        let key = contexts.keys().find(of_platform).or_else(|| contexts.keys().find(|key| is_meant(key)))?;
        contexts.get_key_value(key).map(|(name, context)| (name.as_str(), context))
    }

    /// Tells whether a `--build-context` takes the place of a name.
    pub(super) fn is_replaced(&self, name: &str) -> bool {
        self.named_context(name, self.platform).is_some()
    }

    /// Returns what a stage starts with, or is, when a `--build-context` takes the place of a name.
    pub(super) fn replacement(
        &mut self,
        name: &str,
        platform: &Platform,
        statement: &Statement,
    ) -> Result<Option<ImageState>> {
        let Some((name, context)) = self.named_context(name, platform) else { return Ok(None) };
        if let Some((source, config, image)) = self.image_of_context(context, platform, statement)? {
            let layers = source.layers.len();
            let top = self.graph.add(Step {
                kind: StepKind::Source(source),
                name: format!("[context {name}] FROM {image}"),
                span: Some(statement.span.clone()),
                ignore_cache: false,
            });
            return Ok(Some(ImageState::of_image(self.platform, &config, layers, top)));
        }
        if let Some(step) = self.fetched(name, context, statement) {
            let mut state = ImageState::scratch(self.platform);
            state.note_step(format!("COPY / / # context {name}"), step);
            return Ok(Some(state));
        }
        let selection = Selection { literal: true, ..Selection::default() };
        let operation = CopyOperation {
            base: None,
            sources: vec![CopySource::Files { origin: Origin::Named(name.to_owned()), selection, unpack: false }],
            destination: "/".into(),
            chown: None,
            chmod: None,
        };
        let step = self.graph.add(Step {
            kind: StepKind::Copy(operation),
            name: format!("[context {name}] load"),
            span: Some(statement.span.clone()),
            ignore_cache: false,
        });
        let mut state = ImageState::scratch(self.platform);
        state.note_step(format!("COPY / / # context {name}"), step);
        Ok(Some(state))
    }

    /// Finds what `--from` names: a context, a stage, or an image.
    pub(super) fn origin(&mut self, from: &str, here: usize, statement: &Statement) -> Result<Origin> {
        if let Some((name, context)) = self.named_context(from, self.platform) {
            return Ok(match self.image_of_context(context, self.platform, statement)? {
                Some((source, _, image)) => self.image_origin(source, &image, statement),
                None => match self.fetched(name, context, statement) {
                    Some(step) => Origin::Step(Some(step)),
                    None => Origin::Named(name.to_owned()),
                },
            });
        }
        if from.eq_ignore_ascii_case("scratch") {
            return Ok(Origin::Step(None));
        }
        if self.context.only_asking && self.context.plan.from(from, here) == From::Other {
            return Ok(Origin::Step(None));
        }
        match self.context.plan.from(from, here) {
            From::Stage(index) => Ok(Origin::Step(self.stage(index)?.top)),
            From::Later(index) => {
                let message = if index == here {
                    format!("cannot copy from stage \"{from}\" within itself")
                } else {
                    format!(
                        "cannot copy from stage \"{from}\", it needs to be defined before current stage \"{}\"",
                        self.context.plan.name(here)
                    )
                };
                Err(self.fault(Fault::new(message), Some(&statement.span)))
            }
            From::NoSuchIndex => Err(self.no_such_index(from, statement)),
            From::Other => {
                let (source, _) = self.image(from, self.platform, statement)?;
                Ok(self.image_origin(source, from, statement))
            }
        }
    }

    /// Adds the steps that fetch a context, if it is one that is fetched.
    fn fetched(&mut self, name: &str, context: &NamedContext, statement: &Statement) -> Option<StepIndex> {
        let (operation, shown) = match context {
            NamedContext::Git(source) => (FetchOperation::Git(source.clone()), source.shown()),
            NamedContext::Http(url) => {
                let operation = HttpOperation { url: url.clone(), checksum: None };
                (FetchOperation::Http(operation), without_credentials(url))
            }
            NamedContext::Files(_) | NamedContext::Image(_) | NamedContext::Layout(_) => return None,
        };
        let is_file = matches!(operation, FetchOperation::Http(_));
        let mut add =
            |kind, name| self.graph.add(Step { kind, name, span: Some(statement.span.clone()), ignore_cache: false });
        let fetched = add(StepKind::Fetch(operation), format!("[context {name}] {shown}"));
        if !is_file {
            return Some(fetched);
        }
        let selection = Selection { path: b"*".to_vec(), ..Selection::default() };
        let operation = CopyOperation {
            base: None,
            sources: vec![CopySource::Files { origin: Origin::Step(Some(fetched)), selection, unpack: true }],
            destination: "/".into(),
            chown: None,
            chmod: None,
        };
        Some(add(StepKind::Copy(operation), format!("[context {name}] load")))
    }

    /// Finds the image that a context is, and what to call it; `None` when it is files.
    fn image_of_context(
        &mut self,
        context: &NamedContext,
        platform: &Platform,
        statement: &Statement,
    ) -> Result<Option<(SourceStep, oci::ImageConfig, String)>> {
        match context {
            NamedContext::Files(_) | NamedContext::Git(_) | NamedContext::Http(_) => Ok(None),
            NamedContext::Image(reference) => {
                let name = reference.to_string();
                let (source, config) = self.image(&name, platform, statement)?;
                Ok(Some((source, config, name)))
            }
            NamedContext::Layout(layout) => {
                let name = layout.path.display().to_string();
                let key = format!("{layout:?} {platform}");
                if let Some((source, config)) = self.images.get(&key) {
                    return Ok(Some((source.clone(), config.clone(), name)));
                }
                let found = self.context.images.of_layout(layout, platform);
                let (source, config) = self.found(found, key, statement)?;
                Ok(Some((source, config, name)))
            }
        }
    }

    /// Refuses a number that no stage has.
    pub(super) fn no_such_index(&self, from: &str, statement: &Statement) -> Box<BuildError> {
        let count = self.context.plan.stages.len();
        let fault = Fault::new(format!("invalid stage index {from}"))
            .hint(format!("the Dockerfile has {count} stages, counted from 0"));
        self.fault(fault, Some(&statement.span))
    }

    /// Takes a name for the reference of an image.
    pub(super) fn reference(&self, name: &str, statement: &Statement) -> Result<Reference> {
        name.parse().map_err(|error: <Reference as std::str::FromStr>::Err| {
            let fault = Fault::because(format!("invalid reference `{name}`"), &error);
            let stage = self.context.plan.named(name, self.context.plan.stages.len());
            let fault = if name.contains('$') {
                fault.hint("no variable is expanded here: write `FROM IMAGE AS NAME`, where one is, and use the name")
            } else if let Some(stage) = stage.and_then(|stage| self.context.plan.stages[stage].from.name.as_ref()) {
                fault.hint(format!("names of stages are lower case here: `FROM {stage}`"))
            } else {
                fault
            };
            self.fault(fault, Some(&statement.span))
        })
    }

    fn image_origin(&mut self, source: SourceStep, name: &str, statement: &Statement) -> Origin {
        let step = self.graph.add(Step {
            kind: StepKind::Source(source),
            name: format!("FROM {name}"),
            span: Some(statement.span.clone()),
            ignore_cache: false,
        });
        Origin::Step(Some(step))
    }

    pub(super) fn image(
        &mut self,
        name: &str,
        platform: &Platform,
        statement: &Statement,
    ) -> Result<(SourceStep, oci::ImageConfig)> {
        let key = format!("{name} {platform}");
        if let Some(found) = self.images.get(&key) {
            return Ok(found.clone());
        }
        let names: Vec<&str> = self.context.plan.stages.iter().filter_map(|stage| stage.from.name.as_deref()).collect();
        let reference = self.reference(name, statement)?;
        let resolved = self.image_of(reference, platform, statement, key);
        // A stage of nearly that name was probably meant.
        match (resolved, crate::plan::nearest(&name.to_lowercase(), &names)) {
            (Err(error), Some(meant)) => Err(match *error {
                BuildError::Refused(mut diagnostic) => {
                    diagnostic.hint = Some(if meant == name.to_lowercase() {
                        format!("the stage `{meant}` comes later: a stage can only use those before it")
                    } else {
                        format!("did you mean the stage `{meant}`?")
                    });
                    Box::new(BuildError::Refused(diagnostic))
                }
                other => Box::new(other),
            }),
            (resolved, _) => resolved,
        }
    }

    fn image_of(
        &mut self,
        reference: Reference,
        platform: &Platform,
        statement: &Statement,
        key: String,
    ) -> Result<(SourceStep, oci::ImageConfig)> {
        let found = self.context.images.resolve(&reference, platform, self.context.request.pull);
        self.found(found, key, statement)
    }

    /// Takes an image that was found, and remembers it.
    fn found(
        &mut self,
        image: std::result::Result<store::Image, ImageSourceError>,
        key: String,
        statement: &Statement,
    ) -> Result<(SourceStep, oci::ImageConfig)> {
        let image = image.map_err(|error| {
            let mut fault = Fault::because(String::new(), &error);
            fault.message = fault.causes.remove(0);
            fault.hint = error.hint;
            self.fault(fault, Some(&statement.span))
        })?;
        let layers = self.at(statement, image.layers())?;
        let created = image.config.created.as_deref().and_then(|text| text.parse().ok());
        let step = SourceStep { layers, digest: image.descriptor.digest.clone(), created };
        self.images.insert(key, (step.clone(), image.config.clone()));
        Ok((step, image.config))
    }
}

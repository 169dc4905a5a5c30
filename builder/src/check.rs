//! Questions about a Dockerfile that are answered without a build: [`check()`], [`outline()`] and [`targets`].

use oci::Platform;

use crate::dockerfile::{self, Warning};
use crate::error::{BuildError, Diagnostic};
use crate::evaluate::{Evaluation, Evaluator};
use crate::events::{BuildEvent, BuildEvents};
use crate::fault::Fault;
use crate::graph::Graph;
use crate::outline::{self, Outline, Target};
use crate::place::Place;
use crate::plan::Plan;
use crate::request::{Allowed, BuildRequest};
use crate::source::ImageSource;

/// What the lint rules say of a Dockerfile.
#[derive(Debug, Default)]
pub struct Checked {
    /// What they found, in the order of the file.
    pub warnings: Vec<Warning>,
    /// Why a build would be refused; what stands behind it was not looked at.
    pub error: Option<Box<Diagnostic>>,
    /// The stages whose base image could not be had. What it sets is not known, so uses of variables in them were not
    /// looked at.
    pub unknown: Vec<String>,
}

/// Checks a Dockerfile: the stages that the target needs, or all when there is no target.
///
/// Runs nothing and reads no files but `.dockerignore`; of base images only their configs are asked for.
pub fn check(request: &BuildRequest, images: &dyn ImageSource) -> Checked {
    let mut checked = Checked::default();
    let result = ask(request, images, |asking| {
        let stages: Vec<usize> = match &request.target {
            Some(_) => vec![asking.target],
            None => (0..asking.plan.stages.len()).collect(),
        };
        asking.evaluator.lint_stages();
        let evaluate = || {
            asking.evaluator.check_stages()?;
            stages.into_iter().try_for_each(|stage| asking.evaluator.stage(stage).map(drop))
        };
        let evaluated = evaluate();
        checked.unknown = asking.evaluator.unknown.iter().map(|stage| asking.plan.name(*stage)).collect();
        (evaluated.err(), asking.evaluator.findings())
    });
    let error = match result {
        Ok((error, warnings)) => {
            checked.warnings = warnings;
            error.map(|error| *error)
        }
        Err(error) => Some(error),
    };
    checked.error = error.and_then(|error| error.diagnostic().cloned()).map(Box::new);
    checked
}

/// Tells what a target can be given: arguments, secrets and SSH agents.
///
/// # Errors
///
/// When a build would be refused.
pub fn outline(request: &BuildRequest, images: &dyn ImageSource) -> Result<Outline, BuildError> {
    ask(request, images, |asking| {
        asking.evaluator.stage(asking.target)?;
        Ok(outline::of(&asking.evaluator, asking.plan, asking.target))
    })?
    .map_err(|error: Box<BuildError>| *error)
}

/// Lists the stages of a Dockerfile.
///
/// # Errors
///
/// When it cannot be parsed.
pub fn targets(request: &BuildRequest) -> Result<Vec<Target>, BuildError> {
    let place = Place::of(request);
    let (parsed, _) = place.read(request)?;
    let plan = Plan::of(&parsed).map_err(|fault| place.error(fault, None))?;
    Ok(outline::targets(&plan))
}

/// What questions are put to.
struct Asking<'a, 'b> {
    plan: &'a Plan<'a>,
    target: usize,
    evaluator: Evaluator<'b>,
}

fn ask<T>(
    request: &BuildRequest,
    images: &dyn ImageSource,
    question: impl FnOnce(&mut Asking<'_, '_>) -> T,
) -> Result<T, BuildError> {
    // What a build may do is no question here.
    let request = &BuildRequest { allow: Allowed { network_host: true, security_insecure: true }, ..request.clone() };
    let place = Place::of(request);
    let (parsed, lint) = place.read(request)?;
    let plan = Plan::of(&parsed).map_err(|fault| place.error(fault, None))?;
    let target = plan.target(request.target.as_deref()).map_err(|fault| place.error(fault, None))?;
    let evaluation = Evaluation {
        request,
        plan: &plan,
        escape: parsed.directives.escape,
        images,
        events: &Silence,
        lint: &lint,
        only_asking: true,
        locate: &|fault: Fault, span: Option<&dockerfile::Span>| place.diagnostic(fault, span),
    };
    let host = Platform::host();
    let platform = request.platforms.first().unwrap_or(&host);
    let mut graph = Graph::default();
    let evaluator = Evaluator::new(&evaluation, platform, false, &mut graph).map_err(|error| *error)?;
    Ok(question(&mut Asking { plan: &plan, target, evaluator }))
}

/// Hears nothing.
struct Silence;

impl BuildEvents for Silence {
    fn event(&self, _: BuildEvent<'_>) {}
}

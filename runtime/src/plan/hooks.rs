//! Hooks that run in the container's namespaces.

use super::process::pointers;
use super::{c_path, c_string};
use crate::start_error::StartError;
use oci_spec::runtime::Hook;
use std::ffi::CString;
use std::sync::Arc;

/// A hook, ready to run.
pub(crate) struct HookPlan {
    pub(crate) path: CString,
    _texts: Vec<CString>,
    pub(crate) argv: Vec<*const u8>,
    pub(crate) environment: Vec<*const u8>,
    /// In milliseconds.
    pub(crate) timeout: Option<u64>,
    /// What the hook reads.
    pub(crate) state: Arc<[u8]>,
    /// Where in it the process's number belongs.
    pub(crate) pid_at: usize,
}

/// The state of a container as JSON, with a hole for the number of its process.
#[derive(Clone, Debug, Default)]
pub(crate) struct StateText {
    pub(crate) text: Arc<[u8]>,
    pub(crate) pid_at: usize,
}

/// Works out how to run hooks. One without a path, or with a relative one, is an error.
pub(super) fn plan_hooks(hooks: Option<&[Hook]>, state: &StateText) -> Result<Vec<HookPlan>, StartError> {
    hooks.unwrap_or_default().iter().map(|hook| plan_hook(hook, state)).collect()
}

fn plan_hook(hook: &Hook, state: &StateText) -> Result<HookPlan, StartError> {
    check(hook)?;
    let mut texts = Vec::new();
    let argv = match hook.args() {
        Some(args) if !args.is_empty() => pointers(args, "an argument of a hook", &mut texts)?,
        _ => {
            texts.push(c_string(hook.path().as_os_str().as_encoded_bytes(), "a hook's path")?);
            vec![texts[0].as_ptr().cast(), std::ptr::null()]
        }
    };
    let environment =
        pointers(hook.env().as_deref().unwrap_or_default(), "an environment variable of a hook", &mut texts)?;
    Ok(HookPlan {
        path: c_path(hook.path())?,
        _texts: texts,
        argv,
        environment,
        timeout: timeout(hook).map(|time| time.as_millis() as u64),
        state: state.text.clone(),
        pid_at: state.pid_at,
    })
}

/// Fails for a hook that cannot be meant.
pub(crate) fn check(hook: &Hook) -> Result<(), StartError> {
    let path = hook.path();
    if !path.is_absolute() {
        return Err(StartError::BadSpec { what: format!("the path of the hook `{}` is not absolute", path.display()) });
    }
    if hook.timeout().is_some_and(|seconds| seconds <= 0) {
        return Err(StartError::BadSpec {
            what: format!("the timeout of the hook `{}` is not positive", path.display()),
        });
    }
    Ok(())
}

/// How long a hook may take.
pub(crate) fn timeout(hook: &Hook) -> Option<std::time::Duration> {
    hook.timeout().and_then(|seconds| u64::try_from(seconds).ok()).map(std::time::Duration::from_secs)
}

//! What a user can do about an error: the hint below it.

use std::error::Error;

use registry::client::{LoginError, PullError, PushError, RequestError};
use store::{FindError, OpenStoreError};

use crate::archive::ReadArchiveError;
use crate::context_spec::ContextSpecError;
use crate::contexts::OpenContextError;
use crate::image_source::ObtainError;
use crate::ops::build::BuildOpError;
use crate::ops::create::CreateError;
use crate::ops::debug::DebugError;
use crate::ops::import::ImportError;
use crate::ops::rmi::RmiError;
use crate::ops::run::RunError;
use crate::ops::save::SaveError;
use crate::ops::tag::TagError;
use crate::past::PastError;
use crate::remote_cache::CacheError;

/// Finds advice for an error or for what caused it; the first that is known wins.
///
/// None when the message says what to do, or there is nothing to say that it does not.
pub fn advice(error: &(dyn Error + 'static)) -> Option<String> {
    of_one(error).or_else(|| error.source().and_then(advice))
}

fn of_one(error: &(dyn Error + 'static)) -> Option<String> {
    // A box is another type than what it holds, and `source` gives either.
    let pull = error.downcast_ref::<PullError>().or_else(|| error.downcast_ref::<Box<PullError>>().map(AsRef::as_ref));
    if let Some(error) = pull {
        return of_pull(error);
    }
    let push = error.downcast_ref::<PushError>().or_else(|| error.downcast_ref::<Box<PushError>>().map(AsRef::as_ref));
    if let Some(PushError::Request(error)) = push {
        return of_request(error);
    }
    let cache =
        error.downcast_ref::<CacheError>().or_else(|| error.downcast_ref::<Box<CacheError>>().map(AsRef::as_ref));
    match cache {
        Some(CacheError::Pull(error)) => return of_pull(error),
        Some(CacheError::Push(PushError::Request(error))) => return of_request(error),
        _ => {}
    }
    match error.downcast_ref() {
        Some(LoginError::Request(error)) => return of_request(error),
        Some(LoginError::Refused { .. }) => {
            return Some("check both; many registries want an access token in place of the password".into());
        }
        _ => {}
    }
    if let Some(ObtainError::NotHere { reference }) = error.downcast_ref() {
        return Some(format!("`slipway pull {reference}` fetches it"));
    }
    if let Some(OpenStoreError::File(_)) = error.downcast_ref() {
        return Some("choose another folder for the store with --home or SLIPWAY_HOME".into());
    }
    match (error.downcast_ref(), error.downcast_ref()) {
        (Some(BuildOpError::Ssh(error)), _) | (_, Some(OpenContextError::Ssh(error))) => {
            return error.advice().map(str::to_owned);
        }
        (_, Some(OpenContextError::Remote(error))) => return error.hint.clone(),
        _ => {}
    }
    let past = error.downcast_ref::<PastError>().or_else(|| match error.downcast_ref()? {
        DebugError::Past(past) => Some(past),
        _ => None,
    });
    match past {
        Some(PastError::None | PastError::NoBuild { .. } | PastError::ManyBuilds { .. }) => {
            return Some("`slipway history` lists the builds".into());
        }
        Some(PastError::NoStep { .. } | PastError::ManySteps { .. }) => {
            return Some("`slipway history logs BUILD` numbers the steps".into());
        }
        Some(PastError::NoSteps { .. } | PastError::File(_)) | None => {}
    }
    if is_no_such_image(error) {
        return Some("`slipway images` lists what is here".into());
    }
    of_context(error).or_else(|| of_archive(error))
}

fn of_context(error: &(dyn Error + 'static)) -> Option<String> {
    match error.downcast_ref() {
        Some(ContextSpecError::Name { .. }) => {
            return Some("a context is named as an image or a stage is: in lower case".into());
        }
        Some(ContextSpecError::Kind { .. }) => {
            return Some("contexts are folders, git and HTTP addresses, docker-image:// and oci-layout://".into());
        }
        _ => {}
    }
    match error.downcast_ref()? {
        OpenContextError::Dockerfile(error) if error.source.kind() == std::io::ErrorKind::NotFound => {
            Some("name the Dockerfile with -f, or the folder that has one".into())
        }
        OpenContextError::AnImage { text } => {
            Some(format!("give it a name, `--build-context NAME={text}`, and take files from it with COPY --from=NAME"))
        }
        OpenContextError::TwoDockerfiles { .. } => {
            Some("with -f, standard input takes a tar of files; or give the Dockerfile with `-f -` and a folder".into())
        }
        _ => None,
    }
}

/// Tells whether the user named an image that is not in the store; each command has its own way to say it.
fn is_no_such_image(error: &(dyn Error + 'static)) -> bool {
    let find = error.downcast_ref::<FindError>();
    let find = find.or_else(|| match error.downcast_ref()? {
        RunError::Create(CreateError::Find(find)) => Some(find),
        _ => None,
    });
    let find = find.or_else(|| match error.downcast_ref()? {
        CreateError::Find(find) => Some(find),
        _ => None,
    });
    let find = find.or_else(|| match error.downcast_ref()? {
        TagError::Find(find) => Some(find),
        _ => None,
    });
    let find = find.or_else(|| match error.downcast_ref()? {
        RmiError::Find(find) => Some(find),
        _ => None,
    });
    let find = find.or_else(|| match error.downcast_ref()? {
        SaveError::Find(find) => Some(find),
        _ => None,
    });
    matches!(find, Some(FindError::NotFound { .. }))
}

fn of_archive(error: &(dyn Error + 'static)) -> Option<String> {
    match error.downcast_ref() {
        Some(ImportError::Tar(_) | ImportError::Empty) => {
            return Some("import takes a tar of files, complete and plain or compressed".into());
        }
        Some(_) => return None,
        None => {}
    }
    match error.downcast_ref()? {
        ReadArchiveError::NoImage => Some("`slipway import` makes an image of a tar of files".into()),
        ReadArchiveError::Tar(_)
        | ReadArchiveError::Json { .. }
        | ReadArchiveError::TooLarge { .. }
        | ReadArchiveError::Damaged { .. }
        | ReadArchiveError::Manifest { .. }
        | ReadArchiveError::TooDeep
        | ReadArchiveError::Missing { .. }
        | ReadArchiveError::DiffId { .. }
        | ReadArchiveError::LayerCount { .. } => {
            Some("nothing was loaded; save the archive once more, or copy it here again".into())
        }
        ReadArchiveError::Read(_)
        | ReadArchiveError::Write(_)
        | ReadArchiveError::Name { .. }
        | ReadArchiveError::Blob(_)
        | ReadArchiveError::Layer(_)
        | ReadArchiveError::Image(_) => None,
    }
}

fn of_pull(error: &PullError) -> Option<String> {
    match error {
        PullError::Request(error) => of_request(error),
        PullError::NotFound { registry, .. } => Some(format!(
            "check the name and the tag; some registries show private images only after {}",
            login(registry)
        )),
        PullError::NoPlatform { .. } => Some("choose one of them with --platform".into()),
        PullError::BlobDigest { .. } | PullError::BlobSize { .. } | PullError::ManifestDigest { .. } => {
            Some("nothing of it was kept; what the registry has is damaged, so push the image there again".into())
        }
        PullError::ManifestTooLarge { .. }
        | PullError::Manifest { .. }
        | PullError::ManifestSize { .. }
        | PullError::TooDeep { .. }
        | PullError::TooMany { .. }
        | PullError::NotAnImage { .. }
        | PullError::ConfigTooLarge { .. }
        | PullError::Config { .. }
        | PullError::LayerCount { .. }
        | PullError::Store { .. }
        | PullError::Tag { .. } => None,
    }
}

fn of_request(error: &RequestError) -> Option<String> {
    match error {
        RequestError::Unreachable { registry, .. } if registry == oci::reference::DEFAULT_REGISTRY => {
            Some("check the network; a name without a registry's host is looked for there".into())
        }
        RequestError::Unreachable { .. } => {
            Some("check the host and port in the name, the network, and that the registry runs".into())
        }
        RequestError::PlainHttp { .. } | RequestError::Certificate { .. } => {
            Some("if that is as it should be, say --insecure".into())
        }
        RequestError::Broken { .. } | RequestError::HungUp { .. } | RequestError::Stalled { .. } => {
            Some("try again; what has arrived is not sent twice".into())
        }
        RequestError::Unauthorized { registry, .. } => Some(format!("log in with {}", login(registry))),
        RequestError::Denied { registry, .. } => {
            Some(format!("ask its owner for access, or log in as somebody else with {}", login(registry)))
        }
        RequestError::TooManyRequests { .. } => Some("try again in some minutes; a login often allows more".into()),
        RequestError::Status { status: 507, .. } => Some("free space on the registry's machine".into()),
        RequestError::Status { status: 500.., .. } => {
            Some("the fault is the registry's: its log tells more; try again later".into())
        }
        RequestError::Status { .. }
        | RequestError::NotFound { .. }
        | RequestError::TlsSetup { .. }
        | RequestError::Proxy { .. }
        | RequestError::BadRoot { .. }
        | RequestError::UntrustedRealm { .. }
        | RequestError::Token { .. }
        | RequestError::Redirect { .. }
        | RequestError::Protocol { .. } => None,
    }
}

fn login(registry: &str) -> String {
    format!("`slipway login {registry}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_is_found_below_boxes_and_contexts() {
        let said = registry::client::ServerError::default();
        let denied = RequestError::Denied { registry: "r.test".into(), repository: None, said: said.clone() };
        let pull = ObtainError::Pull { reference: "r.test/a".into(), source: Box::new(PullError::Request(denied)) };
        assert!(advice(&CreateError::Obtain(pull)).unwrap().contains("`slipway login r.test`"));
        let push = crate::ops::push::PushError::Push {
            reference: "r.test/a".into(),
            source: Box::new(PushError::Request(RequestError::TooManyRequests {
                registry: "r.test".into(),
                retry_after: None,
                said,
            })),
        };
        assert!(advice(&push).unwrap().contains("try again"));
        let missing = CreateError::Find(FindError::NotFound { text: "nosuch".into() });
        assert_eq!(advice(&missing).unwrap(), "`slipway images` lists what is here");
        assert_eq!(advice(&std::io::Error::other("something else")), None);
    }
}

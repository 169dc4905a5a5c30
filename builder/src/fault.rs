//! [`Fault`]: what went wrong inside a step, before the solver adds the place in the Dockerfile.

use std::error::Error;

/// Why a step could not be done.
#[derive(Debug)]
pub(crate) enum StepError {
    /// It cannot be done as it is written.
    Fault(Fault),
    /// Its process failed.
    Process { command: String, exit_code: i32, out_of_memory: bool, log: Vec<String> },
    /// The build was cancelled meanwhile.
    Cancelled,
}

/// A message with what led to it and what to do about it.
#[derive(Debug, Default)]
pub(crate) struct Fault {
    pub(crate) message: String,
    pub(crate) causes: Vec<String>,
    pub(crate) hint: Option<String>,
}

impl Fault {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), ..Self::default() }
    }

    /// Takes an error and all that it comes from; `doing` is what was tried: "cannot read the context".
    pub(crate) fn because(doing: impl Into<String>, error: &(dyn Error + 'static)) -> Self {
        let mut fault = Self::new(doing);
        fault.push_chain(error);
        fault
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    fn push_chain(&mut self, error: &(dyn Error + 'static)) {
        let mut next = Some(error);
        while let Some(error) = next {
            let text = error.to_string();
            // A transparent error says what its source says.
            if self.causes.last() != Some(&text) {
                self.causes.push(text);
            }
            next = error.source();
        }
    }
}

impl From<Fault> for StepError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Errors of the crates below become faults as they are: their message, and their sources as causes.
macro_rules! from_errors {
    ($($error:ty),* $(,)?) => {$(
        impl From<$error> for Fault {
            fn from(error: $error) -> Self {
                let mut fault = Self::new(error.to_string());
                if let Some(source) = error.source() {
                    fault.push_chain(source);
                }
                fault
            }
        }
        impl From<$error> for StepError {
            fn from(error: $error) -> Self {
                Self::Fault(error.into())
            }
        }
    )*};
}

from_errors!(
    layer::TreeError,
    layer::PackError,
    layer::tar::TarError,
    layer::tar::TarWriteError,
    store::BlobError,
    store::BuildCacheError,
    store::FileError,
    store::ImageError,
    store::LayerError,
    store::SnapshotError,
    oci::users::UserError,
    crate::ignore::IgnoreError,
    crate::dockerfile::expand::ExpandError,
    crate::dockerfile::MountError,
);

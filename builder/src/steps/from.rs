//! `FROM` an image, and putting stacks of layers on each other.

use crate::graph::SourceStep;
use crate::layers::Layers;

/// Takes an image's layers. They stay packed until a step needs their files.
pub(crate) fn source(step: &SourceStep) -> Layers {
    Layers::of_image(&step.layers, step.created)
}

/// Puts what one step made on what another made.
pub(crate) fn merge(base: Option<&Layers>, top: &Layers) -> Layers {
    Layers::merged(base, &top.stack, top.created)
}

/// Takes away the layers that two stacks share at the bottom.
pub(crate) fn diff(lower: Option<&Layers>, upper: &Layers) -> Layers {
    let below = lower.map(|lower| lower.stack.as_slice()).unwrap_or_default();
    let shared = upper.stack.iter().zip(below).take_while(|(upper, lower)| upper.diff_id == lower.diff_id).count();
    Layers::merged(None, &upper.stack[shared..], upper.created)
}

//! Tells all that is known about an image.

use jiff::Timestamp;
use oci::{Digest, Platform, Reference};
use store::{FindError, Image};

use supervisor::{ContainerError, Record, State};

use super::find;
use crate::Engine;
use crate::containers;

mod container;

/// All that is known about an image.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// The image.
    pub image: Image,
    /// Its names.
    pub references: Vec<Reference>,
    /// The digest under which registries have it: of the index, when it is one of several.
    pub digest: Option<Digest>,
    /// What its layers weigh together, in bytes.
    pub size: u64,
    /// When it was last given a name.
    pub tagged_at: Option<Timestamp>,
}

/// Looks at an image.
///
/// # Errors
///
/// When there is no such image, or it cannot be read.
pub async fn inspect(engine: &Engine, image: String, platform: Option<Platform>) -> Result<Inspected, FindError> {
    let store = engine.store().clone();
    store::blocking::run(move || {
        let (found, image) = find::find(&store, &image, platform.as_ref())?;
        let tagged = store.images().list()?.into_iter();
        let of_this = tagged.filter(|tagged| tagged.descriptor.digest == found.descriptor.digest);
        let tagged_at = of_this.map(|tagged| tagged.tagged_at).max();
        Ok(Inspected {
            references: found.references,
            digest: find::is_distributed(&image).then_some(found.descriptor.digest),
            size: find::size(&store, &image)?,
            tagged_at,
            image,
        })
    })
    .await
}

/// All that is known about a container.
#[derive(Clone, Debug)]
pub struct InspectedContainer {
    /// What it is.
    pub record: Record,
    /// What it is doing.
    pub state: State,
    /// All of it as docker's JSON.
    pub json: serde_json::Value,
}

/// Looks at a container.
///
/// # Errors
///
/// When there is no such container, or it cannot be read.
pub async fn container(engine: &Engine, name: String, now: Timestamp) -> Result<InspectedContainer, ContainerError> {
    let all = containers::all(engine);
    let store = engine.store().clone();
    store::blocking::run(move || {
        let container = all.find(&name)?;
        let state = container.state(now)?;
        let json = container::json(&container, &state, store.layout());
        Ok(InspectedContainer { record: container.record, state, json })
    })
    .await
}

/// Counts the bytes of what a container wrote, and of its image.
///
/// # Errors
///
/// When there is no such container.
pub async fn sizes(engine: &Engine, name: String) -> Result<(u64, u64), ContainerError> {
    let (all, store) = (containers::all(engine), engine.store().clone());
    store::blocking::run(move || Ok(super::ps::sizes(&store, &all.find(&name)?))).await
}

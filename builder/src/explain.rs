//! [`Miss`]: why the build cache had no result for a step.
//!
//! Each record of the cache has notes of what its key was made of, and a `COPY` a list of its files. A step that is not
//! found is compared with the earlier record that is most like it; the first thing in which they differ is the reason.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use oci::Digest;
use serde::Serialize;
use store::{Peeked, Store};

use crate::cache::{self, Notes};
use crate::cache_key::CacheKey;
use crate::files::path::lossy;

/// Why a step was not found in the build cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Miss {
    /// The earlier record that is most like it, when there is one.
    pub nearest: Option<Nearest>,
    /// In what they differ, what says most first; never empty.
    pub differences: Vec<Difference>,
    /// How many more differences there are.
    pub more: usize,
}

/// An earlier record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Nearest {
    /// The step that made it.
    pub step: String,
    /// What it is filed under.
    pub key: Digest,
}

/// One thing in which a step differs from an earlier one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What kind of thing.
    pub kind: DifferenceKind,
    /// Which one: a path, a variable, a step, an option.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub was: Option<String>,
    /// What it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub now: Option<String>,
}

/// A kind of [`Difference`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DifferenceKind {
    /// The cache was not to be asked.
    NoCache,
    /// Nothing like the step was ever built here.
    First,
    /// The record was removed to make room, or by `slipway prune`.
    Pruned,
    /// The record is damaged.
    Damaged,
    /// The record is there, but the layer it speaks of is not.
    LayerMissing,
    /// The instruction is another.
    Instruction,
    /// The image that the stage starts with is another.
    BaseImage,
    /// The step before has another result.
    Parent,
    /// An `ARG` has another value.
    Argument,
    /// A variable of `ENV` or of the base image has another value.
    Variable,
    /// A file is new.
    FileAdded,
    /// A file is gone.
    FileRemoved,
    /// A file has other content.
    FileContent,
    /// A file has another mode.
    FileMode,
    /// A file belongs to somebody else.
    FileOwner,
    /// What was a file is a folder, or the like.
    FileKind,
    /// The files differ, but which they were is not known any more.
    Files,
    /// What is mounted is another.
    Mount,
    /// An option of the step or of the build is another.
    Option,
    /// What differs is not in the notes.
    Unknown,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use DifferenceKind as Kind;
        let Self { kind, name, was, now } = self;
        let change = |f: &mut fmt::Formatter<'_>, what: &str| match (was, now) {
            (Some(was), Some(now)) => write!(f, "{what} changed from `{}` to `{}`", short(was), short(now)),
            (None, Some(now)) => write!(f, "{what} is new: `{}`", short(now)),
            (Some(was), None) => write!(f, "{what} is gone; it was `{}`", short(was)),
            (None, None) => write!(f, "{what} changed"),
        };
        match kind {
            Kind::NoCache => f.write_str("the cache was not asked (--no-cache)"),
            Kind::First => f.write_str("nothing like it was built here before"),
            Kind::Pruned => f.write_str("its record was pruned"),
            Kind::Damaged => f.write_str("its record is damaged"),
            Kind::LayerMissing => f.write_str("its record is there, but the layer is not"),
            Kind::Instruction => change(f, "the instruction"),
            Kind::BaseImage => change(f, &format!("the base image of `{}`", short(name))),
            Kind::Parent => match was {
                Some(was) if was != name => {
                    write!(f, "it stands on `{}`, and stood on `{}`", short(name), short(was))
                }
                _ => write!(f, "the step before it, `{}`, has another result", short(name)),
            },
            Kind::Argument => change(f, &format!("ARG {name}")),
            Kind::Variable => change(f, &format!("ENV {name}")),
            Kind::FileAdded => write!(f, "file `{name}` is new"),
            Kind::FileRemoved => write!(f, "file `{name}` is gone"),
            Kind::FileContent => write!(f, "file `{name}` has other content"),
            Kind::FileMode => change(f, &format!("the mode of file `{name}`")),
            Kind::FileOwner => change(f, &format!("the owner of file `{name}`")),
            Kind::FileKind => change(f, &format!("what `{name}` is")),
            Kind::Files => f.write_str("its files changed; which they were before is not known any more"),
            Kind::Mount => change(f, &format!("what is mounted at `{name}`")),
            Kind::Option => change(f, &format!("the option `{name}`")),
            Kind::Unknown => f.write_str("something differs that is not in the notes of the cache"),
        }
    }
}

/// Cuts text to what fits in a sentence, on one line.
fn short(text: &str) -> String {
    const MOST: usize = 100;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

impl Difference {
    fn new(kind: DifferenceKind) -> Self {
        Self { kind, name: String::new(), was: None, now: None }
    }

    fn of(kind: DifferenceKind, name: impl Into<String>, was: Option<&str>, now: Option<&str>) -> Self {
        Self { kind, name: name.into(), was: was.map(str::to_owned), now: now.map(str::to_owned) }
    }
}

/// A step that was not found.
pub(crate) struct Missed<'a> {
    pub(crate) key: &'a CacheKey,
    /// As people see it.
    pub(crate) step: &'a str,
    pub(crate) notes: &'a Notes,
    pub(crate) files: Option<&'a [u8]>,
    /// Whether the cache was not to be asked.
    pub(crate) ignored: bool,
}

/// Finds reasons, from the records as they were when it was first asked.
#[derive(Debug, Default)]
pub(crate) struct Explainer {
    earlier: Mutex<Option<Vec<Earlier>>>,
}

/// A record that was there before this build.
#[derive(Debug)]
struct Earlier {
    key: Digest,
    step: String,
    notes: Notes,
}

/// So many of the records that were last used are looked at.
const MOST_RECORDS: usize = 5_000;

/// So many differences are told.
const MOST_DIFFERENCES: usize = 20;

impl Explainer {
    /// Tells why a step was not found. Must be asked before the step's own record is filed.
    pub(crate) fn explain(&self, store: &Store, missed: &Missed<'_>) -> Miss {
        let mut earlier = self.earlier.lock().unwrap_or_else(PoisonError::into_inner);
        let earlier = earlier.get_or_insert_with(|| load(store));
        let only = |kind| Miss { nearest: None, differences: vec![Difference::new(kind)], more: 0 };
        if missed.ignored {
            return only(DifferenceKind::NoCache);
        }
        match store.build_cache().peek(&missed.key.0) {
            Ok(Peeked::Damaged) => return only(DifferenceKind::Damaged),
            Ok(Peeked::Record(_)) => return only(DifferenceKind::LayerMissing),
            Ok(Peeked::Missing) if store.build_cache().was_pruned(&missed.key.0) => {
                return only(DifferenceKind::Pruned);
            }
            // Explaining is a courtesy: what cannot be read is not there.
            Ok(Peeked::Missing) | Err(_) => {}
        }
        let scored = earlier.iter().filter_map(|earlier| Some((likeness(missed, earlier)?, earlier)));
        // Of equals, the one that was used last: they come in that order.
        let nearest = scored.reduce(|best, other| if other.0 > best.0 { other } else { best });
        let Some((_, nearest)) = nearest else { return only(DifferenceKind::First) };
        let mut differences = compare(missed, nearest, store);
        if differences.is_empty() {
            differences.push(Difference::new(DifferenceKind::Unknown));
        }
        let more = differences.len().saturating_sub(MOST_DIFFERENCES);
        differences.truncate(MOST_DIFFERENCES);
        let nearest = Nearest { step: nearest.step.clone(), key: nearest.key.clone() };
        Miss { nearest: Some(nearest), differences, more }
    }
}

/// Reads the records with notes, those that were last used first.
fn load(store: &Store) -> Vec<Earlier> {
    let mut keys: Vec<_> = store.build_cache().keys().unwrap_or_default().into_iter().collect();
    keys.sort_by_cached_key(|key| std::cmp::Reverse(store.build_cache().last_used(key)));
    let records = keys.into_iter().filter_map(|key| {
        let (record, notes) = cache::peek(store, &key).ok()??;
        (!notes.fields.is_empty()).then_some(Earlier { key, step: record.step, notes })
    });
    records.take(MOST_RECORDS).collect()
}

/// Takes `[build 2/5] RUN make` apart: the stage, the number, and the instruction.
fn split_name(name: &str) -> (&str, &str, &str) {
    let Some((label, instruction)) = name.strip_prefix('[').and_then(|rest| rest.split_once("] ")) else {
        return ("", "", name);
    };
    let (stage, place) = label.rsplit_once(' ').unwrap_or(("", label));
    (stage, place.split('/').next().unwrap_or(place), instruction)
}

/// Says how much an earlier record is like a step; `None` when it is not, and comparing them would mislead.
fn likeness(missed: &Missed<'_>, earlier: &Earlier) -> Option<u32> {
    let (now, then) = (missed.notes, &earlier.notes);
    if now.first("slipway 2") != then.first("slipway 2") {
        return None;
    }
    let (stage, place, instruction) = split_name(missed.step);
    let (old_stage, old_place, old_instruction) = split_name(&earlier.step);
    let same_parent = now.first("parent") == then.first("parent");
    let mut score = 0;
    if instruction == old_instruction {
        score += 1000;
    } else if !(are_similar(instruction, old_instruction) && stage == old_stage && (same_parent || place == old_place))
    {
        return None;
    }
    score += if same_parent { 400 } else { 0 };
    score += if stage == old_stage { 100 } else { 0 };
    score += if place == old_place { 100 } else { 0 };
    score += if now.first(PARENT_STEP) == then.first(PARENT_STEP) { 50 } else { 0 };
    let common = now.fields.iter().filter(|field| then.fields.contains(field)).count();
    let share = common * 100 / now.fields.len().max(then.fields.len()).max(1);
    Some(score + u32::try_from(share).unwrap_or_default())
}

/// Tells whether one instruction may be what became of another: the same word first, and a third of the words.
fn are_similar(one: &str, other: &str) -> bool {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let (one, other) = (words(one), words(other));
    if one.first().map(|word| word.to_uppercase()) != other.first().map(|word| word.to_uppercase()) {
        return false;
    }
    let common = one.iter().skip(1).filter(|word| other.contains(word)).count();
    common * 3 >= one.len().max(other.len()) - 1
}

/// What the notes call the step that a step stands on.
pub(crate) const PARENT_STEP: &str = "parent step";
/// What the notes call the digest of the image that a step stands on.
pub(crate) const BASE_IMAGE: &str = "base image";
/// What the notes call the name of an `ARG`.
pub(crate) const ARGUMENT: &str = "argument";

impl Notes {
    fn first(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.fields.iter().filter(move |(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

fn compare(missed: &Missed<'_>, earlier: &Earlier, store: &Store) -> Vec<Difference> {
    use DifferenceKind as Kind;
    let (now, then) = (missed.notes, &earlier.notes);
    let mut differences = Vec::new();
    let (instruction, old_instruction) = (split_name(missed.step).2, split_name(&earlier.step).2);
    if instruction != old_instruction {
        differences.push(Difference::of(Kind::Instruction, "", Some(old_instruction), Some(instruction)));
    }
    if now.first("parent") != then.first("parent") {
        let (step, old_step) = (now.first(PARENT_STEP), then.first(PARENT_STEP));
        let images = (then.first(BASE_IMAGE), now.first(BASE_IMAGE));
        differences.push(match images {
            (Some(was), Some(is)) if was != is => {
                Difference::of(Kind::BaseImage, step.unwrap_or_default(), Some(was), Some(is))
            }
            _ => {
                // A step at the same place is the same step, though its instruction changed.
                let place = |step: Option<&str>| {
                    step.map(|step| (split_name(step).0.to_owned(), split_name(step).1.to_owned()))
                };
                let old_step = if place(step) == place(old_step) { step } else { old_step };
                Difference::of(Kind::Parent, step.unwrap_or("nothing"), old_step.or(Some("nothing")), step)
            }
        });
    }
    compare_variables(now, then, &mut differences);
    compare_mounts(now, then, &mut differences);
    let told =
        ["slipway 2", "parent", "env", "mount", "argv", "destination", "path", PARENT_STEP, BASE_IMAGE, ARGUMENT];
    let told = |name: &str| told.contains(&name) || MOUNT_FIELDS.contains(&name);
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in now.fields.iter().chain(&then.fields) {
        if !told(name) && !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    if instruction == old_instruction {
        // The same text that came to mean something else: `SHELL`, or a variable in it.
        names.extend(["argv", "destination", "path"]);
    }
    for name in names {
        let (is, was): (Vec<&str>, Vec<&str>) = (now.all(name).collect(), then.all(name).collect());
        if is != was {
            let join = |values: Vec<&str>| (!values.is_empty()).then(|| values.join(" "));
            let (is, was) = (join(is), join(was));
            differences.push(Difference { kind: Kind::Option, name: name.to_owned(), was, now: is });
        }
    }
    if let Some(files) = missed.files
        && then.files.as_ref() != Some(&Digest::sha256(files))
    {
        let old = store.build_cache().list(&earlier.key).ok().flatten();
        match old.filter(|old| then.files.as_ref() == Some(&Digest::sha256(old))) {
            Some(old) => compare_files(files, &old, &mut differences),
            None => differences.push(Difference::new(Kind::Files)),
        }
    }
    differences
}

fn compare_variables(now: &Notes, then: &Notes, differences: &mut Vec<Difference>) {
    let variables = |notes: &Notes| -> BTreeMap<String, String> {
        let split = notes.all("env").filter_map(|text| text.split_once('='));
        split.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    let (is, was) = (variables(now), variables(then));
    let changed: Vec<&String> = is.keys().chain(was.keys()).filter(|name| is.get(*name) != was.get(*name)).collect();
    for name in &changed {
        if differences.iter().any(|told| told.name == **name) {
            continue;
        }
        let is_argument = now.all(ARGUMENT).chain(then.all(ARGUMENT)).any(|argument| argument == *name);
        let kind = if is_argument { DifferenceKind::Argument } else { DifferenceKind::Variable };
        let (was, is) = (was.get(*name).map(String::as_str), is.get(*name).map(String::as_str));
        differences.push(Difference::of(kind, *name, was, is));
    }
    if changed.is_empty() && now.all("env").ne(then.all("env")) {
        differences.push(Difference::of(DifferenceKind::Option, "order of variables", None, None));
    }
}

/// What the notes say of one mount, after its `mount`.
const MOUNT_FIELDS: &[&str] =
    &["bind", "read only", "mounted", "cache", "tmpfs", "secret", "file", "variable", "required", "script", "content"];

fn compare_mounts(now: &Notes, then: &Notes, differences: &mut Vec<Difference>) {
    let mounts = |notes: &Notes| {
        let mut mounts: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut current = None;
        for (name, value) in &notes.fields {
            if name == "mount" {
                current = Some(value.clone());
                mounts.entry(value.clone()).or_default();
            } else if let (Some(target), true) = (&current, MOUNT_FIELDS.contains(&name.as_str())) {
                mounts.entry(target.clone()).or_default().push(format!("{name} {value}"));
            }
        }
        mounts
    };
    let (is, was) = (mounts(now), mounts(then));
    for target in is.keys().chain(was.keys().filter(|target| !is.contains_key(*target))) {
        if is.get(target) != was.get(target) {
            let text = |mounts: Option<&Vec<String>>| mounts.map(|fields| fields.join(", "));
            let (was, now) = (text(was.get(target)), text(is.get(target)));
            differences.push(Difference { kind: DifferenceKind::Mount, name: target.clone(), was, now });
        }
    }
}

/// A line of a list of files: mode, owner, and what it is.
type Line<'a> = (&'a str, &'a str, &'a str);

fn parse_files(list: &[u8]) -> BTreeMap<&[u8], Line<'_>> {
    let lines = list.split(|byte| *byte == 0).filter_map(|line| {
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let mut text = || std::str::from_utf8(parts.next()?).ok();
        let line = (text()?, text()?, text()?);
        Some((parts.next()?, line))
    });
    lines.collect()
}

fn compare_files(now: &[u8], then: &[u8], differences: &mut Vec<Difference>) {
    use DifferenceKind as Kind;
    let (is, was) = (parse_files(now), parse_files(then));
    for path in is.keys().chain(was.keys().filter(|path| !is.contains_key(*path))) {
        let name = lossy(path);
        let difference = match (was.get(path), is.get(path)) {
            (Some(was), Some(is)) if was == is => continue,
            (None, _) => Difference::of(Kind::FileAdded, name, None, None),
            (_, None) => Difference::of(Kind::FileRemoved, name, None, None),
            (Some((old_mode, old_owner, old)), Some((mode, owner, what))) => {
                let (old_kind, old_content) = old.split_once(':').unwrap_or((old, ""));
                let (kind, content) = what.split_once(':').unwrap_or((what, ""));
                if kind != old_kind {
                    Difference::of(Kind::FileKind, name, Some(old_kind), Some(kind))
                } else if content != old_content {
                    Difference::of(Kind::FileContent, name, Some(old_content), Some(content))
                } else if mode != old_mode {
                    Difference::of(Kind::FileMode, name, Some(old_mode), Some(mode))
                } else {
                    Difference::of(Kind::FileOwner, name, Some(old_owner), Some(owner))
                }
            }
        };
        differences.push(difference);
    }
}

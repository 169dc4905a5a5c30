//! The model of the collector (registry.md, 9.5), explored over the real protocol: every call to the store is a step, and
//! this file decides which comes next.
//!
//! With few actors all schedules are tried that differ in something (those that differ only in the order of steps that do
//! not touch the same key are the same); with many, a number at random, with crashes, refusals and lost answers. That it
//! can see is shown by protocols that are wrong on purpose.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use oci::{Descriptor, Digest, Manifest, Parsed, RepositoryName, Tag, media_type};

use super::collector::{CollectOptions, Weakness};
use super::keys::{self, Edge};
use super::objects::memory::{Fate, Gate, Memory};
use super::{Ids, NewManifest, Storage, StorageOptions};

/// What somebody does to the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// Pushes a manifest that names the blob.
    Push,
    /// Pushes the very manifest that is there, or was.
    PushAgain,
    /// Sends the blob to the same repository.
    Upload,
    /// Sends the blob to another repository.
    UploadElsewhere,
    /// Takes the blob over to another repository.
    Mount,
    /// Asks whether the blob is there, as a client does before it leaves sending it at that.
    Ask,
    /// Deletes the manifest that is there.
    Delete,
    /// Collects the blob.
    Collect,
}

/// A call that waits for its turn.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    actor: usize,
    /// Which call of the actor it is.
    number: usize,
    call: &'static str,
    what: String,
}

impl Step {
    fn writes(&self) -> bool {
        !matches!(self.call, "get" | "head" | "list" | "size" | "read")
    }

    /// Tells whether the order of the two makes no difference.
    fn commutes_with(&self, other: &Self) -> bool {
        if self.actor == other.actor {
            return false;
        }
        if !self.writes() && !other.writes() {
            return true;
        }
        let touches = |list: &Self, one: &Self| list.call == "list" && one.what.starts_with(&list.what);
        self.what != other.what && !touches(self, other) && !touches(other, self)
    }
}

#[derive(Default)]
struct Waiting {
    steps: Vec<(Step, Option<Waker>, Option<Fate>)>,
    counts: Vec<usize>,
}

/// Where the calls of one actor wait.
struct Turnstile {
    actor: usize,
    waiting: Arc<Mutex<Waiting>>,
}

impl Gate for Turnstile {
    fn pass(&self, call: &'static str, what: &str) -> BoxFuture<'static, Fate> {
        let step = Step { actor: self.actor, number: 0, call, what: what.to_owned() };
        Passing { waiting: self.waiting.clone(), step, registered: false }.boxed()
    }
}

/// A call that waits for its turn, until its caller does not want it any more.
struct Passing {
    waiting: Arc<Mutex<Waiting>>,
    step: Step,
    registered: bool,
}

impl Future for Passing {
    type Output = Fate;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Fate> {
        let this = self.get_mut();
        let mut waiting = this.waiting.lock().expect("not poisoned");
        if !this.registered {
            let count = &mut waiting.counts[this.step.actor];
            this.step.number = *count;
            *count += 1;
            this.registered = true;
            waiting.steps.push((this.step.clone(), None, None));
        }
        let at = waiting.steps.iter().position(|it| it.0 == this.step).expect("registered");
        match waiting.steps[at].2 {
            Some(fate) => Poll::Ready(fate),
            None => {
                waiting.steps[at].1 = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        if let Ok(mut waiting) = self.waiting.lock() {
            waiting.steps.retain(|it| it.0 != self.step || !self.registered);
        }
    }
}

/// What comes next.
enum Choice {
    Step(usize, Fate),
    Crash(usize),
    /// This schedule is like one that was tried.
    Stop,
}

fn blob() -> Bytes {
    Bytes::from(vec![b'b'; 1000])
}

fn manifest(number: u8) -> (Bytes, Parsed, Digest) {
    let mut manifest = Manifest::new(Descriptor::of(media_type::OCI_CONFIG, &blob()), Vec::new());
    manifest.annotations.insert("n".into(), number.to_string());
    let bytes = Bytes::from(serde_json::to_vec(&manifest).expect("JSON"));
    let (parsed, digest) = (Parsed::parse(&bytes, None).expect("a manifest"), Digest::sha256(&bytes));
    (bytes, parsed, digest)
}

fn name(text: &str) -> RepositoryName {
    text.parse().expect("a name")
}

fn storage(memory: &Memory, actor: usize, weakness: Option<Weakness>) -> Storage {
    let ids = Ids::Counted(Arc::new(AtomicU64::new((actor as u64 + 1) << 32)));
    // The blob is a data object, manifests are in their records.
    let options = StorageOptions { ids, grace: Duration::ZERO, inline: 900, weakness, ..StorageOptions::default() };
    Storage::new(memory.backend(), options)
}

/// Waits for what needs no waiting.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("the store itself never waits")
}

/// Who does something, and whether the manifest that names the blob is there when they begin.
#[derive(Clone, Copy, Debug)]
struct Scene<'a> {
    acts: &'a [Act],
    named: bool,
    /// Whether every push sets a tag, too.
    tagged: bool,
}

/// What happened to the actors, for the checks.
struct World {
    memory: Memory,
    storage: Storage,
    acts: Vec<Act>,
    tagged: bool,
    succeeded: Arc<Mutex<BTreeSet<usize>>>,
}

impl World {
    fn new(Scene { acts, named, tagged }: Scene<'_>, weakness: Option<Weakness>) -> Self {
        let memory = Memory::default();
        let storage = storage(&memory, 1000, weakness);
        let repository = storage.repository(&name("r"));
        now(repository.put_blob(&Digest::sha256(&blob()), blob())).expect("stored");
        now(push(&storage, 0, tagged)).expect("pushed");
        if !named {
            assert!(now(repository.delete_manifest(&manifest(0).2, None)).expect("deleted"));
        }
        Self { memory, storage, acts: acts.to_vec(), tagged, succeeded: Arc::default() }
    }

    fn actor(
        &self,
        number: usize,
        waiting: &Arc<Mutex<Waiting>>,
        weakness: Option<Weakness>,
    ) -> BoxFuture<'static, ()> {
        let gate = Arc::new(Turnstile { actor: number, waiting: waiting.clone() });
        let storage = storage(&self.memory.behind(gate), number, weakness);
        let (act, tagged, succeeded) = (self.acts[number], self.tagged, self.succeeded.clone());
        async move {
            let digest = Digest::sha256(&blob());
            let (here, there) = (storage.repository(&name("r")), storage.repository(&name("other")));
            let ok = match act {
                Act::Push => push(&storage, 1, tagged).await.is_ok(),
                Act::PushAgain => push(&storage, 0, tagged).await.is_ok(),
                Act::Upload => here.put_blob(&digest, blob()).await.is_ok(),
                Act::UploadElsewhere => there.put_blob(&digest, blob()).await.is_ok(),
                Act::Mount => there.mount(&digest, &name("r")).await.unwrap_or(false),
                Act::Ask => here.blob_size(&digest).await.is_ok(),
                Act::Delete => here.delete_manifest(&manifest(0).2, None).await.is_ok(),
                Act::Collect => {
                    let now = storage.objects().now().await.expect("told");
                    storage.collect_blob(&digest, now, true).await.is_ok()
                }
            };
            if ok {
                succeeded.lock().expect("not poisoned").insert(number);
            }
        }
        .boxed()
    }

    /// Says what is wrong, if something is. Holds at any moment.
    fn check(&self) -> Result<(), String> {
        let digest = Digest::sha256(&blob());
        let keys = self.memory.keys();
        let readable = match now(self.storage.readable(&digest)).map_err(|error| error.to_string())? {
            Some(found) => now(found.read(0..found.size())).is_ok_and(|content| content.is_some()),
            None => false,
        };
        let here = |key: &keys::Key| now(self.storage.has_record(key)).expect("read");
        for key in keys.iter().filter(|key| key.as_str().starts_with("o/") && here(key)) {
            if !readable {
                return Err(format!("`{}` owns a blob that is gone", key.as_str()));
            }
        }
        for key in keys.iter().filter(|key| key.as_str().starts_with("m/") && here(key)) {
            let (repository, manifest) = keys::parse_manifest(key).expect("ours");
            if !readable {
                return Err(format!("`{}` names a blob that is gone", key.as_str()));
            }
            if !here(&keys::own(&repository, &digest)) {
                return Err(format!("`{}` names a blob that cannot be pulled", key.as_str()));
            }
            if now(self.storage.readable(&manifest)).map_err(|error| error.to_string())?.is_none() {
                return Err(format!("the bytes of `{}` are gone", key.as_str()));
            }
        }
        let succeeded = self.succeeded.lock().expect("not poisoned");
        let pushed = succeeded.iter().any(|number| self.acts[*number] == Act::Push);
        if pushed && !here(&keys::manifest(&name("r"), &manifest(1).2)) {
            return Err("a manifest that was acknowledged is not there".into());
        }
        Ok(())
    }

    /// Says which tag names what is gone, after whoever deletes a manifest has tried again.
    fn check_tags(&self) -> Result<(), String> {
        let repository = self.storage.repository(&name("r"));
        if self.acts.contains(&Act::Delete) {
            now(repository.delete_manifest(&manifest(0).2, None)).expect("deleted");
        }
        for tag in now(repository.tags(None, 10)).expect("listed").entries {
            let named = now(repository.tag(&tag.parse().expect("a tag"))).expect("read").expect("listed");
            let here = now(repository.manifest(&named.digest)).expect("read");
            if here.is_none_or(|record| record.incarnation != named.incarnation) {
                return Err(format!("tag `{tag}` names a manifest that is gone"));
            }
        }
        let manifests = now(repository.manifests(None, 1)).expect("listed").entries;
        if manifests.is_empty() && !now(self.storage.catalog(None, 1)).expect("listed").entries.is_empty() {
            return Err("the catalog has a repository without manifests".into());
        }
        Ok(())
    }

    /// Says what is left that nobody needs, after everybody has ended.
    fn check_leftovers(&self) -> Result<(), String> {
        if self.tagged {
            self.check_tags()?;
        }
        for _ in 0..3 {
            let options = CollectOptions { scan: true, ..CollectOptions::default() };
            now(self.storage.collect(options)).map_err(|error| error.to_string())?;
        }
        self.check()?;
        let here = |key: &keys::Key| now(self.storage.has_record(key)).expect("read");
        let manifests = self.memory.keys().iter().filter(|key| key.as_str().starts_with("m/") && here(key)).count();
        let edges = self.memory.keys().iter().filter_map(Edge::parse).count();
        // A manifest has edges to the blob and to itself, and the repository its own.
        let expected = if manifests == 0 { 0 } else { 2 * manifests + 1 };
        if edges > expected + 1 || (manifests == 0 && edges > 0) {
            return Err(format!("{edges} edges are left of {manifests} manifests"));
        }
        if manifests == 0 && now(self.storage.readable(&Digest::sha256(&blob()))).expect("read").is_some() {
            return Err("a blob is left that nothing relies on".into());
        }
        Ok(())
    }
}

async fn push(storage: &Storage, number: u8, tagged: bool) -> Result<(), super::PutManifestError> {
    let (bytes, parsed, digest) = manifest(number);
    let tags: Vec<Tag> = tagged.then(|| "t".parse().expect("a tag")).into_iter().collect();
    let new = NewManifest {
        digest: &digest,
        bytes: &bytes,
        parsed: &parsed,
        media_type: parsed.media_type(),
        tags: &tags,
        holds: None,
        sparse: false,
        by: None,
    };
    storage.repository(&name("r")).put_manifest(&new).await
}

/// Lets the actors do their steps in the order that is chosen, checking after each; gives what was wrong, and what was
/// done until then.
fn run(
    scene: Scene<'_>,
    weakness: Option<Weakness>,
    mut choose: impl FnMut(&[Step]) -> Choice,
) -> Result<bool, (String, Vec<Step>)> {
    let world = World::new(scene, weakness);
    let acts = scene.acts;
    let waiting = Arc::new(Mutex::new(Waiting { steps: Vec::new(), counts: vec![0; acts.len()] }));
    let mut actors: Vec<Option<Pin<Box<dyn Future<Output = ()> + Send>>>> =
        (0..acts.len()).map(|number| Some(world.actor(number, &waiting, weakness))).collect();
    let mut done = Vec::new();
    let poll = |actor: &mut Option<BoxFuture<'static, ()>>| {
        if let Some(future) = actor
            && future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
        {
            *actor = None;
        }
    };
    actors.iter_mut().for_each(poll);
    loop {
        let steps: Vec<Step> = waiting.lock().expect("not poisoned").steps.iter().map(|it| it.0.clone()).collect();
        if steps.is_empty() {
            break;
        }
        match choose(&steps) {
            Choice::Step(at, fate) => {
                let waker = {
                    let mut waiting = waiting.lock().expect("not poisoned");
                    waiting.steps[at].2 = Some(fate);
                    waiting.steps[at].1.take()
                };
                waker.into_iter().for_each(Waker::wake);
                done.push(steps[at].clone());
                poll(&mut actors[steps[at].actor]);
            }
            Choice::Crash(actor) => {
                actors[actor] = None;
            }
            Choice::Stop => return Ok(false),
        }
        // Only what is written or removed makes a difference.
        if done.last().is_some_and(|step: &Step| step.writes() && !step.what.starts_with("e/")) {
            world.check().map_err(|wrong| (wrong, done.clone()))?;
        }
    }
    assert!(actors.iter().all(Option::is_none), "everybody ended or crashed");
    world.check_leftovers().map_err(|wrong| (wrong, done))?;
    Ok(true)
}

/// A place in the tree of schedules.
struct Node {
    steps: Vec<Step>,
    /// Steps with which all that can happen has been tried.
    asleep: Vec<Step>,
    /// The step that is being tried.
    current: usize,
}

impl Node {
    fn next(&self, from: usize) -> Option<usize> {
        (from..self.steps.len()).find(|at| !self.asleep.contains(&self.steps[*at]))
    }
}

/// Tries every schedule that differs in something; gives how many there were, or what was wrong.
fn explore(scene: Scene<'_>, weakness: Option<Weakness>) -> Result<usize, (String, Vec<Step>)> {
    let mut path: Vec<Node> = Vec::new();
    let mut schedules = 0;
    loop {
        let mut depth = 0;
        let finished = run(scene, weakness, |steps| {
            if depth == path.len() {
                let asleep = path.last().map(|node: &Node| {
                    let taken = &node.steps[node.current];
                    let commuting = node.asleep.iter().filter(|step| step.commutes_with(taken));
                    commuting.cloned().collect()
                });
                let node = Node { steps: steps.to_vec(), asleep: asleep.unwrap_or_default(), current: 0 };
                let Some(first) = node.next(0) else { return Choice::Stop };
                path.push(Node { current: first, ..node });
            }
            let node = &path[depth];
            assert_eq!(node.steps, steps, "the same steps lead to the same place");
            depth += 1;
            Choice::Step(node.current, Fate::Done)
        })?;
        schedules += usize::from(finished);
        loop {
            let Some(node) = path.last_mut() else { return Ok(schedules) };
            let tried = node.steps[node.current].clone();
            node.asleep.push(tried);
            match node.next(0) {
                Some(next) => {
                    node.current = next;
                    break;
                }
                None => {
                    path.pop();
                }
            }
        }
    }
}

/// Numbers at random, the same every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % end
    }
}

/// How often at random, of 1000 steps.
#[derive(Clone, Copy, Default)]
struct Odds {
    crash: usize,
    fault: usize,
}

fn at_random(scene: Scene<'_>, weakness: Option<Weakness>, seed: u64, odds: Odds) -> Result<(), (String, Vec<Step>)> {
    let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut last = 0;
    run(scene, weakness, |steps| {
        // Long stretches of one actor are where the mistakes are, and would be rare.
        let same = steps.iter().position(|step| step.actor == last);
        let at = match same {
            Some(at) if dice.below(3) > 0 => at,
            _ => dice.below(steps.len()),
        };
        last = steps[at].actor;
        match dice.below(1000) {
            number if number < odds.crash => Choice::Crash(last),
            number if number < odds.crash + odds.fault => {
                Choice::Step(at, if number % 2 == 0 { Fate::Refused } else { Fate::LostAnswer })
            }
            _ => Choice::Step(at, Fate::Done),
        }
    })
    .map(|_| ())
}

fn report(acts: &[Act], (wrong, steps): &(String, Vec<Step>)) -> String {
    let steps: Vec<String> =
        steps.iter().map(|step| format!("{} {:?} {} {}", step.actor, acts[step.actor], step.call, step.what)).collect();
    format!("{wrong}\n  {}", steps.join("\n  "))
}

/// Scenes whose schedules are all tried.
const FEW: [(&[Act], bool); 14] = [
    (&[Act::Push, Act::Collect], true),
    (&[Act::PushAgain, Act::Delete], true),
    (&[Act::Delete, Act::Collect], true),
    (&[Act::Upload, Act::Delete], true),
    (&[Act::Push, Act::Collect], false),
    (&[Act::PushAgain, Act::Collect], false),
    (&[Act::Upload, Act::Collect], false),
    (&[Act::UploadElsewhere, Act::Collect], false),
    (&[Act::Mount, Act::Collect], false),
    (&[Act::Ask, Act::Collect], false),
    (&[Act::Collect, Act::Collect], false),
    (&[Act::Mount, Act::UploadElsewhere], false),
    (&[Act::Ask, Act::Collect, Act::Delete], true),
    (&[Act::Mount, Act::Collect, Act::Delete], true),
];

#[test]
fn every_schedule_of_few_is_safe() {
    let mut all = 0;
    for (acts, named) in FEW {
        let count = explore(Scene { acts, named, tagged: false }, None);
        let count = count.unwrap_or_else(|wrong| panic!("{acts:?}: {}", report(acts, &wrong)));
        println!("{acts:?} {named}: {count}");
        all += count;
    }
    assert!(all > 900, "{all} schedules");
}

/// More are tried when somebody wants to wait for them.
fn schedules(usually: u64) -> u64 {
    std::env::var("SCHEDULES").ok().and_then(|text| text.parse().ok()).unwrap_or(usually)
}

#[test]
fn many_schedules_of_many_are_safe() {
    let acts = [Act::Push, Act::Upload, Act::Delete, Act::Collect, Act::Collect, Act::Mount, Act::PushAgain];
    let odds = [Odds::default(), Odds { crash: 15, fault: 0 }, Odds { crash: 5, fault: 20 }];
    std::thread::scope(|scope| {
        for named in [true, false] {
            scope.spawn(move || {
                for seed in 0..schedules(2_000) {
                    let odds = odds[seed as usize % odds.len()];
                    let done = at_random(Scene { acts: &acts, named, tagged: false }, None, seed, odds);
                    done.unwrap_or_else(|wrong| panic!("{named} {seed}: {}", report(&acts, &wrong)));
                }
            });
        }
    });
}

#[test]
fn protocols_that_are_wrong_are_seen_to_be() {
    let acts = [Act::Push, Act::Upload, Act::Delete, Act::Collect, Act::Collect];
    for weakness in [Weakness::EdgeAfterRead, Weakness::NoCondemning, Weakness::NoSecondList, Weakness::BlindKill] {
        let scene = Scene { acts: &acts, named: true, tagged: false };
        let seen = (0..100_000).find(|seed| at_random(scene, Some(weakness), *seed, Odds::default()).is_err());
        println!("{weakness:?}: {seen:?}");
        assert!(seen.is_some(), "{weakness:?} was not seen");
    }
}

#[test]
fn a_crash_at_any_call_leaves_nothing_that_is_not_swept() {
    for act in [Act::Push, Act::PushAgain, Act::Upload, Act::UploadElsewhere, Act::Mount, Act::Delete, Act::Collect] {
        for (named, fate) in [(true, None), (false, None), (true, Some(Fate::Refused)), (true, Some(Fate::LostAnswer))]
        {
            let acts = [act, Act::Collect];
            let mut happened = true;
            for at in 0.. {
                if !std::mem::take(&mut happened) {
                    break;
                }
                let mut steps_of_first = 0;
                let done = run(Scene { acts: &acts, named, tagged: true }, None, |steps| {
                    let Some(first) = steps.iter().position(|step| step.actor == 0) else {
                        return Choice::Step(0, Fate::Done);
                    };
                    steps_of_first += 1;
                    if steps_of_first - 1 != at {
                        return Choice::Step(first, Fate::Done);
                    }
                    happened = true;
                    fate.map_or(Choice::Crash(0), |fate| Choice::Step(first, fate))
                });
                done.unwrap_or_else(|wrong| panic!("{named} {fate:?} at {at}: {}", report(&acts, &wrong)));
            }
        }
    }
}

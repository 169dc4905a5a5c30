use super::*;
use crate::Store;

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().expect("tempdir");
    let store = Store::open(&folder.path().join("home")).expect("opened");
    (folder, store)
}

fn asked(second: i64) -> Asked {
    Asked {
        at: jiff::Timestamp::from_second(second).expect("valid"),
        context: ".".into(),
        dockerfile: "Dockerfile".into(),
        tags: vec!["app".into()],
        target: None,
        platforms: Vec::new(),
    }
}

fn id(text: &str) -> BuildId {
    text.parse().expect("valid")
}

fn plan(number: usize) -> StepPlan {
    StepPlan { id: number, name: format!("[build {number}/3] RUN x"), ..StepPlan::default() }
}

fn layer(text: &str) -> RecordedLayer {
    let blob = oci::Descriptor::of(oci::media_type::OCI_LAYER, text.as_bytes());
    RecordedLayer { diff_id: oci::DiffId(blob.digest.clone()), blob }
}

#[test]
fn names_of_builds_are_safe_file_names() {
    for text in ["", "..", "a/b", "A", "a b", "-x", &"a".repeat(65)] {
        assert!(text.parse::<BuildId>().is_err(), "{text}");
    }
    assert_eq!(id("a1").as_str(), "a1");
}

#[test]
fn a_build_is_remembered_with_its_logs() {
    let (_folder, store) = store();
    let builds = store.builds();
    let writer = builds.begin(&id("one"), asked(1), b"FROM a\n").expect("begun");
    writer.add(Entry::Planned { steps: vec![plan(3), plan(7)] });
    writer.add(Entry::Started { step: 7, at: 0.5 });
    writer.log(7, b"hello ");
    writer.log(7, b"world\n");
    assert_eq!(builds.get(&id("one")).expect("read").expect("there").status, BuildStatus::Running);
    assert!(!builds.remove(&id("one")).expect("left alone"), "it runs");
    writer.add(Entry::Ended { step: 7, at: 1.5, outcome: StepOutcome::Done, error: None });
    writer.finish(BuildStatus::Completed, 2.0, None, Vec::new()).expect("finished");
    drop(writer);
    let record = builds.get(&id("one")).expect("read").expect("there");
    assert_eq!((record.status, record.seconds, record.count()), (BuildStatus::Completed, 2.0, (0, 1, 2)));
    let step = record.step_of(7).expect("there");
    assert_eq!((step.number, step.took(), step.log_bytes, step.stage()), (2, 1.0, 12, "build"));
    assert_eq!(fs::read(builds.log(&id("one"), 2)).expect("kept"), b"hello world\n");
    assert_eq!(builds.dockerfile(&id("one")).expect("read"), b"FROM a\n");
    assert!(builds.remove(&id("one")).expect("removed"));
    assert_eq!(builds.list().expect("listed"), []);
}

#[test]
fn a_killed_build_is_shown_as_far_as_it_came() {
    let (_folder, store) = store();
    let builds = store.builds();
    let writer = builds.begin(&id("one"), asked(1), b"").expect("begun");
    writer.add(Entry::Planned { steps: vec![plan(1)] });
    writer.add(Entry::Started { step: 1, at: 0.25 });
    writer.flush();
    // As a kill does: nothing else is written, and the kernel drops the lock.
    drop(writer);
    let record = builds.get(&id("one")).expect("read").expect("there");
    assert_eq!((record.status, record.seconds), (BuildStatus::Interrupted, 0.25));
    assert_eq!(record.steps[0].outcome, None);
    let path = store.layout().build_journal(&id("one"));
    let whole = fs::read(&path).expect("read");
    for length in (0..whole.len()).rev() {
        File::options().write(true).open(&path).and_then(|file| file.set_len(length as u64)).expect("cut");
        // Never an error, whatever is left.
        builds.get(&id("one")).expect("read");
    }
    // Half of a record counts as none.
    crate::atomic_file::write(&path, &whole).expect("whole again");
    crate::atomic_file::write(&store.layout().build_record(&id("one")), b"{\"id\":\"one\"").expect("written");
    assert_eq!(builds.get(&id("one")).expect("read").expect("there").status, BuildStatus::Interrupted);
    assert!(builds.remove(&id("one")).expect("removed"));
}

#[test]
fn the_oldest_builds_go_first() {
    let (_folder, store) = store();
    let builds = store.builds();
    for number in 0..5 {
        let name = id(&format!("b{number}"));
        let writer = builds.begin(&name, asked(number), b"").expect("begun");
        writer.add(Entry::Planned { steps: vec![plan(1)] });
        writer.log(1, &[b'x'; 1000]);
        writer.finish(BuildStatus::Completed, 0.0, None, Vec::new()).expect("finished");
        let file = File::options().write(true).open(store.layout().build(&name).join("Dockerfile")).expect("there");
        let second = std::time::Duration::from_secs(u64::try_from(number).expect("small") + 1);
        file.set_modified(std::time::UNIX_EPOCH + second).expect("set");
    }
    let limits = BuildLimits { builds: 3, ..BuildLimits::default() };
    assert!(builds.needs_pruning(BuildLimits::default()).expect("looked"), "there are logs");
    assert_eq!(builds.prune(limits).expect("pruned"), 2);
    assert!(!builds.needs_pruning(limits).expect("looked"));
    assert!(builds.needs_pruning(BuildLimits { builds: 2, ..limits }).expect("looked"), "there are too many");
    let left: Vec<String> = builds.list().expect("listed").into_iter().map(|record| record.id).collect();
    assert_eq!(left, ["b4", "b3", "b2"]);
    // The newest stays whatever it weighs.
    assert_eq!(builds.prune(BuildLimits { bytes: 10, ..BuildLimits::default() }).expect("pruned"), 2);
    assert_eq!(builds.ids().expect("listed"), [id("b4")]);
}

#[test]
fn a_build_that_has_just_begun_is_not_taken_for_the_oldest() {
    let (_folder, store) = store();
    let builds = store.builds();
    let writer = builds.begin(&id("old"), asked(1), b"").expect("begun");
    writer.finish(BuildStatus::Completed, 0.0, None, Vec::new()).expect("finished");
    let file = File::options().write(true).open(store.layout().build(&id("old")).join("Dockerfile")).expect("there");
    file.set_modified(std::time::UNIX_EPOCH).expect("set");
    // Another process has made the folder, and nothing in it so far.
    fs::create_dir(store.layout().build(&id("new"))).expect("made");
    builds.prune(BuildLimits { builds: 1, ..BuildLimits::default() }).expect("pruned");
    assert_eq!(builds.ids().expect("listed"), [id("new")]);
}

#[test]
fn files_of_failed_steps_are_kept_for_the_last_builds() {
    let (_folder, store) = store();
    let builds = store.builds();
    for (number, name) in ["a", "b"].iter().enumerate() {
        let writer = builds.begin(&id(name), asked(number as i64), b"").expect("begun");
        writer.add(Entry::Planned { steps: vec![plan(1)] });
        let active = store.snapshots().begin(&crate::Snapshot::empty()).expect("active");
        crate::atomic_file::write(&active.upper().join("file"), b"x").expect("written");
        writer.keep(1, &active.upper()).expect("kept");
        writer.finish(BuildStatus::Error, 0.0, Some("no".into()), Vec::new()).expect("finished");
        let file = File::options().write(true).open(store.layout().build(&id(name)).join("Dockerfile")).expect("there");
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(number as u64 + 1)).expect("set");
    }
    let kept = |name: &str| {
        let record = builds.get(&id(name)).expect("read").expect("there");
        builds.kept(&id(name), &record.steps[0])
    };
    assert_eq!(fs::read(kept("a").expect("kept").join("file")).expect("read"), b"x");
    builds.prune(BuildLimits { kept: 1, ..BuildLimits::default() }).expect("pruned");
    assert!(kept("a").is_none() && kept("b").is_some());
    assert_eq!(builds.drop_kept().expect("dropped"), 1);
    assert!(kept("b").is_none());
}

#[test]
fn a_stack_goes_down_to_the_base() {
    let mut record = BuildRecord::of_journal(
        &id("a"),
        format!("{}\n", serde_json::to_string(&Entry::Begun { asked: asked(1) }).expect("JSON")).as_bytes(),
    )
    .expect("whole");
    record.add(Entry::Planned { steps: vec![plan(0), plan(1)] });
    let made = |step, below, layers: &[&str], shown_as| Entry::Made {
        step,
        stack: Stack { below, layers: layers.iter().map(|text| layer(text)).collect() },
        shown_as,
    };
    record.add(made(0, None, &["a", "b"], None));
    record.add(made(1, None, &["c"], None));
    record.add(made(2, Some(0), &["c"], Some(1)));
    assert_eq!(record.step_of(1).expect("there").result, 2);
    assert_eq!(record.stack(2).expect("whole"), [&layer("a"), &layer("b"), &layer("c")]);
    assert_eq!(record.stack(9), None);
    record.add(made(3, Some(3), &[], None));
    assert_eq!(record.stack(3), None, "a circle");
}

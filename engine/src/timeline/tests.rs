use store::builds::{Asked, Entry, StepPlan};

use super::*;

const EVIL: &str =
    "</pre></script><script>alert('1')</script><img src=x onerror=\"alert(1)\">&amp;\u{202e}\x1b]0;t\x07\x1b[31m";

fn build(steps: usize, text: &str) -> (tempfile::TempDir, Store, BuildRecord) {
    let folder = tempfile::tempdir().expect("tempdir");
    let store = Store::open(&folder.path().join("home")).expect("opened");
    let id: BuildId = "abc".parse().expect("valid");
    let asked = Asked {
        at: jiff::Timestamp::UNIX_EPOCH,
        context: text.into(),
        dockerfile: text.into(),
        tags: vec![text.into()],
        target: Some(text.into()),
        platforms: Vec::new(),
    };
    let writer = store.builds().begin(&id, asked, b"").expect("begun");
    let plan = |id: usize| StepPlan {
        id,
        name: format!("[{} {id}/{steps}] RUN {text}", if id.is_multiple_of(2) { "even" } else { "odd" }),
        needs: id.checked_sub(1).into_iter().collect(),
        ..StepPlan::default()
    };
    writer.add(Entry::Planned { steps: (0..steps).map(plan).collect() });
    for step in 0..steps {
        writer.add(Entry::Started { step, at: step as f64 });
        writer.log(step, text.as_bytes());
        let outcome = if step + 1 == steps { StepOutcome::Failed } else { StepOutcome::Done };
        let error = (outcome == StepOutcome::Failed).then(|| text.to_owned());
        writer.add(Entry::Ended { step, at: step as f64 + 1.0, outcome, error });
        writer.close_log(step);
    }
    writer.add(Entry::Warned { text: text.into() });
    writer.finish(BuildStatus::Error, steps as f64, Some(text.into()), Vec::new()).expect("finished");
    let record = store.builds().get(&id).expect("read").expect("there");
    (folder, store, record)
}

#[test]
fn nothing_that_a_build_says_is_markup() {
    let (_folder, store, record) = build(3, EVIL);
    let html = page(&store, &record).expect("drawn");
    assert_eq!(html.matches("<script").count(), 1, "only our own");
    assert_eq!(html.matches("</script").count(), 1);
    assert!(!html.contains("<img") && !html.contains("onerror=\"") && !html.contains('\x1b'));
    assert!(!html.contains('\u{202e}') && !html.contains(" onerror='"));
    assert!(html.contains("&lt;script&gt;alert(&#39;1&#39;)"));
    assert!(html.contains("default-src 'none'; style-src 'sha256-"), "{}", &html[..600]);
    assert!(!html.contains("http://") && !html.contains("https://"), "it contacts nobody");
    assert!(!html.contains(" style=") && !html.contains(" onclick="), "the policy would refuse them");
}

#[test]
fn a_thousand_steps_make_a_page_of_moderate_size() {
    let (_folder, store, record) = build(1000, "make");
    let html = page(&store, &record).expect("drawn");
    assert_eq!(html.matches("<details class=\"step\"").count(), 1000);
    assert!(html.len() < 3_000_000, "{}", html.len());
}

#[test]
fn logs_are_cut_to_their_ends() {
    let (_folder, store, record) = build(1, &format!("{}the end", "x".repeat(100_000)));
    let html = page(&store, &record).expect("drawn");
    assert!(html.contains("the end</pre>") && html.contains("slipway history logs abc 1"));
}

#[test]
fn carriage_returns_and_sequences_are_gone_from_logs() {
    let log = "10%\r20%\r\nred \x1b[31mx\x1b[0m\n\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\\nlast";
    assert_eq!(without_sequences(log), "20%\nred x\nlink\nlast");
}

#[test]
fn a_bar_is_always_on_the_page() {
    let (_folder, _store, mut record) = build(1, "x");
    for (seconds, started, ended) in [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (1.0, 5.0, 9.0), (1.0, 0.0, 1.0)] {
        record.seconds = seconds;
        (record.steps[0].started, record.steps[0].ended) = (Some(started), Some(ended));
        let (x, width) = place(&record, &record.steps[0]).expect("began");
        assert!(x >= 0.0 && width > 0.0 && x + width <= 100.0, "{x} {width}");
    }
}

#[test]
fn a_page_is_replaced_whole() {
    let folder = tempfile::tempdir().expect("tempdir");
    let path = folder.path().join("page.html");
    write(&path, "one").expect("written");
    write(&path, "two").expect("replaced");
    assert_eq!(fs::read_to_string(&path).expect("read"), "two");
    assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 1);
}

//! Extensions: which there are, the history of tags, and pulls of moments.

use serde_json::Value;

use crate::support::*;

#[test]
fn discovering_extensions() {
    let answer = get("/v2/_oci/ext/discover");
    if answer.status == 404 {
        return; // No registry needs any.
    }
    for path in ["/v2/_oci/ext/discover", "/v2/extensions/discover/_oci/ext/discover"] {
        let extensions = get(path).expect(200).json()["extensions"].clone();
        for extension in extensions.as_array().expect("a list") {
            assert!(extension["name"].as_str().is_some_and(|name| name.starts_with('_')), "{extension}");
            assert!(extension["url"].is_string() && extension["endpoints"].is_array(), "{extension}");
        }
    }
}

fn history(path: &str) -> (Vec<Value>, Option<String>) {
    let answer = get(path).expect(200);
    let entries = answer.json()["history"].as_array().expect("a list").clone();
    (entries, answer.header("link").map(|link| link[1..link.find('>').expect("a URL")].to_owned()))
}

#[test]
fn the_history_of_a_tag_is_kept_also_after_it_is_deleted() {
    if !is_ours() {
        return;
    }
    let name = "extensions/history";
    let path = format!("/v2/{name}/_oci/tag-history/v1");
    get(&path).refused(&[404], &["MANIFEST_UNKNOWN", "NAME_UNKNOWN"]);
    let digests: Vec<String> = ["one", "two", "three"].map(|seed| push_image(name, seed, "v1").to_string()).into();
    // The same again is no change.
    push_image(name, "three", "v1");
    delete(&format!("/v2/{name}/manifests/v1")).expect(202);
    let (entries, next) = history(&path);
    assert_eq!(next, None);
    assert_eq!(entries[0]["deleted"], true);
    let named: Vec<&str> = entries[1..].iter().map(|entry| entry["digest"].as_str().expect("a digest")).collect();
    assert_eq!(named, [&digests[2], &digests[1], &digests[0]]);
    assert!(entries.iter().all(|entry| entry["created"].as_str().is_some_and(|at| at.ends_with('Z'))));
    assert_eq!(entries[1]["mediaType"], IMAGE);
    let (mut paged, mut next) = (Vec::new(), Some(format!("{path}?n=3")));
    while let Some(url) = next {
        let (page, link) = history(&url);
        assert!(page.len() == 3 || link.is_none());
        paged.extend(page);
        next = link;
    }
    assert_eq!(paged, entries);
}

#[test]
fn a_moment_is_pulled_as_the_tag_was_then() {
    if !is_ours() {
        return;
    }
    let name = "extensions/moments";
    let one = push_image(name, "one", "v1");
    let two = push_image(name, "two", "v1");
    delete(&format!("/v2/{name}/manifests/v1")).expect(202);
    let (entries, _) = history(&format!("/v2/{name}/_oci/tag-history/v1"));
    let at = |number: usize| entries[number]["created"].as_str().expect("a time").to_owned();
    let moment = |at: &str| get(&format!("/v2/{name}/_slipway/tags/moment?tag=v1&at={at}"));
    for (number, digest) in [(1, &two), (2, &one)] {
        let answer = moment(&at(number)).expect(200);
        assert_eq!(answer.header("docker-content-digest"), Some(digest.to_string().as_str()));
        assert_eq!(answer.header("content-type"), Some(IMAGE));
        assert_eq!(answer.body, get(&format!("/v2/{name}/manifests/{digest}")).expect(200).body);
    }
    moment(&at(0)).refused(&[404], &["MANIFEST_UNKNOWN"]);
    moment("2001-01-01T10:00Z").refused(&[404], &["MANIFEST_UNKNOWN"]);
    for at in ["", "yesterday", "2026-11-20", "2026-13-20T10:00Z"] {
        moment(at).refused(&[400], &["UNSUPPORTED"]);
    }
    get(&format!("/v2/{name}/_slipway/tags/moment?tag=-&at=2001-01-01T10:00Z")).refused(&[400], &["TAG_INVALID"]);
    // What was deleted since is not there, and says so.
    delete(&format!("/v2/{name}/manifests/{one}")).expect(202);
    moment(&at(2)).refused(&[404], &["MANIFEST_UNKNOWN"]);
}

#[test]
fn a_tag_is_promoted_only_from_what_the_client_saw() {
    if !is_ours() {
        return;
    }
    let name = "extensions/promote";
    let url = format!("/v2/{name}/manifests/prod");
    let [one, two] = ["one", "two"].map(|seed| written(&image(name, seed)));
    let put = |condition: (&str, &str), bytes: &[u8]| send("PUT", &url, &[("content-type", IMAGE), condition], bytes);
    assert_eq!(put(("if-match", "*"), &one).status, 412, "there is nothing yet");
    let first = put(("if-none-match", "*"), &one).expect(201).header("etag").expect("an ETag").to_owned();
    put(("if-none-match", "*"), &two).refused(&[412], &["DENIED"]);
    assert_eq!(get(&url).header("etag"), Some(first.as_str()));
    let second = put(("if-match", &first), &two).expect(201).header("etag").expect("an ETag").to_owned();
    put(("if-match", &first), &two).refused(&[412], &["DENIED"]);
    assert_eq!(get(&url).header("etag"), Some(second.as_str()));
    // Of many who saw the same, one promotes.
    let winners: usize = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..16)
            .map(|number| {
                let (put, second) = (&put, &second);
                scope
                    .spawn(move || put(("if-match", second), &written(&image(name, &format!("racer {number}")))).status)
            })
            .collect();
        let statuses: Vec<u16> = racers.into_iter().map(|racer| racer.join().expect("answered")).collect();
        assert!(statuses.iter().all(|status| matches!(status, 201 | 412)), "{statuses:?}");
        statuses.iter().filter(|status| **status == 201).count()
    });
    assert_eq!(winners, 1);
}

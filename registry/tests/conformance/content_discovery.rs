//! Content discovery: lists of tags and of referrers.

use oci::{Descriptor, Digest, Index, Manifest, media_type};

use crate::support::*;

fn tags(path: &str) -> (Vec<String>, Option<String>) {
    let answer = get(path).expect(200);
    let json = answer.json();
    let tags = json["tags"]
        .as_array()
        .map(|tags| tags.iter().map(|tag| tag.as_str().expect("text").to_owned()).collect::<Vec<_>>());
    (tags.unwrap_or_default(), answer.header("link").map(next_of))
}

fn next_of(link: &str) -> String {
    let (url, rest) = link.strip_prefix('<').and_then(|link| link.split_once('>')).expect("a URL");
    assert!(rest.contains("rel=\"next\""), "{link}");
    path_of(url)
}

#[test]
fn listing_tags() {
    let name = "discovery/tags";
    let bytes = written(&image(name, "tags"));
    let mut all = ["latest", "a", "a-1", "a.1", "a_1", "ab", "Z", "_x", "0.10.0", "0.9.0"];
    for tag in all {
        put_manifest(name, tag, IMAGE, &bytes).expect(201);
    }
    all.sort_unstable();
    let path = format!("/v2/{name}/tags/list");
    assert_eq!(get(&path).json()["name"], name);
    let (mut listed, next) = tags(&path);
    // "Lexical or ASCIIbetical" is the registry's choice; what is listed is not.
    let order = listed.clone();
    listed.sort_unstable();
    assert_eq!((listed, next), (all.map(String::from).into(), None));
    for (at, tag) in order.iter().enumerate() {
        assert_eq!(tags(&format!("{path}?last={tag}")).0, order[at + 1..], "after {tag}");
    }
    for size in [1, 3, 9, 10, 11] {
        let mut collected = Vec::new();
        let mut next = Some(format!("{path}?n={size}"));
        while let Some(url) = next {
            let (page, link) = tags(&url);
            assert!(page.len() <= size);
            assert!(page.len() == size || link.is_none(), "a short page is the last one");
            collected.extend(page);
            next = link;
        }
        assert_eq!(collected, order, "pages of {size}");
    }
    let (none, next) = tags(&format!("{path}?n=0"));
    assert_eq!((none.len(), next), (0, None));
}

#[test]
fn listing_tags_of_nothing() {
    get("/v2/discovery/never-pushed/tags/list").refused(&[200, 404], &["NAME_UNKNOWN", ""]);
    let name = "discovery/untagged";
    let bytes = written(&image(name, "untagged"));
    put_manifest(name, &Digest::sha256(&bytes).to_string(), IMAGE, &bytes).expect(201);
    assert_eq!(tags(&format!("/v2/{name}/tags/list")), (Vec::new(), None));
}

/// Pushes an artifact about a subject.
fn refer(name: &str, subject: &Descriptor, artifact_type: Option<&str>, note: &str) -> Descriptor {
    push_blob(name, b"{}");
    let config_type = if artifact_type.is_some() { media_type::OCI_EMPTY } else { "application/vnd.example.config" };
    let mut manifest = Manifest::new(Descriptor::of(config_type, b"{}"), Vec::new());
    manifest.artifact_type = artifact_type.map(str::to_owned);
    manifest.subject = Some(subject.clone());
    manifest.annotations.insert("note".into(), note.into());
    let bytes = written(&manifest);
    let descriptor = Descriptor::of(IMAGE, &bytes);
    let answer = put_manifest(name, &descriptor.digest.to_string(), IMAGE, &bytes).expect(201);
    assert_eq!(answer.header("oci-subject"), Some(subject.digest.to_string().as_str()));
    descriptor
}

fn referrers(path: &str) -> (Answer, Index) {
    let answer = get(path).expect(200);
    assert_eq!(answer.header("content-type"), Some(INDEX));
    let index: Index = serde_json::from_slice(&answer.body).expect("an index");
    assert_eq!(index.media_type.as_deref(), Some(INDEX));
    (answer, index)
}

#[test]
fn listing_referrers() {
    let name = "discovery/referrers";
    let subject = Descriptor::of(IMAGE, b"not pushed, which is fine");
    let path = format!("/v2/{name}/referrers/{}", subject.digest);
    assert!(referrers(&path).1.manifests.is_empty());
    let sbom = refer(name, &subject, Some("text/sbom"), "one");
    let other = refer(name, &subject, Some("text/sbom"), "two");
    let plain = refer(name, &subject, None, "three");
    let mut index = Index::new(Vec::new());
    index.subject = Some(subject.clone());
    let bytes = written(&index);
    put_manifest(name, "an-index", INDEX, &bytes).expect(201);
    let (_, all) = referrers(&path);
    assert_eq!(all.manifests.len(), 4);
    let found = |digest: &Digest| all.manifests.iter().find(|it| it.digest == *digest).expect("listed");
    assert_eq!(found(&sbom.digest).artifact_type.as_deref(), Some("text/sbom"));
    assert_eq!(found(&sbom.digest).annotations["note"], "one");
    assert_eq!(found(&sbom.digest).size, sbom.size);
    // Without an artifact type, an image has that of its config and an index has none.
    assert_eq!(found(&plain.digest).artifact_type.as_deref(), Some("application/vnd.example.config"));
    assert_eq!(found(&Digest::sha256(&bytes)).artifact_type, None);
    let (answer, filtered) = referrers(&format!("{path}?artifactType=text%2Fsbom"));
    assert_eq!(answer.header("oci-filters-applied"), Some("artifactType"));
    assert_eq!(filtered.manifests.len(), 2);
    delete(&format!("/v2/{name}/manifests/{}", other.digest)).expect(202);
    let (_, filtered) = referrers(&format!("{path}?artifactType=text%2Fsbom"));
    assert_eq!(filtered.manifests.iter().map(|it| &it.digest).collect::<Vec<_>>(), [&sbom.digest]);
    assert!(referrers(&format!("{path}?artifactType=text%2Fother")).1.manifests.is_empty());
}

#[test]
fn listing_referrers_of_nothing() {
    let digest = Digest::sha256(b"nothing is about this");
    assert!(referrers(&format!("/v2/discovery/never-referred/referrers/{digest}")).1.manifests.is_empty());
    get("/v2/discovery/never-referred/referrers/sha256:bad").refused(&[400], &["DIGEST_INVALID"]);
}

#[test]
fn referrers_noted_under_the_fallback_tag_are_listed_too() {
    let name = "discovery/fallback";
    let subject = Descriptor::of(IMAGE, b"subject");
    let known = refer(name, &subject, Some("text/known"), "known");
    // What a client does that found no referrers API: the artifact, and an index under a tag made of the subject.
    let bytes = written(&image(name, "noted"));
    let mut noted = Descriptor::of(IMAGE, &bytes);
    noted.artifact_type = Some("text/noted".into());
    put_manifest(name, &noted.digest.to_string(), IMAGE, &bytes).expect(201);
    let index = written(&Index::new(vec![noted.clone(), known.clone()]));
    put_manifest(name, &format!("sha256-{}", subject.digest.hex()), INDEX, &index).expect(201);
    let (_, listed) = referrers(&format!("/v2/{name}/referrers/{}", subject.digest));
    let mut digests: Vec<&Digest> = listed.manifests.iter().map(|it| &it.digest).collect();
    digests.sort_unstable();
    let mut expected = [&known.digest, &noted.digest];
    expected.sort_unstable();
    assert_eq!(digests, expected);
}

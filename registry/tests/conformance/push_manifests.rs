//! Push: manifests, what they may name, and what comes back.

use oci::{Algorithm, Descriptor, Digest, Index, media_type};

use crate::support::*;

#[test]
fn pushing_manifests_by_tag_and_digest() {
    let name = "manifests/put";
    let bytes = written(&image(name, "put"));
    let digest = Digest::sha256(&bytes);
    for reference in ["v1".to_owned(), digest.to_string()] {
        let answer = put_manifest(name, &reference, IMAGE, &bytes).expect(201);
        assert_eq!(answer.header("docker-content-digest"), Some(digest.to_string().as_str()));
        assert_eq!(get(&answer.location()).expect(200).body, bytes);
    }
}

#[test]
fn parameters_of_the_content_type_do_not_matter() {
    let name = "manifests/content-type";
    let bytes = written(&image(name, "charset"));
    put_manifest(name, "v1", &format!("{IMAGE}; charset=utf-8"), &bytes).expect(201);
    let answer = get(&format!("/v2/{name}/manifests/v1")).expect(200);
    assert_eq!(answer.header("content-type"), Some(IMAGE));
}

#[test]
fn a_tag_moves_to_the_last_manifest_pushed() {
    let name = "manifests/tag-moves";
    let one = push_image(name, "one", "v1");
    let two = push_image(name, "two", "v1");
    let answer = head(&format!("/v2/{name}/manifests/v1")).expect(200);
    assert_eq!(answer.header("docker-content-digest"), Some(two.to_string().as_str()));
    head(&format!("/v2/{name}/manifests/{one}")).expect(200);
}

#[test]
fn a_manifest_that_does_not_hash_to_its_name_is_refused() {
    let name = "manifests/bad-digest";
    let mut bytes = written(&image(name, "bad digest"));
    let digest = Digest::sha256(&bytes);
    bytes.extend_from_slice(b"  ");
    put_manifest(name, &digest.to_string(), IMAGE, &bytes).refused(&[400], &["DIGEST_INVALID"]);
    put_manifest(name, "sha256:baddigeststring", IMAGE, &bytes)
        .refused(&[400, 404], &["DIGEST_INVALID", "UNSUPPORTED"]);
    head(&format!("/v2/{name}/manifests/{digest}")).refused(&[404], &[]);
}

#[test]
fn a_manifest_that_names_missing_blobs_is_refused_or_sparse() {
    let name = "manifests/missing-blob";
    let mut manifest = image(name, "missing");
    manifest.layers.push(Descriptor::of(media_type::OCI_LAYER, b"nobody pushed this"));
    let answer = put_manifest(name, "v1", IMAGE, &written(&manifest));
    if answer.status == 201 {
        return; // A registry may accept sparse manifests.
    }
    answer.refused(&[400, 404], &["MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN"]);
    head(&format!("/v2/{name}/manifests/v1")).refused(&[404], &[]);
}

#[test]
fn a_layer_that_must_not_be_distributed_need_not_be_there() {
    let name = "manifests/foreign";
    let mut manifest = image(name, "foreign");
    let mut foreign = Descriptor::of("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", b"elsewhere");
    foreign.urls.push("https://example.com/layer".into());
    manifest.layers.push(foreign);
    put_manifest(name, "v1", IMAGE, &written(&manifest)).expect(201);
}

#[test]
fn indexes_of_images_and_of_indexes() {
    let name = "manifests/index";
    let bytes = written(&image(name, "child"));
    put_manifest(name, &Digest::sha256(&bytes).to_string(), IMAGE, &bytes).expect(201);
    let inner = written(&Index::new(vec![Descriptor::of(IMAGE, &bytes)]));
    put_manifest(name, "inner", INDEX, &inner).expect(201);
    let outer = written(&Index::new(vec![Descriptor::of(INDEX, &inner)]));
    put_manifest(name, "outer", INDEX, &outer).expect(201);
    let answer = get(&format!("/v2/{name}/manifests/outer")).expect(200);
    assert_eq!(answer.header("content-type"), Some(INDEX));
    assert_eq!(answer.body, outer);
}

#[test]
fn manifests_of_odd_shapes() {
    let name = "manifests/shapes";
    let mut no_layers = image(name, "no layers");
    no_layers.layers.clear();
    put_manifest(name, "no-layers", IMAGE, &written(&no_layers)).expect(201);
    let mut artifact = image(name, "artifact");
    push_blob(name, b"{}");
    artifact.config = Descriptor::of(media_type::OCI_EMPTY, b"{}");
    artifact.artifact_type = Some("application/vnd.example".into());
    put_manifest(name, "artifact", IMAGE, &written(&artifact)).expect(201);
    let mut custom = image(name, "custom fields");
    custom.other.insert("org.example".into(), serde_json::json!({"a": [1, 2]}));
    custom.layers[0].data = Some("bGF5ZXI=".into());
    let bytes = written(&custom);
    put_manifest(name, "custom", IMAGE, &bytes).expect(201);
    assert_eq!(get(&format!("/v2/{name}/manifests/custom")).body, bytes);
    put_manifest(name, "empty-index", INDEX, &written(&Index::new(Vec::new()))).expect(201);
}

#[test]
fn a_manifest_of_nearly_4_mib_is_accepted() {
    let name = "manifests/large";
    let mut manifest = image(name, "large");
    for number in 0..390 {
        manifest.annotations.insert(format!("org.example.{number}"), "x".repeat(10_000));
    }
    let bytes = written(&manifest);
    assert!((3_900_000..4_000_000).contains(&bytes.len()));
    put_manifest(name, "v1", IMAGE, &bytes).expect(201);
    assert!(get(&format!("/v2/{name}/manifests/v1")).body == bytes);
}

#[test]
fn pushing_manifests_with_a_subject() {
    let name = "manifests/subject";
    let subject = Descriptor::of(IMAGE, b"may come later");
    let mut manifest = image(name, "subject");
    manifest.subject = Some(subject.clone());
    let answer = put_manifest(name, "v1", IMAGE, &written(&manifest)).expect(201);
    if let Some(said) = answer.header("oci-subject") {
        assert_eq!(said, subject.digest.to_string());
    } else {
        // Then the registry must not have the referrers API either.
        get(&format!("/v2/{name}/referrers/{}", subject.digest)).refused(&[404], &["UNSUPPORTED", "NOT_FOUND"]);
    }
}

#[test]
fn pushing_manifests_by_sha512() {
    let name = "manifests/sha512";
    let bytes = written(&image(name, "sha512"));
    let digest = Digest::of(Algorithm::Sha512, &bytes);
    let answer = put_manifest(name, &digest.to_string(), IMAGE, &bytes).expect(201);
    assert_eq!(answer.header("docker-content-digest"), Some(digest.to_string().as_str()));
    assert_eq!(get(&format!("/v2/{name}/manifests/{digest}")).expect(200).body, bytes);
}

#[test]
fn pushing_a_manifest_with_many_tags() {
    let name = "manifests/many-tags";
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let bytes = written(&image(name, algorithm.as_str()));
        let digest = Digest::of(algorithm, &bytes);
        let tags: Vec<String> = (0..12).map(|number| format!("{}-{number}", algorithm.as_str())).collect();
        let reference = format!("{digest}?tag={}", tags.join("&tag="));
        let answer = put_manifest(name, &reference, IMAGE, &bytes).expect(201);
        let said: Vec<&str> = answer.all("oci-tag").iter().flat_map(|it| it.split(',')).map(str::trim).collect();
        assert_eq!(said, tags);
        for tag in &tags {
            let answer = get(&format!("/v2/{name}/manifests/{tag}")).expect(200);
            assert_eq!(answer.header("docker-content-digest"), Some(digest.to_string().as_str()));
        }
    }
}

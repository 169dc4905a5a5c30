//! Content management: deleting tags, manifests and blobs.

use crate::support::*;

#[test]
fn deleting_tags() {
    let name = "management/tags";
    let digest = push_image(name, "tags", "gone");
    push_image(name, "tags", "stays");
    delete(&format!("/v2/{name}/manifests/gone")).expect(202);
    head(&format!("/v2/{name}/manifests/gone")).refused(&[404], &[]);
    head(&format!("/v2/{name}/manifests/stays")).expect(200);
    head(&format!("/v2/{name}/manifests/{digest}")).expect(200);
    delete(&format!("/v2/{name}/manifests/gone")).refused(&[404], &["MANIFEST_UNKNOWN"]);
}

#[test]
fn deleting_manifests_deletes_their_tags() {
    let name = "management/manifests";
    let digest = push_image(name, "one", "a");
    push_image(name, "one", "b");
    push_image(name, "two", "c");
    delete(&format!("/v2/{name}/manifests/{digest}")).expect(202);
    for reference in [digest.to_string(), "a".into(), "b".into()] {
        head(&format!("/v2/{name}/manifests/{reference}")).refused(&[404], &[]);
    }
    assert_eq!(get(&format!("/v2/{name}/tags/list")).json()["tags"], serde_json::json!(["c"]));
    delete(&format!("/v2/{name}/manifests/{digest}")).refused(&[404], &["MANIFEST_UNKNOWN"]);
    // It can come back.
    assert_eq!(push_image(name, "one", "a"), digest);
    head(&format!("/v2/{name}/manifests/{digest}")).expect(200);
}

#[test]
fn deleting_blobs() {
    let name = "management/blobs";
    let digest = push_blob(name, b"to be deleted");
    let path = format!("/v2/{name}/blobs/{digest}");
    delete(&path).expect(202);
    get(&path).refused(&[404], &["BLOB_UNKNOWN"]);
    delete(&path).refused(&[404], &["BLOB_UNKNOWN"]);
    push_blob(name, b"to be deleted");
    get(&path).expect(200);
}

#[test]
fn deleting_a_blob_leaves_other_repositories_theirs() {
    let (one, two) = ("management/shared-one", "management/shared-two");
    let digest = push_blob(one, b"in both");
    push_blob(two, b"in both");
    delete(&format!("/v2/{one}/blobs/{digest}")).expect(202);
    get(&format!("/v2/{two}/blobs/{digest}")).expect(200);
}

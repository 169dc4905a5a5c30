//! Pull: the endpoints that every registry has.

use oci::Digest;

use crate::support::*;

#[test]
fn determining_support() {
    get("/v2/").expect(200);
}

#[test]
fn pulling_manifests_by_tag_and_digest_gives_the_exact_bytes() {
    let name = "pull/manifests";
    // A trailing newline and odd spacing are part of the content.
    let mut bytes = written(&image(name, "exact"));
    bytes.extend_from_slice(b" \n");
    put_manifest(name, "v1", IMAGE, &bytes).expect(201);
    let digest = Digest::sha256(&bytes);
    for reference in ["v1".to_owned(), digest.to_string()] {
        let path = format!("/v2/{name}/manifests/{reference}");
        for answer in [get(&path).expect(200), head(&path).expect(200)] {
            assert_eq!(answer.header("docker-content-digest"), Some(digest.to_string().as_str()));
            assert_eq!(answer.header("content-type"), Some(IMAGE));
            assert_eq!(answer.header("content-length"), Some(bytes.len().to_string().as_str()));
        }
        assert_eq!(get(&path).body, bytes);
        assert!(head(&path).body.is_empty());
    }
}

#[test]
fn pulling_manifests_that_are_not_there() {
    let name = "pull/manifests-missing";
    push_image(name, "there", "v1");
    let missing = Digest::sha256(b"missing");
    for reference in ["v2".to_owned(), missing.to_string(), ".INVALID_MANIFEST_NAME".into()] {
        get(&format!("/v2/{name}/manifests/{reference}")).refused(&[404], &["MANIFEST_UNKNOWN", "UNSUPPORTED"]);
        head(&format!("/v2/{name}/manifests/{reference}")).refused(&[404], &[]);
    }
    get("/v2/pull/never-pushed/manifests/v1").refused(&[404], &["MANIFEST_UNKNOWN", "NAME_UNKNOWN"]);
    // A digest that cannot be is the client's mistake, whichever way it is told.
    get(&format!("/v2/{name}/manifests/sha256:baddigeststring"))
        .refused(&[400, 404], &["DIGEST_INVALID", "MANIFEST_UNKNOWN"]);
}

#[test]
fn pulling_blobs() {
    let name = "pull/blobs";
    for bytes in [b"".to_vec(), b"{}".to_vec(), b"layer".repeat(100_000)] {
        let digest = push_blob(name, &bytes);
        let path = format!("/v2/{name}/blobs/{digest}");
        for answer in [get(&path).expect(200), head(&path).expect(200)] {
            assert_eq!(answer.header("docker-content-digest"), Some(digest.to_string().as_str()));
            assert_eq!(answer.header("content-length"), Some(bytes.len().to_string().as_str()));
        }
        assert!(get(&path).body == bytes);
        assert!(head(&path).body.is_empty());
    }
}

#[test]
fn pulling_blobs_that_are_not_there() {
    let name = "pull/blobs-missing";
    push_blob(name, b"there");
    let path = format!("/v2/{name}/blobs/{}", Digest::sha256(b"not there"));
    get(&path).refused(&[404], &["BLOB_UNKNOWN"]);
    head(&path).refused(&[404], &[]);
    get(&format!("/v2/{name}/blobs/sha256:short")).refused(&[400, 404], &["DIGEST_INVALID", "BLOB_UNKNOWN"]);
}

#[test]
fn pulling_blobs_in_ranges() {
    let name = "pull/ranges";
    let bytes: Vec<u8> = (0..2048u32).flat_map(u32::to_le_bytes).take(2048).collect();
    let path = format!("/v2/{name}/blobs/{}", push_blob(name, &bytes));
    let cases = [
        ("bytes=500-1499", 500..1500),
        ("bytes=500-", 500..2048),
        ("bytes=-500", 1548..2048),
        ("bytes=2000-5000", 2000..2048),
        ("bytes=0-0", 0..1),
    ];
    for (range, expected) in cases {
        let answer = send("GET", &path, &[("range", range)], &[]).expect(206);
        assert_eq!(answer.body, bytes[expected.clone()], "{range}");
        let content_range = format!("bytes {}-{}/2048", expected.start, expected.end - 1);
        assert_eq!(answer.header("content-range"), Some(content_range.as_str()));
        assert_eq!(answer.header("content-length"), Some(expected.len().to_string().as_str()));
    }
    for range in ["bytes=5000-10000", "bytes=500-0", "bytes=2048-"] {
        let answer = send("GET", &path, &[("range", range)], &[]);
        assert_eq!(answer.status, 416, "{range}");
        assert_ne!(answer.body.len(), bytes.len());
    }
    // Two large reads, so that more than one chunk of the server's is in the range.
    let large: Vec<u8> = (0..1_500_000u32).flat_map(u32::to_le_bytes).collect();
    let path = format!("/v2/{name}/blobs/{}", push_blob(name, &large));
    let answer = send("GET", &path, &[("range", "bytes=1000001-5000000")], &[]).expect(206);
    assert!(answer.body == large[1_000_001..=5_000_000]);
    assert!(get(&path).body == large);
}

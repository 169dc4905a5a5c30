//! Push: blobs, in every way that the specification knows.

use oci::{Algorithm, Digest};

use crate::support::*;

/// Checks that a push was acknowledged as the specification says, and that the blob can be pulled.
#[track_caller]
fn created(name: &str, answer: &Answer, digest: &Digest, bytes: &[u8]) {
    assert_eq!(answer.status, 201, "{answer:?}");
    let stored = get(&answer.location()).expect(200);
    assert!(stored.body == bytes);
    let read = get(&format!("/v2/{name}/blobs/{digest}")).expect(200);
    assert!(read.body == bytes);
    assert_eq!(read.header("docker-content-digest"), Some(digest.to_string().as_str()));
}

#[track_caller]
fn missing(name: &str, digest: &Digest) {
    head(&format!("/v2/{name}/blobs/{digest}")).refused(&[404], &[]);
}

#[test]
fn pushing_a_blob_monolithically_post_then_put() {
    let name = "push/post-put";
    let bytes = b"post, then put".repeat(50_000);
    let digest = Digest::sha256(&bytes);
    let answer = send("PUT", &with(&start(name), &format!("digest={digest}")), &[], &bytes);
    created(name, &answer, &digest, &bytes);
}

#[test]
fn pushing_a_blob_monolithically_single_post() {
    let name = "push/single-post";
    let bytes = b"single post";
    let digest = Digest::sha256(bytes);
    let url = format!("/v2/{name}/blobs/uploads/?digest={digest}");
    let mut answer = send("POST", &url, &[("content-type", "application/octet-stream")], bytes);
    if answer.status == 202 {
        // The registry may leave it at starting an upload.
        answer = send("PUT", &with(&answer.location(), &format!("digest={digest}")), &[], bytes);
    }
    created(name, &answer, &digest, bytes);
}

#[test]
fn pushing_a_blob_in_chunks() {
    let name = "push/chunks";
    let bytes: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    let digest = Digest::sha256(&bytes);
    let (one, two, three) = (&bytes[..400_000], &bytes[400_000..1_000_000], &bytes[1_000_000..]);
    for last_in_put in [false, true] {
        let mut url = start(name);
        for (range, chunk) in [("0-399999", one), ("400000-999999", two)] {
            let answer = send("PATCH", &url, &[("content-range", range)], chunk).expect(202);
            url = answer.location();
            let expected = format!("0-{}", range.split_once('-').expect("a range").1);
            assert_eq!(answer.header("range"), Some(expected.as_str()));
        }
        let answer = if last_in_put {
            send("PUT", &with(&url, &format!("digest={digest}")), &[("content-range", "1000000-1199999")], three)
        } else {
            url = send("PATCH", &url, &[("content-range", "1000000-1199999")], three).expect(202).location();
            send("PUT", &with(&url, &format!("digest={digest}")), &[], &[])
        };
        created(name, &answer, &digest, &bytes);
        delete(&format!("/v2/{name}/blobs/{digest}"));
    }
}

#[test]
fn pushing_a_blob_in_a_stream_without_length_or_range() {
    let name = "push/stream";
    let (one, two): (Vec<u8>, Vec<u8>) = (vec![1; 700_000], vec![2; 900_000]);
    let answer = send_chunked("PATCH", &start(name), &[&one, &two]).expect(202);
    assert_eq!(answer.header("range"), Some("0-1599999"));
    let bytes = [one, two].concat();
    let digest = Digest::sha256(&bytes);
    let answer = send("PUT", &with(&answer.location(), &format!("digest={digest}")), &[], &[]);
    created(name, &answer, &digest, &bytes);
}

#[test]
fn chunks_out_of_order_are_refused_and_the_upload_lives_on() {
    let name = "push/out-of-order";
    let bytes: Vec<u8> = (0..3000u32).map(|n| n.to_le_bytes()[0]).collect();
    let digest = Digest::sha256(&bytes);
    let url = start(name);
    let skipped = send("PATCH", &url, &[("content-range", "1000-1999")], &bytes[1000..2000]);
    assert_eq!(skipped.status, 416);
    let url = send("PATCH", &url, &[("content-range", "0-999")], &bytes[..1000]).expect(202).location();
    for (method, range, chunk) in [
        ("PATCH", "0-999", &bytes[..1000]),
        ("PATCH", "2000-2999", &bytes[2000..]),
        ("PUT", "2000-2999", &bytes[2000..]),
    ] {
        let to = if method == "PUT" { with(&url, &format!("digest={digest}")) } else { url.clone() };
        let refused = send(method, &to, &[("content-range", range)], chunk);
        refused.refused(&[416], &["BLOB_UPLOAD_INVALID", "RANGE_INVALID"]);
        // The suite asks with the parameters of the refused request still on.
        let status = get(&to).expect(204);
        assert_eq!(status.header("range"), Some("0-999"));
        assert_eq!(status.location(), url);
    }
    let url = send("PATCH", &url, &[("content-range", "1000-2999")], &bytes[1000..]).expect(202).location();
    let answer = send("PUT", &with(&url, &format!("digest={digest}")), &[], &[]);
    created(name, &answer, &digest, &bytes);
}

#[test]
fn wrong_digests_store_nothing() {
    let name = "push/wrong-digest";
    let wrong = Digest::sha256(b"something else");
    let sent = b"these bytes";
    let refused = send("PUT", &with(&start(name), &format!("digest={wrong}")), &[], sent);
    refused.refused(&[400], &["DIGEST_INVALID"]);
    let url = send("PATCH", &start(name), &[], sent).expect(202).location();
    send("PUT", &with(&url, &format!("digest={wrong}")), &[], &[]).refused(&[400], &["DIGEST_INVALID"]);
    let refused = send("POST", &format!("/v2/{name}/blobs/uploads/?digest={wrong}"), &[], sent);
    if refused.status != 202 {
        refused.refused(&[400], &["DIGEST_INVALID"]);
    }
    missing(name, &wrong);
    missing(name, &Digest::sha256(sent));
    for digest in ["sha256:baddigeststring", "md5:d41d8cd98f00b204e9800998ecf8427e", "x"] {
        let refused = send("PUT", &with(&start(name), &format!("digest={digest}")), &[], sent);
        refused.refused(&[400], &["DIGEST_INVALID", "UNSUPPORTED"]);
    }
}

#[test]
fn asking_for_and_canceling_an_upload() {
    let name = "push/cancel";
    let url = start(name);
    get(&url).expect(204);
    let url = send("PATCH", &url, &[], b"0123456789").expect(202).location();
    let status = get(&url).expect(204);
    assert_eq!(status.header("range"), Some("0-9"));
    delete(&status.location()).expect(204);
    get(&url).refused(&[404], &["BLOB_UPLOAD_UNKNOWN"]);
    send("PATCH", &url, &[], b"more").refused(&[404], &["BLOB_UPLOAD_UNKNOWN"]);
    let digest = Digest::sha256(b"0123456789");
    send("PUT", &with(&url, &format!("digest={digest}")), &[], &[]).refused(&[404], &["BLOB_UPLOAD_UNKNOWN"]);
    missing(name, &digest);
}

#[test]
fn mounting_a_blob_from_another_repository() {
    let (source, name) = ("push/mount-source", "push/mount-target");
    let digest = push_blob(source, b"mounted");
    let answer = send("POST", &format!("/v2/{name}/blobs/uploads/?mount={digest}&from={source}"), &[], &[]);
    created(name, &answer, &digest, b"mounted");
}

#[test]
fn mounting_what_is_not_there_starts_an_upload() {
    let name = "push/mount-missing";
    let digest = Digest::sha256(b"nowhere yet");
    let url = format!("/v2/{name}/blobs/uploads/?mount={digest}&from=push/mount-nowhere");
    let answer = send("POST", &url, &[], &[]).expect(202);
    let answer = send("PUT", &with(&answer.location(), &format!("digest={digest}")), &[], b"nowhere yet");
    created(name, &answer, &digest, b"nowhere yet");
}

#[test]
fn mounting_from_anywhere() {
    let name = "push/mount-anonymous";
    let digest = push_blob("push/mount-anonymous-source", b"anonymous");
    let answer = send("POST", &format!("/v2/{name}/blobs/uploads/?mount={digest}"), &[], &[]);
    if answer.status == 202 {
        return; // Without a source, the registry may always start an upload.
    }
    created(name, &answer, &digest, b"anonymous");
}

#[test]
fn pushing_blobs_by_sha512() {
    let name = "push/sha512";
    let digest = |bytes: &[u8]| Digest::of(Algorithm::Sha512, bytes);
    let bytes = b"told at the start";
    let url = format!("/v2/{name}/blobs/uploads/?digest-algorithm=sha512");
    let url = send("POST", &url, &[], &[]).expect(202).location();
    let answer = send("PUT", &with(&url, &format!("digest={}", digest(bytes))), &[], bytes);
    created(name, &answer, &digest(bytes), bytes);
    let bytes = b"told at the end";
    let url = send("PATCH", &start(name), &[], bytes).expect(202).location();
    let answer = send("PUT", &with(&url, &format!("digest={}", digest(bytes))), &[], &[]);
    created(name, &answer, &digest(bytes), bytes);
}

//! Bad input: every request of the wrong shape gets an answer that says so, never a 5xx, and the connection ends.
//!
//! What is sent here is bytes, because no client library would send it.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;

use oci::{Descriptor, Digest, media_type};

use crate::support::*;

/// Sends bytes, closes our side or not, and returns all that comes back until the server closes its side.
fn exchange(bytes: &[u8], close: bool) -> String {
    let mut stream = connect();
    // The server may answer, and close, before it has read everything.
    let _ = stream.write_all(bytes);
    if close {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut back = Vec::new();
    // Whether it ends with an answer, an end or a reset, it ends before we lose patience.
    let ended = stream.read_to_end(&mut back);
    let endless = ended.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
    assert!(!endless, "{}", String::from_utf8_lossy(&bytes[..bytes.len().min(200)]));
    String::from_utf8_lossy(&back).into_owned()
}

fn status_of(answer: &str) -> Option<u16> {
    answer.get(9..12)?.parse().ok()
}

#[test]
fn bytes_that_are_no_request_get_an_answer_or_an_end() {
    if !is_ours() {
        return;
    }
    let long = "x".repeat(1 << 20);
    let cases: Vec<(Vec<u8>, &[u16])> = vec![
        (b"GARBAGE\r\n\r\n".to_vec(), &[400]),
        (b"GET\r\n\r\n".to_vec(), &[400]),
        (b"GET /v2/ HTTP/9.9\r\n\r\n".to_vec(), &[400, 505]),
        (b"GET /v2/\0 HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(), &[400]),
        (b"GET /v2/ HTTP/1.1\r\nhost x\r\n\r\n".to_vec(), &[400]),
        (b"GET /v2/ HTTP/1.1\r\nhost: x\r\nbad name: y\r\n\r\n".to_vec(), &[400]),
        (b"GET /v2/\xff/tags/list HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_vec(), &[400]),
        (b"PATCH /v2/a/blobs/uploads/x HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n".to_vec(), &[400]),
        (b"PATCH /v2/a/blobs/uploads/x HTTP/1.1\r\nhost: x\r\ncontent-length: 1x\r\n\r\n".to_vec(), &[400]),
        (
            b"PUT /v2/a/manifests/x HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}".to_vec(),
            &[400],
        ),
        (
            b"PUT /v2/a/manifests/x HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999999\r\n\r\n".to_vec(),
            &[400],
        ),
        (b"PUT /v2/a/manifests/x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\nxx".to_vec(), &[400, 411, 501]),
        (
            b"PUT /v2/a/manifests/x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nx\r\n".to_vec(),
            &[400],
        ),
        (
            b"PUT /v2/a/manifests/x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n"
                .to_vec(),
            &[400],
        ),
        (format!("GET /v2/{long} HTTP/1.1\r\nhost: x\r\n\r\n").into_bytes(), &[414, 431]),
        (b"OPTIONS * HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_vec(), &[404, 405]),
        (b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_vec(), &[400, 404, 405]),
        (b"BREW /v2/ HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_vec(), &[405]),
        (b"get /v2/ HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_vec(), &[405]),
        (b"GET http://other/v2/ HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_vec(), &[200]),
        (b"GET /v2/ HTTP/1.0\r\n\r\n".to_vec(), &[200]),
    ];
    for (bytes, expected) in cases {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(120)]).into_owned();
        let answer = exchange(&bytes, true);
        assert!(status_of(&answer).is_some_and(|status| expected.contains(&status)), "{shown}: {answer}");
    }
    // A header of a mebibyte, one of many small ones, and TLS where plain HTTP is spoken: any end but a hang.
    let many: String = (0..10_000).map(|number| format!("x-{number}: y\r\n")).collect();
    for bytes in [
        format!("GET /v2/ HTTP/1.1\r\nhost: x\r\nx: {long}{long}{long}\r\n\r\n").into_bytes(),
        format!("GET /v2/ HTTP/1.1\r\nhost: x\r\n{many}\r\n").into_bytes(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnot a frame at all, but long enough to be read as one".to_vec(),
    ] {
        let answer = exchange(&bytes, true);
        assert!(status_of(&answer).is_none_or(|status| status < 500), "{answer}");
    }
}

#[test]
fn two_lengths_are_never_read_as_two_requests() {
    if !is_ours() {
        return;
    }
    // A proxy before us that believes the length would take the second request for the body of the first.
    let smuggled = "GET /v2/smuggled/tags/list HTTP/1.1\r\nhost: x\r\n\r\n";
    let request = format!(
        "PUT /v2/a/manifests/x HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}",
        smuggled.len() + 5
    );
    let answers = exchange(request.as_bytes(), true);
    assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{answers}");
    assert_eq!(status_of(&answers), Some(400), "{answers}");
}

#[test]
fn bodies_shorter_than_announced_store_nothing() {
    if !is_ours() {
        return;
    }
    let name = "bad/short";
    let bytes = written(&image(name, "short"));
    let text = format!(
        "PUT /v2/{name}/manifests/v1 HTTP/1.1\r\nhost: x\r\ncontent-type: {IMAGE}\r\ncontent-length: {}\r\n\r\n",
        bytes.len() + 10
    );
    let answer = exchange(&[text.as_bytes(), &bytes].concat(), true);
    assert_eq!(status_of(&answer), Some(400), "{answer}");
    head(&format!("/v2/{name}/manifests/v1")).refused(&[404], &[]);
    let digest = Digest::sha256(b"01234");
    for method in ["PUT", "POST"] {
        let url = match method {
            "PUT" => with(&start(name), &format!("digest={digest}")),
            _ => format!("/v2/{name}/blobs/uploads/?digest={digest}"),
        };
        // What came hashes to the digest, and still it is not what was announced.
        let text = format!("{method} {url} HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n01234");
        let answer = exchange(text.as_bytes(), true);
        assert_eq!(status_of(&answer), Some(400), "{answer}");
        head(&format!("/v2/{name}/blobs/{digest}")).refused(&[404], &[]);
    }
}

#[test]
fn what_follows_a_body_is_another_request() {
    if !is_ours() {
        return;
    }
    let url = start("bad/long");
    let text = format!("PATCH {url} HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n0123more than that");
    let answers = exchange(text.as_bytes(), true);
    assert_eq!(status_of(&answers), Some(202), "{answers}");
    assert_eq!(answers.matches("HTTP/1.1 400").count(), 1, "{answers}");
    assert_eq!(get(&url).expect(204).header("range"), Some("0-3"));
}

#[test]
fn a_client_that_asks_first_is_told_before_it_sends() {
    if !is_ours() {
        return;
    }
    let expecting = |url: &str, length: u64| {
        let mut stream = connect();
        let text = format!(
            "PUT {url} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: {length}\r\ncontent-type: {IMAGE}\r\n\r\n"
        );
        stream.write_all(text.as_bytes()).expect("sent");
        let mut first = [0; 12];
        stream.read_exact(&mut first).expect("an answer");
        String::from_utf8_lossy(&first).into_owned()
    };
    assert_eq!(expecting("/v2/bad/expect/manifests/v1", 10_000_000), "HTTP/1.1 413");
    assert_eq!(expecting("/v2/BAD/manifests/v1", 10), "HTTP/1.1 400");
    assert_eq!(expecting("/v2/bad/expect/manifests/v1", 10), "HTTP/1.1 100");
}

#[test]
fn manifests_of_the_wrong_shape_say_so() {
    if !is_ours() {
        return;
    }
    let name = "bad/manifests";
    let good = String::from_utf8(written(&image(name, "shape"))).expect("text");
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    let schema1 = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let config = r#""config":{"mediaType":"a/b","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0}"#;
    let cases = [
        // One name, two readings (CVE-2021-41190 and its kin).
        (good.clone(), docker),
        (good.clone(), INDEX),
        (format!("{{\"schemaVersion\":2,\"mediaType\":\"{INDEX}\",{config},\"layers\":[]}}"), INDEX),
        (format!("{{\"schemaVersion\":2,{config},\"layers\":[],\"manifests\":[]}}"), IMAGE),
        (good.replacen("\"mediaType\"", "\"mediatype\":\"x\",\"mediaType\"", 1), IMAGE),
        (good.replacen("\"layers\":[", "\"layers\":[{\"digest\":\"a\",\"digest\":\"b\"},", 1), IMAGE),
        (good.replacen('{', "{\"annotations\":{\"a\":\"1\",\"a\":\"2\"},", 1), IMAGE),
        // Shapes that are none.
        ("{}".into(), IMAGE),
        ("\"text\"".into(), IMAGE),
        ("{\"schemaVersion\":2}".into(), IMAGE),
        ("{\"schemaVersion\":2,\"manifests\":{}}".into(), INDEX),
        ("{\"schemaVersion\":\"2\",\"manifests\":[]}".into(), INDEX),
        ("{\"schemaVersion\":1,\"name\":\"x\",\"tag\":\"y\",\"fsLayers\":[]}".into(), schema1),
        (good.clone() + "trailing", IMAGE),
        (good.replace("sha256:", "md5:"), IMAGE),
        (good.replace("\"size\":", "\"size\":1e400"), IMAGE),
        ("{\"a\":".repeat(50_000), IMAGE),
    ];
    for (text, media_type) in cases {
        let answer = put_manifest(name, "v1", media_type, text.as_bytes());
        assert_eq!(answer.status, 400, "{media_type} {}", &text[..text.len().min(200)]);
        assert_eq!(answer.json()["errors"][0]["code"], "MANIFEST_INVALID");
    }
    head(&format!("/v2/{name}/manifests/v1")).refused(&[404], &[]);
    // Bytes that are not text, too.
    put_manifest(name, "v1", IMAGE, &[0xff; 100]).refused(&[400], &["MANIFEST_INVALID"]);
}

#[test]
fn a_manifest_that_names_what_is_not_here_says_what() {
    if !is_ours() {
        return;
    }
    let name = "bad/absent";
    let mut manifest = image(name, "absent");
    let absent = Descriptor::of(media_type::OCI_LAYER, b"never pushed");
    manifest.layers.push(absent.clone());
    let answer = put_manifest(name, "v1", IMAGE, &written(&manifest));
    assert_eq!(answer.status, 404);
    let error = &answer.json()["errors"][0];
    assert_eq!(error["code"], "MANIFEST_BLOB_UNKNOWN");
    assert!(error["message"].as_str().is_some_and(|text| text.contains(&absent.digest.to_string())), "{error}");
}

#[test]
fn lists_are_asked_for_in_any_way() {
    let name = "bad/lists";
    push_image(name, "lists", "a");
    push_image(name, "lists", "b");
    let path = format!("/v2/{name}/tags/list");
    let cases = [
        ("n=9999999999", vec!["a", "b"]),
        ("n=99999999999999999999999999", vec!["a", "b"]),
        ("n=0", vec![]),
        ("n=1", vec!["a"]),
        ("last=zzz", vec![]),
        ("last=a", vec!["b"]),
        ("last=aa", vec!["b"]),
        ("last=", vec!["a", "b"]),
        ("n=&last=a", vec!["b"]),
        ("n=5&last=not%20there", vec![]),
    ];
    for (parameters, expected) in cases {
        if !is_ours() && parameters.starts_with("n=") {
            continue; // Docker's registry refuses numbers that it does not like, or pays no heed to them.
        }
        let answer = get(&format!("{path}?{parameters}")).expect(200);
        let tags = answer.json()["tags"].as_array().cloned().unwrap_or_default();
        if is_ours() {
            assert_eq!(tags, expected, "{parameters}");
        }
    }
    if is_ours() {
        for parameters in ["n=-1", "n=x", "n=1.5", "n=0x10", "n=%20"] {
            get(&format!("{path}?{parameters}")).refused(&[400], &["PAGINATION_NUMBER_INVALID"]);
        }
    }
}

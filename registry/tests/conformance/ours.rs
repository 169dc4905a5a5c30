//! What only we promise: answers to what clients should not send, and what no request may see.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use oci::Digest;

use crate::support::*;

#[test]
fn a_blob_is_invisible_where_it_was_not_pushed() {
    if !is_ours() {
        return;
    }
    let digest = push_blob("ours/owner", b"whose is it");
    for path in [format!("/v2/ours/stranger/blobs/{digest}"), format!("/v2/ours/blobs/{digest}")] {
        get(&path).refused(&[404], &["BLOB_UNKNOWN"]);
        send("GET", &path, &[("if-none-match", &format!("\"{digest}\""))], &[]).refused(&[404], &["BLOB_UNKNOWN"]);
    }
    let url = format!("/v2/ours/thief/blobs/uploads/?mount={digest}&from=ours/stranger");
    send("POST", &url, &[], &[]).expect(202);
    // Neither is a manifest a blob, nor a blob a manifest.
    let manifest = push_image("ours/owner", "visible", "v1");
    get(&format!("/v2/ours/owner/blobs/{manifest}")).refused(&[404], &["BLOB_UNKNOWN"]);
    get(&format!("/v2/ours/owner/manifests/{digest}")).refused(&[404], &["MANIFEST_UNKNOWN"]);
    let url = start("ours/owner");
    let elsewhere = url.replace("ours/owner", "ours/stranger");
    send("PATCH", &elsewhere, &[], b"x").refused(&[404], &["BLOB_UPLOAD_UNKNOWN"]);
}

#[test]
fn malformed_requests_have_their_status_and_code() {
    if !is_ours() {
        return;
    }
    let good = Digest::sha256(b"good");
    let cases: &[(&str, String, u16, &str)] = &[
        ("GET", "/".into(), 404, "UNSUPPORTED"),
        ("GET", "/v1/".into(), 404, "UNSUPPORTED"),
        ("GET", "/v2/a".into(), 404, "UNSUPPORTED"),
        ("GET", "/v2x".into(), 404, "UNSUPPORTED"),
        ("POST", "/v2/".into(), 405, "UNSUPPORTED"),
        ("POST", "/v2/a/manifests/x".into(), 405, "UNSUPPORTED"),
        ("PUT", format!("/v2/a/blobs/{good}"), 405, "UNSUPPORTED"),
        ("GET", "/v2/a/blobs/uploads/".into(), 405, "UNSUPPORTED"),
        ("DELETE", "/v2/a/tags/list".into(), 405, "UNSUPPORTED"),
        ("GET", "/v2/UPPER/tags/list".into(), 400, "NAME_INVALID"),
        ("GET", "/v2/a/../b/tags/list".into(), 400, "NAME_INVALID"),
        ("GET", format!("/v2/{}/tags/list", "a/".repeat(200) + "a"), 400, "NAME_INVALID"),
        ("GET", "/v2/a/blobs/sha256:00".into(), 400, "DIGEST_INVALID"),
        ("GET", format!("/v2/a/blobs/sha256:{}", good.hex().to_uppercase()), 400, "DIGEST_INVALID"),
        ("GET", "/v2/a/blobs/sha256:..%2F..%2Fetc".into(), 400, "DIGEST_INVALID"),
        ("GET", "/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e".into(), 400, "DIGEST_INVALID"),
        ("POST", "/v2/a/blobs/uploads/?digest=x".into(), 400, "DIGEST_INVALID"),
        ("POST", "/v2/a/blobs/uploads/?digest-algorithm=md5".into(), 400, "DIGEST_INVALID"),
        ("POST", format!("/v2/a/blobs/uploads/?mount={good}&from=B"), 400, "NAME_INVALID"),
        ("PUT", "/v2/a/blobs/uploads/x".into(), 400, "DIGEST_INVALID"),
        ("PATCH", "/v2/a/blobs/uploads/x".into(), 404, "BLOB_UPLOAD_UNKNOWN"),
        ("PATCH", "/v2/a/blobs/uploads/..%2f..%2fx".into(), 404, "BLOB_UPLOAD_UNKNOWN"),
        ("PUT", "/v2/a/manifests/-x".into(), 400, "TAG_INVALID"),
        ("PUT", format!("/v2/a/manifests/{}", "x".repeat(129)), 400, "TAG_INVALID"),
        ("GET", "/v2/a/tags/list?n=x".into(), 400, "PAGINATION_NUMBER_INVALID"),
        ("GET", "/v2/a/tags/list?n=-1".into(), 400, "PAGINATION_NUMBER_INVALID"),
        ("GET", "/v2/_catalog?n=1e3".into(), 400, "PAGINATION_NUMBER_INVALID"),
    ];
    for (method, path, status, code) in cases {
        let answer = send(method, path, &[], &[]);
        assert_eq!(answer.status, *status, "{method} {path}");
        assert_eq!(answer.json()["errors"][0]["code"], *code, "{method} {path}");
    }
    get("/v2/_catalog?n=9999999999999999999999").expect(200);
}

#[test]
fn manifests_that_two_readers_could_read_differently_are_refused() {
    if !is_ours() {
        return;
    }
    let name = "ours/bad-manifests";
    let good = String::from_utf8(written(&image(name, "bad"))).expect("text");
    let cases = [
        ("".to_owned(), IMAGE),
        ("{".into(), IMAGE),
        ("[]".into(), IMAGE),
        ("null".into(), IMAGE),
        (good.replace("\"schemaVersion\":2", "\"schemaVersion\":1"), IMAGE),
        (good.replacen('{', "{\"layers\":[],", 1), IMAGE),
        (good.replacen('{', "{\"manifests\":[],", 1), IMAGE),
        (good.clone(), INDEX),
        (good.clone(), "text/plain"),
        (good.replace("sha256:", "sha256:../"), IMAGE),
        (good.replace("\"size\":", "\"size\":-"), IMAGE),
        ("[".repeat(100_000), IMAGE),
        ("\u{feff}".to_owned() + &good, IMAGE),
    ];
    for (text, media_type) in cases {
        let answer = put_manifest(name, "v1", media_type, text.as_bytes());
        assert_eq!(answer.status, 400, "{}", &text[..text.len().min(200)]);
        assert_eq!(answer.json()["errors"][0]["code"], "MANIFEST_INVALID");
    }
    head(&format!("/v2/{name}/manifests/v1")).refused(&[404], &[]);
    let long = good.replacen('{', &format!("{{\"x\":\"{}\",", "y".repeat(4 * 1024 * 1024)), 1);
    put_manifest(name, "v1", IMAGE, long.as_bytes()).refused(&[413], &["SIZE_INVALID"]);
    let answer = send_chunked("PUT", &format!("/v2/{name}/manifests/v1"), &[long.as_bytes()]);
    answer.refused(&[413], &["SIZE_INVALID"]);
}

#[test]
fn ranges_of_chunks_that_make_no_sense_are_refused_and_leave_the_upload() {
    if !is_ours() {
        return;
    }
    let url = send("PATCH", &start("ours/ranges"), &[], b"0123").expect(202).location();
    for range in ["x", "4", "4-", "-4", "5-4", "bytes 4-7/8", "4-18446744073709551615", "99999999999999999999-1"] {
        let answer = send("PATCH", &url, &[("content-range", range)], b"4567");
        answer.refused(&[400], &["BLOB_UPLOAD_INVALID"]);
    }
    let answer = send("PATCH", &url, &[("content-range", "4-9")], b"4567");
    answer.refused(&[400], &["SIZE_INVALID"]);
    // The same lie without an announced length is found out at the end, and taken back.
    let mut stream = connect();
    let request = format!(
        "PATCH {url} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-range: 4-9\r\ntransfer-encoding: chunked\r\n\r\n4\r\n4567\r\n0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("sent");
    read_answer(&mut stream, false).refused(&[400], &["SIZE_INVALID"]);
    assert_eq!(get(&url).expect(204).header("range"), Some("0-3"));
    let digest = Digest::sha256(b"01234567");
    send("PUT", &with(&url, &format!("digest={digest}")), &[("content-range", "4-7")], b"4567").expect(201);
    // A lost answer: the same request again finds the blob there.
    send("PUT", &with(&url, &format!("digest={digest}")), &[], &[]).expect(201);
}

#[test]
fn a_client_that_hangs_up_can_go_on_from_what_arrived() {
    if !is_ours() {
        return;
    }
    let url = start("ours/hang-up");
    let mut stream = connect();
    let request = format!("PATCH {url} HTTP/1.1\r\nhost: x\r\ncontent-length: 3000000\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    stream.write_all(&[7; 1_000_000]).expect("sent");
    stream.shutdown(Shutdown::Both).expect("closed");
    let began = Instant::now();
    let size = loop {
        let status = get(&url);
        let range = status.header("range").expect("a range").to_owned();
        let (_, last) = range.split_once('-').expect("a range");
        let last: usize = last.parse().expect("a number");
        if last == 999_999 || began.elapsed() > Duration::from_secs(60) {
            break last + 1;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(size, 1_000_000);
    let bytes = vec![7; 3_000_000];
    let url = with(&url, &format!("digest={}", Digest::sha256(&bytes)));
    send("PUT", &url, &[("content-range", "1000000-2999999")], &bytes[1_000_000..]).expect(201);
}

#[test]
fn a_client_that_closes_its_side_gets_its_answer() {
    if !is_ours() {
        return;
    }
    let mut stream = connect();
    stream.write_all(b"GET /v2/ HTTP/1.1\r\nhost: x\r\n\r\n").expect("sent");
    stream.shutdown(Shutdown::Write).expect("closed");
    assert_eq!(read_answer(&mut stream, false).status, 200);
}

#[test]
fn peers_that_say_nothing_are_let_go() {
    if !is_ours() {
        return;
    }
    let (url, other) = (start("ours/slow"), start("ours/slow"));
    let stalled = [
        String::new(),
        "P".into(),
        "PRI * HT".into(),
        // HTTP/2, of which nothing is asked.
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".into(),
        "GET /v2/ HT".into(),
        "GET /v2/ HTTP/1.1\r\nhost: x\r\n".into(),
        format!("PATCH {url} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nabc"),
        format!("PATCH {other} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab"),
    ];
    // All at once, because each waits for the server's patience to end (2 s here).
    let mut streams: Vec<_> = stalled
        .iter()
        .map(|text| {
            let mut stream = connect();
            stream.write_all(text.as_bytes()).expect("sent");
            stream
        })
        .collect();
    for (stream, text) in streams.iter_mut().zip(&stalled) {
        let mut rest = Vec::new();
        // Whether it ends with an answer, an end or a reset, it ends before we lose patience.
        let ended = stream.read_to_end(&mut rest);
        assert!(!ended.is_err_and(|error| error.kind() == ErrorKind::WouldBlock), "{text:?}");
        if text.contains("abc") {
            assert!(rest.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&rest));
        }
    }
}

#[test]
fn answers_are_not_sent_again_to_who_has_them() {
    if !is_ours() {
        return;
    }
    let name = "ours/etag";
    let digest = push_image(name, "etag", "v1");
    let path = format!("/v2/{name}/manifests/v1");
    let tag = get(&path).expect(200).header("etag").expect("an ETag").to_owned();
    let answer = send("GET", &path, &[("if-none-match", &format!("\"other\", {tag}"))], &[]).expect(304);
    assert!(answer.body.is_empty());
    assert_eq!(answer.header("docker-content-digest"), Some(digest.to_string().as_str()));
    send("GET", &path, &[("if-none-match", "\"other\"")], &[]).expect(200);
    let blob = push_blob(name, b"0123456789");
    let path = format!("/v2/{name}/blobs/{blob}");
    let same = format!("\"{blob}\"");
    send("GET", &path, &[("if-none-match", &same)], &[]).expect(304);
    send("GET", &path, &[("range", "bytes=0-3"), ("if-range", &same)], &[]).expect(206);
    send("GET", &path, &[("range", "bytes=0-3"), ("if-range", "\"other\"")], &[]).expect(200);
}

#[test]
fn many_referrers_come_in_pages() {
    if !is_ours() {
        return;
    }
    let name = "ours/referrer-pages";
    push_blob(name, b"{}");
    let subject = oci::Descriptor::of(IMAGE, b"much referred");
    for number in 0..7 {
        let config = oci::Descriptor::of(oci::media_type::OCI_EMPTY, b"{}");
        let mut manifest = oci::Manifest::new(config, Vec::new());
        manifest.subject = Some(subject.clone());
        manifest.artifact_type = Some("text/a b+c".into());
        manifest.annotations.insert("n".into(), number.to_string());
        put_manifest(name, &format!("r{number}"), IMAGE, &written(&manifest)).expect(201);
    }
    let url = format!("/v2/{name}/referrers/{}?n=3&artifactType=text%2Fa%20b%2Bc", subject.digest);
    assert_eq!(page_sizes(url), [3, 3, 1]);
}

#[test]
fn a_page_of_referrers_is_no_longer_than_a_manifest_may_be() {
    if !is_ours() {
        return;
    }
    let name = "ours/long-referrers";
    push_blob(name, b"{}");
    let subject = oci::Descriptor::of(IMAGE, b"referred to at length");
    for number in 0..3 {
        let config = oci::Descriptor::of(oci::media_type::OCI_EMPTY, b"{}");
        let mut manifest = oci::Manifest::new(config, Vec::new());
        manifest.subject = Some(subject.clone());
        manifest.annotations.insert(number.to_string(), "x".repeat(2 << 20));
        put_manifest(name, &format!("r{number}"), IMAGE, &written(&manifest)).expect(201);
    }
    assert_eq!(page_sizes(format!("/v2/{name}/referrers/{}", subject.digest)), [1, 1, 1]);
}

/// Follows a list of referrers to its end, and returns how many were in each answer.
fn page_sizes(mut url: String) -> Vec<usize> {
    let filtered = url.contains("artifactType").then_some("artifactType");
    let mut sizes = Vec::new();
    loop {
        let answer = get(&url).expect(200);
        sizes.push(answer.json()["manifests"].as_array().expect("a list").len());
        assert_eq!(answer.header("oci-filters-applied"), filtered);
        match answer.header("link") {
            Some(link) => url = link[1..link.find('>').expect("a URL")].to_owned(),
            None => return sizes,
        }
    }
}

#[test]
fn repositories_are_listed_once_they_have_a_manifest() {
    if !is_ours() {
        return;
    }
    push_blob("ours/catalog-blob-only", b"x");
    push_image("ours/catalog-one", "one", "v1");
    push_image("ours/catalog-one/nested", "two", "v1");
    let answer = get("/v2/_catalog?n=1&last=ours/catalog-o").expect(200);
    assert_eq!(answer.json()["repositories"], serde_json::json!(["ours/catalog-one"]));
    let link = answer.header("link").expect("a link");
    let answer = get(&link[1..link.find('>').expect("a URL")]).expect(200);
    assert_eq!(answer.json()["repositories"], serde_json::json!(["ours/catalog-one/nested"]));
    let names = get("/v2/_catalog").json()["repositories"].to_string();
    assert!(!names.contains("blob-only"));
}

#[test]
fn warnings_say_what_is_allowed_and_perhaps_not_meant() {
    if !is_ours() {
        return;
    }
    let name = "ours/warnings";
    let bytes = written(&image(name, "child"));
    put_manifest(name, "child", IMAGE, &bytes).expect(201);
    let (here, absent) = (oci::Descriptor::of(IMAGE, &bytes), oci::Descriptor::of(IMAGE, b"not here"));
    let index = |children: &[&oci::Descriptor]| written(&oci::Index::new(children.iter().copied().cloned().collect()));
    let answer = put_manifest(name, "whole", INDEX, &index(&[&here])).expect(201);
    assert_eq!(answer.header("warning"), None);
    let answer = put_manifest(name, "sparse", INDEX, &index(&[&here, &absent])).expect(201);
    let warning = answer.header("warning").expect("a warning");
    assert!(warning.starts_with("299 - \"") && warning.contains(&absent.digest.to_string()), "{warning}");
    let fallback = format!("sha256-{}", here.digest.hex());
    let answer = put_manifest(name, &fallback, INDEX, &index(&[&here])).expect(201);
    assert!(answer.header("warning").is_some_and(|text| text.contains("referrers")));
}

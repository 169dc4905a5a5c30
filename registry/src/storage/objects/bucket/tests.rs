use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use super::super::conformance;
use super::*;

/// A server that speaks S3, ended with the test.
struct Moto {
    process: Child,
    port: u16,
}

impl Drop for Moto {
    fn drop(&mut self) {
        // It is a test's, so there is nothing to save.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Moto {
    /// Starts one; `None`, with a word, when it is not installed. CI has it.
    fn start() -> Option<Self> {
        let project = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        let program = project.join("target/moto/bin/python3");
        if !program.exists() {
            assert!(std::env::var_os("CI").is_none(), "no moto: run scripts/setup test");
            println!("skipped: no {}; scripts/setup test installs it", program.display());
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").port();
        #[expect(clippy::disallowed_methods, reason = "the test needs a store that others wrote")]
        let process = std::process::Command::new(program)
            .arg(project.join("scripts/moto"))
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("started");
        Some(Self { process, port })
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    async fn make_bucket(&self, name: &str) {
        let client = reqwest::Client::new();
        for _ in 0..600 {
            if let Ok(answer) = client.put(format!("{}/{name}", self.endpoint())).send().await
                && answer.status().is_success()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("moto does not answer");
    }

    fn open(&self, path: &str) -> Bucket {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let environment = vec![pair("AWS_ACCESS_KEY_ID", "key"), pair("AWS_SECRET_ACCESS_KEY", "secret")];
        let options = BucketOptions { environment, credentials_file: None };
        let url = format!("s3://{path}?endpoint={}&region=us-east-1", self.endpoint());
        Bucket::open(&url, &options).expect("opened")
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("built")
}

#[test]
fn a_bucket_keeps_the_contract() {
    let Some(moto) = Moto::start() else { return };
    runtime().block_on(async {
        moto.make_bucket("images").await;
        let (one, other) = (moto.open("images/some/where"), moto.open("images/some/where"));
        conformance::backend(&one.backend(), &other.backend()).await;
        // Another prefix is another registry.
        let elsewhere = moto.open("images").backend();
        assert!(elsewhere.objects.list(&keys::all_tags(), None, 10).await.expect("listed").entries.is_empty());
        let id = Ids::Random.draw();
        let mut writer = one.backend().data.begin(id).await.expect("begun");
        writer.write(&[Bytes::from_static(b"signed")]).await.expect("written");
        writer.finish().await.expect("finished");
        let url = one.signed_url(id, Duration::from_secs(60), "text/plain").await.expect("signed").expect("it can");
        let got = reqwest::get(url).await.expect("answered").bytes().await.expect("read");
        assert_eq!(got, "signed");
        // An object that is given up has no parts there.
        let mut writer = one.backend().data.begin(id).await.expect("begun");
        writer.write(&[vec![0; 2 * PARTS.size + 1].into()]).await.expect("written");
        let unfinished = async || {
            let url = format!("{}/images?uploads", moto.endpoint());
            let list = reqwest::get(url).await.expect("answered").text().await.expect("read");
            list.contains(&id.to_string())
        };
        assert!(unfinished().await);
        drop(writer);
        for _ in 0..600 {
            if !unfinished().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("its parts stay");
    });
}

/// Reads all of an object.
async fn read(bucket: &Bucket, id: Id, size: u64) -> Vec<u8> {
    let content = Data::read(bucket, id, 0..size).await.expect("read").expect("there");
    let Content::Stream(stream) = content else { panic!("{content:?}") };
    stream.try_collect::<Vec<_>>().await.expect("read").concat()
}

fn noise(size: usize) -> Bytes {
    (0..size as u32).map(|number| (number.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect::<Vec<_>>().into()
}

#[test]
fn uploads_that_come_slowly_let_others_pass() {
    let Some(moto) = Moto::start() else { return };
    runtime().block_on(async {
        moto.make_bucket("images").await;
        let bucket = moto.open("images/slow");
        let (slow, fast) = (MEMORY / PARTS.size, Ids::Random.draw());
        let mut writers = Vec::new();
        for number in 0..slow {
            let id = Ids::Random.draw();
            let mut writer = bucket.backend().data.begin(id).await.expect("begun");
            writer.write(&[vec![u8::try_from(number).expect("few"); 1000].into()]).await.expect("written");
            writers.push((id, writer));
        }
        let all = noise(2 * PARTS.size + 1);
        let mut writer = bucket.backend().data.begin(fast).await.expect("begun");
        let pushed = tokio::time::timeout(Duration::from_secs(300), writer.write(std::slice::from_ref(&all))).await;
        pushed.expect("not kept waiting").expect("written");
        assert_eq!(writer.finish().await.expect("finished"), all.len() as u64);
        assert!(read(&bucket, fast, all.len() as u64).await == all);
        // Those that made room go on as if nothing had happened: to the end, paused, or given up.
        let (_, given_up) = writers.pop().expect("several");
        given_up.abort().await.expect("given up");
        for (number, (id, mut writer)) in writers.into_iter().enumerate() {
            writer.write(&[Bytes::from_static(b"the end")]).await.expect("written");
            let writer = match number % 2 {
                0 => writer,
                _ => {
                    let checkpoint = writer.pause().await.expect("paused");
                    bucket.resume(&checkpoint).await.expect("resumed").expect("there")
                }
            };
            writer.finish().await.expect("finished");
            let mut expected = vec![u8::try_from(number).expect("few"); 1000];
            expected.extend_from_slice(b"the end");
            assert!(read(&bucket, id, 1007).await == expected, "{number}");
        }
        // What was put aside is gone.
        let there = Data::list(&bucket, None, 1000).await.expect("listed").entries;
        assert_eq!(there.len(), slow);
    });
}

#[test]
fn an_object_of_too_many_parts_goes_on_with_longer_ones() {
    assert!(PARTS.before(10_000) > 350 << 30);
    let Some(moto) = Moto::start() else { return };
    runtime().block_on(async {
        moto.make_bucket("images").await;
        let open = || {
            let mut bucket = moto.open("images/large");
            bucket.parts = Parts { size: 5 << 20, count: 2, later: 7 << 20 };
            bucket
        };
        let (one, other, id) = (open(), open(), Ids::Random.draw());
        let all = noise(30 << 20);
        let mut writer = one.backend().data.begin(id).await.expect("begun");
        for (number, piece) in
            [0..1 << 20, 1 << 20..18 << 20, 18 << 20..27 << 20, 27 << 20..30 << 20].into_iter().enumerate()
        {
            writer.write(&[all.slice(piece)]).await.expect("written");
            let checkpoint = writer.pause().await.expect("paused");
            let replica = if number % 2 == 0 { &other } else { &one };
            writer = replica.resume(&checkpoint).await.expect("resumed").expect("there");
        }
        assert_eq!(writer.finish().await.expect("finished"), all.len() as u64);
        assert!(read(&one, id, all.len() as u64).await == all);
    });
}

/// Opens a bucket of which each connection is answered by `answer`.
fn answered_by(answer: impl Fn(std::net::TcpStream) + Send + Copy + 'static, patience: Patience) -> Bucket {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("s3://images?endpoint=http://{}&region=us-east-1", listener.local_addr().expect("bound"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("a connection");
            std::thread::spawn(move || answer(stream));
        }
    });
    let pair = |name: &str| (name.to_owned(), "key".to_owned());
    let environment = vec![pair("AWS_ACCESS_KEY_ID"), pair("AWS_SECRET_ACCESS_KEY")];
    let options = BucketOptions { environment, credentials_file: None };
    Bucket::open_with(&url, &options, patience).expect("opened")
}

#[test]
fn a_store_that_says_nothing_is_given_up() {
    let patience = Patience { silence: Duration::from_millis(100), retry: Duration::from_secs(1), ..PATIENCE };
    let bucket = answered_by(|stream| drop((std::thread::sleep(Duration::from_secs(600)), stream)), patience);
    runtime().block_on(async {
        let key = keys::probes().key("x");
        let error = bucket.get(&key).await.expect_err("no answer");
        assert!(matches!(error, ObjectError::Unavailable { .. }), "{error}");
        let error = bucket.put(&key, Bytes::from_static(b"x"), Condition::Absent).await.expect_err("no answer");
        assert!(matches!(error, ObjectError::Unavailable { .. }), "{error}");
    });
}

#[test]
fn an_object_may_take_longer_than_the_store_may_be_silent() {
    // On a machine that is busy enough, a piece may come too late; then all has more time.
    let silences = [2, 10, 50].map(Duration::from_secs);
    assert!(silences.into_iter().any(arrives_in_pieces), "all that takes long is given up");
}

/// Tells whether an object arrives that takes longer than the store may be silent.
fn arrives_in_pieces(silence: Duration) -> bool {
    const PIECES: usize = 40;
    // Without a second attempt, which would go on where the first ended.
    let patience = Patience { silence, retries: 0, ..PATIENCE };
    let slow = move |mut stream: std::net::TcpStream| {
        use std::io::{Read as _, Write as _};
        assert!(stream.read(&mut [0; 4096]).expect("a request") > 0);
        let modified = "last-modified: Fri, 20 Nov 2026 12:00:00 GMT\r\netag: \"1\"";
        let range = format!("content-range: bytes 0-{}/{PIECES}\r\ncontent-length: {PIECES}", PIECES - 1);
        let head = format!("HTTP/1.1 206 Partial Content\r\n{modified}\r\n{range}\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("sent");
        for _ in 0..PIECES {
            std::thread::sleep(patience.silence / 25);
            if stream.write_all(b"x").is_err() {
                return;
            }
        }
    };
    let bucket = answered_by(slow, patience);
    runtime().block_on(async {
        let content = Data::read(&bucket, Ids::Random.draw(), 0..PIECES as u64).await;
        let Ok(Some(Content::Stream(stream))) = content else { return false };
        let pieces: Result<Vec<Bytes>, _> = stream.try_collect().await;
        pieces.is_ok_and(|pieces| pieces.concat() == vec![b'x'; PIECES])
    })
}

#[test]
fn what_is_no_bucket_is_told() {
    let open = |url: &str| Bucket::open(url, &BucketOptions::default()).map(|_| ());
    assert!(matches!(open("/folder"), Err(BucketError::NotABucket { .. })));
    assert!(matches!(open("s3://"), Err(BucketError::NotABucket { .. })));
    assert!(matches!(open("ftp://x/y"), Err(BucketError::NotABucket { .. })));
    assert!(matches!(open("s3://x/a//b"), Err(BucketError::NotABucket { .. })));
    assert!(matches!(open("s3://x?ednpoint=y"), Err(BucketError::UnknownSetting { .. })));
    assert!(matches!(open("s3://x?profile=y"), Err(BucketError::UnknownProfile { .. })));
    open("s3://x/y?region=eu-west-1&endpoint=https%3A%2F%2Flocalhost%3A9000").expect("a bucket");
}

#[test]
fn credentials_come_from_the_profile() {
    let file = "# mine\n[default]\naws_access_key_id = a\n\n[ci]\naws_access_key_id=b\naws_secret_access_key = c=d\n";
    let mut options = BucketOptions { environment: Vec::new(), credentials_file: Some(file.into()) };
    assert_eq!(credentials(&options, None).expect("read"), [("aws_access_key_id".into(), "a".into())]);
    options.environment.push(("AWS_PROFILE".into(), "ci".into()));
    let pairs = credentials(&options, None).expect("read");
    assert_eq!(pairs[1], ("aws_secret_access_key".into(), "c=d".into()));
    assert!(credentials(&options, Some(&"other".to_owned())).is_err());
}

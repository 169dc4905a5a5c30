//! Connections in which nobody, or somebody slow, is at the other end. Time is the test's: it passes when all wait.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, FutureExt as _};
use oci::Digest;
use tokio::io::{DuplexStream, duplex, split};
use tokio::time::Instant;

use super::*;
use crate::storage::objects::memory::{self, Fate, Gate};
use crate::storage::{Storage, StorageOptions};

#[tokio::test]
async fn an_early_connection_reads_less_at_once_when_others_come() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("bound");
    let (sender, accepted) = tokio::join!(TcpStream::connect(addr), listener.accept());
    let sending = tokio::spawn(async move {
        let mut sender = sender.expect("connected");
        while sender.write_all(&[0; 64 * 1024]).await.is_ok() {}
    });
    let memory = Memory::default();
    let mut stream = Socket::new(accepted.expect("accepted").0, Pulse::new(), memory.clone());
    let mut buffer = vec![0; READ_BUFFER];
    let largest = async |stream: &mut Socket<TcpStream>, buffer: &mut [u8]| {
        let mut largest = 0;
        for _ in 0..50 {
            largest = largest.max(stream.read(buffer).await.expect("read"));
            // More is there by then.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        largest
    };
    assert!(largest(&mut stream, &mut buffer).await > Memory::LEAST);
    let others: Vec<_> = (0..1000).map(|_| memory.enter()).collect();
    assert_eq!(largest(&mut stream, &mut buffer).await, Memory::LEAST);
    drop(others);
    sending.abort();
}

/// What a client of HTTP/2 begins with: its first words, and no settings.
const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Longer than all buffers on its way.
const LARGE: usize = 3 << 20;

/// Lets calls take ten times as long as a peer may be silent, when it is told to.
#[derive(Default)]
struct Slow(AtomicBool);

impl Gate for Slow {
    fn pass(&self, _call: &'static str, _what: &str) -> BoxFuture<'static, Fate> {
        let wait = if self.0.load(Ordering::SeqCst) { 10 * inactivity() } else { Duration::ZERO };
        async move {
            tokio::time::sleep(wait).await;
            Fate::Done
        }
        .boxed()
    }
}

fn inactivity() -> Duration {
    super::super::Limits::default().inactivity
}

/// A server with a blob of `LARGE` bytes, and how slow it is.
struct Served {
    app: App,
    slow: Arc<Slow>,
    blob: String,
}

impl Served {
    async fn new() -> Self {
        let slow = Arc::<Slow>::default();
        let storage = Storage::new(memory::Memory::default().behind(slow.clone()).backend(), StorageOptions::default());
        let digest = Digest::sha256(&vec![7; LARGE]);
        let mut upload = storage.repository(&"a".parse().expect("a name")).receive(digest.algorithm());
        upload.append(vec![vec![7; LARGE].into()]).await.expect("taken in");
        upload.finish(&digest).await.expect("a blob");
        let app = App::new(ServeOptions::new(storage, ([127, 0, 0, 1], 0).into()));
        Self { app, slow, blob: format!("/v2/a/blobs/{digest}") }
    }

    /// Connects; what is served ends with how the connection ended.
    fn connect(&self) -> (DuplexStream, tokio::task::JoinHandle<io::Result<()>>) {
        let (client, server) = duplex(64 * 1024);
        let (app, pulse) = (self.app.clone(), Pulse::new());
        let socket = Socket::new(server, pulse.clone(), app.memory().clone());
        let served = tokio::spawn(async move {
            // Nobody stops the server.
            let (_stop, stopping) = watch::channel(false);
            speak(app, socket, pulse, [127, 0, 0, 1].into(), stopping).await
        });
        (client, served)
    }
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").into_bytes()
}

/// A request of HTTP/2 on its first stream, without compression.
fn get_2(path: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", "x")] {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("short"));
            block.extend_from_slice(text.as_bytes());
        }
    }
    let mut frame = vec![0, 0, u8::try_from(block.len()).expect("short"), 1, 5, 0, 0, 0, 1];
    frame.append(&mut block);
    [GREETING, &frame].concat()
}

#[tokio::test(start_paused = true)]
async fn connections_without_a_pulse_end() {
    let served = Served::new().await;
    let unread = get(&served.blob);
    let stalled = get_2(&served.blob);
    let cases: [(&str, &[u8], bool); 10] = [
        ("nothing", b"", true),
        ("half a method", b"P", true),
        ("half a greeting", b"PRI * HT", true),
        ("half a line", b"GET /v2/ HT", true),
        ("half a head", b"GET /v2/ HTTP/1.1\r\nhost: x\r\n", true),
        ("no second request", b"GET /v2/ HTTP/1.1\r\nhost: x\r\n\r\n", true),
        ("a greeting", GREETING, true),
        ("no second request on HTTP/2", &get_2("/v2/"), true),
        ("an answer that is not read", &unread, false),
        ("an answer that is given no room", &stalled, true),
    ];
    for (what, sent, read) in cases {
        let began = Instant::now();
        let (client, ended) = served.connect();
        let (mut from, mut to) = split(client);
        to.write_all(sent).await.expect("sent");
        let reading = async {
            let mut buffer = vec![0; 64 * 1024];
            while read && from.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
        };
        let both = async { tokio::join!(reading, ended).1.expect("no panic") };
        let ended = timeout(10 * inactivity(), both).await;
        assert!(ended.is_ok(), "{what}: it is still there");
        assert!(began.elapsed() >= inactivity(), "{what}: {:?}", began.elapsed());
        assert!(began.elapsed() <= inactivity() + 2 * PARTING, "{what}: {:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn answers_to_pings_are_no_pulse() {
    let served = Served::new().await;
    for request in [GREETING.to_vec(), get_2(&served.blob)] {
        let (client, ended) = served.connect();
        let (mut from, mut to) = split(client);
        to.write_all(&request).await.expect("sent");
        let pinging = async {
            while to.write_all(b"\0\0\x08\x06\0\0\0\0\0whatever").await.is_ok() {
                tokio::time::sleep(inactivity() / 3).await;
            }
        };
        let reading = async {
            let mut buffer = vec![0; 64 * 1024];
            while from.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
        };
        let all = async { tokio::join!(pinging, reading, ended).2.expect("no panic") };
        assert!(timeout(10 * inactivity(), all).await.is_ok(), "it is still there");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_gets_all_of_its_answer() {
    let served = Served::new().await;
    let (mut client, _ended) = served.connect();
    client.write_all(&get(&served.blob)).await.expect("sent");
    let mut all = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    while all.len() < LARGE {
        tokio::time::sleep(inactivity() * 9 / 10).await;
        let count = client.read(&mut buffer).await.expect("read");
        assert!(count > 0, "cut after {}", all.len());
        all.extend_from_slice(&buffer[..count]);
    }
    assert!(all.ends_with(&vec![7; LARGE - 64 * 1024]));
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_gets_all_of_its_answer_over_http_2() {
    let served = Served::new().await;
    let (mut client, _ended) = served.connect();
    client.write_all(&get_2(&served.blob)).await.expect("sent");
    let mut all = 0;
    while all < LARGE {
        let mut head = [0; 9];
        client.read_exact(&mut head).await.expect("a frame");
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        client.read_exact(&mut payload).await.expect("a frame");
        if head[3] == 0 && !payload.is_empty() {
            all += payload.len();
            tokio::time::sleep(inactivity() / 5).await;
            // Room for as much again, on the stream and on the connection.
            for stream in [0, 1] {
                let room = u32::try_from(payload.len()).expect("a frame").to_be_bytes();
                client.write_all(&[&[0, 0, 4, 8, 0, 0, 0, 0, stream][..], &room].concat()).await.expect("sent");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_store_cuts_nobody_off() {
    let served = Served::new().await;
    served.slow.0.store(true, Ordering::SeqCst);
    for (request, expected) in [(get(&served.blob), LARGE), (get_2("/v2/a/tags/list"), 100)] {
        let (client, _ended) = served.connect();
        let (mut from, mut to) = split(client);
        to.write_all(&request).await.expect("sent");
        let (mut all, mut buffer) = (0, vec![0; 64 * 1024]);
        while all < expected {
            let count = from.read(&mut buffer).await.expect("read");
            assert!(count > 0, "cut after {all}");
            all += count;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_slow_to_come_is_worked_on() {
    let pulse = Pulse::new();
    let pieces = futures_util::stream::iter(0..3).then(|_| async {
        tokio::time::sleep(10 * inactivity()).await;
        Ok::<_, io::Error>(bytes::Bytes::from_static(b"piece"))
    });
    let answer = Answer::new(Body::from_stream(pieces), pulse.clone());
    let collected = http_body_util::BodyExt::collect(answer);
    tokio::select! {
        collected = collected => assert_eq!(collected.expect("whole").to_bytes().len(), 15),
        () = pulse.still(inactivity()) => panic!("taken for still"),
    }
}

//! A load generator for registries, the same for ours and for others: `load KIND ADDR OPTIONS…`, see `USAGE`.
//!
//! Each connection has a thread that sends a request, waits for the answer, and sends the next. Bodies of answers are
//! thrown away inside the kernel (`MSG_TRUNC`), so that what is measured is the server and not this program.

#![expect(clippy::print_stdout, reason = "the figures are for whoever started this")]

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use oci::{Algorithm, Digest, Hasher};
use rustix::net::{RecvFlags, recv};

const USAGE: &str =
    "usage: load get|head|pages|push ADDR PATH [--connections N] [--seconds S | --requests N] [--size BYTES]
  get, head   ask for PATH again and again
  pages       read the list at PATH to its end, following `Link`, again and again; a request is a whole list
  push        push blobs of SIZE random bytes to the repository PATH, each by POST and PUT
  hash        hashes SIZE bytes again and again, to compare with; ADDR and PATH are not used";

type Failure = Box<dyn Error + Send + Sync>;

#[derive(Clone, Debug)]
struct Load {
    kind: String,
    addr: String,
    path: String,
    connections: usize,
    seconds: f64,
    requests: usize,
    size: usize,
}

impl Load {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let mut next = || arguments.next().ok_or(USAGE);
        let (kind, addr, path) = (next()?, next()?, next()?);
        let mut load = Self { kind, addr, path, connections: 4, seconds: 5.0, requests: usize::MAX, size: 16384 };
        while let Some(flag) = arguments.next() {
            let value = arguments.next().ok_or(USAGE)?;
            match flag.as_str() {
                "--connections" => load.connections = value.parse()?,
                "--seconds" => load.seconds = value.parse()?,
                "--requests" => (load.requests, load.seconds) = (value.parse()?, 600.0),
                "--size" => load.size = value.parse()?,
                _ => return Err(USAGE.into()),
            }
        }
        Ok(load)
    }
}

/// A connection that is kept, and the bytes that came too early.
struct Client {
    stream: TcpStream,
    addr: String,
    early: Vec<u8>,
}

struct Answer {
    status: u16,
    headers: String,
    length: Option<u64>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.headers.lines().filter_map(|line| line.split_once(':'));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    }
}

impl Client {
    fn connect(addr: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        Ok(Self { stream, addr: addr.to_owned(), early: Vec::new() })
    }

    /// Sends a request and reads the answer; returns it with how many bytes its body had.
    fn ask(&mut self, method: &str, path: &str, body: Option<&Blob>) -> io::Result<(Answer, u64)> {
        let length = body.map_or_else(String::new, |body| {
            format!("content-length: {}\r\ncontent-type: application/octet-stream\r\n", body.size())
        });
        // No length at all is no body, for POST too.
        let length = if method == "POST" && body.is_none() { "content-length: 0\r\n".to_owned() } else { length };
        let accept = "accept: application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json\r\n";
        let head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n{accept}{length}\r\n", self.addr);
        let mut request = head.into_bytes();
        if let Some(Blob { own, shared }) = body {
            request.extend_from_slice(own);
            if shared.len() <= 65536 {
                request.extend_from_slice(shared);
                self.stream.write_all(&request)?;
            } else {
                self.stream.write_all(&request)?;
                self.stream.write_all(shared)?;
            }
        } else {
            self.stream.write_all(&request)?;
        }
        let answer = self.head()?;
        let size = match answer.length {
            _ if method == "HEAD" || matches!(answer.status, 204 | 304) => 0,
            Some(length) => self.skip(length)?,
            None => self.skip_chunks()?,
        };
        Ok((answer, size))
    }

    fn more(&mut self) -> io::Result<()> {
        let start = self.early.len();
        self.early.resize(start + 4096, 0);
        let count = self.stream.read(&mut self.early[start..])?;
        self.early.truncate(start + count);
        if count == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    fn head(&mut self) -> io::Result<Answer> {
        let end = loop {
            if let Some(end) = self.early.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            self.more()?;
        };
        let headers = String::from_utf8_lossy(&self.early[..end]).into_owned();
        self.early.drain(..end);
        let status = headers.get(9..12).and_then(|text| text.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
        let mut answer = Answer { status, headers, length: None };
        answer.length = answer.header("content-length").and_then(|text| text.parse().ok());
        Ok(answer)
    }

    fn skip(&mut self, length: u64) -> io::Result<u64> {
        let early = self.early.len().min(usize::try_from(length).unwrap_or(usize::MAX));
        self.early.drain(..early);
        let mut left = length - early as u64;
        // With `MSG_TRUNC` the kernel drops as many bytes as the buffer would have taken, and touches it not.
        let mut unused = vec![0; 1 << 20];
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(unused.len());
            let (_, count) = recv(self.stream.as_fd(), &mut unused[..want], RecvFlags::TRUNC)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= count as u64;
        }
        Ok(length)
    }

    fn skip_chunks(&mut self) -> io::Result<u64> {
        let mut all = 0;
        loop {
            let end = loop {
                match self.early.windows(2).position(|window| window == b"\r\n") {
                    Some(end) => break end,
                    None => self.more()?,
                }
            };
            let size = std::str::from_utf8(&self.early[..end]).ok().and_then(|hex| u64::from_str_radix(hex, 16).ok());
            let size = size.ok_or(io::ErrorKind::InvalidData)?;
            self.early.drain(..end + 2);
            self.skip(size + 2)?;
            all += size;
            if size == 0 {
                return Ok(all);
            }
        }
    }
}

/// A blob that is like no other: it begins with bytes of its own, and all go on alike.
struct Blob<'a> {
    own: [u8; 16],
    shared: &'a [u8],
}

impl Blob<'_> {
    fn size(&self) -> usize {
        self.own.len() + self.shared.len()
    }

    fn digest(&self) -> Digest {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(&self.own);
        hasher.update(self.shared);
        hasher.finish()
    }
}

/// Does what counts as one request; returns how many bytes were moved, and how long that took.
fn once(client: &mut Client, load: &Load, shared: &[u8], random: &mut u64) -> Result<(u64, Duration), Failure> {
    let own = noise(random, 16).try_into().map_err(|_| "16 bytes")?;
    let blob = Blob { own, shared };
    // What is pushed is hashed before the time begins.
    let digest = (load.kind == "push").then(|| blob.digest());
    let began = Instant::now();
    let bytes = match load.kind.as_str() {
        "get" | "head" => {
            let (answer, size) = client.ask(&load.kind.to_uppercase(), &load.path, None)?;
            if answer.status != 200 {
                return Err(answer.headers.into());
            }
            size
        }
        "pages" => {
            let (mut path, mut all) = (load.path.clone(), 0);
            loop {
                let (answer, size) = client.ask("GET", &path, None)?;
                if answer.status != 200 {
                    return Err(answer.headers.into());
                }
                all += size;
                match answer.header("link").and_then(|link| link.split(['<', '>']).nth(1)) {
                    Some(next) => path = path_of(next).to_owned(),
                    None => break all,
                }
            }
        }
        "push" => {
            push(client, &load.path, &blob, &digest.ok_or(USAGE)?)?;
            blob.size() as u64
        }
        _ => return Err(USAGE.into()),
    };
    Ok((bytes, began.elapsed()))
}

fn push(client: &mut Client, repository: &str, blob: &Blob<'_>, digest: &Digest) -> Result<(), Failure> {
    let (answer, _) = client.ask("POST", &format!("/v2/{repository}/blobs/uploads/"), None)?;
    let location = answer.header("location").filter(|_| answer.status == 202).ok_or(answer.headers.as_str())?;
    let joint = if location.contains('?') { '&' } else { '?' };
    let url = format!("{}{joint}digest={digest}", path_of(location));
    let (answer, _) = client.ask("PUT", &url, Some(blob))?;
    if answer.status == 201 { Ok(()) } else { Err(answer.headers.into()) }
}

/// Makes a path of a URL that may be absolute.
fn path_of(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, rest)| &rest[rest.find('/').unwrap_or(0)..])
}

/// Bytes that no compression and no deduplication makes less of.
fn noise(state: &mut u64, size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

fn main() -> Result<(), Failure> {
    let load = Load::parse(std::env::args().skip(1))?;
    let shared = noise(&mut 1, load.size.saturating_sub(16));
    if load.kind == "hash" {
        let began = Instant::now();
        Digest::sha256(&shared);
        let rate = shared.len() as f64 / began.elapsed().as_secs_f64() / 1e6;
        println!("{}", serde_json::json!({ "mbPerSecond": rate }));
        return Ok(());
    }
    let begun = AtomicUsize::new(0);
    let began = Instant::now();
    let until = began + Duration::from_secs_f64(load.seconds);
    // Blobs of one run are not those of another.
    let seed = u64::from(std::process::id()) << 32;
    let work = |number: usize| -> Result<(Vec<f64>, u64), Failure> {
        let mut client = Client::connect(&load.addr)?;
        let mut random = seed ^ (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (mut times, mut bytes) = (Vec::new(), 0);
        while Instant::now() < until && begun.fetch_add(1, Ordering::Relaxed) < load.requests {
            let (moved, took) = once(&mut client, &load, &shared, &mut random)?;
            bytes += moved;
            times.push(took.as_secs_f64() * 1000.0);
        }
        Ok((times, bytes))
    };
    let work = &work;
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..load.connections).map(|number| scope.spawn(move || work(number))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let (mut times, mut bytes) = (Vec::new(), 0);
    for result in results {
        let (some, size) = result?;
        times.extend(some);
        bytes += size;
    }
    // What is pushed is made between the requests, which is no time of the server's.
    let took = times.iter().sum::<f64>() / 1000.0 / load.connections as f64;
    times.sort_unstable_by(f64::total_cmp);
    let quantile = |share: usize| times.get((times.len() * share / 1000).min(times.len().saturating_sub(1))).copied();
    let figures = serde_json::json!({
        "requests": times.len(), "seconds": took, "bytes": bytes, "rate": times.len() as f64 / took,
        "mbPerSecond": bytes as f64 / took / 1e6, "p50": quantile(500), "p99": quantile(990), "max": times.last(),
    });
    println!("{figures}");
    Ok(())
}

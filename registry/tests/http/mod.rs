//! An HTTP client for tests that can also be rude: it sends what it is told, and no more.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// What a registry answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Returns the first header of a name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Returns where the answer points to, as a path.
    pub(crate) fn location(&self) -> String {
        path_of(self.header("location").expect("a Location"))
    }
}

/// Makes a path of a URL that may be absolute.
pub(crate) fn path_of(url: &str) -> String {
    match url.split_once("://") {
        Some((_, rest)) => rest[rest.find('/').expect("a path")..].to_owned(),
        None => url.to_owned(),
    }
}

/// Sends a request with exactly these headers and bytes, over a connection of its own.
pub(crate) fn request(
    addr: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Answer> {
    let mut stream = connect(addr)?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(body);
    // A registry may answer before it has read everything.
    let _ = stream.write_all(&bytes);
    read_answer(&mut stream, method == "HEAD")
}

/// Connects, with some patience for answers.
pub(crate) fn connect(addr: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    Ok(stream)
}

/// Reads an answer that ends with its connection.
pub(crate) fn read_answer(stream: &mut TcpStream, head: bool) -> io::Result<Answer> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let cut = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").ok_or_else(cut)? + 4;
    let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = text.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|text| text.parse().ok());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut body = bytes.split_off(end);
    let answer = Answer { status: status.ok_or_else(cut)?, headers, body: Vec::new() };
    if answer.header("transfer-encoding") == Some("chunked") && !head {
        body = unchunked(&body).ok_or_else(cut)?;
    }
    let announced = answer.header("content-length").and_then(|length| length.parse::<usize>().ok());
    if !head && announced.is_some_and(|length| length != body.len()) {
        return Err(cut());
    }
    Ok(Answer { body, ..answer })
}

fn unchunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).ok()?, 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(end + 2..end + 2 + size)?);
        rest = rest.get(end + size + 4..)?;
    }
}

//! A web server and a git server of a test's own, on loopback ports.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

/// What is behind a path.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The status; 200 when it is 0.
    pub status: u16,
    /// Further headers.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// How many bytes of the body are left out although the header promises them.
    pub missing: usize,
}

impl Page {
    /// Returns a page with a body.
    pub fn of(body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..Self::default() }
    }

    /// Adds a header.
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

type Pages = Arc<Mutex<BTreeMap<String, Page>>>;

/// A web server that lasts as long as the test's process.
pub struct Web {
    /// `127.0.0.1:PORT`.
    pub address: String,
    pages: Pages,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Web {
    /// Starts it.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let web = Self { address, pages: Pages::default(), seen: Arc::default() };
        let (pages, seen) = (web.pages.clone(), web.seen.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (pages, seen) = (pages.clone(), seen.clone());
                std::thread::spawn(move || answer(stream, &pages, &seen));
            }
        });
        web
    }

    /// Puts a page behind a path.
    pub fn put(&self, path: &str, page: Page) -> &Self {
        self.pages.lock().expect("whole").insert(path.into(), page);
        self
    }

    /// Returns `STATUS PATH` of each request since the last time.
    pub fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock().expect("whole"))
    }

    /// Returns the URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

fn answer(stream: TcpStream, pages: &Pages, seen: &Mutex<Vec<String>>) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
    let mut headers = BTreeMap::new();
    for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':')?;
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let page = pages.lock().expect("whole").get(&path).cloned();
    let mut page = page.unwrap_or_else(|| Page { status: 404, ..Page::of("none") });
    let is_known = |condition: &str, header: &str| {
        let said = page.headers.iter().find(|(name, _)| *name == header).map(|(_, value)| value);
        said.is_some() && headers.get(condition) == said
    };
    if is_known("if-none-match", "ETag") || is_known("if-modified-since", "Last-Modified") {
        page = Page { status: 304, body: Vec::new(), ..page };
    }
    let status = if page.status == 0 { 200 } else { page.status };
    seen.lock().expect("whole").push(format!("{status} {path}"));
    let mut head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n", page.body.len());
    for (name, value) in &page.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let mut stream = stream;
    stream.write_all(format!("{head}\r\n").as_bytes()).ok()?;
    stream.write_all(&page.body[..page.body.len() - page.missing]).ok()
}

/// A folder of repositories, served as `git://127.0.0.1:PORT/NAME`.
pub struct GitServer {
    /// `127.0.0.1:PORT`.
    pub address: String,
    folder: PathBuf,
}

impl GitServer {
    /// Starts it. For each connection the real `git daemon` runs.
    pub fn start(folder: &Path) -> Self {
        std::fs::create_dir_all(folder).expect("create a folder");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let base = folder.to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (input, output) = (OwnedFd::from(stream.try_clone().expect("cloned")), OwnedFd::from(stream));
                let mut daemon = Command::new("git");
                daemon.args(["daemon", "--inetd", "--export-all"]).arg(format!("--base-path={}", base.display()));
                daemon.stdin(Stdio::from(input)).stdout(Stdio::from(output)).stderr(Stdio::null());
                let mut child = daemon.spawn().expect("git is installed");
                std::thread::spawn(move || child.wait());
            }
        });
        Self { address, folder: folder.to_owned() }
    }

    /// Returns the address of a repository.
    pub fn url(&self, name: &str) -> String {
        format!("git://{}/{name}", self.address)
    }

    /// Runs git in a repository, making it when it is not there; gives what it prints.
    pub fn git(&self, name: &str, arguments: &[&str]) -> String {
        let folder = self.folder.join(name);
        let run = |arguments: &[&str]| {
            let mut command = Command::new("git");
            command.args(["-c", "user.name=t", "-c", "user.email=t@t", "-c", "protocol.file.allow=always"]);
            command.args(arguments).current_dir(&folder).env("GIT_CONFIG_GLOBAL", "/dev/null");
            command.env("GIT_COMMITTER_DATE", "2001-02-03T04:05:06Z").env("GIT_AUTHOR_DATE", "2001-02-03T04:05:06Z");
            super::run(&mut command).success()
        };
        if !folder.exists() {
            std::fs::create_dir_all(&folder).expect("create a folder");
            run(&["init", "-q", "-b", "main"]);
        }
        run(arguments).trim().to_owned()
    }

    /// Writes files into a repository and commits them; gives the commit.
    pub fn commit(&self, name: &str, files: &[(&str, &str)]) -> String {
        self.git(name, &["status"]);
        for (path, content) in files {
            let path = self.folder.join(name).join(path);
            std::fs::create_dir_all(path.parent().expect("below")).expect("create folders");
            std::fs::write(path, content).expect("write a file");
        }
        self.git(name, &["add", "-A"]);
        self.git(name, &["commit", "-q", "--allow-empty", "-m", "x"]);
        self.git(name, &["rev-parse", "HEAD"])
    }
}

//! What the servers of tests keep things in.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use jiff::Timestamp;
use registry::storage::objects::bucket::{Bucket, BucketOptions};
use registry::storage::objects::disk::{Disk, DiskOptions};
use registry::storage::objects::memory::Memory;
use registry::storage::{Backend, Storage, StorageOptions};

/// Opens what is kept in a folder; or a new memory if `REGISTRY_TEST_STORAGE` is `memory`, or what is kept in a bucket
/// under the name of the folder if it is `bucket`.
pub(crate) fn open(folder: &Path) -> Storage {
    Storage::new(backend(folder), StorageOptions::default())
}

fn backend(folder: &Path) -> Backend {
    match std::env::var("REGISTRY_TEST_STORAGE").as_deref() {
        Ok("memory") => Memory::default().backend(),
        Ok("bucket") => bucket(folder).backend(),
        _ => Disk::open(folder, DiskOptions::new(Timestamp::now)).expect("a folder").backend(),
    }
}

fn bucket(folder: &Path) -> Bucket {
    // The server ends when its standard input does, which this process holds.
    static SERVER: OnceLock<(Child, String)> = OnceLock::new();
    let (_, endpoint) = SERVER.get_or_init(start_bucket);
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let environment = vec![pair("AWS_ACCESS_KEY_ID", "key"), pair("AWS_SECRET_ACCESS_KEY", "secret")];
    let url = format!("s3://images{}?endpoint={endpoint}&region=us-east-1", folder.display());
    Bucket::open(&url, &BucketOptions { environment, credentials_file: None }).expect("opened")
}

/// Starts a server with a bucket `images`, and gives its URL.
#[expect(clippy::zombie_processes, reason = "it is needed until this process ends, and ends with it")]
fn start_bucket() -> (Child, String) {
    let project = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let address = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").to_string();
    #[expect(clippy::disallowed_methods, reason = "the test needs a store that others wrote")]
    let process = Command::new(project.join("target/moto/bin/python3"))
        .arg(project.join("scripts/moto"))
        .args(["-H", "127.0.0.1", "-p", address.rsplit(':').next().expect("a port")])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("scripts/setup test installs it");
    for _ in 0..1200 {
        let mut answer = [0; 12];
        if let Ok(mut stream) = TcpStream::connect(&address)
            && stream.write_all(b"PUT /images HTTP/1.1\r\nhost: m\r\ncontent-length: 0\r\n\r\n").is_ok()
            && stream.read_exact(&mut answer).is_ok()
            && answer == *b"HTTP/1.1 200"
        {
            return (process, format!("http://{address}"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("the bucket's server does not answer");
}

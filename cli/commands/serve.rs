//! `slipway serve`: a registry that speaks the OCI distribution specification.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use engine::Store;
use engine::ops::serve::serve;
use engine::storage::{Location, open};
use registry::home::Home;
use registry::server::{Events, IpNet, ServeError, ServeEvent, ServeOptions, TlsError, TlsFiles, Upkeep};
use registry::storage::probe::ProbeError;
use registry::storage::{StorageOptions, TagPatterns};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use crate::clock;
use crate::failure::Failure;
use crate::flags::storage::{StorageArgs, explain as explain_storage};
use crate::session::Session;
use crate::units::{self, parse_age, parse_size};
use crate::{retries, terminal};

const EXAMPLES: &str = "\
Examples:
  slipway serve                                     On 127.0.0.1:5000, out of the home folder
  slipway serve --addr 0.0.0.0:5000 --root /srv/registry
  slipway serve --storage /srv/images --immutable-tags 'v*'
  slipway serve --storage 's3://images/registry?region=eu-west-1' --redirect
  slipway serve --addr 127.0.0.1:0                  On a port that is free; it is printed
  slipway serve --tls-cert cert.pem --tls-key key.pem
  slipway serve --trusted-proxies 10.0.0.0/8        Behind a proxy that says by which name it is reached
  slipway serve --sparse                            What mirrors push, and all that the conformance suite asks for

GET /healthz and /livez answer while the server lives, /readyz while its storage works too.
HTTP/1.1 and HTTP/2 are spoken, the latter without TLS too. A certificate that is renewed is used at once; SIGHUP
makes sure. Ends on Ctrl-C or SIGTERM, once the requests under way are answered.";

/// Serve images as a registry
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Where to listen
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:5000")]
    addr: String,
    /// Home folder of which the registry is served [default: --home]
    #[arg(long, value_name = "DIR", conflicts_with = "storage")]
    root: Option<PathBuf>,
    #[command(flatten)]
    storage: StorageArgs,
    /// Let clients read large blobs from the bucket itself
    #[arg(long)]
    redirect: bool,
    /// Tags that name the same for ever once they are set: REPOSITORY:TAG or TAG, where `*` is any text
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    immutable_tags: Vec<String>,
    /// Keep what no manifest names for this time
    #[arg(long, value_name = "AGE", default_value = "24h", value_parser = parse_age)]
    grace: Duration,
    /// How often to look for what nothing relies on any more; 0 is never
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_age)]
    collect_every: Duration,
    /// How many bytes a second to read again, to see whether they are what they were; 0 is none
    #[arg(long, value_name = "BYTES", default_value = "1MiB", value_parser = parse_size)]
    scrub_rate: u64,
    /// Speak TLS with this certificate, and those that lead to its root, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The key of the certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Believe X-Forwarded-Proto, -Host, -Port and -Prefix of these networks
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    trusted_proxies: Vec<String>,
    /// Take images whose config or layers are not here
    #[arg(long)]
    sparse: bool,
    /// The longest manifest that is taken
    #[arg(long, value_name = "BYTES", default_value = "4MiB", value_parser = parse_size)]
    max_manifest: u64,
    /// Print a line for each request
    #[arg(short, long)]
    verbose: bool,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let mut addresses = args.addr.to_socket_addrs().map_err(|error| explain(error, &args.addr))?;
    let addr = addresses.next().ok_or_else(|| anyhow::anyhow!("`{}` is no address to listen on", args.addr))?;
    let trusted = args.trusted_proxies.iter().map(|text| network(text)).collect::<Result<Vec<_>, _>>()?;
    let (location, home) = match (&args.root, args.storage.named()) {
        (None, Some(location)) => (location, None),
        (root, _) => {
            let home = root.clone().map_or_else(|| session.home(), Ok)?;
            // What makes the folder a home, for builds that come later.
            let store = Store::open(&home)?;
            (Location::of_home(store.home()), Some(Home::served(store.layout())?))
        }
    };
    let immutable = TagPatterns::new(args.immutable_tags);
    let kept = StorageOptions { grace: args.grace, immutable, ..StorageOptions::default() };
    let storage = open(&location, &args.storage.access(), true, kept, clock::now).map_err(explain_storage)?;
    let mut options = ServeOptions::new(storage, addr);
    options.home = home;
    options.upkeep = Upkeep { collect_every: args.collect_every, scrub_rate: args.scrub_rate };
    let verbose = args.verbose;
    options.tls = args.tls_cert.zip(args.tls_key).map(|(cert, key)| TlsFiles { cert, key });
    options.trusted_proxies = trusted;
    options.sparse = args.sparse;
    options.redirect = args.redirect;
    options.limits.manifest_bytes = usize::try_from(args.max_manifest).context("--max-manifest is too large")?;
    options.events = Events::to(move |event| log(&event, verbose));
    raise_limit();
    retries::note();
    let tls = options.tls.is_some();
    let served = session.wait_for_signal(|stop| async move {
        if tls {
            let (mut hangups, reload) = (signal(SignalKind::hangup())?, Arc::clone(&options.reload));
            tokio::spawn(async move {
                while hangups.recv().await.is_some() {
                    reload.notify_one();
                }
            });
        }
        options.storage.probe().await.map_err(unfit)?;
        serve(options, listening, stop).await.map_err(anyhow::Error::from)
    });
    served.map_err(|error| match error.downcast_ref() {
        Some(ServeError::Tls(TlsError::Pair { .. })) => Failure::new(error)
            .hint("a certificate and its key are made together; see `openssl x509` and `pkey`")
            .into(),
        _ => error,
    })?;
    Ok(ExitCode::SUCCESS)
}

fn unfit(error: ProbeError) -> anyhow::Error {
    let hint = match error {
        ProbeError::Dishonest { .. } => "S3, GCS and Azure honor them",
        ProbeError::Object(_) => {
            "see that the address of --storage is right, and that its objects may be read and written"
        }
    };
    Failure::new(anyhow::Error::new(error).context("the storage cannot be used")).hint(hint).into()
}

/// Reads a network, or one address.
fn network(text: &str) -> anyhow::Result<IpNet> {
    let address = || text.parse::<std::net::IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| address()).map_err(|_| {
        let error = anyhow::anyhow!("`{text}` is no network for --trusted-proxies");
        Failure::new(error).hint("a network is ADDRESS/BITS, such as 10.0.0.0/8; several have commas between").into()
    })
}

/// Allows as many open files as may be: each connection is one. Shells mostly start programs with a low limit.
fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    // With the lower limit it serves as well, though fewer at a time.
    let _: rustix::io::Result<()> = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

fn explain(error: io::Error, addr: &str) -> Failure {
    let error = anyhow::Error::new(error).context(format!("`{addr}` is no address to listen on"));
    Failure::new(error).hint("an address is HOST:PORT, such as 127.0.0.1:5000; port 0 takes one that is free")
}

fn listening(addr: SocketAddr) {
    // Whoever started us may have stopped reading.
    let _: io::Result<()> = terminal::print_line(&format!("Listening on {addr}"));
    if !addr.ip().is_loopback() {
        terminal::note("warning: everyone who can reach this address can read, change and delete all images");
    }
}

fn log(event: &ServeEvent, verbose: bool) {
    match event {
        ServeEvent::Answered { method, path, status, took } if verbose => {
            let line = format!("{status} {method} {path} {:.1}ms", took.as_secs_f64() * 1000.0);
            terminal::note(&terminal::printable(&line));
        }
        ServeEvent::Answered { .. } => {}
        ServeEvent::Failed { method, path, error } => {
            terminal::note(&terminal::printable(&format!("error: {method} {path}: {error}")));
        }
        ServeEvent::Collected { blobs, bytes } => {
            terminal::note(&format!("removed {blobs} blobs that nothing relied on, {}", units::size(*bytes)));
        }
        ServeEvent::CollectionFailed { error } => {
            terminal::note(&terminal::printable(&format!("error: cannot collect: {error}")));
        }
        ServeEvent::BlobBad { digest } => {
            terminal::note(&format!("error: {digest} is damaged; pushing an image with it again heals it"));
        }
        ServeEvent::ScrubFailed { error } => {
            terminal::note(&terminal::printable(&format!("error: cannot read blobs again: {error}")));
        }
        ServeEvent::TlsReloaded => terminal::note("the certificate was read again"),
        ServeEvent::TlsKept { error } => {
            terminal::note(&format!("error: the certificate that was read before stays: {error}"));
        }
        ServeEvent::UploadsExpired { count } => {
            terminal::note(&format!("removed {count} uploads that nobody finished"));
        }
        ServeEvent::ExpiryFailed { error } => terminal::note(&format!("error: cannot remove old uploads: {error}")),
    }
}

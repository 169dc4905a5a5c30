//! `ADD` of URLs and git repositories, from a web and repositories that are made up.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;

use oci::Digest;

use super::World;
use crate::{Cancel, GitCommit, GitSource, HttpAnswer, HttpContent, HttpRequest, Remote, RemoteError};

/// A web of a few pages and repositories, and what was asked of it.
#[derive(Default)]
pub(crate) struct FakeRemote {
    pages: Mutex<BTreeMap<String, (HttpContent, Vec<u8>)>>,
    /// For each repository the commits that its references mean.
    references: Mutex<BTreeMap<String, BTreeMap<String, String>>>,
    /// How many requests break off before one works.
    broken: Mutex<usize>,
    asked: Mutex<Vec<String>>,
}

impl FakeRemote {
    fn page(&self, url: &str, body: &[u8], content: HttpContent) {
        self.pages.lock().expect("whole").insert(url.into(), (content, body.into()));
    }

    fn refer(&self, remote: &str, reference: &str, commit: char) {
        let commit = commit.to_string().repeat(40);
        let mut repositories = self.references.lock().expect("whole");
        repositories.entry(remote.into()).or_default().insert(reference.into(), commit);
    }

    /// Returns what was asked since the last time.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().expect("whole"))
    }

    fn ask(&self, what: String) {
        self.asked.lock().expect("whole").push(what);
    }
}

fn error(message: &str, transient: bool) -> RemoteError {
    RemoteError { message: message.into(), hint: None, transient, source: None }
}

impl Remote for FakeRemote {
    fn http(&self, request: &HttpRequest<'_>, body: &mut dyn Write, _: &Cancel) -> Result<HttpAnswer, RemoteError> {
        let pages = self.pages.lock().expect("whole");
        let Some((content, bytes)) = pages.get(request.url) else {
            return Err(error("cannot fetch it: 404 Not Found", false));
        };
        if request.etag.is_some() && request.etag == content.etag.as_deref() {
            self.ask("304".into());
            return Ok(HttpAnswer::NotModified);
        }
        let mut broken = self.broken.lock().expect("whole");
        if *broken > 0 {
            *broken -= 1;
            body.write_all(b"part").expect("taken");
            self.ask("broken".into());
            return Err(error("it broke off", true));
        }
        self.ask("200".into());
        body.write_all(bytes).expect("taken");
        Ok(HttpAnswer::Content(content.clone()))
    }

    fn git_commit(&self, source: &GitSource, _: &Cancel) -> Result<GitCommit, RemoteError> {
        if let Some(id) = source.fixed_commit().expect("checked before") {
            return Ok(GitCommit { id: id.into(), reference: None });
        }
        self.ask("resolve".into());
        let repositories = self.references.lock().expect("whole");
        let reference = source.reference.as_deref().unwrap_or("HEAD");
        let id = repositories.get(&source.remote).and_then(|known| known.get(reference));
        let id = id.ok_or_else(|| error("no such reference", false))?.clone();
        source.check(&id, None).map_err(|mismatch| error(&mismatch.to_string(), false))?;
        Ok(GitCommit { id, reference: Some(format!("refs/heads/{reference}")) })
    }

    fn git_checkout(
        &self,
        source: &GitSource,
        commit: &GitCommit,
        mtime: Option<jiff::Timestamp>,
        folder: &Path,
        _: &Cancel,
    ) -> Result<i64, RemoteError> {
        self.ask(format!("checkout {}", &commit.id[..4]));
        let write = |path: &str, content: &str, mode: u32| {
            let path = folder.join(path);
            std::fs::create_dir_all(path.parent().expect("below")).expect("made");
            std::fs::set_permissions(path.parent().expect("below"), PermissionsExt::from_mode(0o755)).expect("made");
            #[expect(clippy::disallowed_methods, reason = "a test's own file")]
            std::fs::write(&path, content).expect("written");
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("changed");
            super::age(&path, mtime.map_or(1_000_000, jiff::Timestamp::as_second));
        };
        write("commit", &commit.id[..4], 0o644);
        write("bin/run", "run", 0o755);
        write("docs/a/text", "text", 0o644);
        std::os::unix::fs::symlink("/docs/a", folder.join("link")).expect("linked");
        std::os::unix::fs::symlink("../../../../../../etc", folder.join("out")).expect("linked");
        if source.keep_git_dir == Some(true) {
            write(".git/HEAD", &commit.id[..4], 0o644);
        }
        Ok(1_000_000)
    }
}

fn etag(etag: &str) -> HttpContent {
    HttpContent { etag: Some(etag.into()), ..HttpContent::default() }
}

const URL: &str = "http://web/dir/file.txt";

#[test]
fn c24_a_url_becomes_a_file_that_root_alone_reads() {
    let world = World::new();
    world.remote.page(URL, b"hello", HttpContent { modified: Some(86_400), ..HttpContent::default() });
    let image = world.build(&format!(
        "FROM scratch\nADD {URL} /dir/\nADD {URL} /renamed\nWORKDIR /w\nADD --chown=5:6 --chmod=644 {URL} .\n"
    ));
    insta::assert_snapshot!(image.files(), @r"
    755 0:0 dir/
    600 0:0 dir/file.txt hello
    600 0:0 renamed hello
    755 0:0 w/
    644 5:6 w/file.txt hello
    ");
    insta::assert_snapshot!(image.history().join("\n"), @r"
    ADD http://web/dir/file.txt /dir/ # buildkit
    ADD http://web/dir/file.txt /renamed # buildkit
    WORKDIR /w
    ADD --chown=5:6 --chmod=644 http://web/dir/file.txt . # buildkit
    ");
    // One step fetched it for all three.
    assert_eq!(world.remote.asked(), ["200"]);
}

#[test]
fn c24_the_server_names_the_file() {
    let world = World::new();
    world.remote.page(
        "http://web/get?id=1",
        b"x",
        HttpContent { file_name: Some("../said.bin".into()), ..HttpContent::default() },
    );
    world.remote.page("http://web/", b"y", HttpContent::default());
    let image = world.build("FROM scratch\nADD http://web/get?id=1 http://web/ /dir/\n");
    insta::assert_snapshot!(image.files(), @r"
    755 0:0 dir/
    600 0:0 dir/__unnamed__ y
    600 0:0 dir/said.bin x
    ");
}

#[test]
fn c24_an_unchanged_url_is_asked_for_but_not_transferred() {
    let world = World::new();
    let dockerfile = format!("FROM base\nADD {URL} /file\n");
    world.remote.page(URL, b"one", etag("1"));
    let first = world.build(&dockerfile).digest();
    assert_eq!(world.remote.asked(), ["200"]);
    let again = world.build(&dockerfile);
    assert_eq!(world.remote.asked(), ["304"]);
    assert!(again.seen.all_cached(), "{:?}", again.seen.steps());
    assert_eq!(again.digest(), first);
    // Not even `--no-cache` transfers it again.
    let mut request = world.request(&dockerfile);
    request.no_cache = true;
    world.build_request(&request);
    assert_eq!(world.remote.asked(), ["304"]);
    world.remote.page(URL, b"two", etag("2"));
    assert!(world.build(&dockerfile).files().ends_with("file two"));
    // What comes back under another tag was copied before.
    world.remote.page(URL, b"one", etag("3"));
    let back = world.build(&dockerfile);
    assert_eq!(back.digest(), first);
    assert!(back.seen.steps().iter().any(|step| step.contains("ADD") && step.ends_with("cached")));
}

#[test]
fn c24_a_checksum_is_compared_and_spares_the_request() {
    let world = World::new();
    world.remote.page(URL, b"good", etag("1"));
    let good = Digest::sha256(b"good");
    let dockerfile = format!("FROM scratch\nARG SUM={good}\nADD --checksum=$SUM {URL} /file\n");
    world.build(&dockerfile);
    assert_eq!(world.remote.asked(), ["200"]);
    world.remote.page(URL, b"evil", etag("2"));
    assert!(world.build(&dockerfile).seen.all_cached());
    assert!(world.remote.asked().is_empty());
    let wrong = Digest::sha256(b"else");
    let error = world.refuse(&format!("FROM scratch\nADD --checksum={wrong} {URL} /file\n"));
    let evil = Digest::sha256(b"evil");
    assert!(error.contains(&format!("digest mismatch {evil}: expected: {wrong}")), "{error}");
    assert!(error.contains("Dockerfile:2"), "{error}");
    // What was not taken is not kept either.
    assert_eq!(world.remote.asked(), ["200"]);
    let sha512 = Digest::of(oci::Algorithm::Sha512, b"evil");
    world.build(&format!("FROM scratch\nADD --checksum={sha512} {URL} /file\n"));
}

#[test]
fn c24_checksums_that_mean_nothing_are_refused() {
    let world = World::new();
    world.lay("foo", "x");
    let sum = Digest::sha256(b"x");
    for (instruction, expected) in [
        (format!("ADD --checksum={sum} foo /"), "checksum requires HTTP(S) or Git sources"),
        (format!("ADD --checksum={sum} {URL} foo /"), "checksum can't be specified for multiple sources"),
        (format!("ADD --checksum=md5:7e55db001d319a94b0b713529a756623 {URL} /"), "unsupported digest algorithm: `md5`"),
        (format!("ADD --checksum=unknown:{} {URL} /", sum.hex()), "unsupported digest algorithm: `unknown`"),
        (format!("ADD --checksum={} {URL} /", sum.hex()), "invalid checksum digest format"),
        (format!("ADD --checksum=sha256:abc {URL} /"), "invalid checksum digest `sha256:abc`"),
        ("ADD --checksum=main git://host/a /".into(), "invalid checksum main for Git URL"),
        ("ADD --checksum=abc git://host/a?commit=abd /".into(), "checksum mismatch"),
        ("ADD --keep-git-dir=false git://host/a?keep-git-dir=1 /".into(), "inconsistent keep-git-dir configuration"),
        ("ADD git://host/a?colour=red /".into(), "unexpected query \"colour\""),
        (format!("COPY {URL} /"), "source can't be a URL for COPY"),
        ("COPY https://host/a.git /".into(), "source can't be a git ref for COPY"),
        ("COPY git@host:a /".into(), "source can't be a git ref for COPY"),
    ] {
        let error = world.refuse(&format!("FROM scratch\n{instruction}\n"));
        assert!(error.contains(expected), "{instruction}\n{error}");
    }
    assert!(world.remote.asked().is_empty());
}

#[test]
fn c24_only_unpack_takes_an_archive_of_a_url_apart() {
    let world = World::new();
    let mut tar = layer::tar::Writer::new(Vec::new());
    let entry = layer::Entry::new("inside", layer::EntryKind::File { size: 1 }, 0o640);
    tar.append(&entry, &mut &b"x"[..]).expect("written");
    world.remote.page("http://web/a.tar", &tar.finish().expect("finished"), HttpContent::default());
    let image = world.build("FROM scratch\nADD http://web/a.tar /packed/\nADD --unpack http://web/a.tar /unpacked/\n");
    let files = image.files();
    assert!(files.contains("600 0:0 packed/a.tar"), "{files}");
    assert!(files.contains("640 0:0 unpacked/inside x"), "{files}");
}

#[test]
fn c24_a_transfer_that_breaks_off_is_tried_again() {
    let world = World::new();
    world.remote.page(URL, b"whole", etag("1"));
    *world.remote.broken.lock().unwrap() = 2;
    assert!(world.build(&format!("FROM scratch\nADD {URL} /f\n")).files().ends_with("600 0:0 f whole"));
    assert_eq!(world.remote.asked(), ["broken", "broken", "200"]);
    *world.remote.broken.lock().unwrap() = 3;
    let error = world.refuse("FROM scratch\nADD http://web/none /f\n");
    assert!(error.contains("404"), "{error}");
}

#[test]
fn credentials_in_urls_are_never_shown() {
    let world = World::new();
    let mut request = world.request("FROM scratch\nARG P\nADD https://me:s3cret@web/x https://me:$P@web/y /f/\n");
    request.build_args.insert("P".into(), "w0rd".into());
    let error = world.try_build(&request).0.expect_err("refused").render(false);
    assert!(!error.contains("s3cret") && !error.contains("w0rd"), "{error}");
    world.remote.page("https://me:s3cret@web/x", b"x", HttpContent::default());
    let image = world.build("FROM scratch\nADD https://me:s3cret@web/x /f\n");
    let told = format!("{:?} {:?}", image.seen.steps(), image.history());
    assert!(told.contains("@web/x") && !told.contains("s3cret"), "{told}");
}

#[test]
fn c25_a_repository_is_added_as_its_commit_has_it() {
    let world = World::new();
    world.remote.refer("https://host/a.git", "HEAD", '1');
    let image = world.build("FROM scratch\nADD https://host/a.git /src\n");
    insta::assert_snapshot!(image.files(), @r"
    755 0:0 src/
    755 0:0 src/bin/
    755 0:0 src/bin/run run
    644 0:0 src/commit 1111
    755 0:0 src/docs/
    755 0:0 src/docs/a/
    644 0:0 src/docs/a/text text
    0:0 src/link -> /docs/a
    0:0 src/out -> ../../../../../../etc
    ");
    assert_eq!(world.remote.asked(), ["resolve", "checkout 1111"]);
    let kept = world.build("FROM scratch\nADD --keep-git-dir=true https://host/a.git /src/\n").files();
    assert!(kept.contains("644 0:0 src/.git/HEAD 1111"), "{kept}");
}

#[test]
fn c25_a_repository_is_cached_by_its_commit() {
    let world = World::new();
    let dockerfile = "FROM scratch\nADD git://host/a#main /src\n";
    world.remote.refer("git://host/a", "main", '1');
    world.remote.refer("git://host/a", "release", '1');
    world.build(dockerfile);
    assert_eq!(world.remote.asked(), ["resolve", "checkout 1111"]);
    assert!(world.build(dockerfile).seen.all_cached());
    assert!(world.build("FROM scratch\nADD git://host/a#release /src\n").seen.all_cached());
    assert_eq!(world.remote.asked(), ["resolve", "resolve"]);
    let named = format!("FROM scratch\nADD git://host/a#{} /src\n", "1".repeat(40));
    assert!(world.build(&named).seen.all_cached());
    assert!(world.remote.asked().is_empty());
    world.remote.refer("git://host/a", "main", '2');
    assert!(world.build(dockerfile).files().contains("src/commit 2222"));
    let error = world.refuse("FROM scratch\nADD --checksum=1111 git://host/a#main /src\n");
    assert!(error.contains("expected checksum to match 1111, got 2222"), "{error}");
}

#[test]
fn g12_a_folder_of_a_repository_never_leads_out_of_it() {
    let world = World::new();
    world.remote.refer("git://host/a", "HEAD", '1');
    for subdir in ["docs/a", "link", "../docs/a", "/docs/./a/"] {
        let files = world.build(&format!("FROM scratch\nADD git://host/a#:{subdir} /s/\n")).files();
        assert_eq!(files, "755 0:0 s/\n644 0:0 s/text text", "{subdir}");
    }
    for (subdir, expected) in [("out", "has no folder `out`"), ("none", "has no folder"), ("commit", "not a directory")]
    {
        let error = world.refuse(&format!("FROM scratch\nADD git://host/a?subdir={subdir} /s/\n"));
        assert!(error.contains(expected), "{error}");
    }
}

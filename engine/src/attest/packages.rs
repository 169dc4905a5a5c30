//! `find`: which packages an image's files tell of: deb and apk databases, and lock files of languages.
//!
//! rpm's databases (Berkeley DB, ndb, SQLite) are not read; that one is there is noted instead. Files are hostile: every
//! size and count is bounded, and what cannot be read is noted and left out.

use std::collections::BTreeSet;
use std::io::Read;

use layer::tree::{Follow, Node, NodeKind, Tree, TreeError};
use serde_json::Value;

/// The longest file that is read.
const MAX_FILE: u64 = 64 << 20;
/// How many files and folders are looked at.
const MAX_NODES: usize = 1_000_000;
/// How many packages are told.
const MAX_PACKAGES: usize = 100_000;
/// How long a name or version may be.
const MAX_WORD: usize = 256;
/// How deep dependencies of an old `package-lock.json` may be nested.
const MAX_DEPTH: usize = 64;

/// A package.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// The type of its package URL: `deb`, `apk`, `npm`.
    pub kind: &'static str,
    /// Who publishes it: `debian`.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its architecture, where it has one.
    pub architecture: String,
    /// The file that tells of it.
    pub found_in: String,
}

impl Package {
    /// Returns its package URL.
    pub fn url(&self) -> String {
        let mut url = format!("pkg:{}/", self.kind);
        if !self.namespace.is_empty() {
            url.push_str(&escape(&self.namespace));
            url.push('/');
        }
        // A scope of npm, or a vendor of composer, is a namespace of its own.
        url.push_str(&self.name.split('/').map(escape).collect::<Vec<_>>().join("/"));
        url.push('@');
        url.push_str(&escape(&self.version));
        if !self.architecture.is_empty() {
            url.push_str("?arch=");
            url.push_str(&escape(&self.architecture));
        }
        url
    }
}

fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'~');
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The packages, sorted.
    pub packages: Vec<Package>,
    /// What a reader has to know: what was not read.
    pub notes: Vec<String>,
}

/// Finds the packages that files tell of.
///
/// # Errors
///
/// When folders cannot be read.
pub(crate) fn find(tree: &Tree) -> Result<Found, TreeError> {
    let mut search =
        Search { tree, distribution: distribution(tree), packages: BTreeSet::new(), notes: BTreeSet::new() };
    let mut open = vec![tree.root()?];
    let mut seen = 0;
    'all: while let Some(folder) = open.pop() {
        for node in tree.read_dir(&folder)? {
            seen += 1;
            if seen > MAX_NODES {
                search.notes.insert(format!("only the first {MAX_NODES} files were looked at"));
                break 'all;
            }
            match node.kind {
                NodeKind::Directory if !matches!(&*node.path, b"proc" | b"sys" | b"dev") => open.push(node),
                NodeKind::File => search.file(&node),
                _ => {}
            }
        }
    }
    let Search { packages, mut notes, .. } = search;
    if packages.len() > MAX_PACKAGES {
        notes.insert(format!("only {MAX_PACKAGES} of {} packages are told", packages.len()));
    }
    Ok(Found { packages: packages.into_iter().take(MAX_PACKAGES).collect(), notes: notes.into_iter().collect() })
}

struct Search<'a> {
    tree: &'a Tree,
    /// The ID of the distribution: `debian`.
    distribution: String,
    packages: BTreeSet<Package>,
    notes: BTreeSet<String>,
}

impl Search<'_> {
    fn file(&mut self, node: &Node) {
        let path = String::from_utf8_lossy(&node.path).into_owned();
        let name = path.rsplit('/').next().unwrap_or_default();
        let (folder, _) = path.rsplit_once('/').unwrap_or_default();
        let read: fn(&str) -> Vec<Told> = match (folder, name) {
            ("var/lib/dpkg", "status") => |text| deb(text, true),
            ("var/lib/dpkg/status.d", name) if !name.ends_with(".md5sums") => |text| deb(text, false),
            ("lib/apk/db" | "usr/lib/apk/db", "installed") => apk,
            ("var/lib/rpm" | "usr/lib/sysimage/rpm" | "usr/share/rpm", "Packages" | "Packages.db" | "rpmdb.sqlite") => {
                self.notes.insert(format!("the rpm packages of /{path} were not read"));
                return;
            }
            (_, "package-lock.json" | "npm-shrinkwrap.json") => npm,
            (_, "Cargo.lock") => cargo,
            (_, "Gemfile.lock") => gem,
            (_, "composer.lock") => composer,
            (_, "requirements.txt") => requirements,
            (folder, "METADATA") if folder.ends_with(".dist-info") => python,
            (folder, "PKG-INFO") if folder.ends_with(".egg-info") => python,
            _ => return,
        };
        let Some(text) = self.read(node) else {
            self.notes.insert(format!("/{path} could not be read"));
            return;
        };
        let good = |word: &str| !word.is_empty() && word.len() <= MAX_WORD && !word.chars().any(char::is_control);
        for Told { kind, name, version, architecture } in read(&text) {
            if !good(&name) || !good(&version) || self.packages.len() > MAX_PACKAGES {
                continue;
            }
            let namespace = match kind {
                "deb" | "apk" => self.distribution.clone(),
                _ => String::new(),
            };
            let architecture = if good(&architecture) { architecture } else { String::new() };
            self.packages.insert(Package {
                kind,
                namespace,
                name,
                version,
                architecture,
                found_in: format!("/{path}"),
            });
        }
    }

    fn read(&self, node: &Node) -> Option<String> {
        let mut bytes = Vec::new();
        self.tree.open(node).ok()?.take(MAX_FILE + 1).read_to_end(&mut bytes).ok()?;
        (bytes.len() as u64 <= MAX_FILE).then(|| String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// What a file tells of a package.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    kind: &'static str,
    name: String,
    version: String,
    architecture: String,
}

impl Told {
    fn new(kind: &'static str, name: &str, version: &str) -> Self {
        Self { kind, name: name.trim().into(), version: version.trim().into(), architecture: String::new() }
    }
}

fn distribution(tree: &Tree) -> String {
    const MAX_RELEASE: u64 = 64 << 10;
    let read = |path: &str| {
        tree.lookup(path, Follow::Last).ok().flatten()?;
        tree.read_small(path, MAX_RELEASE).ok().flatten()
    };
    let bytes = read("etc/os-release").or_else(|| read("usr/lib/os-release")).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let id = text.lines().find_map(|line| line.strip_prefix("ID=")).unwrap_or_default().trim_matches('"');
    let good =
        id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
    if good { id.to_owned() } else { String::new() }
}

/// Returns the value of a field of a paragraph like those of dpkg and of Python's metadata.
fn field<'a>(paragraph: &'a str, name: &str) -> Option<&'a str> {
    paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
}

fn deb(text: &str, has_status: bool) -> Vec<Told> {
    let installed =
        |paragraph: &&str| !has_status || field(paragraph, "Status").is_some_and(|s| s.ends_with(" installed"));
    let read = |paragraph: &str| {
        let mut told = Told::new("deb", field(paragraph, "Package")?, field(paragraph, "Version")?);
        told.architecture = field(paragraph, "Architecture").unwrap_or_default().into();
        Some(told)
    };
    text.split("\n\n").filter(installed).filter_map(read).collect()
}

fn apk(text: &str) -> Vec<Told> {
    let read = |paragraph: &str| {
        let mut told = Told::new("apk", field(paragraph, "P")?, field(paragraph, "V")?);
        told.architecture = field(paragraph, "A").unwrap_or_default().into();
        Some(told)
    };
    text.split("\n\n").filter_map(read).collect()
}

fn python(text: &str) -> Vec<Told> {
    let head = text.split("\n\n").next().unwrap_or_default();
    let read = || Some(Told::new("pypi", &python_name(field(head, "Name")?), field(head, "Version")?));
    read().into_iter().collect()
}

fn requirements(text: &str) -> Vec<Told> {
    let read = |line: &str| {
        let line = line.split(['#', ';', '\\']).next().unwrap_or_default();
        let (name, version) = line.split_once("==")?;
        let name = name.split('[').next().unwrap_or_default();
        let version = version.split_whitespace().next()?;
        (!name.trim_start().starts_with('-')).then(|| Told::new("pypi", &python_name(name), version))
    };
    text.lines().filter_map(read).collect()
}

/// Writes a name as package URLs want it.
fn python_name(name: &str) -> String {
    name.trim().to_ascii_lowercase().replace('_', "-")
}

fn npm(text: &str) -> Vec<Told> {
    let Ok(lock) = serde_json::from_str::<Value>(text) else { return Vec::new() };
    let mut told = Vec::new();
    if let Some(packages) = lock["packages"].as_object() {
        for (path, package) in packages {
            let Some((_, name)) = path.rsplit_once("node_modules/") else { continue };
            let name = package["name"].as_str().unwrap_or(name);
            told.extend(package["version"].as_str().map(|version| Told::new("npm", name, version)));
        }
        return told;
    }
    let mut open = vec![(&lock["dependencies"], 0)];
    while let Some((dependencies, depth)) = open.pop() {
        for (name, package) in dependencies.as_object().into_iter().flatten() {
            told.extend(package["version"].as_str().map(|version| Told::new("npm", name, version)));
            if depth < MAX_DEPTH {
                open.push((&package["dependencies"], depth + 1));
            }
        }
    }
    told
}

fn composer(text: &str) -> Vec<Told> {
    let Ok(lock) = serde_json::from_str::<Value>(text) else { return Vec::new() };
    let all = ["packages", "packages-dev"].iter().filter_map(|list| lock[*list].as_array()).flatten();
    all.filter_map(|package| Some(Told::new("composer", package["name"].as_str()?, package["version"].as_str()?)))
        .collect()
}

/// Its TOML is written by a program, one member a line.
fn cargo(text: &str) -> Vec<Told> {
    let read = |package: &str| {
        let value = |name: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix('='))?;
            Some(line.trim().trim_matches('"').to_owned())
        };
        Some(Told::new("cargo", &value("name")?, &value("version")?))
    };
    text.split("[[package]]").skip(1).filter_map(read).collect()
}

fn gem(text: &str) -> Vec<Told> {
    let gems = text.lines().skip_while(|line| *line != "GEM").skip(1).take_while(|line| line.starts_with(' '));
    let read = |line: &str| {
        let line = line.strip_prefix("    ").filter(|line| !line.starts_with(' '))?;
        let (name, version) = line.split_once(" (")?;
        Some(Told::new("gem", name, version.strip_suffix(')')?))
    };
    gems.filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_file_is_read() {
        let show = |told: Vec<Told>| -> Vec<String> {
            told.iter().map(|told| format!("{} {} {}", told.name, told.version, told.architecture)).collect()
        };
        let status = "Package: a\nStatus: install ok installed\nVersion: 1:2-3\nArchitecture: amd64\nDescription: x\n y\n\n\
                      Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n";
        assert_eq!(show(deb(status, true)), ["a 1:2-3 amd64"]);
        assert_eq!(show(apk("C:x\nP:musl\nV:1.2-r0\nA:x86_64\nF:lib\n\nP:b\nV:1\n")), ["musl 1.2-r0 x86_64", "b 1 "]);
        assert_eq!(show(python("Metadata-Version: 2.1\nName: Foo_Bar\nVersion: 1.0\n\nName: no\n")), ["foo-bar 1.0 "]);
        assert_eq!(show(requirements("-r x\na==1 # y\nb[c]==2 \\\n  --hash=sha256:0\nd>=3\n")), ["a 1 ", "b 2 "]);
        let lock = r#"{"packages":{"":{"version":"9"},"node_modules/@s/a":{"version":"1"},"node_modules/a/node_modules/b":{"version":"2"}}}"#;
        assert_eq!(show(npm(lock)), ["@s/a 1 ", "b 2 "]);
        let lock = r#"{"dependencies":{"a":{"version":"1","dependencies":{"b":{"version":"2"}}}}}"#;
        assert_eq!(show(npm(lock)), ["a 1 ", "b 2 "]);
        let lock = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\ndependencies = [\n \"b\",\n]\n";
        assert_eq!(show(cargo(lock)), ["a 1.0.0 "]);
        let lock = "GEM\n  remote: x\n  specs:\n    rack (2.0)\n      other (>= 1)\n\nPLATFORMS\n    ruby (1)\n";
        assert_eq!(show(gem(lock)), ["rack 2.0 "]);
        let lock = r#"{"packages":[{"name":"v/a","version":"v1"}],"packages-dev":[{"name":"v/b","version":"2"}]}"#;
        assert_eq!(show(composer(lock)), ["v/a v1 ", "v/b 2 "]);
        for read in [npm, composer, cargo, gem, python, requirements, apk] {
            for junk in ["", "\0\u{fffd}", "[", "{\"packages\":3}", "[[package]]", "GEM", "=="] {
                assert_eq!(read(junk), [], "{junk}");
            }
        }
    }

    #[test]
    fn a_tree_is_searched_and_nothing_leads_out_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            store::atomic_file::write(&path, text.as_bytes()).unwrap();
        };
        write("etc/os-release", "NAME=x\nID=debian\n");
        write("var/lib/dpkg/status.d/base", "Package: base\nVersion: 12\nArchitecture: amd64\n");
        write("app/package-lock.json", r#"{"packages":{"node_modules/@s/a":{"version":"1"}}}"#);
        write("var/lib/rpm/rpmdb.sqlite", "SQLite");
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("app/Cargo.lock")).unwrap();
        std::os::unix::fs::symlink("/", folder.path().join("app/root")).unwrap();
        let found = find(&Tree::of_folder(folder.path()).unwrap()).unwrap();
        let urls: Vec<String> = found.packages.iter().map(Package::url).collect();
        assert_eq!(urls, ["pkg:deb/debian/base@12?arch=amd64", "pkg:npm/%40s/a@1"]);
        assert_eq!(found.notes, ["the rpm packages of /var/lib/rpm/rpmdb.sqlite were not read"]);
    }
}

//! `COPY` and `ADD`: which sources they select, and where those go.

use oci::Digest;

use super::{Evaluator, Result, StageWalk, absolute, file_name};
use crate::dockerfile::{AddFiles, CopyFiles, Escape, Statement, Transfer, expand};
use crate::fault::Fault;
use crate::files::copy::Selection;
use crate::files::path::clean;
use crate::git::{GitSource, GitSourceError};
use crate::graph::{CopyOperation, CopySource, FetchOperation, HttpOperation, Origin, StepIndex, StepKind};
use crate::image_state::Env;
use crate::remote::without_credentials;

impl Evaluator<'_> {
    pub(super) fn copy(
        &mut self,
        walk: &mut StageWalk,
        copy: &CopyFiles,
        statement: &Statement,
        escape: Escape,
    ) -> Result<()> {
        let origin = match &copy.from {
            Some(from) => self.origin(from, walk.index, statement)?,
            None => Origin::Context,
        };
        let transfer = self.at(statement, expand_transfer(&copy.transfer, &walk.state.env, escape))?;
        for source in &transfer.sources {
            let message = match Place::of(source) {
                Place::Local => continue,
                Place::Url => "source can't be a URL for COPY",
                Place::Git(_) => "source can't be a git ref for COPY",
            };
            let fault = Fault::new(format!("{message}: `{}`", without_credentials(source))).hint("ADD can fetch it");
            return Err(self.fault(fault, Some(&statement.span)));
        }
        let mut said = String::from("COPY");
        if copy.parents {
            said.push_str(" --parents");
        }
        let selected = |source: &String| CopySource::Files {
            origin: origin.clone(),
            selection: selection(source, copy.parents, &transfer.exclude),
            unpack: false,
        };
        let sources = transfer.sources.iter().map(selected).collect();
        self.transfer(walk, transfer, sources, said, statement)
    }

    pub(super) fn add(
        &mut self,
        walk: &mut StageWalk,
        add: &AddFiles,
        statement: &Statement,
        escape: Escape,
    ) -> Result<()> {
        let transfer = self.at(statement, expand_transfer(&add.transfer, &walk.state.env, escape))?;
        let checksum = add.checksum.as_ref().map(|text| expand::word(text, &walk.state.env, escape)).transpose();
        let checksum = self.at(statement, checksum)?.filter(|checksum| !checksum.is_empty());
        let places: Vec<Place> = transfer.sources.iter().map(|source| Place::of(source)).collect();
        if checksum.is_some() {
            let message = match places.as_slice() {
                [Place::Local] => Some("checksum requires HTTP(S) or Git sources"),
                [_] if transfer.inline_files.is_empty() => None,
                _ => Some("checksum can't be specified for multiple sources"),
            };
            if let Some(message) = message {
                return Err(self.fault(Fault::new(message), Some(&statement.span)));
            }
        }
        let mut sources = Vec::new();
        for (source, place) in transfer.sources.iter().zip(places) {
            let exclude = || transfer.exclude.clone();
            sources.push(match place {
                Place::Local => CopySource::Files {
                    origin: Origin::Context,
                    selection: selection(source, false, &transfer.exclude),
                    unpack: add.unpack.unwrap_or(true),
                },
                Place::Url => {
                    let checksum = self.at(statement, checksum.as_deref().map(content_checksum).transpose())?;
                    let operation = FetchOperation::Http(HttpOperation { url: source.clone(), checksum });
                    let step = self.fetch(walk, operation, &without_credentials(source), statement);
                    // Only the server knows what the one file is called.
                    let selection = Selection { path: b"*".to_vec(), exclude: exclude(), ..Selection::default() };
                    let unpack = add.unpack.unwrap_or(false);
                    CopySource::Files { origin: Origin::Step(Some(step)), selection, unpack }
                }
                Place::Git(git) => {
                    let mut git = self.at(statement, git)?;
                    if let Some(checksum) = &checksum {
                        self.at(statement, git.expect(checksum))?;
                    }
                    self.at(statement, git.fixed_commit().map(|_| ()))?;
                    match (git.keep_git_dir, add.keep_git_dir) {
                        (Some(one), Some(other)) if one != other => {
                            let fault = Fault::new("inconsistent keep-git-dir configuration");
                            return Err(self.fault(fault, Some(&statement.span)));
                        }
                        (one, other) => git.keep_git_dir = one.or(other),
                    }
                    let shown = git.shown();
                    let step = self.fetch(walk, FetchOperation::Git(git), &shown, statement);
                    let selection = Selection { exclude: exclude(), literal: true, ..Selection::default() };
                    CopySource::Files { origin: Origin::Step(Some(step)), selection, unpack: false }
                }
            });
        }
        self.transfer(walk, transfer, sources, "ADD".into(), statement)
    }

    fn fetch(&mut self, walk: &StageWalk, operation: FetchOperation, shown: &str, statement: &Statement) -> StepIndex {
        let name = format!("[{}fetch] {shown}", self.label(walk.index));
        self.push(walk, StepKind::Fetch(operation), name, statement)
    }

    fn transfer(
        &mut self,
        walk: &mut StageWalk,
        transfer: Transfer,
        mut sources: Vec<CopySource>,
        mut said: String,
        statement: &Statement,
    ) -> Result<()> {
        for (flag, value) in [("chown", &transfer.chown), ("chmod", &transfer.chmod)] {
            if let Some(value) = value {
                said.push_str(&format!(" --{flag}={value}"));
            }
        }
        for source in &transfer.sources {
            said.push_str(&format!(" {}", without_credentials(source)));
        }
        for file in transfer.inline_files {
            said.push_str(&format!(" <<{}", file.name));
            let name = self.at(statement, file_name(&file.name))?;
            sources.push(CopySource::Inline { name, content: file.content });
        }
        said.push_str(&format!(" {} # buildkit", transfer.destination));
        let base = walk.state.top;
        // BuildKit copies in place where there is --chmod.
        let is_link = transfer.link && transfer.chmod.is_none();
        let operation = CopyOperation {
            base: if is_link { None } else { base },
            sources,
            destination: destination(&transfer.destination, &walk.state.working_dir()),
            chown: transfer.chown,
            chmod: transfer.chmod,
        };
        let name = self.step_name(walk, &without_credentials(&statement.text));
        let mut step = self.push(walk, StepKind::Copy(operation), name.clone(), statement);
        if is_link {
            step = self.push(walk, StepKind::Merge { base, top: step }, format!("{name} (link)"), statement);
        }
        walk.state.note_step(said, step);
        Ok(())
    }
}

fn expand_transfer(transfer: &Transfer, env: &Env, escape: Escape) -> std::result::Result<Transfer, Fault> {
    let word = |text: &String| expand::word(text, env, escape);
    let mut expanded = transfer.clone();
    expanded.sources = transfer.sources.iter().map(word).collect::<std::result::Result<_, _>>()?;
    expanded.exclude = transfer.exclude.iter().map(word).collect::<Result<_, _>>()?;
    expanded.destination = word(&transfer.destination)?;
    // A flag that comes out empty, of a variable that is not set, is no flag.
    let flag =
        |text: &Option<String>| text.as_ref().map(word).transpose().map(|text| text.filter(|text| !text.is_empty()));
    expanded.chown = flag(&transfer.chown)?;
    expanded.chmod = flag(&transfer.chmod)?;
    for file in expanded.inline_files.iter_mut().filter(|file| file.expand) {
        // A body that is no text has no variables.
        if let Ok(text) = std::str::from_utf8(&file.content) {
            file.content = expand::content(text, env)?.text.into_bytes();
        }
    }
    Ok(expanded)
}

/// Returns what a source of `COPY` selects. With `--parents`, what stands before `/./` is not kept.
fn selection(source: &str, parents: bool, exclude: &[String]) -> Selection {
    let exclude = exclude.to_vec();
    if !parents {
        return Selection { path: clean(source.as_bytes()), exclude, ..Selection::default() };
    }
    let (above, pattern) = source.split_once("/./").unwrap_or(("", source));
    let pattern = clean(pattern.as_bytes());
    Selection {
        path: clean(above.as_bytes()),
        include: Some(String::from_utf8_lossy(&pattern).into_owned()),
        exclude,
        literal: false,
    }
}

/// Returns where a `COPY` goes: absolute, with the `/` or `/.` at its end that makes it a folder.
fn destination(written: &str, working_dir: &str) -> String {
    let written = if written.is_empty() || written == "." { "./" } else { written };
    let path = if written.starts_with('/') { absolute(written) } else { absolute(&format!("{working_dir}/{written}")) };
    let is_folder = written.ends_with('/') || written.ends_with("/.");
    if is_folder && path != "/" { path + "/" } else { path }
}

/// Where a source is, by how it is written.
enum Place {
    Local,
    Url,
    Git(std::result::Result<GitSource, GitSourceError>),
}

impl Place {
    fn of(source: &str) -> Self {
        match GitSource::parse(source) {
            Some(git) => Self::Git(git),
            None if ["http://", "https://"].iter().any(|prefix| source.starts_with(prefix)) => Self::Url,
            None => Self::Local,
        }
    }
}

/// Reads the `--checksum` of a URL.
fn content_checksum(text: &str) -> std::result::Result<Digest, Fault> {
    let fault = match text.split_once(':') {
        None => Fault::new(format!("invalid checksum digest format: `{text}`")),
        Some((algorithm, _)) if !matches!(algorithm, "sha256" | "sha512") => {
            Fault::new(format!("unsupported digest algorithm: `{algorithm}`"))
        }
        Some(_) => match text.parse() {
            Ok(digest) => return Ok(digest),
            Err(error) => Fault::because(format!("invalid checksum digest `{text}`"), &error),
        },
    };
    Err(fault.hint("write it as `--checksum=sha256:` and 64 hexadecimal characters"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c2_destinations_keep_the_slash_that_makes_them_folders() {
        for (written, expected) in [
            ("", "/w/"),
            (".", "/w/"),
            ("./", "/w/"),
            ("a", "/w/a"),
            ("a/", "/w/a/"),
            ("/a/.", "/a/"),
            ("../b", "/b"),
            ("/", "/"),
            ("..", "/"),
        ] {
            assert_eq!(destination(written, "/w"), expected, "{written}");
        }
    }

    #[test]
    fn c18_the_pivot_cuts_what_is_not_kept() {
        let selection = |source: &str| {
            let selection = selection(source, true, &[]);
            (String::from_utf8(selection.path).expect("UTF-8"), selection.include.expect("a pattern"))
        };
        assert_eq!(selection("a/b/c"), (String::new(), "a/b/c".into()));
        assert_eq!(selection("a/./b/c"), ("a".into(), "b/c".into()));
        assert_eq!(selection("/a/./*"), ("a".into(), "*".into()));
    }
}

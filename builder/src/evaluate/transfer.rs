//! `COPY` and `ADD`: which sources they select, and where those go.

use super::{Evaluator, Result, StageWalk, absolute, check_file_name};
use crate::dockerfile::{AddFiles, CopyFiles, Escape, Statement, Transfer, expand};
use crate::fault::Fault;
use crate::files::copy::Selection;
use crate::files::path::clean;
use crate::graph::{CopyOperation, CopySource, Origin, StepKind};
use crate::image_state::Env;

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
        if let Some(url) = transfer.sources.iter().find(|source| is_remote(source)) {
            let fault = Fault::new(format!("source can't be a URL for COPY: `{url}`")).hint("ADD can fetch it");
            return Err(self.fault(fault, Some(&statement.span)));
        }
        let mut said = String::from("COPY");
        if copy.parents {
            said.push_str(" --parents");
        }
        self.transfer(walk, transfer, origin, copy.parents, false, said, statement);
        Ok(())
    }

    pub(super) fn add(
        &mut self,
        walk: &mut StageWalk,
        add: &AddFiles,
        statement: &Statement,
        escape: Escape,
    ) -> Result<()> {
        let transfer = self.at(statement, expand_transfer(&add.transfer, &walk.state.env, escape))?;
        let remote = transfer.sources.iter().find(|source| is_remote(source));
        if let Some(url) = remote {
            let fault = Fault::new(format!("ADD of a URL or a git repository is not supported yet: `{url}`"));
            return Err(self.fault(fault.hint("fetch it in a RUN step"), Some(&statement.span)));
        }
        if add.checksum.is_some() {
            let fault = Fault::new("checksum can't be specified for COPY or ADD of local files");
            return Err(self.fault(fault, Some(&statement.span)));
        }
        self.transfer(walk, transfer, Origin::Context, false, add.unpack.unwrap_or(true), "ADD".into(), statement);
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "what COPY and ADD have in common, called by these two alone")]
    fn transfer(
        &mut self,
        walk: &mut StageWalk,
        transfer: Transfer,
        origin: Origin,
        parents: bool,
        unpack: bool,
        mut said: String,
        statement: &Statement,
    ) {
        for (flag, value) in [("chown", &transfer.chown), ("chmod", &transfer.chmod)] {
            if let Some(value) = value {
                said.push_str(&format!(" --{flag}={value}"));
            }
        }
        let mut sources = Vec::new();
        for source in &transfer.sources {
            said.push_str(&format!(" {source}"));
            let selection = selection(source, parents, &transfer.exclude);
            sources.push(CopySource::Files { origin: origin.clone(), selection });
        }
        for file in transfer.inline_files {
            said.push_str(&format!(" <<{}", file.name));
            sources.push(CopySource::Inline { name: file.name, content: file.content });
        }
        said.push_str(&format!(" {} # buildkit", transfer.destination));
        let base = walk.state.top;
        let operation = CopyOperation {
            base: if transfer.link { None } else { base },
            sources,
            destination: destination(&transfer.destination, &walk.state.working_dir()),
            chown: transfer.chown,
            chmod: transfer.chmod,
            unpack,
        };
        let name = self.step_name(walk, &statement.text);
        let mut step = self.push(walk, StepKind::Copy(operation), name.clone(), statement);
        if transfer.link {
            step = self.push(walk, StepKind::Merge { base, top: step }, format!("{name} (link)"), statement);
        }
        walk.state.note_step(said, step);
    }
}

fn expand_transfer(transfer: &Transfer, env: &Env, escape: Escape) -> std::result::Result<Transfer, Fault> {
    let word = |text: &String| expand::word(text, env, escape);
    transfer.inline_files.iter().try_for_each(|file| check_file_name(&file.name))?;
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

fn is_remote(source: &str) -> bool {
    ["http://", "https://", "git://", "ssh://", "git@"].iter().any(|prefix| source.starts_with(prefix))
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

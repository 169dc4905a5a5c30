//! [`Linter`]: takes what lint rules find, and leaves out what the Dockerfile or the caller does not want to hear.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::dockerfile::{Dockerfile, Rule, Span, Warning};
use crate::fault::Fault;

/// What `# check=skip=A,B;error=true` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Options {
    skip: Names,
    experimental: Names,
    /// Whether a finding makes the build fail.
    error: bool,
}

/// Some rules, or all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Names {
    all: bool,
    names: BTreeSet<String>,
}

impl Names {
    fn parse(value: &str) -> Self {
        let value = value.trim();
        if value == "all" {
            return Self { all: true, names: BTreeSet::new() };
        }
        Self { all: false, names: value.split(',').map(|name| name.trim().to_owned()).collect() }
    }

    fn has(&self, rule: Rule) -> bool {
        self.all || self.names.contains(rule.name())
    }
}

impl Options {
    fn parse(text: &str) -> Result<Self, Fault> {
        let invalid = |option: &str| {
            Fault::new(format!("invalid check option {option:?}"))
                .hint("the form is `# check=skip=RULE,RULE;error=true`, or `skip=all`")
        };
        let mut options = Self::default();
        for option in text.split(';').map(str::trim).filter(|option| !option.is_empty()) {
            let (key, value) = option.split_once('=').ok_or_else(|| invalid(option))?;
            match key.trim() {
                "skip" => options.skip = Names::parse(value),
                "experimental" => options.experimental = Names::parse(value),
                "error" => {
                    options.error = match value.trim() {
                        "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
                        "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
                        _ => return Err(invalid(option)),
                    }
                }
                key => return Err(invalid(key)),
            }
        }
        Ok(options)
    }
}

/// The build argument that takes the place of the `check` directive.
const ARGUMENT: &str = "BUILDKIT_DOCKERFILE_CHECK";

/// Takes findings, from the text and from evaluating it.
#[derive(Debug, Default)]
pub(crate) struct Linter {
    options: Options,
    /// What a `# check=` comment right above an instruction says, by the instruction's first line.
    by_line: HashMap<u32, Options>,
    found: RefCell<Vec<Warning>>,
}

impl Linter {
    /// Begins with what the text alone shows. A fault comes with the line of the directive, if there is one.
    pub(crate) fn new(
        dockerfile: &Dockerfile,
        build_args: &BTreeMap<String, String>,
    ) -> Result<Self, (Fault, Option<u32>)> {
        let options = match (build_args.get(ARGUMENT), &dockerfile.directives.check) {
            (Some(text), _) => Options::parse(text).map_err(|fault| (fault, None))?,
            (None, Some(directive)) => {
                Options::parse(&directive.value).map_err(|fault| (fault, Some(directive.line)))?
            }
            (None, None) => Options::default(),
        };
        let above = dockerfile.statements.iter().filter_map(|statement| {
            let mut comments = statement.comments.iter();
            let value = comments.find_map(|comment| {
                let (key, value) = comment.split_once('=')?;
                key.trim().eq_ignore_ascii_case("check").then(|| value.trim())
            })?;
            // What comes after the first blank is for people. What cannot be read is no wish.
            let options = Options::parse(value.split(' ').next().unwrap_or_default()).ok()?;
            Some((statement.span.first_line, options))
        });
        let linter = Self { options, by_line: above.collect(), found: RefCell::default() };
        for warning in &dockerfile.warnings {
            linter.report(warning.rule, &warning.span, warning.message.clone());
        }
        Ok(linter)
    }

    /// Takes a finding, unless it is not wanted or there already.
    pub(crate) fn report(&self, rule: Rule, span: &Span, message: String) {
        let here = self.by_line.get(&span.first_line);
        let options = || std::iter::once(&self.options).chain(here);
        let unwanted = if rule.is_experimental() {
            !options().any(|options| options.experimental.has(rule))
        } else {
            options().any(|options| options.skip.has(rule))
        };
        let warning = Warning { rule, message, span: span.clone() };
        let mut found = self.found.borrow_mut();
        if !unwanted && !found.contains(&warning) {
            found.push(warning);
        }
    }

    /// Returns the findings, in the order of the file.
    pub(crate) fn found(&self) -> Vec<Warning> {
        let mut found = self.found.borrow().clone();
        found.sort_by_key(|warning| warning.span.first_line);
        found
    }

    /// Refuses the build when there are findings and the Dockerfile wants it so.
    pub(crate) fn check(&self) -> Result<(), Fault> {
        let found = self.found.borrow();
        if !self.options.error || found.is_empty() {
            return Ok(());
        }
        let rules: BTreeSet<&str> = found.iter().map(|warning| warning.rule.name()).collect();
        let rules: Vec<&str> = rules.into_iter().collect();
        let fault = Fault::new(format!("lint violation found for rules: {}", rules.join(", ")));
        Err(fault.hint("the Dockerfile asks for this with `# check=error=true`; `--check` tells where each is"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::parse;

    fn found(text: &str, argument: Option<&str>) -> Vec<String> {
        let build_args = argument.map(|text| (ARGUMENT.to_owned(), text.to_owned())).into_iter().collect();
        let linter = Linter::new(&parse(text.as_bytes()).expect("a Dockerfile"), &build_args).expect("options");
        linter.found().iter().map(|warning| format!("{}:{}", warning.span.first_line, warning.rule.name())).collect()
    }

    #[test]
    fn p4_rules_are_skipped_by_directive_argument_or_comment() {
        let text = "FROM scratch\nMAINTAINER x\nCMD y\n";
        let both = ["2:MaintainerDeprecated", "3:JSONArgsRecommended"];
        assert_eq!(found(text, None), both);
        assert_eq!(found(&format!("# check=skip=all\n{text}"), None), [""; 0]);
        let one = format!("# check=skip=MaintainerDeprecated , Other; error=false\n{text}");
        assert_eq!(found(&one, None), ["4:JSONArgsRecommended"]);
        assert_eq!(found(&one, Some("skip=JSONArgsRecommended")), ["3:MaintainerDeprecated"], "the argument wins");
        let comment = text.replace("CMD", "# check=skip=JSONArgsRecommended because\nCMD");
        assert_eq!(found(&comment, None), ["2:MaintainerDeprecated"]);
    }

    #[test]
    fn p4_experimental_rules_are_asked_for() {
        let text = "# something else\nFROM scratch AS base\n";
        assert_eq!(found(text, None), [""; 0]);
        let rule = "InvalidDefinitionDescription";
        assert_eq!(found(text, Some(&format!("experimental={rule}"))), [format!("2:{rule}")]);
        assert_eq!(found(text, Some("experimental=all;skip=all")), [format!("2:{rule}")]);
        assert_eq!(found("# base is the base\nFROM scratch AS base\n", Some("experimental=all")), [""; 0]);
    }

    #[test]
    fn p4_what_is_no_option_is_refused() {
        for text in ["skip", "error=perhaps", "other=1"] {
            assert!(Options::parse(text).is_err(), "{text}");
        }
    }
}

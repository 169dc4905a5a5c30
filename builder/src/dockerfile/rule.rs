//! [`Rule`]: the lint rules, named as BuildKit names them.

/// A lint rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "`description` tells what each is for")]
pub enum Rule {
    StageNameCasing,
    FromAsCasing,
    NoEmptyContinuation,
    ConsistentInstructionCasing,
    DuplicateStageName,
    ReservedStageName,
    JSONArgsRecommended,
    MaintainerDeprecated,
    UndefinedArgInFrom,
    WorkdirRelativePath,
    UndefinedVar,
    MultipleInstructionsDisallowed,
    LegacyKeyValueFormat,
    InvalidBaseImagePlatform,
    RedundantTargetPlatform,
    SecretsUsedInArgOrEnv,
    InvalidDefaultArgInFrom,
    FromPlatformFlagConstDisallowed,
    CopyIgnoredFile,
    InvalidDefinitionDescription,
    ExposeProtoCasing,
    ExposeInvalidFormat,
}

impl Rule {
    /// All rules.
    pub const ALL: [Self; 22] = [
        Self::StageNameCasing,
        Self::FromAsCasing,
        Self::NoEmptyContinuation,
        Self::ConsistentInstructionCasing,
        Self::DuplicateStageName,
        Self::ReservedStageName,
        Self::JSONArgsRecommended,
        Self::MaintainerDeprecated,
        Self::UndefinedArgInFrom,
        Self::WorkdirRelativePath,
        Self::UndefinedVar,
        Self::MultipleInstructionsDisallowed,
        Self::LegacyKeyValueFormat,
        Self::InvalidBaseImagePlatform,
        Self::RedundantTargetPlatform,
        Self::SecretsUsedInArgOrEnv,
        Self::InvalidDefaultArgInFrom,
        Self::FromPlatformFlagConstDisallowed,
        Self::CopyIgnoredFile,
        Self::InvalidDefinitionDescription,
        Self::ExposeProtoCasing,
        Self::ExposeInvalidFormat,
    ];

    /// Returns the name, as `# check=skip=` wants it.
    pub fn name(self) -> &'static str {
        self.texts().0
    }

    /// Returns what the rule asks for, as one sentence.
    pub fn description(self) -> &'static str {
        self.texts().1
    }

    /// Returns where Docker documents the rule; one rule has no page.
    pub fn url(self) -> Option<String> {
        const PAGES: &str = "https://docs.docker.com/go/dockerfile/rule/";
        if self == Self::InvalidBaseImagePlatform {
            return None;
        }
        let mut page = String::new();
        let name: Vec<char> = self.name().chars().collect();
        for (index, c) in name.iter().enumerate() {
            // A word begins after a small letter, and at the last capital of an acronym.
            let begins = index > 0
                && c.is_ascii_uppercase()
                && (name[index - 1].is_ascii_lowercase() || name.get(index + 1).is_some_and(char::is_ascii_lowercase));
            if begins {
                page.push('-');
            }
            page.push(c.to_ascii_lowercase());
        }
        Some(format!("{PAGES}{page}/"))
    }

    /// Tells whether the rule is looked at only when it is asked for.
    pub fn is_experimental(self) -> bool {
        self == Self::InvalidDefinitionDescription
    }

    fn texts(self) -> (&'static str, &'static str) {
        match self {
            Self::StageNameCasing => ("StageNameCasing", "Stage names should be lowercase"),
            Self::FromAsCasing => ("FromAsCasing", "The 'as' keyword should match the case of the 'from' keyword"),
            Self::NoEmptyContinuation => {
                ("NoEmptyContinuation", "Empty continuation lines will become errors in a future release")
            }
            Self::ConsistentInstructionCasing => (
                "ConsistentInstructionCasing",
                "All commands within the Dockerfile should use the same casing (either upper or lower)",
            ),
            Self::DuplicateStageName => ("DuplicateStageName", "Stage names should be unique"),
            Self::ReservedStageName => ("ReservedStageName", "Reserved words should not be used as stage names"),
            Self::JSONArgsRecommended => (
                "JSONArgsRecommended",
                "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
            ),
            Self::MaintainerDeprecated => (
                "MaintainerDeprecated",
                "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
            ),
            Self::UndefinedArgInFrom => ("UndefinedArgInFrom", "FROM command must use declared ARGs"),
            Self::WorkdirRelativePath => (
                "WorkdirRelativePath",
                "Relative workdir without an absolute workdir declared within the build can have unexpected results if \
                 the base image changes",
            ),
            Self::UndefinedVar => ("UndefinedVar", "Variables should be defined before their use"),
            Self::MultipleInstructionsDisallowed => (
                "MultipleInstructionsDisallowed",
                "Multiple instructions of the same type should not be used in the same stage",
            ),
            Self::LegacyKeyValueFormat => {
                ("LegacyKeyValueFormat", "Legacy key/value format with whitespace separator should not be used")
            }
            Self::InvalidBaseImagePlatform => {
                ("InvalidBaseImagePlatform", "Base image platform does not match expected target platform")
            }
            Self::RedundantTargetPlatform => (
                "RedundantTargetPlatform",
                "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
            ),
            Self::SecretsUsedInArgOrEnv => {
                ("SecretsUsedInArgOrEnv", "Sensitive data should not be used in the ARG or ENV commands")
            }
            Self::InvalidDefaultArgInFrom => (
                "InvalidDefaultArgInFrom",
                "Default value for global ARG results in an empty or invalid base image name",
            ),
            Self::FromPlatformFlagConstDisallowed => {
                ("FromPlatformFlagConstDisallowed", "FROM --platform flag should not use a constant value")
            }
            Self::CopyIgnoredFile => ("CopyIgnoredFile", "Attempting to Copy file that is excluded by .dockerignore"),
            Self::InvalidDefinitionDescription => (
                "InvalidDefinitionDescription",
                "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If \
                 this is not intended to be a description comment, add an empty line or comment between the \
                 instruction and the comment.",
            ),
            Self::ExposeProtoCasing => ("ExposeProtoCasing", "Protocol in EXPOSE instruction should be lowercase"),
            Self::ExposeInvalidFormat => (
                "ExposeInvalidFormat",
                "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in \
                 a future release",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Rule;

    #[test]
    fn every_rule_has_a_page_of_its_own_but_one() {
        let page = |rule: Rule| rule.url().and_then(|url| Some(url.rsplit('/').nth(1)?.to_owned()));
        assert_eq!(page(Rule::JSONArgsRecommended).as_deref(), Some("json-args-recommended"));
        assert_eq!(page(Rule::UndefinedArgInFrom).as_deref(), Some("undefined-arg-in-from"));
        assert_eq!(page(Rule::SecretsUsedInArgOrEnv).as_deref(), Some("secrets-used-in-arg-or-env"));
        let pages: std::collections::BTreeSet<_> = Rule::ALL.into_iter().filter_map(page).collect();
        assert_eq!(pages.len(), Rule::ALL.len() - 1);
    }
}

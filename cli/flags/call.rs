//! `--call`: a question about the Dockerfile in place of a build.

/// What is asked, and how the answer looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) question: Question,
    pub(crate) format: Format,
    /// Whether findings leave the exit code at 0.
    pub(crate) ignore_status: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// None: build.
    Build,
    Check,
    Outline,
    Targets,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    Json,
    /// SARIF 2.1.0, for `check` only.
    Sarif,
}

impl Call {
    /// What `--check` is short for.
    pub(crate) const CHECK: Self = Self { question: Question::Check, format: Format::Text, ignore_status: false };
}

/// Reads `check`, `outline` or `targets`, with `,format=FORMAT` and `,ignorestatus=true` after it.
pub(crate) fn parse(text: &str) -> Result<Call, String> {
    let bad = || format!("`{text}` is not of the form build|check|outline|targets[,format=text|json|sarif]");
    let mut call = Call { question: Question::Build, ..Call::CHECK };
    for field in super::fields(text).map_err(|_| bad())? {
        match (field.0.as_str(), field.1.as_deref()) {
            ("build", None) => call.question = Question::Build,
            // As BuildKit and buildx call it.
            ("check" | "lint", None) => call.question = Question::Check,
            ("outline", None) => call.question = Question::Outline,
            ("targets", None) => call.question = Question::Targets,
            ("format", Some("text")) => call.format = Format::Text,
            ("format", Some("json")) => call.format = Format::Json,
            ("format", Some("sarif")) => call.format = Format::Sarif,
            ("ignorestatus", Some("true") | None) => call.ignore_status = true,
            ("ignorestatus", Some("false")) => call.ignore_status = false,
            _ => return Err(bad()),
        }
    }
    if call.format == Format::Sarif && call.question != Question::Check {
        return Err(format!("`{text}`: only the findings of `check` have the form of SARIF"));
    }
    Ok(call)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_a_question_and_a_form() {
        assert_eq!(parse("check"), Ok(Call::CHECK));
        assert_eq!(parse("check,format=sarif"), Ok(Call { format: Format::Sarif, ..Call::CHECK }));
        let outline = Call { question: Question::Outline, format: Format::Json, ignore_status: true };
        assert_eq!(parse("outline,format=json,ignorestatus"), Ok(outline));
        for bad in ["", "chekc", "outline,format=sarif", "check,format=xml", "check,other=1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}

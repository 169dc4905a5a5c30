//! `--explain`: how it is said what the build cache had.

use std::path::PathBuf;

/// How, and where to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Explain {
    /// For programs.
    pub(crate) json: bool,
    /// A file; otherwise text goes to standard error, and JSON to standard output.
    pub(crate) dest: Option<PathBuf>,
}

/// Reads `text`, `json`, and `,dest=FILE` after either.
pub(crate) fn parse(text: &str) -> Result<Explain, String> {
    let bad = || format!("`{text}` is not of the form text|json[,dest=FILE]");
    let mut explain = Explain::default();
    for field in super::fields(text).map_err(|_| bad())? {
        match (field.0.as_str(), field.1) {
            ("text", None) => explain.json = false,
            ("json", None) => explain.json = true,
            ("dest", Some(path)) if !path.is_empty() => explain.dest = Some(path.into()),
            _ => return Err(bad()),
        }
    }
    Ok(explain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn explain_takes_a_form_and_a_file() {
        let file = |json| Explain { json, dest: Some("a b".into()) };
        assert_eq!(parse("text"), Ok(Explain::default()));
        assert_eq!(parse("json"), Ok(Explain { json: true, dest: None }));
        assert_eq!(parse("json,dest=a b"), Ok(file(true)));
        assert_eq!(parse("dest=a b"), Ok(file(false)));
        for bad in ["", "xml", "json,dest=", "json,dest"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}

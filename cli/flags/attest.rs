//! `--attest type=provenance|sbom`, `--provenance` and `--sbom`.

use anyhow::Context;
use engine::attest::{Attestations, ProvenanceMode};

use crate::failure::Failure;

/// Reads all of them; `--provenance` and `--sbom` win over `--attest`, and each over what came before it.
pub(crate) fn parse(attests: &[String], provenance: Option<&str>, sbom: Option<&str>) -> anyhow::Result<Attestations> {
    let mut wanted = Attestations::default();
    for text in attests {
        let fields = super::fields(text).context("--attest")?;
        let kind = fields.iter().find(|(key, _)| key == "type").and_then(|(_, kind)| kind.as_deref());
        let rest = fields.iter().filter(|(key, _)| key != "type");
        match kind {
            Some("provenance") => {
                wanted.provenance = read_provenance(rest).with_context(|| format!("--attest `{text}`"))?;
            }
            Some("sbom") => wanted.sbom = read_sbom(rest).with_context(|| format!("--attest `{text}`"))?,
            _ => anyhow::bail!("--attest `{text}` has neither type=provenance nor type=sbom"),
        }
    }
    if let Some(text) = provenance {
        wanted.provenance = read_provenance(&short(text, "mode")?).with_context(|| format!("--provenance `{text}`"))?;
    }
    if let Some(text) = sbom {
        wanted.sbom = read_sbom(&short(text, "generator")?).with_context(|| format!("--sbom `{text}`"))?;
    }
    Ok(wanted)
}

/// Reads `true`, `false`, or fields.
fn short(text: &str, key: &str) -> anyhow::Result<Vec<(String, Option<String>)>> {
    match text {
        "true" | "1" | "" => Ok(Vec::new()),
        "false" | "0" => Ok(vec![("disabled".into(), Some("true".into()))]),
        text if !text.contains('=') => Ok(vec![(key.to_owned(), Some(text.to_owned()))]),
        text => super::fields(text),
    }
}

type Fields<'a> = &'a (String, Option<String>);

fn read_provenance<'a>(fields: impl IntoIterator<Item = Fields<'a>>) -> anyhow::Result<Option<ProvenanceMode>> {
    let mut mode = Some(ProvenanceMode::Min);
    for (key, value) in fields {
        match (key.as_str(), value.as_deref()) {
            ("mode", Some("min")) => mode = Some(ProvenanceMode::Min),
            ("mode", Some("max")) => mode = Some(ProvenanceMode::Max),
            ("mode", other) => anyhow::bail!("mode `{}` is neither min nor max", other.unwrap_or_default()),
            ("version", Some("v1")) => {}
            ("version", _) => anyhow::bail!("only version=v1 of SLSA provenance is written"),
            ("disabled", value) => {
                if super::boolean(key, value)? {
                    return Ok(None);
                }
            }
            (key, _) => anyhow::bail!("`{key}` is not supported"),
        }
    }
    Ok(mode)
}

fn read_sbom<'a>(fields: impl IntoIterator<Item = Fields<'a>>) -> anyhow::Result<bool> {
    let mut wanted = true;
    for (key, value) in fields {
        match key.as_str() {
            "disabled" => wanted = !super::boolean(key, value.as_deref())?,
            "generator" => {
                let error = anyhow::anyhow!("other generators of SBOMs are not supported");
                return Err(Failure::new(error)
                    .hint("leave `generator` out: Slipway reads the packages itself")
                    .into());
            }
            key => anyhow::bail!("`{key}` is not supported"),
        }
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attestations_are_asked_for_as_with_buildx() {
        let read = |attest: &[&str], provenance: Option<&str>, sbom: Option<&str>| {
            let attest: Vec<String> = attest.iter().map(|text| (*text).to_owned()).collect();
            parse(&attest, provenance, sbom).map_err(|error| format!("{error:#}"))
        };
        let want = |provenance, sbom| Ok(Attestations { provenance, sbom });
        let (min, max) = (Some(ProvenanceMode::Min), Some(ProvenanceMode::Max));
        assert_eq!(read(&[], None, None), want(None, false));
        assert_eq!(read(&["type=provenance"], None, None), want(min, false));
        assert_eq!(read(&["type=provenance,mode=max", "type=sbom"], None, None), want(max, true));
        assert_eq!(read(&["type=provenance,mode=max"], Some("false"), None), want(None, false));
        assert_eq!(read(&["type=sbom,disabled=true"], Some("mode=max"), None), want(max, false));
        assert_eq!(read(&[], Some("max"), Some("true")), want(max, true));
        assert_eq!(read(&[], Some("true"), Some("false")), want(min, false));
        for (attest, part) in [
            ("type=foo", "neither type=provenance nor type=sbom"),
            ("mode=max", "neither type=provenance nor type=sbom"),
            ("type=provenance,mode=all", "neither min nor max"),
            ("type=provenance,version=v0.2", "only version=v1"),
            ("type=sbom,generator=x", "not supported"),
        ] {
            let error = read(&[attest], None, None).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}

//! [`Platform`]: what a program runs on, with the normalization that docker applies to its text.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Operating system, architecture and variant (image-spec, `image-index.md`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// As Go's `GOARCH`: `amd64`, `arm64`, `arm`, …
    pub architecture: String,
    /// As Go's `GOOS`.
    pub os: String,
    /// The version of the operating system (Windows).
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Features that the operating system must have (Windows).
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// The variant of the processor: `v7` of `arm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// Why some text is not a platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("platform `{text}` is not of the form os[/architecture[/variant]]")]
pub struct PlatformError {
    text: String,
}

impl Platform {
    /// Returns `linux` on an architecture.
    pub fn linux(architecture: &str) -> Self {
        Self {
            architecture: architecture.into(),
            os: "linux".into(),
            os_version: None,
            os_features: Vec::new(),
            variant: None,
        }
    }

    /// Returns the platform that this program was compiled for.
    pub fn host() -> Self {
        let (architecture, variant) = normalize_architecture(std::env::consts::ARCH, None);
        Self { variant, ..Self::linux(&architecture) }
    }

    /// Tells how well an image for `offered` runs where `self` was asked for: `None` for not at all, else lower is better.
    pub fn rank(&self, offered: &Platform) -> Option<u32> {
        if self.os != offered.os {
            return None;
        }
        let want = normalize_architecture(&self.architecture, self.variant.as_deref());
        let have = normalize_architecture(&offered.architecture, offered.variant.as_deref());
        if want == have {
            return Some(0);
        }
        // An older variant of the same architecture runs on a newer one, and 32-bit ARM on 64-bit.
        let number = |variant: &Option<String>, default: u32| {
            variant.as_deref().and_then(|text| text.trim_start_matches('v').parse().ok()).unwrap_or(default)
        };
        let (wanted, had) = match (want.0.as_str(), have.0.as_str()) {
            ("arm64", "arm") => (8, number(&have.1, 7)),
            ("amd64", "amd64") => (number(&want.1, 1), number(&have.1, 1)),
            (a, b) if a == b => (number(&want.1, 8), number(&have.1, 8)),
            _ => return None,
        };
        (had <= wanted).then(|| 1 + wanted - had)
    }
}

/// Gives the architecture names of uname and of old images their Go names (containerd `platforms/database.go`).
fn normalize_architecture(architecture: &str, variant: Option<&str>) -> (String, Option<String>) {
    let (architecture, implied) = match architecture.to_ascii_lowercase().as_str() {
        "x86_64" | "x86-64" => ("amd64".into(), None),
        "i386" | "x86" => ("386".into(), None),
        "aarch64" => ("arm64".into(), None),
        "armhf" => ("arm".into(), Some("v7")),
        "armel" => ("arm".into(), Some("v6")),
        other => (other.to_owned(), None),
    };
    let variant = variant.filter(|text| !text.is_empty()).or(implied).map(str::to_ascii_lowercase);
    let variant = match (architecture.as_str(), variant.as_deref()) {
        ("arm64", Some("v8" | "8")) | ("amd64", Some("v1")) => None,
        ("arm", None) => Some("v7".into()),
        ("arm" | "arm64", Some(number @ ("5" | "6" | "7" | "8"))) => Some(format!("v{number}")),
        _ => variant,
    };
    (architecture, variant)
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let bad = || PlatformError { text: text.into() };
        let allowed = |part: &str| {
            part.starts_with(|first: char| first.is_ascii_alphanumeric())
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
        };
        let parts: Vec<&str> = text.split('/').collect();
        if parts.len() > 3 || !parts.iter().all(|part| allowed(part)) {
            return Err(bad());
        }
        let host = Self::host();
        let os =
            |name: &str| if name.eq_ignore_ascii_case("macos") { "darwin".into() } else { name.to_ascii_lowercase() };
        if let [one] = parts[..] {
            let known_os = ["linux", "windows", "darwin", "macos", "freebsd", "netbsd", "openbsd", "wasi", "js"];
            if known_os.contains(&one.to_ascii_lowercase().as_str()) {
                return Ok(Self { os: os(one), ..host });
            }
            let (architecture, variant) = normalize_architecture(one, None);
            return Ok(Self { variant, ..Self::linux(&architecture) });
        }
        let (architecture, variant) = normalize_architecture(parts[1], parts.get(2).copied());
        Ok(Self { os: os(parts[0]), variant, ..Self::linux(&architecture) })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_normalized_as_docker_does() {
        let host = Platform::host().to_string();
        for (text, expected) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/v6", "linux/arm/v6"),
            ("aarch64", "linux/arm64"),
            ("linux", host.as_str()),
        ] {
            assert_eq!(text.parse::<Platform>().expect(text).to_string(), expected, "{text}");
        }
        for text in ["", "a/b/c/d", "linux/", "linux/../x"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_nearest_variant_ranks_first() {
        let parse = |text: &str| text.parse::<Platform>().expect(text);
        assert_eq!(parse("linux/arm64").rank(&parse("linux/arm64/v8")), Some(0));
        assert_eq!(parse("linux/amd64").rank(&parse("linux/arm64")), None);
        assert!(
            parse("linux/arm/v7").rank(&parse("linux/arm/v6")) > parse("linux/arm/v7").rank(&parse("linux/arm/v7"))
        );
        assert_eq!(parse("linux/arm/v6").rank(&parse("linux/arm/v7")), None);
    }
}

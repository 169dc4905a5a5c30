//! What is in an image, as an SPDX 2.3 document.

use oci::Digest;
use serde_json::{Value, json};

use super::packages::{Found, Package};

/// The type of the predicate.
pub const PREDICATE_TYPE: &str = "https://spdx.dev/Document";

/// Writes the document. It depends on its arguments alone.
pub(crate) fn document(name: &str, image: &Digest, found: &Found, created: jiff::Timestamp) -> Value {
    const IMAGE: &str = "SPDXRef-Image";
    let created = jiff::Timestamp::from_second(created.as_second()).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let relation = |from: &str, kind: &str, to: &str| json!({ "spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to });
    let mut relations = vec![relation("SPDXRef-DOCUMENT", "DESCRIBES", IMAGE)];
    let mut packages = vec![json!({
        "SPDXID": IMAGE,
        "name": name,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "primaryPackagePurpose": "CONTAINER",
        "checksums": [{ "algorithm": "SHA256", "checksumValue": image.hex() }],
    })];
    for (number, package) in found.packages.iter().enumerate() {
        let id = format!("SPDXRef-Package-{}", number + 1);
        relations.push(relation(IMAGE, "CONTAINS", &id));
        packages.push(describe(&id, package));
    }
    let mut creation =
        json!({ "created": created.to_string(), "creators": [concat!("Tool: slipway-", env!("CARGO_PKG_VERSION"))] });
    if !found.notes.is_empty() {
        creation["comment"] = json!(found.notes.join("; "));
    }
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": format!("urn:slipway:spdx:{}", image.hex()),
        "creationInfo": creation,
        "packages": packages,
        "relationships": relations,
    })
}

fn describe(id: &str, package: &Package) -> Value {
    json!({
        "SPDXID": id,
        "name": package.name,
        "versionInfo": package.version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "sourceInfo": format!("found in {}", package.found_in),
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": package.url(),
        }],
    })
}

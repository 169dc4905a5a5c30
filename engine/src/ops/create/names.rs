//! Names for containers that nobody named.

use supervisor::Containers;

const HOW: [&str; 48] = [
    "able", "amber", "bold", "brave", "breezy", "bright", "brisk", "calm", "clever", "cosy", "curious", "daring",
    "deft", "eager", "early", "fair", "fine", "fleet", "fond", "gentle", "glad", "golden", "grand", "happy", "hardy",
    "keen", "kind", "lively", "lucky", "mellow", "merry", "mild", "neat", "noble", "plucky", "proud", "quick", "quiet",
    "ready", "sharp", "silver", "smart", "steady", "sunny", "swift", "tidy", "warm", "wise",
];

const WHO: [&str; 48] = [
    "albatross",
    "anchor",
    "barge",
    "beacon",
    "bosun",
    "breeze",
    "brig",
    "buoy",
    "captain",
    "clipper",
    "compass",
    "coral",
    "cormorant",
    "crane",
    "cutter",
    "dinghy",
    "dolphin",
    "eider",
    "ferry",
    "frigate",
    "galley",
    "gannet",
    "gull",
    "harbor",
    "heron",
    "island",
    "jetty",
    "keel",
    "kelp",
    "ketch",
    "lagoon",
    "lighthouse",
    "mast",
    "otter",
    "pelican",
    "pilot",
    "puffin",
    "reef",
    "rudder",
    "sail",
    "schooner",
    "seal",
    "sextant",
    "sloop",
    "tern",
    "tide",
    "tug",
    "yawl",
];

/// Returns a name that nobody has; the ID is as good as a die.
pub(super) fn free(all: &Containers, id: &str) -> String {
    let number = |at: usize| usize::from_str_radix(&id[at..at + 4], 16).unwrap_or_default();
    let name =
        |turn: usize| format!("{}_{}", HOW[(number(0) + turn) % HOW.len()], WHO[(number(4) + turn * 7) % WHO.len()]);
    let is_free = |name: &String| !all.layout().container_name(name).exists() && all.find(name).is_err();
    // One more word when all of these are taken, or are taken while nobody looks.
    (0..8).map(name).find(is_free).unwrap_or_else(|| format!("{}_{}", name(0), &id[..12]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_can_be_a_name() {
        for (how, who) in HOW.iter().zip(WHO) {
            assert!(supervisor::is_name(&format!("{how}_{who}")));
        }
    }
}

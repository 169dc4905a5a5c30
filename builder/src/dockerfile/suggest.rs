//! "Did you mean": the closest of some words.

/// Returns the option that is at most two edits away, the first of the closest ones.
///
/// A word that is among the options gets no suggestion: then something else is wrong.
pub(crate) fn closest<'a>(word: &str, options: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    const FARTHEST: usize = 2;
    // What is this long is no typing error, and would only cost time.
    if word.chars().count() > 64 {
        return None;
    }
    let mut best = None;
    for option in options {
        let distance = distance(word, option);
        if distance == 0 {
            return None;
        }
        if distance <= FARTHEST && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, option));
        }
    }
    best.map(|(_, option)| option)
}

/// Returns how many insertions, deletions and replacements turn one word into the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, a) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for (column, &b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::closest;

    #[test]
    fn the_closest_word_is_suggested_and_nothing_far_away() {
        assert_eq!(closest("form", ["chown", "from", "chmod"]), Some("from"));
        assert_eq!(closest("user", ["chown", "chmod"]), None);
        assert_eq!(closest("from", ["from", "form"]), None);
        assert_eq!(closest(&"x".repeat(100_000), ["x"]), None);
    }
}

//! Columns with three spaces between, as docker prints them.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::terminal;

/// Lays rows out under their headings.
pub(crate) fn render(headings: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| terminal::printable(cell)).collect()).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.width());
        cells.chain([headings[column].width()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, width) in cells.zip(&widths) {
            text.push_str(&pad(cell, width + 3));
        }
        text.truncate(text.trim_end().len());
        text
    };
    let mut lines = vec![line(&mut headings.iter().copied())];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines.join("\n")
}

/// Adds blanks until text takes a number of columns.
pub(crate) fn pad(text: &str, width: usize) -> String {
    text.chars().chain(std::iter::repeat_n(' ', width.saturating_sub(text.width()))).collect()
}

/// Shortens text to a number of columns, with `…` at the end. Some characters take two columns, some none.
pub(crate) fn shorten(text: &str, most: usize) -> String {
    if text.width() <= most {
        return text.to_owned();
    }
    let mut room = most.saturating_sub(1);
    let fits = text.chars().take_while(|c| {
        let width = c.width().unwrap_or(0);
        let fits = width <= room;
        room = room.saturating_sub(width);
        fits
    });
    fits.chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["a".into(), "longer".into()], vec!["bcdef".into(), String::new()]];
        insta::assert_snapshot!(render(&["ONE", "TWO"], &rows), @r"
        ONE     TWO
        a       longer
        bcdef
        ");
    }

    #[test]
    fn cells_cannot_draw_on_the_terminal() {
        let rows = vec![vec!["\x1b[2J\x1b[31ma\x07".into(), "b\nc".into()]];
        assert_eq!(render(&["ONE", "TWO"], &rows), "ONE   TWO\na     b c");
    }

    #[test]
    fn long_text_is_shortened_between_characters() {
        assert_eq!(shorten("äöüß", 3), "äö…");
        assert_eq!(shorten("äöü", 3), "äöü");
    }

    #[test]
    fn wide_characters_take_two_columns() {
        assert_eq!(shorten("日本語", 6), "日本語");
        assert_eq!(shorten("日本語", 5), "日本…");
        assert_eq!(shorten("日本語", 4), "日…");
        let rows = vec![vec!["日本".into(), "x".into()], vec!["abcd".into(), "y".into()]];
        assert_eq!(render(&["A", "B"], &rows), "A      B\n日本   x\nabcd   y");
    }
}

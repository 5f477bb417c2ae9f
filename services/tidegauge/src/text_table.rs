//! Plain text tables: aligned columns, no frames, so that they read well and survive a pipe.

use console::measure_text_width;

/// How a column is aligned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Align {
    /// Texts.
    Left,
    /// Numbers.
    Right,
}

/// A table in the making.
#[derive(Clone, Debug)]
pub(crate) struct TextTable {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl TextTable {
    /// A table with these columns.
    pub(crate) fn new(columns: &[(&str, Align)]) -> Self {
        let columns = columns.iter().map(|(name, align)| ((*name).to_owned(), *align)).collect();
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row; missing cells are empty.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| printable(&cell)).collect());
    }

    /// Number of rows.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The lines, heading first.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut widths: Vec<usize> = self.columns.iter().map(|(name, _)| measure_text_width(name)).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(measure_text_width(cell));
            }
        }
        let heading: Vec<String> = self.columns.iter().map(|(name, _)| name.clone()).collect();
        let all = std::iter::once(&heading).chain(&self.rows);
        all.map(|row| {
            let mut line = String::new();
            for (at, (width, (_, align))) in widths.iter().zip(&self.columns).enumerate() {
                if at > 0 {
                    line.push_str("  ");
                }
                let cell = row.get(at).map_or("", String::as_str);
                let gap = " ".repeat(width - measure_text_width(cell));
                match align {
                    Align::Left => line.extend([cell, &gap]),
                    Align::Right => line.extend([&gap, cell]),
                }
            }
            line.truncate(line.trim_end().len());
            line
        })
        .collect()
    }
}

impl std::fmt::Display for TextTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.lines().iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// Data may hold anything: control characters must not reach the terminal.
pub(crate) fn printable(text: &str) -> String {
    if text.chars().any(char::is_control) {
        text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers stand right, texts left, wide and hostile characters do not shift or steer anything.
    #[test]
    fn a_table_is_aligned_and_harmless() {
        let mut table = TextTable::new(&[("METRIC", Align::Left), ("VALUE", Align::Right)]);
        table.row(["cpu".to_owned(), "1".to_owned()]);
        table.row(["größe\u{1b}[2J".to_owned(), "12,345".to_owned()]);
        assert_eq!(table.lines(), ["METRIC      VALUE", "cpu             1", "größe\u{fffd}[2J  12,345"]);
        assert_eq!(table.len(), 2);
    }
}

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
        let columns = columns.iter().map(|(name, align)| (printable(name), *align)).collect();
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row of one line; missing cells are empty.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| printable(&cell)).collect());
    }

    /// Adds a row in which a cell with line breaks goes on in further lines, each below the one before.
    pub(crate) fn row_of_lines(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| printable_lines(&cell)).collect());
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
                *width = cell.split('\n').map(measure_text_width).fold(*width, usize::max);
            }
        }
        let mut lines = Vec::with_capacity(1 + self.rows.len());
        lines.push(self.line(&widths, self.columns.iter().map(|(name, _)| name.as_str())));
        for row in &self.rows {
            let mut cells: Vec<_> = row.iter().map(|cell| cell.split('\n')).collect();
            let height = row.iter().map(|cell| 1 + cell.matches('\n').count()).max().unwrap_or(1);
            for _ in 0..height {
                lines.push(self.line(&widths, cells.iter_mut().map(|cell| cell.next().unwrap_or_default())));
            }
        }
        lines
    }

    /// One line; missing cells are empty.
    fn line<'a>(&self, widths: &[usize], mut cells: impl Iterator<Item = &'a str>) -> String {
        let mut line = String::new();
        for (at, (width, (_, align))) in widths.iter().zip(&self.columns).enumerate() {
            if at > 0 {
                line.push_str("  ");
            }
            let cell = cells.next().unwrap_or_default();
            let gap = " ".repeat(width - measure_text_width(cell));
            match align {
                Align::Left => line.extend([cell, &gap]),
                Align::Right => line.extend([&gap, cell]),
            }
        }
        line.truncate(line.trim_end().len());
        line
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

/// The same for a text of several lines; breaks at its end are left out.
fn printable_lines(text: &str) -> String {
    let mut lines = text.trim_end_matches(['\n', '\r']).lines();
    let mut kept = printable(lines.next().unwrap_or_default());
    for line in lines {
        kept.push('\n');
        kept.push_str(&printable(line));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only a row of lines has several; each stands in its column, and other control characters are replaced in it.
    #[test]
    fn a_cell_of_lines_is_aligned() {
        let mut table = TextTable::new(&[("TYPE", Align::Left), ("PLAN", Align::Left), ("ROWS", Align::Right)]);
        table.row_of_lines(["logical".to_owned(), "Sort\r\n  Scan\t\u{1b}[2J\n".to_owned(), "7".to_owned()]);
        table.row_of_lines(["\n\n".to_owned(), "a\n\nb".to_owned()]);
        table.row(["one\nline".to_owned()]);
        let expected = [
            "TYPE      PLAN         ROWS",
            "logical   Sort            7",
            "            Scan\u{fffd}\u{fffd}[2J",
            "          a",
            "",
            "          b",
            "one\u{fffd}line",
        ];
        assert_eq!(table.lines(), expected);
    }

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

//! The lines below the cursor of a terminal, drawn over each other. What stands above them stays, and scrolls as usual.

use std::io::Write as _;

/// A part of a terminal that is drawn again and again.
#[derive(Debug)]
pub(crate) struct Screen {
    terminal: console::Term,
    drawn: usize,
}

impl Screen {
    /// Starts below what the terminal shows.
    pub(crate) fn new() -> Self {
        Self { terminal: console::Term::stdout(), drawn: 0 }
    }

    /// Lines that can be drawn over: one more would scroll.
    pub(crate) fn height(&self) -> usize {
        usize::from(self.terminal.size().0).saturating_sub(1).max(2)
    }

    /// Draws the lines in place of the last ones, each cut to the width.
    ///
    /// # Errors
    /// The terminal's.
    pub(crate) fn draw(&mut self, lines: &[String]) -> std::io::Result<()> {
        let width = usize::from(self.terminal.size().1);
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A", self.drawn));
        }
        for line in lines {
            text.push('\r');
            text.push_str(&console::truncate_str(line, width, ""));
            // Clears the rest of the line.
            text.push_str("\x1b[K\n");
        }
        // Clears what a longer table left below.
        text.push_str("\x1b[J");
        self.drawn = lines.len();
        let mut out = crate::stdout::Out::default();
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}

/// Rows of a table that a screen of that height shows: its heading and the notes below it take a line each.
pub(crate) fn rows_shown(height: usize) -> usize {
    height.saturating_sub(2).max(1)
}

/// The lines of a table of so many rows, cut to the height, and the notes in a line below them. `hidden` says where the
/// rows are that do not fit.
pub(crate) fn fit(
    mut lines: Vec<String>,
    rows: usize,
    height: usize,
    hidden: &str,
    mut notes: Vec<String>,
) -> Vec<String> {
    let shown = rows_shown(height);
    lines.truncate(shown + 1);
    if rows > shown {
        notes.insert(1.min(notes.len()), format!("{} {hidden}", rows - shown));
    }
    lines.push(notes.join(", "));
    lines
}

//! Results of a benchmark as a table or as JSON.

use serde_json::{Map, Value};

use crate::failure::Outcome;
use crate::output::{self, TableForm};
use crate::stdout;
use crate::text_table::{Align, TextTable};

/// Named results, in order.
#[derive(Debug, Default)]
pub(super) struct Report(Vec<(&'static str, String, Value)>);

impl Report {
    /// Adds a result: its name, how a person reads it, how a program reads it.
    pub(super) fn add(&mut self, name: &'static str, shown: impl Into<String>, value: impl Into<Value>) {
        self.0.push((name, shown.into(), value.into()));
    }

    /// Adds a text.
    pub(super) fn text(&mut self, name: &'static str, text: impl Into<String>) {
        let text = text.into();
        self.add(name, text.clone(), text);
    }

    /// Prints it.
    pub(super) fn print(self, form: TableForm) -> Outcome {
        if form == TableForm::Json {
            let object: Map<String, Value> =
                self.0.into_iter().map(|(name, _, value)| (name.replace(' ', "_"), value)).collect();
            return output::document(&Value::Object(object));
        }
        let mut table = TextTable::new(&[("result", Align::Left), ("", Align::Left)]);
        for (name, shown, _) in self.0 {
            table.row([name.to_owned(), shown]);
        }
        stdout::write(table)
    }
}

//! What the fields of an event are called where the user wrote them: a refusal names a member of the JSON, a column or a
//! flag, whoever refuses.

use super::csv::{CsvOptions, Metric};
use super::reader::Format;
use super::refusal::Refusal;

/// Names of fields.
#[derive(Clone, Debug)]
pub(crate) enum Names {
    /// Members of a line of NDJSON.
    Json,
    /// Columns and flags.
    Csv(Box<CsvOptions>),
}

impl Names {
    /// The names in files of a format.
    pub(crate) fn of_format(format: &Format) -> Self {
        match format {
            Format::Ndjson { .. } => Self::Json,
            Format::Csv(options) => Self::Csv(options.clone()),
        }
    }

    /// The name of a field that the contract calls like this (`metric_name`, `dimensions[region]`).
    pub(crate) fn of(&self, field: &str) -> String {
        match self {
            Self::Json => json(field),
            Self::Csv(options) => csv(options, field),
        }
    }

    /// A refusal in these names.
    pub(crate) fn translate(&self, refusal: Refusal) -> Refusal {
        Refusal { field: self.of(&refusal.field), ..refusal }
    }
}

fn json(field: &str) -> String {
    let in_payload =
        ["tenant_id", "metric_name", "metric_value", "dimensions"].iter().any(|name| field.starts_with(name));
    if in_payload { format!("payload.{field}") } else { field.to_owned() }
}

fn csv(options: &CsvOptions, field: &str) -> String {
    let dimension = field.strip_prefix("dimensions[").and_then(|rest| rest.strip_suffix(']'));
    if let Some((key, value)) = dimension.and_then(|key| options.dimensions.iter().find(|(known, _)| known == key)) {
        return format!("--dimension {key}={value}");
    }
    match (field, &options.value_columns[..], &options.tenant_column) {
        ("timestamp", ..) => format!("column {}", options.time_column),
        ("metric_value", [column], _) => format!("column {column}"),
        ("tenant_id", _, Some(column)) => format!("column {column}"),
        ("tenant_id", ..) => "--tenant".to_owned(),
        ("event_type", ..) => "--event-type".to_owned(),
        ("source", ..) => "--source".to_owned(),
        ("metric_name", ..) => match &options.metric {
            Metric::Column(column) => format!("column {column}"),
            Metric::Unclear(_) | Metric::Name(_) => "the name of the metric".to_owned(),
            Metric::ValueColumn => "the name of the value column".to_owned(),
        },
        ("dimensions", ..) => "--dimension".to_owned(),
        (other, ..) => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fields are named as they were written.
    #[test]
    fn fields_are_named_as_they_were_written() {
        let options = CsvOptions {
            time_column: "when".to_owned(),
            value_columns: vec!["cpu".to_owned()],
            dimensions: vec![("host".to_owned(), "column:machine".to_owned())],
            ..CsvOptions::of_tenant("t")
        };
        let csv = Names::of_format(&Format::Csv(Box::new(options)));
        for (field, in_json, in_csv) in [
            ("timestamp", "timestamp", "column when"),
            ("metric_value", "payload.metric_value", "column cpu"),
            ("metric_name", "payload.metric_name", "the name of the value column"),
            ("dimensions[host]", "payload.dimensions[host]", "--dimension host=column:machine"),
            ("dimensions", "payload.dimensions", "--dimension"),
            ("tenant_id", "payload.tenant_id", "--tenant"),
            ("event_type", "event_type", "--event-type"),
            ("version", "version", "version"),
        ] {
            assert_eq!((Names::Json.of(field).as_str(), csv.of(field).as_str()), (in_json, in_csv));
        }
        let long = CsvOptions {
            metric: Metric::Column("series".to_owned()),
            tenant_column: Some("customer".to_owned()),
            ..CsvOptions::of_tenant("t")
        };
        let long = Names::of_format(&Format::Csv(Box::new(long)));
        assert_eq!([long.of("metric_name"), long.of("tenant_id")], ["column series", "column customer"]);
    }
}

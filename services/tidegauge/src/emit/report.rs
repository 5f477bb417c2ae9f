//! What became of events: told on standard error as it happens, and kept for a document where one was asked for.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};
use tidegauge_client::proto::ingest::v1::PublishResponse;

use crate::failure::Failure;
use crate::load::refusal::Refusal;
use crate::tell::tell;
use crate::text_table::printable;

/// Refusals that a document lists: it is held in memory. Standard error gets all of them.
pub(super) const LISTED_MAX: usize = 1_000;

/// Where an event came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    /// The flags.
    Flags,
    /// A line, counted from 1.
    Line(u64),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flags => f.write_str("the event"),
            Self::Line(line) => write!(f, "line {line}"),
        }
    }
}

/// The account.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// Events that are durable.
    pub(super) accepted: u64,
    /// Events and lines that were refused.
    pub(super) refused: u64,
    listed: Vec<Value>,
    /// The last durable place by shard.
    positions: BTreeMap<u32, String>,
}

impl Report {
    /// A line that holds no event.
    pub(super) fn unreadable(&mut self, origin: Origin, refusal: &Refusal) {
        tell(format_args!("{origin}: {}", printable(&refusal.to_string())));
        self.list(origin, &refusal.field, refusal.reason, &refusal.problem);
    }

    /// The server's answer to a request; `origin` and `name` say where an event of it came from and what a field is called
    /// there.
    pub(super) fn answered(
        &mut self,
        answer: &PublishResponse,
        origin: impl Fn(usize) -> Origin,
        name: impl Fn(&str) -> String,
    ) {
        self.accepted += u64::from(answer.accepted);
        for event in &answer.rejected {
            let (origin, field) = (origin(event.index as usize), name(&event.field));
            let text = format!("{field}: {} ({})", event.message, event.reason);
            tell(format_args!("{origin}: {}", printable(&text)));
            self.list(origin, &field, &event.reason, &event.message);
        }
        for place in &answer.positions {
            let hex = place.position.iter().map(|byte| format!("{byte:02x}")).collect();
            self.positions.insert(place.shard, hex);
        }
    }

    fn list(&mut self, origin: Origin, field: &str, reason: &str, message: &str) {
        self.refused += 1;
        if self.listed.len() >= LISTED_MAX {
            return;
        }
        let field = (!field.is_empty()).then_some(field);
        self.listed.push(match origin {
            Origin::Flags => json!({"field": field, "reason": reason, "message": message}),
            Origin::Line(line) => json!({"line": line, "field": field, "reason": reason, "message": message}),
        });
    }

    /// The account for programs. `failure` is why the command does not succeed.
    pub(super) fn document(&self, failure: Option<&Failure>) -> Value {
        let positions = self.positions.iter().map(|(shard, position)| json!({"shard": shard, "position": position}));
        let error = failure
            .map(|failure| json!({"reason": failure.reason(), "message": failure.message(), "hint": failure.advice()}));
        json!({
            "accepted": self.accepted,
            "refused": self.refused,
            "refusals": self.listed,
            "positions": positions.collect::<Vec<_>>(),
            "error": error,
        })
    }
}

#[cfg(test)]
mod tests {
    use tidegauge_client::proto::ingest::v1::{RejectedEvent, ShardPosition};

    use super::*;

    /// Programs find each refused event with its place, and what is durable where; a flood of refusals stays bounded and
    /// is counted whole.
    #[test]
    fn a_document_says_what_became_of_events() {
        let rejected = RejectedEvent {
            index: 1,
            field: "metric_value".to_owned(),
            reason: "VALUE_NOT_FINITE".to_owned(),
            message: "inf is not a finite number".to_owned(),
        };
        let place = |position: &'static [u8]| ShardPosition { shard: 2, position: position.into() };
        let answer = PublishResponse {
            accepted: 3,
            rejected: vec![rejected],
            positions: vec![place(b"\x00\xff")],
            ..PublishResponse::default()
        };
        let mut report = Report::default();
        report.answered(&answer, |index| Origin::Line(10 + index as u64), |field| format!("payload.{field}"));
        let document = report.document(None);
        assert_eq!(
            (&document["accepted"], &document["refused"], &document["error"]),
            (&json!(3), &json!(1), &Value::Null)
        );
        let expected = json!({"line": 11, "field": "payload.metric_value", "reason": "VALUE_NOT_FINITE",
            "message": "inf is not a finite number"});
        assert_eq!(document["refusals"], json!([expected]));
        assert_eq!(document["positions"], json!([{"shard": 2, "position": "00ff"}]));
        for line in 0..2 * LISTED_MAX as u64 {
            report.list(Origin::Line(line), "", "LINE_INVALID", "x");
        }
        let document = report.document(Some(&Failure::new("no").hint("do")));
        assert_eq!(document["refusals"].as_array().unwrap().len(), LISTED_MAX);
        assert_eq!(document["refused"], 2 * LISTED_MAX as u64 + 1);
        assert_eq!(document["error"], json!({"reason": null, "message": "no", "hint": "do"}));
    }
}

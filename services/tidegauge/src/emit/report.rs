//! What became of events: told on standard error as it happens, and kept for a document where one was asked for.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};
use tidegauge_client::proto::ingest::v1::PublishResponse;

use crate::failure::Failure;
use crate::load::refusal::Refusal;
use crate::tell::tell;
use crate::text_table::printable;
use crate::units::{counted, grouped, readable};

/// Refusals, and tenants, that a document lists: it is held in memory. Standard error gets all refusals.
pub(super) const LISTED_MAX: usize = 1_000;
/// Time after which a refused tenant is asked for again.
const ASK_AGAIN_NS: u64 = 5_000_000_000;
/// Refused tenants told one by one, with advice.
const TENANTS_TOLD_MAX: usize = 20;
/// Refused tenants named in the account.
const TENANTS_SHOWN_MAX: usize = 5;

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

/// What the server said of a tenant whose events it did not take.
#[derive(Debug)]
struct RefusedTenant {
    failure: Failure,
    not_sent: u64,
    /// Monotonic time from which on it is asked for again.
    ask_ns: u64,
}

/// The account. Accepted, refused and not sent are together what was read.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// Events that are durable.
    pub(super) accepted: u64,
    /// Events and lines that were refused.
    pub(super) refused: u64,
    /// Events that were read and not sent, or sent without an answer: their tenant was refused, or what ended the command
    /// came first.
    pub(super) not_sent: u64,
    /// Of the accepted LIVE events, those that may be too old for their tenant's windows.
    pub(super) too_old: u64,
    listed: Vec<Value>,
    /// The first ones by name.
    refused_tenants: BTreeMap<String, RefusedTenant>,
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

    /// A durable event may be too old for its tenant's windows; told once.
    pub(super) fn old(&mut self, origin: Origin, age: Duration) {
        self.too_old += 1;
        if self.too_old > 1 {
            return;
        }
        let (what, age) = (if origin == Origin::Flags { "it".to_owned() } else { origin.to_string() }, readable(age));
        tell(format_args!(
            "note: {what} is {age} old, and LIVE events far behind their tenant's newest become dead letters, which \
             `tidegauge status` counts; history is sent with --backfill"
        ));
    }

    /// Whether the server has refused this tenant a short while ago. Rights may come back under `tail -f`, so it is asked for
    /// again; of very many tenants not all are remembered, and these are asked for each time.
    pub(super) fn is_refused(&self, tenant: &str, now_ns: u64) -> bool {
        self.refused_tenants.get(tenant).is_some_and(|refused| now_ns < refused.ask_ns)
    }

    /// The server takes something of this tenant.
    pub(super) fn taken(&mut self, tenant: &str) {
        if let Some(refused) = self.refused_tenants.get_mut(tenant).filter(|refused| refused.ask_ns > 0) {
            refused.ask_ns = 0;
            tell(format_args!("tenant {} is taken again", printable(tenant)));
        }
    }

    /// The server takes nothing of this tenant; `described` says whose and where the first events were.
    pub(super) fn refuse_tenant(&mut self, tenant: &str, described: &str, failure: Failure, now_ns: u64) {
        let ask_ns = now_ns.saturating_add(ASK_AGAIN_NS);
        if let Some(refused) = self.refused_tenants.get_mut(tenant).filter(|refused| refused.ask_ns > 0) {
            // It has been told.
            refused.ask_ns = ask_ns;
            return;
        }
        match self.refused_tenants.len() {
            0..TENANTS_TOLD_MAX => {
                tell(format_args!("{described}: {}", printable(failure.message())));
                if let Some(hint) = failure.advice() {
                    tell(format_args!("hint: {hint}"));
                }
            }
            TENANTS_TOLD_MAX => tell("further refused tenants are counted, not shown"),
            _ => {}
        }
        if self.refused_tenants.len() < LISTED_MAX {
            let not_sent = self.refused_tenants.get(tenant).map_or(0, |refused| refused.not_sent);
            self.refused_tenants.insert(tenant.to_owned(), RefusedTenant { failure, not_sent, ask_ns });
        }
    }

    /// Events of a refused tenant were left out.
    pub(super) fn left_out(&mut self, tenant: &str, events: u64) {
        self.not_sent += events;
        if let Some(refused) = self.refused_tenants.get_mut(tenant) {
            refused.not_sent += events;
        }
    }

    /// The account for people: `5 events durable, 2 of them more than 24 h old, 3 events of acme not sent`.
    pub(super) fn sums(&self) -> String {
        let mut text = format!("{} durable", counted(self.accepted, "event"));
        if self.too_old > 1 {
            let horizon = readable(tidegauge_core::limits::LATENESS_HORIZON);
            text.push_str(&format!(", {} of them more than {horizon} old", grouped(self.too_old)));
        }
        if self.not_sent > 0 {
            let events = counted(self.not_sent, "event");
            text.push_str(&format!(", {events}{} not sent", self.tenants_of_not_sent()));
        }
        text
    }

    /// ` of acme, globex`; empty when they were not only those of the tenants that are remembered.
    fn tenants_of_not_sent(&self) -> String {
        if self.refused_tenants.values().map(|refused| refused.not_sent).sum::<u64>() < self.not_sent {
            return String::new();
        }
        let shown: Vec<&str> = self.refused_tenants.keys().map(String::as_str).take(TENANTS_SHOWN_MAX).collect();
        match (shown.as_slice(), self.refused_tenants.len().saturating_sub(TENANTS_SHOWN_MAX)) {
            (shown, 0) => format!(" of {}", shown.join(", ")),
            (shown, more) => format!(" of {} and {more} more tenants", shown.join(", ")),
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
        let tenants = self.refused_tenants.iter().map(|(tenant, refused)| {
            json!({
                "tenant_id": tenant,
                "reason": refused.failure.reason(),
                "message": refused.failure.message(),
                "not_sent": refused.not_sent,
            })
        });
        let error = failure
            .map(|failure| json!({"reason": failure.reason(), "message": failure.message(), "hint": failure.advice()}));
        json!({
            "accepted": self.accepted,
            "refused": self.refused,
            "not_sent": self.not_sent,
            "too_old": self.too_old,
            "refusals": self.listed,
            "refused_tenants": tenants.collect::<Vec<_>>(),
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
        let document = report.document(None);
        assert_eq!((&document["not_sent"], &document["too_old"]), (&json!(0), &json!(0)));
        for line in 0..2 * LISTED_MAX as u64 {
            report.list(Origin::Line(line), "", "LINE_INVALID", "x");
        }
        let document = report.document(Some(&Failure::new("no").hint("do")));
        assert_eq!(document["refusals"].as_array().unwrap().len(), LISTED_MAX);
        assert_eq!(document["refused"], 2 * LISTED_MAX as u64 + 1);
        assert_eq!(document["error"], json!({"reason": null, "message": "no", "hint": "do"}));
    }

    /// A refused tenant is named with what was left out of it, and a flood of them stays bounded and is counted whole.
    #[test]
    fn refused_tenants_are_named_and_counted() {
        let mut report = Report { accepted: 5, ..Report::default() };
        assert_eq!(report.sums(), "5 events durable");
        report.old(Origin::Line(1), Duration::from_secs(100_000));
        assert_eq!(report.sums(), "5 events durable", "the note has said it");
        report.old(Origin::Line(2), Duration::from_secs(100_000));
        assert_eq!(report.sums(), "5 events durable, 2 of them more than 24 h old");
        report.refuse_tenant("acme", "line 3, tenant acme", Failure::new("not yours"), 1);
        report.left_out("acme", 2);
        report.left_out("acme", 1);
        assert!(report.is_refused("acme", ASK_AGAIN_NS) && !report.is_refused("globex", 1));
        assert!(!report.is_refused("acme", ASK_AGAIN_NS + 1), "rights may come back");
        report.refuse_tenant("acme", "line 9, tenant acme", Failure::new("not yours"), ASK_AGAIN_NS + 1);
        assert!(report.is_refused("acme", ASK_AGAIN_NS + 2));
        report.taken("acme");
        assert!(!report.is_refused("acme", ASK_AGAIN_NS + 2));
        assert!(report.sums().ends_with(", 3 events of acme not sent"), "{}", report.sums());
        let expected = json!([{"tenant_id": "acme", "reason": null, "message": "not yours", "not_sent": 3}]);
        assert_eq!(report.document(None)["refused_tenants"], expected);
        for tenant in 0..2 * LISTED_MAX {
            let tenant = format!("t{tenant}");
            report.refuse_tenant(&tenant, &tenant, Failure::new("not yours"), 1);
            report.left_out(&tenant, 1);
        }
        let document = report.document(None);
        assert_eq!(document["refused_tenants"].as_array().unwrap().len(), LISTED_MAX);
        assert_eq!(document["not_sent"], 2 * LISTED_MAX + 3);
    }
}

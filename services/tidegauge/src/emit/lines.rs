//! Events as NDJSON on standard input. What is there is sent at once, so that `tail -f events.ndjson | tidegauge emit` is
//! never behind; a file is sent in large requests by the same rule.

use std::collections::HashSet;
use std::io::{IsTerminal as _, Read};
use std::time::Duration;

use tidegauge_client::Mode;
use tidegauge_client::proto::ingest::v1::Event;
use tidegauge_core::clock::{Clock, SystemClock};
use tidegauge_core::limits;
use tidegauge_proto::convert::time::timestamp;
use tokio::sync::mpsc;

use super::publisher::Publisher;
use super::report::{Origin, Report};
use super::too_old;
use crate::failure::{Doing as _, Failure, Outcome};
use crate::load::event::RawEvent;
use crate::load::lines::Lines;
use crate::load::names::Names;
use crate::load::ndjson::LineReader;
use crate::load::refusal::Refusal;
use crate::tell::tell;
use crate::text_table::printable;
use crate::units::counted;

/// Lines read ahead of the sending.
const LINES_WAITING: usize = 1_024;
/// Bytes of lines in one request; the request is smaller than they are, and must stay below the limit of requests.
const BATCH_BYTES_MAX: usize = limits::REQUEST_BYTES_MAX / 2;

/// A line as read.
enum Incoming {
    Event { line: u64, bytes: usize, event: Box<Event> },
    Refused { line: u64, refusal: Refusal },
}

/// Events of one tenant that stand together, with their lines.
#[derive(Debug, Default)]
struct Batch {
    lines: Vec<u64>,
    events: Vec<Event>,
    bytes: usize,
}

/// What to do about refused lines.
const MEND: &str = "each is named with its line: mend these and send them alone, the others are durable";
/// What to do about lines that were not sent.
const SEND_AGAIN: &str =
    "the others are durable: send the lines of refused tenants alone, with a credential that may publish them";
/// What to do about both.
const MEND_AND_SEND_AGAIN: &str = "\
the others are durable: mend the lines that are named and send them alone, and those of refused tenants with a credential \
that may publish them";

/// Sends standard input to its end; a tenant that is refused stops no other one.
///
/// # Errors
/// When a line was refused or not sent, or when nothing can be sent any more; what is durable by then has been told.
pub(super) async fn run(publisher: &mut Publisher, report: &mut Report) -> Outcome {
    if std::io::stdin().is_terminal() {
        tell(
            "reading events from the terminal, one JSON event a line; Ctrl-D ends, --metric and --value send one without",
        );
    }
    let (out, mut read) = mpsc::channel(LINES_WAITING);
    // Not one of the runtime's threads: its end would wait for a line that nobody types.
    let reading = std::thread::spawn(move || read_lines(std::io::stdin(), |line| out.blocking_send(line).is_ok()));
    let mut together = Vec::new();
    let clock = SystemClock::default();
    while read.recv_many(&mut together, limits::EVENTS_PER_REQUEST_MAX).await > 0 {
        let mut batches = batches(together.drain(..), report).into_iter();
        while let Some(batch) = batches.next() {
            if let Err(failure) = send(publisher, batch, &clock, report).await {
                report.not_sent += batches.map(|batch| batch.events.len() as u64).sum::<u64>();
                tell(format_args!("{}; the rest was not read", report.sums()));
                return Err(failure);
            }
        }
    }
    publisher.close().await;
    let ended = reading.join().unwrap_or_else(|_| Err(std::io::Error::other("the reader has failed")));
    tell(report.sums());
    ended.doing("standard input")?;
    let (refused, not_sent) = (counted(report.refused, "line"), counted(report.not_sent, "event"));
    match (report.refused, report.not_sent) {
        (0, 0) => Ok(()),
        (_, 0) => Err(Failure::new(format!("{refused} refused")).hint(MEND)),
        (0, _) => Err(Failure::new(format!("{not_sent} not sent")).hint(SEND_AGAIN)),
        (_, _) => Err(Failure::new(format!("{refused} refused, {not_sent} not sent")).hint(MEND_AND_SEND_AGAIN)),
    }
}

/// Reads lines until the end or until nobody wants more. Which lines are events is for `load` to say: both take the same.
fn read_lines(source: impl Read, mut take: impl FnMut(Incoming) -> bool) -> std::io::Result<()> {
    let mut lines = Lines::new(source, 0, 0, u64::MAX);
    let mut reader = LineReader::default();
    while let Some((place, line)) = lines.next()? {
        let number = place.line;
        let read = match reader.read(line) {
            Ok(None) => continue,
            Ok(Some(event)) => {
                Incoming::Event { line: number, bytes: place.bytes as usize, event: Box::new(into_event(&event)) }
            }
            Err(refusal) => Incoming::Refused { line: number, refusal },
        };
        if !take(read) {
            break;
        }
    }
    Ok(())
}

fn into_event(event: &RawEvent<'_>) -> Event {
    Event {
        tenant_id: event.tenant.to_string(),
        event_type: event.event_type.to_string(),
        timestamp: Some(timestamp(event.time_ns)),
        metric_name: event.metric.to_string(),
        metric_value: event.value,
        dimensions: event.dimensions.pairs().into_iter().collect(),
        source: event.source.to_string(),
        version: event.version.to_string(),
    }
}

/// Requests for these lines: a request is for one tenant, and the order of lines is kept. Refused lines are told.
fn batches(read: impl Iterator<Item = Incoming>, report: &mut Report) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    for one in read {
        match one {
            Incoming::Refused { line, refusal } => report.unreadable(Origin::Line(line), &refusal),
            Incoming::Event { line, bytes, event } => {
                let fits = |batch: &&mut Batch| {
                    batch.bytes + bytes <= BATCH_BYTES_MAX
                        && batch.events.len() < limits::EVENTS_PER_REQUEST_MAX
                        && batch.events[0].tenant_id == event.tenant_id
                };
                match batches.last_mut().filter(fits) {
                    Some(batch) => batch.add(line, bytes, *event),
                    None => {
                        let mut batch = Batch::default();
                        batch.add(line, bytes, *event);
                        batches.push(batch);
                    }
                }
            }
        }
    }
    batches
}

impl Batch {
    fn add(&mut self, line: u64, bytes: usize, event: Event) {
        self.lines.push(line);
        self.events.push(event);
        self.bytes += bytes;
    }

    /// `line 7` or `lines 7 to 9`, with the tenant.
    fn describe(&self) -> String {
        let tenant = printable(&self.events[0].tenant_id);
        match (self.lines.first(), self.lines.last()) {
            (Some(first), Some(last)) if first != last => format!("lines {first} to {last}, tenant {tenant}"),
            (first, _) => format!("line {}, tenant {tenant}", first.copied().unwrap_or_default()),
        }
    }

    /// Places in the request of events that may be too old, with their ages.
    fn too_old(&self, mode: Mode, now_ns: i64) -> Vec<(usize, Duration)> {
        let old = |(index, event)| too_old(event, mode, now_ns).map(|age| (index, age));
        self.events.iter().enumerate().filter_map(old).collect()
    }
}

/// Sends a request, unless its tenant was refused a short while ago.
///
/// # Errors
/// When nothing further can be sent, for any tenant.
async fn send(publisher: &mut Publisher, batch: Batch, clock: &dyn Clock, report: &mut Report) -> Outcome {
    let tenant = batch.events[0].tenant_id.clone();
    let count = batch.events.len() as u64;
    let asked_ns = clock.monotonic_ns();
    if report.is_refused(&tenant, asked_ns) {
        report.left_out(&tenant, count);
        return Ok(());
    }
    let described = batch.describe();
    let old = batch.too_old(publisher.mode(), clock.wall_ns());
    let answer = match publisher.publish(&tenant, batch.events).await {
        Ok(answer) => answer,
        Err(not_taken) if not_taken.others_go_on => {
            report.refuse_tenant(&tenant, &described, not_taken.failure, asked_ns);
            report.left_out(&tenant, count);
            return Ok(());
        }
        Err(not_taken) => {
            report.not_sent += count;
            return Err(not_taken.failure.context(described));
        }
    };
    report.taken(&tenant);
    let line = |index: usize| Origin::Line(batch.lines.get(index).copied().unwrap_or_default());
    report.answered(&answer, line, |field| Names::Json.of(field));
    // One that was refused is no dead letter.
    let refused: HashSet<usize> = answer.rejected.iter().map(|event| event.index as usize).collect();
    for (index, age) in old.into_iter().filter(|(index, _)| !refused.contains(index)) {
        report.old(line(index), age);
    }
    Ok(())
}

#[cfg(test)]
mod tests;

//! Events as NDJSON on standard input. What is there is sent at once, so that `tail -f events.ndjson | tidegauge emit` is
//! never behind; a file is sent in large requests by the same rule.

use std::io::{IsTerminal as _, Read};

use tidegauge_client::proto::ingest::v1::{Event, PublishResponse};
use tidegauge_client::{Client, ClientError, Mode};
use tidegauge_core::limits;
use tidegauge_proto::convert::time::timestamp;
use tokio::sync::mpsc;
use tonic::Code;

use super::publish;
use crate::failure::{Failure, Outcome};
use crate::load::lines::{Line, Lines};
use crate::load::{json, scan};
use crate::tell::tell;
use crate::text_table::printable;
use crate::units::{counted, grouped};

/// Lines read ahead of the sending.
const LINES_WAITING: usize = 1_024;
/// A line that is longer is no event: names and 64 dimensions, every character escaped, stay below.
const LINE_BYTES_MAX: usize = 256 << 10;
/// Bytes of lines in one request; the request is smaller than they are, and must stay below the limit of requests.
const BATCH_BYTES_MAX: usize = limits::REQUEST_BYTES_MAX / 2;

/// A line as read.
enum Incoming {
    Event { line: u64, bytes: usize, event: Box<Event> },
    Refused { line: u64, reason: String },
}

/// Events of one tenant that stand together, with their lines.
#[derive(Debug, Default)]
struct Batch {
    lines: Vec<u64>,
    events: Vec<Event>,
    bytes: usize,
}

/// What became of the lines so far.
#[derive(Debug, Default)]
struct Totals {
    durable: u64,
    refused: u64,
}

/// Sends standard input to its end.
///
/// # Errors
/// When a line was refused, or a request could not be sent; what is durable by then has been told.
pub(super) async fn run(client: &Client, mode: Mode) -> Outcome {
    if std::io::stdin().is_terminal() {
        tell(
            "reading events from the terminal, one JSON event a line; Ctrl-D ends, --metric and --value send one without",
        );
    }
    let (out, mut read) = mpsc::channel(LINES_WAITING);
    // Not one of the runtime's threads: its end would wait for a line that nobody types.
    let reading = std::thread::spawn(move || read_lines(std::io::stdin(), |line| out.blocking_send(line).is_ok()));
    let mut totals = Totals::default();
    let mut together = Vec::new();
    while read.recv_many(&mut together, limits::EVENTS_PER_REQUEST_MAX).await > 0 {
        for batch in batches(together.drain(..), &mut totals) {
            if let Err(failure) = send(client, &batch, mode, &mut totals).await {
                tell(format_args!("{} durable before", counted(totals.durable, "event")));
                return Err(failure);
            }
        }
    }
    let ended = reading.join().unwrap_or_else(|_| Err(std::io::Error::other("the reader has failed")));
    tell(format_args!("{} durable", counted(totals.durable, "event")));
    if let Err(error) = ended {
        return Err(Failure::new(format!("standard input: {error}")));
    }
    match totals.refused {
        0 => Ok(()),
        refused => Err(Failure::new(format!("{} refused", counted(refused, "line")))),
    }
}

/// Reads lines until the end or until nobody wants more.
fn read_lines(source: impl Read, mut take: impl FnMut(Incoming) -> bool) -> std::io::Result<()> {
    let mut lines = Lines::new(source, 0, 0);
    let mut times = scan::TimeCache::default();
    while let Some((place, line)) = lines.next()? {
        let text = match line {
            Line::Whole(bytes) if bytes.len() <= LINE_BYTES_MAX => {
                std::str::from_utf8(bytes).map_err(|error| format!("not UTF-8 at byte {}", error.valid_up_to()))
            }
            _ => Err(format!("longer than {} bytes", grouped(LINE_BYTES_MAX as u64))),
        };
        let text = text.map(|text| if place.offset == 0 { text.trim_start_matches('\u{feff}') } else { text });
        let read = match text {
            Ok(text) if text.trim().is_empty() => continue,
            Ok(text) => json::parse(text, &mut times).map(|event| Event {
                tenant_id: event.tenant.to_string(),
                event_type: event.event_type.to_string(),
                timestamp: Some(timestamp(event.time_ns)),
                metric_name: event.metric.to_string(),
                metric_value: event.value,
                dimensions: event.dimensions.pairs().into_iter().collect(),
                source: event.source.to_string(),
                version: event.version.to_string(),
            }),
            Err(reason) => Err(reason),
        };
        let line = place.line;
        let read = match read {
            Ok(event) => Incoming::Event { line, bytes: place.bytes as usize, event: Box::new(event) },
            Err(reason) => Incoming::Refused { line, reason },
        };
        if !take(read) {
            break;
        }
    }
    Ok(())
}

/// Requests for these lines: a request is for one tenant, and the order of lines is kept. Refused lines are told.
fn batches(read: impl Iterator<Item = Incoming>, totals: &mut Totals) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    for one in read {
        match one {
            Incoming::Refused { line, reason } => {
                tell(format_args!("line {line}: {}", printable(&reason)));
                totals.refused += 1;
            }
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
}

async fn send(client: &Client, batch: &Batch, mode: Mode, totals: &mut Totals) -> Outcome {
    // The events' tenant chooses, unless a flag did: then events of another one are refused one by one.
    let tenant = &batch.events[0].tenant_id;
    let answer = match client.options().tenant {
        None if !tenant.is_empty() => match client.for_tenant(tenant) {
            Ok(client) => publish(&client, batch.events.clone(), mode).await?,
            Err(error) => Err(error),
        },
        _ => publish(client, batch.events.clone(), mode).await?,
    };
    let line = |index: usize| batch.lines.get(index).copied().unwrap_or_default();
    match answer {
        Ok(answer) => {
            totals.durable += u64::from(answer.accepted);
            totals.refused += tell_refusals(&answer, |index| format!("line {}", line(index)));
            Ok(())
        }
        // Every event was refused: then the call has failed, and names them as fields.
        Err(error) => match refused_events(&error) {
            Some(refusals) => {
                for (index, field, description) in refusals {
                    tell(format_args!("line {}: {field}: {}", line(index), printable(description)));
                }
                totals.refused += batch.events.len() as u64;
                Ok(())
            }
            None => Err(Failure::from(error).context(batch.describe())),
        },
    }
}

/// Tells what was refused of a request; how many.
pub(super) fn tell_refusals(answer: &PublishResponse, place: impl Fn(usize) -> String) -> u64 {
    for event in &answer.rejected {
        let message = printable(&event.message);
        tell(format_args!("{}: {}: {message} ({})", place(event.index as usize), event.field, event.reason));
    }
    answer.rejected.len() as u64
}

/// Index, field and description of each event that an error names, if it names nothing else.
fn refused_events(error: &ClientError) -> Option<Vec<(usize, &str, &str)>> {
    let said = error.server().filter(|said| said.code == Code::InvalidArgument && !said.fields.is_empty())?;
    let one = |field: &'_ str| {
        let (index, rest) = field.strip_prefix("events[")?.split_once("].")?;
        Some((index.parse().ok()?, rest.len()))
    };
    said.fields
        .iter()
        .map(|refused| {
            let (index, rest) = one(&refused.field)?;
            Some((index, &refused.field[refused.field.len() - rest..], refused.description.as_str()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines become requests of one tenant each, in their order; what is no event is refused by its line.
    #[test]
    fn lines_become_requests() {
        let line = |tenant: &str| {
            format!(
                r#"{{"event_type":"m","timestamp":"2026-03-02T07:08:09Z","source":"","version":"","payload":{{"tenant_id":"{tenant}","metric_name":"m","metric_value":1}}}}"#
            )
        };
        let mut text = [line("a"), String::new(), line("a"), "nonsense".to_owned(), line("b"), line("a")].join("\n");
        text.push_str("\n\u{0}\n");
        let mut bytes = text.into_bytes();
        bytes.extend([0xFF, b'\n']);
        bytes.extend(vec![b'x'; LINE_BYTES_MAX + 1]);
        let mut read = Vec::new();
        read_lines(&bytes[..], |one| {
            read.push(one);
            true
        })
        .unwrap();
        let mut totals = Totals::default();
        let batches = batches(read.into_iter(), &mut totals);
        let lines: Vec<&[u64]> = batches.iter().map(|batch| &batch.lines[..]).collect();
        assert_eq!(lines, [&[1, 3][..], &[5], &[6]]);
        assert_eq!(totals.refused, 4, "nonsense, a zero byte, no UTF-8, too long");
        assert_eq!(batches[0].describe(), "lines 1 to 3, tenant a");
        assert_eq!(batches[1].describe(), "line 5, tenant b");
    }
}

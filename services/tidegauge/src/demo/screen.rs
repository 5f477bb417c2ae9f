//! The moving table: current values of the demo's tenants, fed by watches.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use futures::StreamExt as _;
use tidegauge_client::Client;
use tidegauge_client::proto::hotmetric::v1::Metric;
use tokio::sync::mpsc;

use crate::failure::{Doing as _, Failure, Outcome};
use crate::text_table::{Align, TextTable};
use crate::units::{grouped, short};

/// Time between two drawings in a terminal.
const REDRAW: Duration = Duration::from_millis(250);
/// Time between two printed tables elsewhere.
const REPRINT: Duration = Duration::from_secs(5);
/// Steps of the watches waiting to be drawn.
const QUEUE: usize = 64;

/// Current values by tenant and metric, each with its direction since the value before.
#[derive(Debug, Default)]
struct Values(BTreeMap<(usize, String), (Metric, f64)>);

impl Values {
    fn take(&mut self, tenant: usize, metrics: Vec<Metric>) {
        for metric in metrics {
            let key = (tenant, metric.metric_name.clone());
            let before = self.0.get(&key).map_or(metric.last_value, |(old, _)| old.last_value);
            self.0.insert(key, (metric, before));
        }
    }

    fn table(&self, tenants: &[&str]) -> TextTable {
        let mut table = TextTable::new(&[
            ("tenant", Align::Left),
            ("metric", Align::Left),
            ("current", Align::Right),
            ("", Align::Left),
            ("events", Align::Right),
        ]);
        for ((tenant, name), (metric, before)) in &self.0 {
            let direction = match metric.last_value.total_cmp(before) {
                std::cmp::Ordering::Less => "↓",
                std::cmp::Ordering::Equal => " ",
                std::cmp::Ordering::Greater => "↑",
            };
            table.row([
                tenants[*tenant].to_owned(),
                name.clone(),
                short(metric.last_value),
                direction.to_owned(),
                grouped(metric.event_count),
            ]);
        }
        table
    }
}

/// Shows the table until a watch ends.
///
/// # Errors
/// What the server said when a watch ended.
pub(super) async fn show(readers: Vec<(&'static str, Client)>, lines: Vec<String>, plain: bool) -> Outcome {
    let (sender, mut steps) = mpsc::channel(QUEUE);
    let tenants: Vec<&str> = readers.iter().map(|(tenant, _)| *tenant).collect();
    let mut watches = tokio::task::JoinSet::new();
    for (tenant, (_, client)) in readers.into_iter().enumerate() {
        let sender = sender.clone();
        watches.spawn(async move {
            let mut watch = client.watch(Vec::new()).await?;
            while let Some(step) = watch.next().await {
                if sender.send((tenant, step?.metrics)).await.is_err() {
                    break;
                }
            }
            Ok::<(), Failure>(())
        });
    }

    let terminal = console::Term::stdout();
    let redraw = terminal.is_term() && !plain;
    if !redraw {
        print(&lines.join("\n"))?;
    }
    let mut values = Values::default();
    let mut ticks = tokio::time::interval(if redraw { REDRAW } else { REPRINT });
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            Some((tenant, metrics)) = steps.recv() => values.take(tenant, metrics),
            Some(ended) = watches.join_next() => {
                return match ended {
                    Ok(Ok(())) => Err(Failure::new("a watch has ended")),
                    Ok(Err(failure)) => Err(failure),
                    Err(panic) => Err(Failure::new(format!("a watch has ended: {panic}"))),
                };
            }
            _ = ticks.tick() => {
                let table = values.table(&tenants);
                if redraw {
                    draw(&terminal, &table, &lines)?;
                } else if table.len() > 0 {
                    print(&format!("\n{table}"))?;
                }
            }
        }
    }
}

/// Draws from the top left corner, line by line, so that nothing flickers; what does not fit is left out.
fn draw(terminal: &console::Term, table: &TextTable, lines: &[String]) -> Outcome {
    let (height, width) = terminal.size();
    let (height, width) = (usize::from(height), usize::from(width));
    let rows = table.lines(Some(width));
    // The lines to copy stay whole, whatever their length: the terminal wraps them.
    let wrapped: usize = lines.iter().map(|line| line.chars().count().max(1).div_ceil(width.max(1))).sum();
    let room = height.saturating_sub(wrapped + 2).max(3);
    let mut out = String::from("\x1b[H");
    for row in rows.iter().take(room) {
        out.push_str(row);
        out.push_str("\x1b[K\n");
    }
    if rows.len() > room {
        out.push_str(&format!("… and {} more", rows.len() - room));
    }
    out.push_str("\x1b[K\n");
    for line in lines {
        out.push_str(line);
        out.push_str("\x1b[K\n");
    }
    out.push_str("Ctrl-C ends the demo.\x1b[K\x1b[J");
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(out.as_bytes()).and_then(|()| stdout.flush()).doing("writing to the terminal")
}

fn print(text: &str) -> Outcome {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{text}").and_then(|()| stdout.flush()).doing("writing to standard output")
}

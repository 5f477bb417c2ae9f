//! The moving table: current values of the demo's tenants, fed by watches.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::Duration;

use futures::StreamExt as _;
use tidegauge_client::Client;
use tidegauge_client::proto::hotmetric::v1::Metric;
use tokio::sync::mpsc;

use crate::failure::{Doing as _, Failure, Outcome};
use crate::stdout;
use crate::terminal::{Screen, fit};
use crate::text_table::{Align, TextTable};
use crate::units::{counted, grouped, short};

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

    /// The lines of a screen of that height.
    fn lines(&self, tenants: &[&str], height: usize) -> Vec<String> {
        let metrics = counted(self.0.len() as u64, "metric");
        let notes = vec![metrics, "the lines to copy stand above".to_owned(), "Ctrl-C ends the demo".to_owned()];
        fit(self.table(tenants).lines(), self.0.len(), height, "below the screen", notes)
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

    // Once, above the table: they can be marked and copied while it moves, and a small terminal scrolls back to them.
    stdout::write(format_args!("{}\n\n", lines.join("\n")))?;
    let mut screen = (std::io::stdout().is_terminal() && !plain).then(Screen::new);
    let mut values = Values::default();
    let mut ticks = tokio::time::interval(if screen.is_some() { REDRAW } else { REPRINT });
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
            _ = ticks.tick() => match &mut screen {
                Some(screen) => screen.draw(&values.lines(&tenants, screen.height())).doing("the terminal")?,
                None if values.0.is_empty() => {}
                None => stdout::write(format_args!("{}\n", values.table(&tenants)))?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that move say so, and a terminal that is too small for all rows shows the first ones and how many are hidden.
    #[test]
    fn the_table_fits_its_terminal() {
        let mut values = Values::default();
        let metric = |name: &str, last_value| Metric { metric_name: name.to_owned(), last_value, ..Metric::default() };
        values.take(0, vec![metric("a", 1.0), metric("b", 1.0)]);
        values.take(0, vec![metric("a", 2.0)]);
        values.take(1, vec![metric("c", 3.0)]);
        let lines = values.lines(&["local", "sample"], 24);
        assert_eq!(lines.len(), 5, "{lines:?}");
        assert!(lines[1].contains('↑') && lines[3].starts_with("sample"), "{lines:?}");
        let cut = values.lines(&["local", "sample"], 4);
        assert_eq!(cut.len(), 4, "{cut:?}");
        assert!(cut[3].contains("1 below the screen"), "{cut:?}");
    }
}

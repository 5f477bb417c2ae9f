//! How far a load is: a bar in a terminal, JSON lines for programs.

use std::sync::Arc;
use std::time::Duration;

use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use tidegauge_core::clock::Clock;

use crate::tell::tell;
use crate::units::{grouped, short};

/// Time between two JSON lines.
const LINE_INTERVAL_NS: u64 = 1_000_000_000;

/// How progress is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum ProgressMode {
    /// A bar in a terminal, otherwise nothing
    Auto,
    /// A bar
    Bar,
    /// One JSON object a second on standard error
    Json,
    /// Nothing
    None,
}

/// Progress of one file.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    json: Option<u64>,
    clock: Arc<dyn Clock>,
    start_ns: u64,
    total_bytes: u64,
    /// Bytes that earlier runs had done.
    start_bytes: u64,
    bytes: u64,
    events: u64,
}

impl Progress {
    /// Progress of a file of which `start_bytes` are done, and which was begun at a time of the clock.
    pub(crate) fn new(
        mode: ProgressMode,
        total_bytes: u64,
        start_bytes: u64,
        start_ns: u64,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let target = match mode {
            ProgressMode::Auto | ProgressMode::Bar => ProgressDrawTarget::stderr(),
            ProgressMode::Json | ProgressMode::None => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(Some(total_bytes), target);
        bar.set_style(style());
        bar.set_position(start_bytes);
        bar.reset_eta();
        let json = (mode == ProgressMode::Json).then_some(start_ns);
        Self { bar, json, clock, start_ns, total_bytes, start_bytes, bytes: start_bytes, events: 0 }
    }

    /// So many bytes more are done, with so many events accepted.
    pub(crate) fn done(&mut self, bytes: u64, events: u64) {
        self.bytes += bytes;
        self.events += events;
        self.bar.set_message(format!("{} events, {}/s", grouped(self.events), short(self.events_per_second())));
        self.bar.set_position(self.bytes.min(self.total_bytes));
        let Some(last_ns) = &mut self.json else { return };
        let now = self.clock.monotonic_ns();
        if now.saturating_sub(*last_ns) >= LINE_INTERVAL_NS {
            *last_ns = now;
            self.line();
        }
    }

    /// Events a second in this run.
    pub(crate) fn events_per_second(&self) -> f64 {
        self.events as f64 / self.elapsed().as_secs_f64().max(1e-3)
    }

    /// Time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.clock.monotonic_ns().saturating_sub(self.start_ns))
    }

    /// Writes a line without tearing the bar.
    pub(crate) fn say(&self, line: &str) {
        if self.bar.is_hidden() {
            tell(line);
        } else {
            self.bar.println(line);
        }
    }

    /// The bar vanishes; what remains to be said follows.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
        if self.json.is_some() {
            self.line();
        }
    }

    fn line(&self) {
        let done = self.bytes.saturating_sub(self.start_bytes) as f64;
        let left = self.total_bytes.saturating_sub(self.bytes) as f64;
        let seconds = self.elapsed().as_secs_f64();
        let eta = if done > 0.0 { Some(left * seconds / done) } else { None };
        let line = serde_json::json!({
            "events": self.events,
            "bytes": self.bytes,
            "total_bytes": self.total_bytes,
            "events_per_second": self.events_per_second(),
            "eta_seconds": eta,
        });
        tell(line);
    }
}

fn style() -> ProgressStyle {
    let template = "{bar:30.cyan/blue} {percent:>3}% {done} of {all}  {msg}  {left} left";
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("done", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            let _ = write!(out, "{}", HumanBytes(state.pos()));
        })
        .with_key("all", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            let _ = write!(out, "{}", HumanBytes(state.len().unwrap_or(0)));
        })
        .with_key("left", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            let _ = write!(out, "{:#}", HumanDuration(state.eta()));
        })
        .progress_chars("━╸─")
}

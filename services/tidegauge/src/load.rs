//! `tidegauge load`: files of events into the platform, quickly, once, and with an account of every line.
//!
//! A file is read and scanned on one thread and cut into chunks per tenant on another; lanes send them, several tenants and
//! several chunks at a time; a ledger writes down what is durable and what was refused. Start with [`reader`] for the way in,
//! [`send`] for the way out and [`ledger`] for the account.

pub(crate) mod block;
pub(crate) mod chunk;
pub(crate) mod csv;
pub(crate) mod dictionary;
pub(crate) mod event;
pub(crate) mod explain;
pub(crate) mod flags;
pub(crate) mod identity;
pub(crate) mod json;
pub(crate) mod ledger;
pub(crate) mod lines;
pub(crate) mod names;
pub(crate) mod ndjson;
pub(crate) mod progress;
pub(crate) mod reader;
pub(crate) mod refusal;
pub(crate) mod resume;
pub(crate) mod scan;
pub(crate) mod send;
pub(crate) mod source;
pub(crate) mod state;
pub(crate) mod time_format;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde_json::json;
use tidegauge_client::{Client, Mode};
use tidegauge_core::clock::{Clock, SystemClock};
use tokio::sync::mpsc;

use crate::connect::ConnectArgs;
use crate::failure::{Doing as _, Failure, Outcome};
use crate::output::{self, TextForm};
use crate::tell::tell;
use crate::units::{counted, readable, short};
use event::Place;
use flags::TableArgs;
use identity::{Identity, Stamp};
use ledger::{Ledger, RejectsFile};
use names::Names;
use progress::{Progress, ProgressMode};
use reader::{Format, Resume, Step};
use send::Sender;
use source::{BACK_TO_REFUSED, Source};
use state::{Earlier, Header, StateFile};

/// Steps between the reader and the lanes.
const STEPS_WAITING: usize = 8;
/// Tenants named in a summary.
const TENANTS_SHOWN_MAX: usize = 5;
/// Reports between the lanes and the ledger.
const REPORTS_WAITING: usize = 1_024;

const EXAMPLES: &str = "\
Examples:
  tidegauge load events.ndjson
  tidegauge load --live --tenant acme replay.ndjson
  tidegauge load cpu.csv --tenant acme --metric cpu --dimension host=web-1
  tidegauge load sales.csv --tenant acme --time-column day --time-format %d.%m.%Y --value-column net --value-column gross
  tidegauge load haus.csv.gz --tenant acme --time-column Zeit --time-format '%d.%m.%Y %H:%M' --time-zone Europe/Berlin \
      --value-column Wert --decimal ,
  tidegauge load long.tsv --tenant acme --metric-column metric --dimension host=host
  tidegauge load events.ndjson --rejects refused.ndjson

A line of NDJSON is
  {\"event_type\": …, \"timestamp\": …, \"source\": …, \"version\": …,
   \"payload\": {\"tenant_id\": …, \"metric_name\": …, \"metric_value\": …, \"dimensions\": {…}}}
The same file, read with the same flags, counts once, however often it is loaded. A file that was changed, or has grown,
is another one: load what is new, or corrected, from a file of its own.
What is loaded is durable at once; SQL shows it after the next cut (setting publish.interval, a minute).
Exit code: 0 if every line was taken, 1 if not, 2 for a wrong call.";

/// Flags of `load`.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct LoadArgs {
    /// Files of events: NDJSON (one JSON event a line) or tables, also packed with gzip or zstd
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Send as measurements of now instead of as history: for replaying a stream in its order
    #[arg(long)]
    live: bool,
    /// Write refused lines here, as they stood; those of a CSV file under its header
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// Exit with 0 even if lines were refused
    #[arg(long)]
    allow_rejects: bool,
    /// Where to remember what is done [default: the file's name with .tidegauge-load behind it]
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Load a file that was changed after a part of it had been loaded: what is still in it counts again
    #[arg(long)]
    as_new: bool,
    /// How to show progress
    #[arg(long, value_enum, default_value = "auto", value_name = "HOW")]
    progress: ProgressMode,
    /// Sums of each file: text on standard error, or a line of JSON on standard output
    #[arg(short, long, value_enum, default_value = "text", value_name = "FORM")]
    output: TextForm,
    #[command(flatten)]
    table: TableArgs,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

impl LoadArgs {
    fn state_path(&self, file: &Path) -> PathBuf {
        self.state.clone().unwrap_or_else(|| {
            let mut name = file.as_os_str().to_owned();
            name.push(".tidegauge-load");
            name.into()
        })
    }
}

/// Loads the files, one after the other.
///
/// # Errors
/// When a file could not be loaded to its end, or lines were refused.
pub(crate) async fn run(args: LoadArgs) -> Outcome {
    if args.files.len() > 1 && (args.state.is_some() || args.rejects.is_some()) {
        return Err(Failure::usage("--state and --rejects are for one file, but several were given"));
    }
    let tenant = args.connect.tenant()?;
    let mut tables = Vec::new();
    for file in &args.files {
        must_be_loadable(file)?;
        must_be_apart(file, args.rejects.as_deref(), &args.state_path(file))?;
        let mut format = args.table.format(file, tenant)?;
        let above = reader::settle(file, &mut format)?;
        tables.push((format, above));
    }
    let client = args.connect.connect().await?;
    let mut refused = false;
    for (file, (format, above)) in args.files.iter().zip(tables) {
        refused |= !load_file(&args, &client, file, format, above).await?;
    }
    if refused && !args.allow_rejects {
        return Err(Failure::new("not every line was taken")
            .hint("--rejects FILE keeps the refused lines; --allow-rejects makes this a success"));
    }
    Ok(())
}

/// First bytes of files that are not lines of text, and what to say about them.
const NOT_LINES: [(&[u8], &str, &str); 5] = [
    (b"\x1F\x8B", "packed twice, with gzip inside", "unpack it once first"),
    (b"\x28\xB5\x2F\xFD", "packed twice, with zstd inside", "unpack it once first"),
    (b"BZh", "compressed with bzip2", "bunzip2 it first, or compress it with gzip or zstd"),
    (b"PK\x03\x04", "a zip archive", "unzip it first"),
    (b"PAR1", "Parquet", "write it as NDJSON or CSV first, with DuckDB for example"),
];

/// A file that cannot be loaded is named before the first one is: a load is read twice and resumed, so it needs files.
fn must_be_loadable(file: &Path) -> Outcome {
    use std::io::Read as _;

    let named = |problem: &str| Failure::new(format!("{}: {problem}", file.display()));
    let as_lines = "what comes through a pipe is sent with `tidegauge emit`, or written to a file first";
    let metadata = match std::fs::metadata(file) {
        Err(error) if file.as_os_str() == "-" => return Err(named(&error.to_string()).hint(as_lines)),
        metadata => metadata.doing(file.display())?,
    };
    if metadata.is_dir() {
        return Err(named("is a directory").hint("name the files in it"));
    }
    if !metadata.is_file() {
        return Err(named("is no regular file").hint(as_lines));
    }
    let mut first = Vec::new();
    Source::open(file, 0).and_then(|source| source.take(8).read_to_end(&mut first)).doing(file.display())?;
    match NOT_LINES.into_iter().find(|(magic, ..)| first.starts_with(magic)) {
        Some((_, what, advice)) => Err(named(&format!("is {what}")).hint(advice)),
        None => Ok(()),
    }
}

/// What is written must not be what is read: a file that is loaded is never touched.
fn must_be_apart(file: &Path, rejects: Option<&Path>, state: &Path) -> Outcome {
    use std::os::unix::fs::MetadataExt as _;

    let inode = |path: &Path| std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
    let is_same = |one: &Path, other: &Path| one == other || inode(one).is_some_and(|id| inode(other) == Some(id));
    let clash = |flag: &str, path: &Path, what: &str| {
        Err(Failure::usage(format!("{flag} {} is {what}, and would be written over", path.display())))
    };
    match rejects {
        _ if is_same(state, file) => clash("--state", state, "the file to be loaded"),
        Some(rejects) if is_same(rejects, file) => clash("--rejects", rejects, "the file to be loaded"),
        Some(rejects) if is_same(rejects, state) => clash("--rejects", rejects, "the state file"),
        _ => Ok(()),
    }
}

/// Loads a file; whether every line was taken.
async fn load_file(
    args: &LoadArgs,
    client: &Client,
    file: &Path,
    format: Format,
    above: Option<Place>,
) -> Outcome<bool> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let start_ns = clock.monotonic_ns();
    let stamp = Stamp::of(file)?;
    let (identity, bytes) = identify(file, &format, &stamp).await?;
    let header = Header::new(file, &identity, &format, &args.connect.endpoint);
    let state_path = args.state_path(file);

    let earlier = match StateFile::read(&state_path, &header)? {
        Earlier::Begun(begun) => Some(*begun),
        Earlier::Changed(durable) if !args.as_new => return Err(changed(file, &state_path, durable)),
        Earlier::Nothing | Earlier::Changed(_) => None,
    };
    let finished = earlier.as_ref().map_or(0, |(_, done)| done.finished);
    let (state, done) = match resume::decide(client, &header, earlier, &*clock).await {
        Some(done) => {
            tell(format_args!("{}: resuming after {}", file.display(), counted(done.accepted, "event")));
            (StateFile::append_to(&state_path)?, done)
        }
        None => (StateFile::create(&state_path, &header, finished)?, state::Done::default()),
    };

    let rejects = args.rejects.as_deref().map(|path| RejectsFile::open(path, done.rejects.bytes, above)).transpose()?;
    let progress = Progress::new(args.progress, bytes, done.resume.offset, start_ns, Arc::clone(&clock));
    let source = Source::open(file, BACK_TO_REFUSED).doing(file.display())?;
    let (resume, durable) = (done.resume.clone(), done.sequences.clone());
    let mut ledger = Ledger::new(source, state, rejects, done, progress);

    let (reports_in, mut reports) = mpsc::channel(REPORTS_WAITING);
    let (steps_in, steps) = mpsc::channel(STEPS_WAITING);
    let reading = read_aside(file.to_owned(), format.clone(), resume.clone(), bytes, steps_in);
    let mode = if args.live { Mode::Live } else { Mode::Backfill };
    let names = Names::of_format(&format);
    let sender = Sender { client: client.clone(), identity, mode, names, durable, reports: reports_in };
    let sending = tokio::spawn(sender.run(steps));

    let mut together = Vec::new();
    while reports.recv_many(&mut together, REPORTS_WAITING).await > 0 {
        if let Err(failure) = ledger.take(std::mem::take(&mut together)) {
            let again = "what is durable is remembered: the same command goes on from there";
            return Err(failure.context(file.display()).or_hint(again));
        }
    }
    sending.await.doing("sending")?;
    reading.await.doing("reading")??;
    if !stamp.holds(file)? {
        return Err(changed_meanwhile(file, ledger.accepted));
    }

    let mut unsent = 0;
    if !ledger.refused_tenants.is_empty() {
        unsent = keep_unsent(file, &format, &resume, bytes, &mut ledger)?;
    }
    let mends = (!args.allow_rejects).then_some(&header);
    summary(file, ledger, mends, unsent, args.output)
}

/// Reads a file for its identity and for the length of its content, on a thread of its own.
async fn identify(file: &Path, format: &Format, stamp: &Stamp) -> Outcome<(Identity, u64)> {
    /// From here on somebody may wonder what takes so long.
    const LARGE_BYTES: u64 = 4 << 30;
    if stamp.bytes >= LARGE_BYTES {
        tell(format_args!("{}: reading it once, to know it again", file.display()));
    }
    let (path, format) = (file.to_owned(), format.clone());
    let read = move || -> Outcome<(Identity, u64)> {
        let identity = Identity::of(&path, &format)?;
        let hint = "nothing of it was sent: get it whole, and load it again";
        let bytes = Source::measure(&path).doing(path.display()).map_err(|failure| failure.or_hint(hint))?;
        Ok((identity, bytes))
    };
    let read = tokio::task::spawn_blocking(read).await.doing(file.display())??;
    if !stamp.holds(file)? {
        return Err(Failure::new(format!("{}: it is being written to", file.display()))
            .hint("load it when it is complete; what is sent as it comes is for `tidegauge emit`"));
    }
    Ok(read)
}

/// Why a load does not count as complete whose file was written to meanwhile.
fn changed_meanwhile(file: &Path, durable: u64) -> Failure {
    let (file, durable) = (file.display(), counted(durable, "event"));
    Failure::new(format!(
        "{file}: it was written to while it was being loaded; {durable} of what it was before are durable"
    ))
    .hint("what was added to it is loaded from a file of its own; all of it once more would count these again")
}

/// Why a file is not loaded that has changed since.
fn changed(file: &Path, state: &Path, durable: u64) -> Failure {
    let (file, state, durable) = (file.display(), state.display(), counted(durable, "event"));
    Failure::new(format!("{file}: it has changed since {durable} of it became durable (as {state} says), and what is still in it would count again"))
        .hint("load the lines that are new or corrected from a file of their own (--rejects FILE keeps refused ones); --as-new loads all")
}

/// Reads the file on a thread of its own.
fn read_aside(
    file: PathBuf,
    format: Format,
    from: Resume,
    bytes: u64,
    steps: mpsc::Sender<Step>,
) -> tokio::task::JoinHandle<Outcome> {
    tokio::task::spawn_blocking(move || {
        let described = |text: String| tell(format_args!("{}: {text}", file.display()));
        reader::read(&file, &format, &from, bytes, described, |step| steps.blocking_send(step).is_ok())
    })
}

/// Reads the file once more for the events of refused tenants, so that they stand among the rejects; how many.
fn keep_unsent(file: &Path, format: &Format, from: &Resume, bytes: u64, ledger: &mut Ledger) -> Outcome<u64> {
    let mut unsent = 0;
    let mut kept = Ok(());
    reader::read(file, format, from, bytes, drop, |step| {
        let Step::Chunk(chunk) = step else { return true };
        let durable = ledger.sequences.get(&*chunk.tenant).is_some_and(|last| chunk.sequence <= *last);
        if durable || !ledger.refused_tenants.contains_key(&chunk.tenant) {
            return true;
        }
        unsent += chunk.places.len() as u64;
        kept = match ledger.keeps_rejects() {
            true => chunk.places.iter().try_for_each(|place| ledger.keep(*place)),
            false => Ok(()),
        };
        kept.is_ok()
    })?;
    kept.map(|()| unsent)
}

fn summary(file: &Path, ledger: Ledger, header: Option<&Header>, unsent: u64, form: TextForm) -> Outcome<bool> {
    let (accepted, rejected, unreadable) = (ledger.accepted, ledger.rejected, ledger.unreadable.lines);
    let (known_before, empty_cells) = (ledger.known_before, ledger.empty_cells);
    let refused: Vec<&str> = ledger.refused_tenants.keys().map(|tenant| &**tenant).collect();
    let refused_tenants = ledger.refused_tenants.iter().map(
        |(tenant, failure)| json!({"tenant_id": &**tenant, "reason": failure.reason(), "message": failure.message()}),
    );
    let refused_tenants: Vec<_> = refused_tenants.collect();
    let refused = match &refused[..] {
        [] => None,
        names if names.len() <= TENANTS_SHOWN_MAX => Some(names.join(", ")),
        names => Some(format!(
            "{} and {} more tenants",
            names[..TENANTS_SHOWN_MAX].join(", "),
            names.len() - TENANTS_SHOWN_MAX
        )),
    };
    let progress = ledger.close(header)?;
    progress.finish();
    let rate = short(progress.events_per_second());
    let is_whole = rejected == 0 && unreadable == 0 && refused.is_none();
    if form == TextForm::Json {
        let sums = json!({
            "file": file.display().to_string(),
            "accepted": accepted,
            "loaded_before": known_before,
            "lines_without_event": unreadable,
            "empty_cells": empty_cells,
            "refused": rejected,
            "not_sent": unsent,
            "refused_tenants": refused_tenants,
            "seconds": progress.elapsed().as_secs_f64(),
        });
        output::document(&sums)?;
        return Ok(is_whole);
    }
    let took = readable(progress.elapsed());
    let mut parts = vec![format!("{} durable ({rate}/s, {took})", counted(accepted, "event"))];
    if known_before > 0 {
        parts.push(format!("{} of them loaded before (they count once)", counted(known_before, "event")));
    }
    if unreadable > 0 {
        parts.push(format!("{} without an event", counted(unreadable, "line")));
    }
    if empty_cells > 0 {
        parts.push(format!("{} without a measurement", counted(empty_cells, "empty cell")));
    }
    if rejected > 0 {
        parts.push(format!("{} refused", counted(rejected, "event")));
    }
    if let Some(tenants) = &refused {
        parts.push(format!("{} of {tenants} not sent", counted(unsent, "event")));
    }
    tell(format_args!("{}: {}", file.display(), parts.join(", ")));
    Ok(is_whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file is never written over by what is said of it, whatever its name is there.
    #[test]
    fn what_is_read_is_not_written() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["a", "b"] {
            std::fs::write(path(name), b"{}").unwrap();
        }
        std::os::unix::fs::symlink(path("a"), path("link")).unwrap();
        std::fs::hard_link(path("a"), path("hard")).unwrap();
        must_be_apart(&path("a"), Some(&path("b")), &path("state")).unwrap();
        must_be_apart(&path("a"), None, &path("state")).unwrap();
        let around = folder.path().join(".").join("a");
        for same in [path("a"), path("link"), path("hard"), around] {
            must_be_apart(&path("a"), Some(&same), &path("state")).unwrap_err();
            must_be_apart(&path("a"), None, &same).unwrap_err();
        }
        must_be_apart(&path("a"), Some(&path("new")), &path("new")).unwrap_err();
    }

    /// What is not lines of text is named with a way out, before anything is sent.
    #[test]
    fn what_cannot_be_loaded_is_named() {
        let folder = tempfile::TempDir::new().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        for good in [write("a.ndjson", b"{}"), write("empty.ndjson", b""), write("a.csv", b"timestamp,value\n")] {
            must_be_loadable(&good).unwrap();
        }
        let gzip = write("a.ndjson.gz", b"\x1F\x8B\x08\x00");
        let twice = zstd::stream::encode_all(&b"\x1F\x8B\x08\x00"[..], 1).unwrap();
        let (missing, pipe) = (folder.path().join("nope.ndjson"), PathBuf::from("/dev/null"));
        let cases = [
            (gzip, "breaks off"),
            (write("twice.ndjson.zst", &twice), "packed twice"),
            (write("a.parquet", b"PAR1\x15\x04"), "Parquet"),
            (folder.path().to_owned(), "directory"),
            (pipe, "tidegauge emit"),
            (missing, "No such file"),
        ];
        for (file, word) in cases {
            let refused = must_be_loadable(&file).unwrap_err().to_string();
            let name = file.display().to_string();
            assert!(refused.contains(word) && refused.matches(&name).count() == 1, "{refused}");
        }
    }
}

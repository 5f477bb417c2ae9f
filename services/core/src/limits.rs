//! Every limit and default of the platform, each with its reason. Change one here and nowhere else.

use std::time::Duration;

/// Bytes of a tenant id: a DNS label, so that it can become a host name or a bucket prefix.
pub const TENANT_ID_BYTES_MAX: usize = 63;
/// Bytes of a metric name: fits a DynamoDB sort key together with its other parts.
pub const METRIC_NAME_BYTES_MAX: usize = 255;
/// Bytes of an event type: same reason as a metric name.
pub const EVENT_TYPE_BYTES_MAX: usize = 255;
/// Bytes of `source` and of `version`: names of programs, not payloads.
pub const SOURCE_BYTES_MAX: usize = 255;
/// Dimensions of one event: more is a document, not a measurement.
pub const DIMENSIONS_MAX: usize = 64;
/// Bytes of a dimension's key.
pub const DIMENSION_KEY_BYTES_MAX: usize = 128;
/// Bytes of a dimension's value.
pub const DIMENSION_VALUE_BYTES_MAX: usize = 256;
/// Events in one request: bounds the verdict list and the time a request holds a core.
pub const EVENTS_PER_REQUEST_MAX: usize = 10_000;
/// Bytes of one request on the wire; larger ones are refused before they are decoded.
pub const REQUEST_BYTES_MAX: usize = 16 << 20;
/// Bytes of one answer on the wire; Flight batches are cut to fit, BI tools refuse 16 MiB.
pub const RESPONSE_BYTES_MAX: usize = 16 << 20;
/// Bytes of the texts for people in the verdicts of one answer: the first ones tell what is wrong, and gRPC clients refuse
/// answers of more than 4 MiB unless told otherwise.
pub const VERDICT_TEXT_BYTES_MAX: usize = 256 << 10;
/// Bytes of one log record with its key: the limit of a Kinesis record is 1 MiB; some room for its own framing.
pub const RECORD_BYTES_MAX: usize = 1_000_000;
/// Bytes of the log records made of one request: columns whose events share large dictionary entries grow when they are
/// divided into records, and must still fit the queue of a shard ([`INGEST_QUEUE_BYTES`]).
pub const REQUEST_RECORDS_BYTES_MAX: usize = 24 << 20;

/// Shards of the embedded log: two cores keep four busy, and a tenant's order needs only one.
pub const SHARDS: u32 = 4;
/// Length of a window.
pub const WINDOW: Duration = Duration::from_secs(60);
/// How long after its end a window waits for events before it closes.
pub const ALLOWED_LATENESS: Duration = Duration::from_secs(5 * 60);
/// Silence after which an idle key's watermark follows the clock.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Age, behind the watermark that events set, beyond which a LIVE event becomes a dead letter.
pub const LATENESS_HORIZON: Duration = Duration::from_secs(24 * 3600);
/// How far ahead of the clock an event's time may be: clocks of honest emitters differ by less.
pub const FUTURE_TOLERANCE: Duration = Duration::from_secs(10 * 60);
/// Earliest event time accepted, 2000-01-01T00:00:00Z in Unix nanoseconds: earlier ones are unset clocks.
pub const EVENT_TIME_MIN_NS: i64 = 946_684_800_000_000_000;
/// Longest time between two checkpoints of a shard that has new records.
pub const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(10);
/// Bytes of log between two checkpoints: bounds what a restart replays.
pub const CHECKPOINT_LOG_BYTES: u64 = 128 << 20;
/// Files of a shard's checkpoints that are read side by side: each is a descriptor, and the rest is read in a next round.
pub const CHECKPOINT_FILES_AT_ONCE: usize = 33;
/// Age at which what waits in a key is published.
pub const PUBLISH_INTERVAL: Duration = Duration::from_secs(60);
/// Objects (hours of keys) that one epoch of a shard takes: some seconds of the fastest disks. How many it takes follows from
/// how long they took before; what is over waits for the next epoch.
pub const EPOCH_OBJECTS_MAX: usize = 8_192;
/// Time that the outputs of one epoch should take: meanwhile nothing else of the shard is checkpointed or cut, and a tenant
/// must not see that a neighbour loads years of history.
pub const EPOCH_APPLY_TIME: Duration = Duration::from_secs(2);
/// Sequences remembered for a producer.
pub const DEDUP_SEQUENCES: usize = 4_096;
/// Time for which a silent producer is remembered.
pub const DEDUP_AGE: Duration = Duration::from_secs(24 * 3600);
/// Kept producers of one tenant; one more is refused, because a kept floor never expires.
pub const KEPT_PRODUCERS_MAX: usize = 100_000;
/// Fresh producers remembered for one tenant; over it the one silent for longest is forgotten first.
pub const FRESH_PRODUCERS_MAX: usize = 100_000;
/// Series (metrics) of one tenant: bounds the state and the hot store.
pub const SERIES_PER_TENANT_MAX: usize = 100_000;
/// Rows (unpublished windows, waiting corrections, backfill sums) of one shard in memory; reached, a cut is forced.
pub const STATE_ROWS_MAX: usize = 1_000_000;
/// Time for which the log keeps a record, if nothing needs it longer.
pub const LOG_RETENTION: Duration = Duration::from_secs(24 * 3600);
/// Share of the disk, in percent, that one tenant may take with log that nothing needs any more: over it its segments are the
/// first to go when room is short. Ten such tenants fill a disk; one leaves most of it to others.
pub const LOG_TENANT_SHARE_PERCENT: u64 = 10;
/// Bytes of one segment file of the log.
pub const SEGMENT_BYTES: u64 = 64 << 20;
/// Bytes of sealed segments of the log that a start reads and checks whole: a tenth of a second from the memory of the
/// operating system, half a second from an SSD; what is older is checked while the server runs.
pub const LOG_START_CHECK_BYTES: u64 = 256 << 20;
/// Bytes a second of older segments that are checked while the server runs: a tenth or less of what an SSD reads, so that it
/// is the writers' as before, and more than a busy server appends over a day, so that the check is done before retention is.
pub const LOG_SCRUB_BYTES_PER_SECOND: u64 = 32 << 20;
/// Bytes of one group commit: beyond about 1 MB a sync takes longer per byte (ceilings: 4 MB take 15 ms).
pub const GROUP_COMMIT_BYTES: usize = 1 << 20;
/// Bytes waiting for the log in one shard before ingest refuses requests with RESOURCE_EXHAUSTED; a tenant that has some
/// waiting may take no more than what is still free, so alone it gets half.
pub const INGEST_QUEUE_BYTES: usize = 32 << 20;
/// Share of the disk that stays free, in percent; the larger of this and [`DISK_RESERVE_BYTES`] counts.
pub const DISK_RESERVE_PERCENT: u64 = 5;
/// Bytes of disk that stay free, so that state and lake can still be written when ingest has stopped.
pub const DISK_RESERVE_BYTES: u64 = 1 << 30;

/// Shortest time between two pushes to hot-metric: coalesces bursts.
pub const HOT_PUSH_INTERVAL_MIN: Duration = Duration::from_millis(5);
/// Latest changes kept for the watchers of one tenant, some seconds of a busy one; a watcher that falls behind further is
/// told how many it missed.
pub const WATCH_CHANGES: usize = 65_536;
/// Watchers of one tenant: each change is encoded for each of them.
pub const WATCHERS_PER_TENANT: usize = 1_000;
/// Calls from outside that hold the live windows of one tenant in memory, each all that waits to be published; a caller
/// that reads is done with them soon.
pub const LIVE_READS_PER_TENANT: usize = 8;
/// Entries of one page of a list.
pub const PAGE_SIZE_MAX: usize = 1_000;
/// Entries of a page when the caller names no size.
pub const PAGE_SIZE_DEFAULT: usize = 100;
/// Metrics of one batch get.
pub const BATCH_GET_MAX: usize = 1_000;

/// Bytes of a SQL text: checked before parsing, because a parser's stack grows with it.
pub const SQL_BYTES_MAX: usize = 64 << 10;
/// Terms (tokens) of a SQL text: planning time grows faster than their number.
pub const SQL_TOKENS_MAX: usize = 5_000;
/// Nesting of parentheses, brackets and CASE in a SQL text.
pub const SQL_DEPTH_MAX: usize = 50;
/// Stack of a thread that parses or plans.
pub const PLANNING_STACK_BYTES: usize = 16 << 20;
/// Wall time of one query.
pub const QUERY_TIME_MAX: Duration = Duration::from_secs(60);
/// Memory of one query.
pub const QUERY_MEMORY_BYTES: usize = 256 << 20;
/// Bytes of lake objects that one query may read.
pub const QUERY_SCAN_BYTES_MAX: u64 = 8 << 30;
/// Rows of one result.
pub const QUERY_ROWS_MAX: u64 = 50_000_000;
/// Queries of one tenant that run at once; further ones wait.
pub const QUERIES_PER_TENANT: usize = 4;
/// Queries of one tenant that wait; further ones are refused with RESOURCE_EXHAUSTED.
pub const QUERIES_WAITING_PER_TENANT: usize = 64;

/// Events a second that one tenant may publish, unless configured.
pub const QUOTA_EVENTS_PER_SECOND: u64 = 10_000_000;
/// Bytes a second that one tenant may publish, unless configured.
pub const QUOTA_BYTES_PER_SECOND: u64 = 1 << 30;

/// Requests in flight on one HTTP/2 connection.
pub const CONCURRENT_STREAMS: u32 = 1_000;
/// HTTP/2 frame: fewer, larger frames cost less per byte.
pub const HTTP2_FRAME_BYTES: u32 = 1 << 20;
/// HTTP/2 window of one stream.
pub const HTTP2_STREAM_WINDOW_BYTES: u32 = 8 << 20;
/// HTTP/2 window of one connection, at most.
pub const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
/// Bytes of the headers of one request: JDBC clients send more than 8 KiB.
pub const HEADER_LIST_BYTES_MAX: u32 = 32 << 10;
/// Time a drain may take before the process leaves anyway.
pub const DRAIN_TIME_MAX: Duration = Duration::from_secs(20);
/// Connections open at once, at most: each may hold buffers up to its HTTP/2 window. Where the process may open few files it
/// is less ([`crate::descriptors`]).
pub const CONNECTIONS_MAX: usize = 4_096;
/// Calls in flight over all connections, long streams included; further ones are refused with RESOURCE_EXHAUSTED.
pub const CALLS_IN_FLIGHT_MAX: usize = 16_384;
/// Bytes of request messages that have not arrived whole, over all calls; a tenant may have as many as are still free, one
/// principal a quarter of all.
pub const UNFINISHED_BYTES_MAX: usize = 512 << 20;
/// Silence on a connection after which the server asks whether the other side still lives.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// Time for the answer to that; without it the connection is closed.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Age at which a connection is told to go (GOAWAY), so that load spreads over new servers; open calls go on.
pub const CONNECTION_AGE_MAX: Duration = Duration::from_secs(30 * 60);
/// Time after that in which open calls may end by themselves; then they end with UNAVAILABLE and RetryInfo.
pub const CONNECTION_AGE_GRACE: Duration = Duration::from_secs(30 * 60);
/// Time from the beginning of a connection, its TLS handshake included, to its first call with a valid credential: then it
/// gets GOAWAY, so that nobody holds a place without one. A client that calls later connects again by itself.
pub const FIRST_CALL_TIME_MAX: Duration = Duration::from_secs(10);
/// Time without an authenticated call after which a connection gets GOAWAY: answers to pings hold no place for ever.
pub const CONNECTION_IDLE_MAX: Duration = Duration::from_secs(5 * 60);
/// Calls without a credential (health) at once on one connection: a probe has one.
pub const PUBLIC_CALLS_PER_CONNECTION: usize = 4;
/// Time for such a call: its request is a name, its answer a number.
pub const PUBLIC_CALL_TIME_MAX: Duration = Duration::from_secs(2);
/// Time in which a client must take something of an answer that waits for it; then the call ends, or the connection where
/// the operating system takes no more bytes either.
pub const ANSWER_UNREAD_MAX: Duration = Duration::from_secs(60);
/// Bytes of answers that clients have not taken, over all connections; a tenant may have as many as are still free, one
/// principal a quarter of all. Beyond that the call that wants to send more ends.
pub const UNREAD_BYTES_MAX: usize = 256 << 20;
/// Bytes that clients may send before handlers have taken them, over all connections and shared in the same way. A
/// connection begins with 64 KiB, which are not counted, and gets more when it uses it.
pub const RECEIVE_WINDOWS_BYTES_MAX: usize = 256 << 20;
/// Bytes of requests and answers that streams keep while others wait before them, over all connections and shared in the
/// same way. Beyond that requests are refused for now.
pub const WAITING_BYTES_MAX: usize = 256 << 20;

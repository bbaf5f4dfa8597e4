//! Every bound of the data plane, named in one place, with the policy when it is reached.

/// Bytes read from a socket at once, into the worker's scratch. A larger read comes in several turns.
pub(crate) const SCRATCH_BYTES: usize = 128 << 10;

/// Reads that one session or mux makes before it lets the others have their turn.
pub(crate) const READS_PER_TURN: u32 = 4;

/// Commands of one session that may be unanswered; past it the session is not read.
pub(crate) const PIPELINE_DEPTH: u64 = 1024;

/// Bytes of one session's unanswered commands; past it the session is not read.
pub(crate) const PIPELINE_BYTES: usize = 1 << 20;

/// Output waiting for one client, beside what it is granted; past it the session asks for no more (backpressure).
pub(crate) const OUTPUT_SOFT_BYTES: usize = 256 << 10;

/// What a client is granted at most: as much unread output as there is input of it that is kept for it.
pub(crate) const OUTPUT_GRANT_BYTES: usize = 32 << 20;

/// Output waiting for one client; past it what it has asked for is put off if others wait behind that. Where it cannot
/// be, the connection that feeds it is not read either, and gets no new work.
pub(crate) const OUTPUT_STALL_BYTES: usize = 1 << 20;

/// The same where memory is short: what is left of `--max-memory`, divided by this.
pub(crate) const OUTPUT_SHARES: usize = 64;

/// Output that the kernel takes of one client before it is sent; past it, it waits here, where all of this is bounded. The
/// kernel's own bound is some megabytes on loopback, and a thousand clients that read nothing fill with it all that it has
/// for TCP: nobody is served then.
pub(crate) const OUTPUT_UNSENT_BYTES: u32 = 256 << 10;

/// Output waiting for one subscriber or monitor; past it the client is closed, as `client-output-buffer-limit
/// pubsub 32mb` does on Redis.
pub(crate) const OUTPUT_PUSH_BYTES: usize = 32 << 20;

/// MONITOR, CLIENT TRACKING and the like of one session, kept to be repeated on a new primary; past it the client is
/// closed when the primary changes.
pub(crate) const STANDING_BYTES: usize = 64 << 10;

/// A client that takes nothing for so long while others wait behind its reply is closed.
pub(crate) const SLOW_CLIENT_SECS: u64 = 10;

/// A reply is held until complete up to here; past it its bytes are passed on as they come.
pub(crate) const REPLY_WHOLE_BYTES: usize = 64 << 10;

/// Batches of commands of one session without a reply past [`REPLY_WHOLE_BYTES`]; behind them it is no reader of large
/// replies any more, and shares a connection with the others again.
pub(crate) const LARGE_READER_BATCHES: u8 = 64;

/// A request longer than this travels on a lease of its own, so that it stalls nobody else's, and is passed on as it comes.
pub(crate) const REQUEST_SHARED_BYTES: usize = 256 << 10;

/// Bytes of small requests that one write to a node carries; a larger one has a write of its own.
pub(crate) const CHUNK_BYTES: usize = 64 << 10;

/// Empty write buffers that a shared connection keeps.
pub(crate) const CHUNKS_KEPT: usize = 4;

/// The largest write buffer that a shared connection keeps for its next write.
pub(crate) const CHUNK_KEEP_BYTES: usize = 128 << 10;

/// Input of one session kept while it waits (for a primary, a lease, or its blocked command); past it the
/// socket is not read.
pub(crate) const WAITING_INPUT_BYTES: usize = 64 << 10;

/// Input of one session kept while its client leaves replies unread, so that one which reads only once it has sent all
/// gets there: past it the socket is not read. And while a command of it is blocked, so that the client's end is seen
/// behind it: past it the client is closed, as `client-query-buffer-limit` does on Redis.
pub(crate) const KEPT_INPUT_BYTES: usize = 256 << 20;

/// The same of a client that has not authenticated where that is asked.
pub(crate) const STRANGER_INPUT_BYTES: usize = 1 << 20;

/// However short memory is, so much output may wait for one client: it is served on, and not closed for the memory that
/// it takes.
pub(crate) const SHED_BYTES: usize = 64 << 10;

/// Commands of an open MULTI kept for a replay on a new primary; past it a failover answers EXECABORT.
pub(crate) const JOURNAL_BYTES: usize = 1 << 20;

/// A read whose connection was lost after it was sent is sent again so often, so that a poison read cannot kill
/// every node.
pub(crate) const READ_RESENDS: u8 = 1;

/// Idle time after which an unused lease is closed.
pub(crate) const LEASE_IDLE_SECS: u64 = 60;

/// Time after which the connections of a Profile that no session uses any more are closed.
pub(crate) const BACKEND_IDLE_SECS: u64 = 60;

/// Pause between two attempts of a command that a node refused or could not be reached for: first and longest.
pub(crate) const RETRY_PAUSE_MS: (u64, u64) = (5, 100);

/// Failovers of a master that are remembered; older ones are forgotten.
pub(crate) const FAILOVERS_KEPT: usize = 64;

/// Scripts kept of one master, for a new primary; the one that was used longest ago makes room.
pub(crate) const SCRIPTS_BYTES: usize = 8 << 20;

/// A script longer than this is not kept.
pub(crate) const SCRIPT_BYTES: usize = 256 << 10;

/// What keeping a script costs beside its text.
pub(crate) const SCRIPT_OVERHEAD: usize = 200;

/// Scripts that a worker recognises without a lock, and that it knows one node to have; past it it starts anew.
pub(crate) const SCRIPTS_KNOWN: usize = 4096;

/// Scans of one session that are told apart after a move; past it their cursors are believed.
pub(crate) const SCANS_KNOWN: usize = 1024;

/// Unknown commands of which one node has been asked what they do; past it they count as writes.
pub(crate) const COMMANDS_LEARNED: usize = 1024;

/// The longest name of an unknown command that is asked after.
pub(crate) const COMMAND_NAME_BYTES: usize = 64;

/// A shared connection with a command that may keep it alone busy (a script, a module's command, a transaction) and
/// that has been silent for so long takes nothing new: a node that serves others goes on doing so.
pub(crate) const SCRIPT_SILENCE_MS: u64 = 50;

/// Whoever is in front of a shared connection has waited for so long although the node answers: it takes nothing new, so
/// that those who come now do not stand behind all that was asked there.
pub(crate) const CONGESTED_MS: u64 = 250;

/// Shared connections to one node that only finish what they have; past it none retires for being congested.
pub(crate) const LEAVING_CONNECTIONS: usize = 4;

/// The longest password that is looked at under `--client-auth proxy`; a longer one is wrong.
pub(crate) const PASSWORD_BYTES: usize = 16 << 10;

/// The longest PROXY header; past it the connection is closed.
pub(crate) const PROXY_HEADER_BYTES: usize = 4096;

/// Addresses of clients that are told apart; past it those without clients are forgotten, at most once a second.
pub(crate) const ADDRESSES: usize = 65_536;

/// How long a client that is turned away may take to read why.
pub(crate) const REFUSAL_MS: u64 = 1000;

/// How long held commands wait for subscribers to arrive on a new primary, and a PUBLISH for those who subscribed
/// before.
pub(crate) const SUBSCRIBERS_FIRST_MS: u64 = 100;

/// How often a worker looks for silent nodes, idle clients and idle leases.
pub(crate) const PULSE_MS: u64 = 50;

/// While clients come in, it is looked at so often whether the nodes ask newcomers for a password now.
pub(crate) const ACCESS_LOOK_SECS: u64 = 1;

/// Orders for the process as a whole that may wait; one more is refused.
pub(crate) const DEMANDS_WAITING: usize = 16;

/// Credentials towards the nodes that reloads have replaced, kept for sessions that began with them; the oldest is
/// forgotten, and such a session ends with its connection to the node.
pub(crate) const FORMER_CREDENTIALS: usize = 1024;

/// A drain sends clients away in so many slices, one a pulse, so that they do not all come back somewhere at once…
pub(crate) const DRAIN_SLICES: usize = 20;

/// … of at least so many.
pub(crate) const DRAIN_SLICE_CLIENTS: usize = 50;

/// Slow commands of a master that are kept; older ones are forgotten.
pub(crate) const SLOWLOG_ENTRIES: usize = 128;

/// Arguments of a slow command that are kept, and bytes of each: what Redis' SLOWLOG keeps.
pub(crate) const SLOWLOG_ARGUMENTS: usize = 32;
pub(crate) const SLOWLOG_ARGUMENT_BYTES: usize = 128;

/// Keys of one sampled command that count, and bytes that tell one key from another.
pub(crate) const SAMPLED_KEYS: usize = 16;
pub(crate) const SAMPLED_KEY_BYTES: usize = 256;

/// Keys that a worker counts at once; the rarest makes room.
pub(crate) const HOT_KEYS: usize = 128;

/// Keys that PROXY SHOW HOTKEYS names.
pub(crate) const HOT_KEYS_SHOWN: usize = 20;

/// Large values that are kept, and what is large.
pub(crate) const LARGE_VALUES: usize = 16;
pub(crate) const LARGE_BYTES: usize = 4 << 10;

/// After so many samples all counts are halved, so that old ones fade.
pub(crate) const SAMPLES_REMEMBERED: u64 = 1 << 15;

/// A session's state on its way to another process, in one message; past it the session stays until it has less to carry.
pub(crate) const SESSION_STATE_BYTES: usize = 128 << 10;

/// Sessions that have left their workers and wait to be sent to another process; past it the others wait their turn.
pub(crate) const DEPARTURES: usize = 64;

/// How often sessions that could not leave are asked again.
pub(crate) const DEPARTURE_RETRY_MS: u64 = 500;

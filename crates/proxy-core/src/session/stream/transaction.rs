//! MULTI and WATCH of a streaming session, whose commands EXEC answers all at once.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use resp_codec::{Class, Command, Progress, ReplyKind, ReplyScan, RequestLimits, RequestScan};

use crate::backend::profile::Resp;
use crate::limits;
use crate::session::abort::Abort;
use crate::session::clients::for_node;

const MULTI: &[u8] = b"*1\r\n$5\r\nMULTI\r\n";

/// An open MULTI, and what WATCH has been told.
#[derive(Default)]
pub(super) struct Transaction {
    open: Option<Queue>,
    watch: Watch,
}

/// The commands that a MULTI has queued.
#[derive(Default)]
struct Queue {
    steps: VecDeque<Step>,
    bytes: usize,
    /// One of them changes more than the dataset.
    concerns_connection: bool,
    /// Why it can only end in EXECABORT.
    aborted: Option<Abort>,
}

/// What EXEC's answers are for, in order.
pub(super) enum Step {
    /// A queued command.
    Command(Command<Bytes>),
    /// So many commands that concern the dataset alone.
    Others(usize),
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Watch {
    #[default]
    Nothing,
    Watching,
    /// The node that watched is gone.
    Broken,
}

// === impl Transaction ===

impl Transaction {
    /// A transaction that was begun on a lease: its MULTI and what it has queued, if any; what is watched.
    pub(super) fn begun(frames: &[u8], watching: bool, broken: bool) -> Self {
        let mut queue = Queue::default();
        let mut rest = frames.get(multi_len(frames)..).unwrap_or_default();
        while let Ok(Some(frame)) = RequestScan::default().advance(rest, &RequestLimits::AUTHENTICATED) {
            let (bytes, more) = rest.split_at(frame.len);
            let command = Command::new(Bytes::copy_from_slice(bytes), frame);
            // These are refused inside MULTI: EXEC has no answer for them.
            if !matches!(command.spec().name, "multi" | "watch") {
                queue.keep(command);
            }
            rest = more;
        }
        let watch = match (watching, broken) {
            (_, true) => Watch::Broken,
            (true, _) => Watch::Watching,
            _ => Watch::Nothing,
        };
        Self {
            open: (!frames.is_empty()).then_some(queue),
            watch,
        }
    }

    /// MULTI has no EXEC yet.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Nothing is watched, either.
    pub(super) fn is_idle(&self) -> bool {
        self.open.is_none() && self.watch == Watch::Nothing
    }

    /// Something is watched.
    pub(super) fn watches(&self) -> bool {
        self.watch != Watch::Nothing
    }

    /// EXEC will change more than the dataset.
    pub(super) fn concerns_connection(&self) -> bool {
        self.open.as_ref().is_some_and(|queue| queue.concerns_connection)
    }

    /// Learns from a command and the node's answer. Gives the command back, unless it is only queued.
    pub(super) fn note(&mut self, command: Command<Bytes>, kind: ReplyKind) -> Option<Command<Bytes>> {
        match command.spec().name {
            // Without a MULTI they are refused, and what is watched stays so.
            "exec" | "discard" if self.open.is_some() => *self = Self::default(),
            "exec" | "discard" => {}
            _ if kind.is_error() => {}
            "multi" => self.open = Some(Queue::default()),
            "watch" => self.watch = Watch::Watching,
            "unwatch" if self.open.is_none() => self.watch = Watch::Nothing,
            _ => {
                if let Some(queue) = &mut self.open {
                    queue.keep(command);
                    return None;
                }
            }
        }
        Some(command)
    }

    /// Its node is gone, and so is what it had told that; or slipring refused a part of it.
    pub(super) fn is_broken(&self) -> bool {
        let queue = self.open.as_ref();
        self.watch == Watch::Broken || queue.is_some_and(|queue| queue.aborted.is_some())
    }

    /// What EXEC is answered where the transaction cannot be executed any more.
    pub(super) fn instead_of_exec(&self, resp: Resp) -> Option<Bytes> {
        let queue = self.open.as_ref()?;
        match (queue.aborted, self.watch, resp) {
            (Some(abort), ..) => Some(abort.reply()),
            (None, Watch::Broken, Resp::Two) => Some(Bytes::from_static(b"*-1\r\n")),
            (None, Watch::Broken, Resp::Three) => Some(Bytes::from_static(b"_\r\n")),
            (None, ..) => None,
        }
    }

    /// It is executed: what the elements of EXEC's array are for.
    pub(super) fn take_steps(&mut self) -> VecDeque<Step> {
        let queue = std::mem::take(self).open.unwrap_or_default();
        queue.steps
    }

    /// slipring refused a command that it would have queued.
    pub(super) fn refuse(&mut self) {
        if let Some(queue) = &mut self.open {
            queue.aborted = Some(Abort::Refused);
        }
    }

    /// `command` is not going to be executed, since no primary came for it. What the client has written behind it must
    /// not be executed on its own, so MULTI itself is granted: the answer to give.
    pub(super) fn fail(&mut self, command: &Command<Bytes>) -> Option<&'static [u8]> {
        let unserved = Queue {
            aborted: Some(Abort::Unserved),
            ..Queue::default()
        };
        match (command.spec().name, self.is_open()) {
            ("exec" | "discard", _) => self.forget(),
            ("multi", false) => {
                self.open = Some(unserved);
                return Some(b"+OK\r\n");
            }
            (_, true) => self.open = Some(unserved),
            (_, false) => {}
        }
        None
    }

    /// No node knows of it: slipring answers all that is left of it.
    pub(super) fn is_unserved(&self) -> bool {
        let queue = self.open.as_ref();
        queue.is_some_and(|queue| queue.aborted == Some(Abort::Unserved))
    }

    /// The answer to a command of it.
    pub(super) fn answer_unserved(&mut self, command: &Command<Bytes>) -> Bytes {
        let name = command.spec().name;
        if matches!(name, "exec" | "discard") {
            self.forget();
        }
        if name == "discard" {
            Bytes::from_static(b"+OK\r\n")
        } else {
            Abort::Unserved.reply()
        }
    }

    /// Its connection is gone.
    pub(super) fn lose(&mut self) {
        if self.watch == Watch::Watching {
            self.watch = Watch::Broken;
        }
        if let Some(queue) = &mut self.open {
            let lost = queue.has_outgrown().then_some(Abort::Lost);
            queue.aborted = queue.aborted.or(lost);
        }
    }

    /// An EXEC was sent, which has forgotten what was watched, whatever became of it.
    pub(super) fn unwatch(&mut self) {
        self.watch = Watch::Nothing;
    }

    /// There is none.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// What opens it again on another connection, and how many replies that takes.
    pub(super) fn replay(&self) -> Option<(Bytes, usize)> {
        let queue = self.open.as_ref().filter(|_| !self.is_unserved())?;
        let mut out = BytesMut::from(MULTI);
        let mut replies = 1;
        for step in &queue.steps {
            if let (Step::Command(command), None) = (step, queue.aborted) {
                out.extend_from_slice(&for_node(command));
                replies += 1;
            }
        }
        Some((out.freeze(), replies))
    }
}

// === impl Queue ===

impl Queue {
    fn keep(&mut self, command: Command<Bytes>) {
        let had_outgrown = self.has_outgrown();
        self.bytes += command.frame().len();
        let step = Step::Command(command);
        self.concerns_connection |= step.concerns_connection();
        self.steps.push_back(step);
        if self.has_outgrown() {
            // What concerns the connection must be known when it is executed; the rest only to replay it.
            let from = if had_outgrown { self.steps.len() - 1 } else { 0 };
            for step in self.steps.split_off(from) {
                self.keep_step(step);
            }
        }
    }

    fn keep_step(&mut self, step: Step) {
        match (self.steps.back_mut(), step) {
            (_, step) if step.concerns_connection() => self.steps.push_back(step),
            (Some(Step::Others(count)), _) => *count += 1,
            _ => self.steps.push_back(Step::Others(1)),
        }
    }

    fn has_outgrown(&self) -> bool {
        self.bytes > limits::JOURNAL_BYTES
    }
}

// === impl Step ===

impl Step {
    /// It changes more than the dataset, or its answer must be told from a node's own.
    pub(super) fn concerns_connection(&self) -> bool {
        match self {
            Self::Command(command) => matches!(
                command.spec().class,
                Class::Session | Class::Subscription | Class::Stream | Class::Tracking | Class::Control
            ),
            Self::Others(_) => false,
        }
    }
}

/// The length of the MULTI that `frames` begin with.
fn multi_len(frames: &[u8]) -> usize {
    match RequestScan::default().advance(frames, &RequestLimits::AUTHENTICATED) {
        Ok(Some(frame)) => frame.len,
        _ => frames.len(),
    }
}

/// The header of an array, and its elements.
pub(super) fn elements(array: &Bytes) -> (Bytes, Vec<(ReplyKind, Bytes)>) {
    let mut at = array
        .iter()
        .position(|byte| *byte == b'\n')
        .map_or(0, |end| end + 1);
    let header = array.slice(..at);
    let mut elements = Vec::new();
    while let Ok(Progress::Complete { used, kind }) = ReplyScan::default().feed(&array[at..]) {
        elements.push((kind, array.slice(at..at + used)));
        at += used;
    }
    (header, elements)
}

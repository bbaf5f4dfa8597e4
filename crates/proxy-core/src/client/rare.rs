//! What a client has none of for most of its time. Boxed, for it is a third of what an idle one would cost.

use std::collections::VecDeque;
use std::task::Waker;

use bytes::Bytes;

use super::{Client, Returned, State};
use crate::limits;

#[derive(Default)]
pub(super) struct Rare {
    /// Replies that came before their turn, by sequence number.
    parked: VecDeque<(u64, Bytes)>,
    /// Their bytes.
    parked_bytes: usize,
    /// Commands to be sent again, by sequence number.
    pub(super) returned: VecDeque<Returned>,
    /// Whoever waits until less is unread.
    pub(super) feeders: Vec<Waker>,
    /// Bytes of input that the session keeps, where they are many.
    kept_bytes: usize,
    /// What the client may leave unread beside what each may.
    granted_bytes: usize,
}

// === impl Client ===

impl Client {
    /// Its session keeps so much input.
    pub(crate) fn keeps(&self, input_bytes: usize) {
        let state = &mut *self.state.borrow_mut();
        if input_bytes >= limits::SHED_BYTES {
            state.rare_mut().kept_bytes = input_bytes;
        } else if let Some(rare) = &mut state.rare {
            rare.kept_bytes = 0;
            state.forget_rare();
        }
    }

    /// It leaves replies unread, and its session keeps so much input behind those: it may leave as much more, up to a
    /// bound, until it has taken all.
    pub(crate) fn grant(&self, input_bytes: usize) {
        let state = &mut *self.state.borrow_mut();
        let rare = state.rare_mut();
        let granted = input_bytes.min(limits::OUTPUT_GRANT_BYTES);
        if granted > rare.granted_bytes {
            rare.granted_bytes = granted;
            state.wake_feeders();
        }
    }

    /// The commands to be sent again, in order.
    #[must_use]
    pub(crate) fn take_returned(&self) -> VecDeque<Returned> {
        let state = &mut *self.state.borrow_mut();
        let returned = state.rare.as_mut().map(|rare| std::mem::take(&mut rare.returned));
        state.forget_rare();
        returned.unwrap_or_default()
    }
}

// === impl State ===

impl State {
    pub(super) fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    fn forget_rare(&mut self) {
        self.rare.take_if(|rare| {
            rare.parked.is_empty()
                && rare.returned.is_empty()
                && rare.feeders.is_empty()
                && rare.kept_bytes == 0
                && rare.granted_bytes == 0
        });
    }

    /// Whoever has replies for the client waits until it may have them.
    #[inline]
    pub(super) fn has_feeders(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| !rare.feeders.is_empty())
    }

    pub(super) fn wake_feeders(&mut self) {
        let Some(rare) = &mut self.rare else { return };
        for feeder in rare.feeders.drain(..) {
            feeder.wake();
        }
        self.forget_rare();
    }

    /// The place of the first command that is to be sent again.
    #[inline]
    pub(super) fn first_returned(&self) -> Option<u64> {
        Some(self.rare.as_ref()?.returned.front()?.seq)
    }

    /// The replies to the commands `first..first + count` have come before their turn.
    pub(super) fn park(&mut self, first: u64, count: u64, bytes: &[u8]) {
        let rare = self.rare_mut();
        rare.parked_bytes += bytes.len();
        let parked = &mut rare.parked;
        let at = parked.partition_point(|(seq, _)| *seq < first);
        parked.insert(at, (first, Bytes::copy_from_slice(bytes)));
        for offset in 1..count {
            parked.insert(at + offset as usize, (first + offset, Bytes::new()));
        }
    }

    /// Replies whose turn has come leave, too.
    pub(super) fn unpark(&mut self) {
        while let Some(rare) = &mut self.rare
            && let Some((_, bytes)) = rare.parked.pop_front_if(|(seq, _)| *seq == self.head)
        {
            rare.parked_bytes -= bytes.len();
            self.head += 1;
            self.put(&bytes);
        }
        // Whoever had a reply before its turn may go on.
        self.wake_feeders();
    }

    /// Nobody takes any reply any more.
    pub(super) fn forget_parked(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.parked.clear();
            rare.parked_bytes = 0;
        }
    }

    /// What the client may leave unread beside what each may.
    pub(super) fn granted_bytes(&self) -> usize {
        self.rare.as_ref().map_or(0, |rare| rare.granted_bytes)
    }

    /// It has taken all.
    pub(super) fn forget_grant(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.granted_bytes = 0;
            self.forget_rare();
        }
    }

    /// Bytes of replies that came before their turn.
    pub(super) fn parked_bytes(&self) -> usize {
        self.rare.as_ref().map_or(0, |rare| rare.parked_bytes)
    }

    /// Bytes of input that the session keeps, where they are many.
    pub(super) fn kept_bytes(&self) -> usize {
        self.rare.as_ref().map_or(0, |rare| rare.kept_bytes)
    }
}

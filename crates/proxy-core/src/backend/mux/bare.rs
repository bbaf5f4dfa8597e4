//! A shared connection that whoever counts it drives: without a task, on a stream of his own.

use std::rc::Rc;
use std::task::{Context, Poll};

use sentinel_watcher::BoxIo;

use super::{Mux, Phase};
use crate::backend::Link;

// === impl Mux ===

impl Mux {
    /// One that is open already. No task is spawned for it.
    pub(crate) fn bare(link: Rc<Link>) -> Self {
        Self::in_phase(link, Phase::Open)
    }

    /// What its task does when it is woken: hands out what `io` has, and writes what waits. False: the connection is lost.
    pub(crate) fn turn(&self, cx: &mut Context<'_>, io: &mut BoxIo) -> bool {
        !matches!(self.poll(cx, io), Poll::Ready(Err(_)))
    }
}

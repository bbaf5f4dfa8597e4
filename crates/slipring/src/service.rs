//! What systemd is told, where slipring runs as its service (`Type=notify-reload`): nothing anywhere else.

use sd_notify::NotifyState;

/// Clients are accepted.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// A reload begins; [`ready`] ends it.
pub(crate) fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
}

/// Another process is the service from here on.
pub(crate) fn main_process(id: u32) {
    tell(&[NotifyState::MainPid(id), NotifyState::Ready]);
}

/// The drain begins.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}

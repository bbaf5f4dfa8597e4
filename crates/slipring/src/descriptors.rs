//! Every client and every node connection is a file descriptor.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors that are not clients': listeners, the admin endpoint, sentinels, shared connections to nodes.
/// Leases come on top, but only as clients ask for them.
const RESERVED: u64 = 128;

/// Raises the soft limit as far as `max_clients` need, up to the hard limit, and returns how many clients fit:
/// like Redis, slipring would rather refuse clients in so many words than run out of descriptors.
pub(crate) fn make_room(max_clients: usize, workers: usize) -> usize {
    let reserved = RESERVED + 16 * workers as u64;
    // Twice: a client in a transaction or a blocking command holds a connection to a node too.
    let wanted = 2 * max_clients as u64 + reserved;
    let limit = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft < wanted => {
            let raised = wanted.min(hard);
            match setrlimit(Resource::RLIMIT_NOFILE, raised, hard) {
                Ok(()) => raised,
                Err(_) => soft,
            }
        }
        Ok((soft, _)) => soft,
        Err(error) => {
            tracing::warn!(%error, "cannot read the limit of open files");
            return max_clients;
        }
    };
    let fit = usize::try_from(limit.saturating_sub(reserved))
        .unwrap_or(usize::MAX)
        .max(1);
    if fit < max_clients {
        tracing::warn!(
            limit,
            max_clients = fit,
            "--max-clients {max_clients} does not fit the limit of open files; raise it (ulimit -n, LimitNOFILE=)"
        );
    }
    fit.min(max_clients)
}

//! The closed sets behind the labels: nothing that a client sends becomes a label.

/// An enum whose variants are label values, and the list of them all.
macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $label:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// All of them, in the order of their discriminants.
            pub(super) const ALL: &[Self] = &[$(Self::$variant,)+];

            /// How the metrics call it.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)+
                }
            }
        }
    };
}

labels! {
    /// How a command ended.
    Outcome {
        /// Answered without an error.
        Ok = "ok",
        /// Answered with an error of the node, or with one of slipring's own that names no lost command.
        Error = "error",
        /// Sent, and never answered: it may or may not have been executed.
        Unknown = "unknown",
        /// Never sent: slipring refused it.
        Refused = "refused",
    }
}

labels! {
    /// Why a client was turned away at the door.
    RefuseReason {
        /// `--max-clients` are served already.
        MaxClients = "max_clients",
        /// The socket failed before a worker adopted it.
        Socket = "socket",
        /// Its TLS handshake failed, or took longer than `--handshake-timeout`.
        Handshake = "handshake",
        /// It did not begin with a PROXY header (`--proxy-protocol`).
        ProxyHeader = "proxy_header",
        /// It came from an address that may not connect (`--allow-cidr`).
        Address = "address",
        /// Its address has `--max-clients-per-ip` already.
        PerIp = "per_ip",
        /// Clients of its address come faster than `--accept-rate-per-ip`.
        Rate = "rate",
        /// It came from the network where nobody is asked for a password (`--protected-mode`).
        Protected = "protected",
        /// Memory is short (`--max-memory`).
        Memory = "memory",
        /// It came while slipring drained, or no primary was known for long.
        Unready = "unready",
    }
}

labels! {
    /// Why a client's connection ended.
    CloseReason {
        /// The client hung up, or its connection broke.
        Client = "client",
        /// QUIT.
        Quit = "quit",
        /// CLIENT KILL, of its own or by another.
        Killed = "killed",
        /// The node takes its user's password no longer.
        Revoked = "revoked",
        /// It sent what is no RESP.
        Protocol = "protocol",
        /// Silent for longer than `--idle-timeout`.
        Idle = "idle",
        /// It did not read its replies, up to the bound.
        Output = "output",
        /// It sent more behind a blocked command than is kept.
        Input = "input",
        /// Memory was short (`--max-memory`), and it had the most unread output, or sent more than is kept then.
        Memory = "memory",
        /// The node it depended on is gone, with state that cannot be restored.
        Node = "node",
        /// slipring drained.
        Drain = "drain",
        /// Another process serves it from here on: its connection goes on.
        Moved = "moved",
        /// Its session panicked.
        Panic = "panic",
    }
}

labels! {
    /// The two sides of the proxy.
    Side {
        /// Towards the clients.
        Client = "client",
        /// Towards the nodes.
        Node = "node",
    }
}

labels! {
    /// Why a session took a connection of its own.
    LeaseReason {
        /// WATCH, or a MULTI that did not come whole.
        Transaction = "transaction",
        /// A command that may block.
        Blocking = "blocking",
        /// WAIT, WAITAOF.
        Wait = "wait",
        /// SUBSCRIBE and its kin.
        Subscription = "subscription",
        /// MONITOR.
        Stream = "stream",
        /// While CLIENT PAUSE lasts: whatever the node may postpone.
        Paused = "paused",
        /// CLIENT TRACKING and other state for the session's life.
        Tracking = "tracking",
        /// SCRIPT KILL and its kin, DEBUG.
        Control = "control",
        /// A request too large to share a connection.
        Large = "large",
    }
}

labels! {
    /// Why a command was sent again.
    ResendReason {
        /// None of its bytes had been written.
        Unwritten = "unwritten",
        /// It only reads, and its connection was lost.
        Read = "read",
        /// The node refused it at the entry (READONLY, LOADING, ...).
        Refused = "refused",
    }
}

labels! {
    /// What a node was to slipring when it connected.
    NodeRole {
        /// It takes writes.
        Primary = "primary",
        /// It takes reads.
        Replica = "replica",
    }
}

labels! {
    /// What a connection to a node is for.
    ConnectionKind {
        /// Shared by many sessions.
        Mux = "mux",
        /// Held by one session.
        Lease = "lease",
        /// Probes and kills.
        Control = "control",
    }
}

/// What only grows. Indices are those of [`Metrics::new`](super::Metrics::new).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Clients that were let in.
    ClientsAccepted {
        /// Through which door.
        listener: usize,
    },
    /// Clients taken over from another process.
    ClientsAdopted {
        /// Through which door they had come.
        listener: usize,
    },
    /// Clients that were turned away.
    ClientsRefused(RefuseReason),
    /// Clients whose connection ended.
    ClientsClosed(CloseReason),
    /// Bytes read.
    ReceivedBytes(Side),
    /// Bytes written.
    SentBytes(Side),
    /// Leases taken.
    Leases(LeaseReason),
    /// Commands sent again.
    Resends {
        /// Of which master.
        upstream: usize,
        /// Why.
        reason: ResendReason,
    },
    /// Commands whose outcome nobody knows.
    UnknownOutcomes {
        /// Of which master.
        upstream: usize,
    },
    /// Connections to a former primary that were cut.
    FencedConnections {
        /// Of which master.
        upstream: usize,
    },
    /// Sessions that panicked: one client closed each.
    SessionPanics,
}

/// What rises and falls. Indices are those of [`Metrics::new`](super::Metrics::new).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gauge {
    /// Clients connected now.
    Clients {
        /// Through which door they came.
        listener: usize,
    },
    /// Commands waiting for a primary.
    HeldCommands {
        /// Of which master.
        upstream: usize,
    },
    /// Their bytes.
    HeldBytes {
        /// Of which master.
        upstream: usize,
    },
}

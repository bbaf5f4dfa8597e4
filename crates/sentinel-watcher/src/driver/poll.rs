//! Asks one sentinel what it knows, again and again.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use resp_codec::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use crate::backoff::Backoff;
use crate::dial::Dial;
use crate::driver::Order;
use crate::link::{Link, Manners};
use crate::machine::{Input, PollFailure, Report, ReportedAttempt, ReportedReplica, ReportedSentinel};
use crate::topology::HostPort;
use crate::verify::Denial;

/// The poll task of one sentinel.
pub(super) struct Poller {
    pub(super) sentinel: HostPort,
    pub(super) master: Arc<str>,
    pub(super) dial: Arc<dyn Dial>,
    pub(super) manners: Manners,
    pub(super) orders: watch::Receiver<Order>,
    pub(super) inputs: mpsc::Sender<Input>,
    pub(super) backoff: Backoff,
}

// === impl Poller ===

impl Poller {
    pub(super) async fn run(mut self) {
        let mut link = None;
        loop {
            let every = self.orders.borrow_and_update().every;
            let asked = Instant::now();
            let outcome = self.poll(&mut link).await;
            let pause = match &outcome {
                Err(PollFailure::Unreachable(_)) => self.backoff.pause().max(every),
                _ => {
                    self.backoff.reset();
                    every
                }
            };
            let sentinel = self.sentinel.clone();
            if self
                .inputs
                .send(Input::Polled {
                    sentinel,
                    asked,
                    outcome,
                })
                .await
                .is_err()
            {
                return;
            }
            // Ordered to poll at once, or at another pace: at once.
            let _ = timeout(pause, self.orders.changed()).await;
        }
    }

    /// One poll: over the link that is open, else over a new one. A broken link alone is no failure.
    async fn poll(&self, link: &mut Option<Link>) -> Result<Report, PollFailure> {
        let answered = match link.take() {
            None => self.ask_afresh().await,
            Some(mut open) => match self.ask(&mut open, false).await {
                Ok(outcome) => Ok((open, outcome)),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(error),
                Err(_) => self.ask_afresh().await,
            },
        };
        let (open, outcome) = answered.map_err(|error| PollFailure::Unreachable(explain(&error)))?;
        // Refused, it is to be asked again as somebody: over a new link.
        *link = Some(open).filter(|_| !matches!(outcome, Err(PollFailure::Denied(_))));
        outcome
    }

    async fn ask_afresh(&self) -> io::Result<(Link, Result<Report, PollFailure>)> {
        let mut fresh = Link::dial(&*self.dial, &self.sentinel, self.manners.connect_timeout).await?;
        let outcome = self.ask(&mut fresh, true).await?;
        Ok((fresh, outcome))
    }

    async fn ask(&self, link: &mut Link, fresh: bool) -> io::Result<Result<Report, PollFailure>> {
        let master = self.master.as_bytes();
        let credentials = self.manners.credentials.as_ref().filter(|_| fresh);
        let auth = credentials.map(|credentials| credentials.auth());
        let questions: [&[&[u8]]; 5] = [
            &[b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", master],
            &[b"SENTINEL", b"MASTER", master],
            &[b"SENTINEL", b"REPLICAS", master],
            &[b"SENTINEL", b"SENTINELS", master],
            &[b"SENTINEL", b"MYID"],
        ];
        // One write: the sentinel answers all of it in one turn, so the address and the epoch belong together.
        let commands: Vec<&[&[u8]]> = auth.iter().map(Vec::as_slice).chain(questions).collect();
        let replies = link.ask(&commands, self.manners.answer_timeout).await?;
        let (auth, answers) = replies.split_at(auth.iter().len());
        Ok(read(auth.first(), answers))
    }
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut => "it does not answer in time".to_owned(),
        io::ErrorKind::ConnectionRefused => "it refuses connections".to_owned(),
        _ => error.to_string(),
    }
}

/// Reads the answers to one poll, and the one to AUTH where it was sent.
fn read(auth: Option<&Value>, answers: &[Value]) -> Result<Report, PollFailure> {
    let [address, master, replicas, others, id] = answers else {
        return Err(PollFailure::Denied(Denial::Other("too few answers".to_owned())));
    };
    if let Some(error) = address.as_error().or(master.as_error()) {
        return Err(match error {
            _ if error.contains("No such master") => PollFailure::UnknownMaster,
            // Why we are nobody is more telling than that we are.
            _ => PollFailure::Denied(Denial::read(auth.and_then(Value::as_error).unwrap_or(error))),
        });
    }
    if *address == Value::Null {
        return Err(PollFailure::UnknownMaster);
    }
    let strange = || PollFailure::Denied(Denial::Other("an answer that is no sentinel's".to_owned()));
    let parts = address
        .as_array()
        .and_then(|parts| Some((parts.first()?.as_str()?, parts.get(1)?)));
    let address = parts
        .and_then(|(host, port)| host_port(host, port))
        .ok_or_else(strange)?;
    let number = |field| {
        master
            .get(field)
            .and_then(Value::as_int)
            .and_then(|value| u64::try_from(value).ok())
    };
    let epoch = number("config-epoch").ok_or_else(strange)?;
    Ok(Report {
        address,
        epoch,
        down: has_flag(master, "o_down") && !reconfigures(master),
        attempt: attempt(master, replicas),
        quorum: number("quorum")
            .and_then(|quorum| u32::try_from(quorum).ok())
            .unwrap_or(0),
        down_after: Duration::from_millis(number("down-after-milliseconds").unwrap_or(0)),
        replicas: replicas
            .as_array()
            .unwrap_or_default()
            .iter()
            .filter_map(replica)
            .collect(),
        others: others
            .as_array()
            .unwrap_or_default()
            .iter()
            .filter_map(sentinel)
            .collect(),
        id: id.as_str().map(str::to_owned),
    })
}

/// The leader of a failover has seen the promotion: GET-MASTER-ADDR-BY-NAME and the epoch are the new ones,
/// the flags still speak of the old primary.
fn reconfigures(master: &Value) -> bool {
    let state = master.get("failover-state").and_then(Value::as_str);
    matches!(state, Some("reconf_slaves" | "update_config"))
}

fn attempt(master: &Value, replicas: &Value) -> Option<ReportedAttempt> {
    match master.get("failover-state").and_then(Value::as_str)? {
        "wait_start" => Some(ReportedAttempt::Trying),
        "select_slave" => Some(ReportedAttempt::Elected),
        "send_slaveof_noone" | "wait_promotion" => {
            let promoted = |replica: &&Value| has_flag(replica, "promoted");
            let promoted = replicas.as_array()?.iter().find(promoted).and_then(instance);
            Some(promoted.map_or(ReportedAttempt::Elected, ReportedAttempt::Selected))
        }
        _ => None,
    }
}

fn replica(entry: &Value) -> Option<ReportedReplica> {
    let priority = entry.get("slave-priority").and_then(Value::as_int);
    Some(ReportedReplica {
        address: instance(entry)?,
        down: has_flag(entry, "s_down") || has_flag(entry, "o_down"),
        priority: priority
            .and_then(|priority| u32::try_from(priority).ok())
            .unwrap_or(0),
    })
}

fn sentinel(entry: &Value) -> Option<ReportedSentinel> {
    let id = entry.get("runid")?.as_str()?.to_owned();
    Some(ReportedSentinel {
        address: instance(entry)?,
        id,
    })
}

fn instance(entry: &Value) -> Option<HostPort> {
    host_port(entry.get("ip")?.as_str()?, entry.get("port")?)
}

fn host_port(host: &str, port: &Value) -> Option<HostPort> {
    let port = port
        .as_int()
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port != 0)?;
    (!host.is_empty()).then(|| HostPort::new(host, port))
}

fn has_flag(entry: &Value, flag: &str) -> bool {
    let flags = entry.get("flags").and_then(Value::as_str).unwrap_or_default();
    flags.split(',').any(|word| word == flag)
}

#[cfg(test)]
mod tests {
    use resp_codec::{Progress, ReplyScan, value};

    use super::*;

    /// The replies to one poll, as servers sent them.
    fn captured(mut bytes: &[u8]) -> Vec<Value> {
        let mut replies = Vec::new();
        while let Ok(Progress::Complete { used, .. }) = ReplyScan::default().feed(bytes) {
            let (reply, rest) = bytes.split_at(used);
            replies.push(value::decode(reply).expect("a reply"));
            bytes = rest;
        }
        replies
    }

    fn host(host: &str, port: u16) -> HostPort {
        HostPort::new(host, port)
    }

    #[test]
    fn reads_a_leader_before_and_after_the_promotion_is_known() {
        let before = read(
            None,
            &captured(include_bytes!("captures/redis-7.0-wait_promotion.resp")),
        )
        .unwrap();
        let candidate = host("127.0.0.1", 24_002);
        assert_eq!(
            (before.address, before.epoch),
            (host("127.0.0.1", 24_001), 0),
            "the old one"
        );
        assert_eq!(before.attempt, Some(ReportedAttempt::Selected(candidate.clone())));
        let after = read(
            None,
            &captured(include_bytes!("captures/redis-7.0-reconf_slaves.resp")),
        )
        .unwrap();
        assert_eq!((after.address, after.epoch), (candidate, 1), "the new one");
        assert_eq!((after.attempt, after.down), (None, false));
    }

    #[test]
    fn reads_valkey_with_hostnames() {
        let report = read(
            None,
            &captured(include_bytes!("captures/valkey-8.1-hostnames.resp")),
        )
        .unwrap();
        assert_eq!((report.address, report.epoch), (host("localhost", 23_001), 0));
        assert_eq!((report.quorum, report.down_after), (2, Duration::from_secs(1)));
        let replicas: Vec<_> = report
            .replicas
            .iter()
            .map(|replica| (replica.address.clone(), replica.down, replica.priority))
            .collect();
        let expected = [23_002, 23_003].map(|port| (host("localhost", port), false, 100));
        assert!(
            replicas.len() == 2 && expected.iter().all(|replica| replicas.contains(replica)),
            "{replicas:?}"
        );
        assert_eq!(report.others.len(), 2);
        assert!(
            report
                .others
                .iter()
                .all(|other| other.id.len() == 40 && Some(&other.id) != report.id.as_ref())
        );
    }

    /// The leader's flags speak of the old primary for as long as it reconfigures the replicas.
    #[test]
    fn down_is_said_of_the_address_beside_it() {
        let text = |text: &str| Value::Text(text.as_bytes().to_vec());
        for (flags, state, down) in [
            ("master", "none", false),
            ("s_down,o_down,master", "none", true),
            (
                "s_down,o_down,master,failover_in_progress",
                "wait_promotion",
                true,
            ),
            (
                "s_down,o_down,master,failover_in_progress",
                "reconf_slaves",
                false,
            ),
            ("s_down,master", "none", false),
        ] {
            let address = Value::Array(vec![text("h"), text("1")]);
            let fields = ["config-epoch", "1", "flags", flags, "failover-state", state];
            let master = Value::Array(fields.map(text).to_vec());
            let answers = [address, master, Value::Null, Value::Null, Value::Null];
            assert_eq!(
                read(None, &answers).map(|report| report.down),
                Ok(down),
                "{flags} {state}"
            );
        }
    }

    #[test]
    fn refuses_what_is_no_report() {
        let text = |text: &str| Value::Text(text.as_bytes().to_vec());
        let error = |text: &str| Value::Error(text.to_owned());
        let address = |port: &str| Value::Array(vec![text("h"), text(port)]);
        let master = || Value::Array(vec![text("config-epoch"), text("1")]);
        let unknown = "ERR No such master with that name";
        let denied = |denial| PollFailure::Denied(denial);
        let strange = || denied(Denial::Other("an answer that is no sentinel's".to_owned()));
        for (address, master, failure) in [
            (Value::Null, error(unknown), PollFailure::UnknownMaster),
            (Value::Null, Value::Null, PollFailure::UnknownMaster),
            (
                error("NOAUTH Authentication required."),
                Value::Null,
                denied(Denial::PasswordMissing),
            ),
            (address("1"), error("NOPERM no"), denied(Denial::NotPermitted)),
            (address("0"), master(), strange()),
            (address("70000"), master(), strange()),
            (Value::Array(Vec::new()), master(), strange()),
            (Value::Integer(1), master(), strange()),
            (address("1"), Value::Array(Vec::new()), strange()),
        ] {
            let answers = [address, master, Value::Null, Value::Null, Value::Null];
            assert_eq!(read(None, &answers), Err(failure), "{answers:?}");
        }
        // Lists that are not there are empty.
        let answers = [address("1"), master(), error("ERR"), Value::Null, error("ERR")];
        let report = read(None, &answers).unwrap();
        assert_eq!(
            (report.replicas.len(), report.others.len(), report.id),
            (0, 0, None)
        );
    }
}

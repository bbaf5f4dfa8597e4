//! PROXY: what operators ask and order over RESP. Replies are lists of lines, which redis-cli shows as they are.

mod show;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use resp_codec::{Command, write};
use sentinel_watcher::{Handover, HostPort};
use tokio::time::Instant;

use super::{Close, Session};
use crate::door::{Master, Origin};
use crate::roster::Filter;
use crate::settings::ClientAuth;

/// A line of HELP for each command. In square brackets what may be left out.
const HELP: [(&str, &str); 17] = [
    (
        "DRAIN",
        "Send all clients away in good order and end, as at SIGTERM.",
    ),
    (
        "FAILOVER [MASTER] [TO HOST:PORT] [TIMEOUT MS]",
        "Move the primary without losing a write. Writes wait for at most MS (5000).",
    ),
    ("HELP", "This."),
    (
        "KILL [MASTER] ID|ADDR|LADDR|USER|TYPE|... VALUE ...",
        "Close clients, chosen as by CLIENT KILL; also those that CLIENT KILL may not reach.",
    ),
    (
        "PAUSE [MASTER]",
        "Hold all writes, up to --failover-hold-timeout each.",
    ),
    (
        "RECONNECT [MASTER]",
        "Make new connections to all nodes. What is under way ends on the old ones.",
    ),
    (
        "RELOAD",
        "Read configuration, secrets and certificates again, as at SIGHUP.",
    ),
    ("RESUME [MASTER]", "Let them flow again."),
    ("SHOW CLIENTS [MASTER]", "Who is connected, over all workers."),
    ("SHOW CONFIG", "What every flag is set to."),
    (
        "SHOW FAILOVERS [MASTER]",
        "What each failover was, the newest first.",
    ),
    (
        "SHOW HOTKEYS [MASTER]",
        "Hot keys and large values among sampled commands (--sample-commands).",
    ),
    (
        "SHOW POOLS [MASTER]",
        "The connections to every node: shared ones, and leases in use, idle and waited for.",
    ),
    (
        "SHOW SLOWLOG [MASTER]",
        "The last slow commands (--slowlog-threshold), the newest first.",
    ),
    (
        "SHOW STATS",
        "What is counted, summed up: /metrics has it in detail.",
    ),
    (
        "SHOW TOPOLOGY [MASTER]",
        "Who is primary, who may be read, how sentinels fare.",
    ),
    (
        "",
        "Without MASTER the one of this port is meant. All but HELP and SHOW is for operators, and so are HOTKEYS and SLOWLOG.",
    ),
];

/// How long writes wait for a FAILOVER that names no TIMEOUT.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(5);

/// Lines, or the text of an error.
type Answer = Result<Vec<String>, String>;

impl Session {
    /// `PROXY <command> ...`
    pub(super) async fn proxy(&mut self, command: Command<Bytes>) -> Result<(), Close> {
        if self.is_nobody() {
            self.answer(&command, &crate::error::Error::NoAuth.reply());
            return Ok(());
        }
        let words: Vec<_> = command
            .args()
            .skip(1)
            .map(|word| String::from_utf8_lossy(word))
            .collect();
        let words: Vec<&str> = words.iter().map(|word| &**word).collect();
        let answer = self.proxied(&words).await?;
        let mut out = BytesMut::new();
        match answer {
            Ok(lines) => {
                write::array_header(&mut out, lines.len());
                lines.iter().for_each(|line| write::simple(&mut out, line));
            }
            Err(text) => write::error(&mut out, &text),
        }
        self.answer(&command, &out);
        Ok(())
    }

    async fn proxied(&mut self, words: &[&str]) -> Result<Answer, Close> {
        let [name, rest @ ..] = words else {
            return Ok(Ok(help()));
        };
        let name = name.to_ascii_lowercase();
        match (&*name, rest) {
            ("help", _) => Ok(Ok(help())),
            ("show", [what, rest @ ..]) => self.show(&what.to_ascii_lowercase(), rest).await,
            _ if !self.is_operator() => Ok(Err(
                "NOPERM all of PROXY but HELP and SHOW is for clients on slipring's own machine and for --admin-users"
                    .to_owned(),
            )),
            ("drain", []) => Ok(self.drain()),
            ("reload", []) => self.reload().await,
            ("kill", rest) => self.kill_clients(rest).await,
            ("reconnect", rest) => self.reconnect(rest).await,
            ("failover", options) => self.hand_over(options).await,
            ("pause" | "resume", rest) => self.pause(name == "pause", rest).await,
            _ => Ok(Err(wrong())),
        }
    }

    fn drain(&self) -> Answer {
        if self.door.worker.demands.drain() {
            Ok(vec!["OK".to_owned()])
        } else {
            Err("ERR too many orders wait: try again".to_owned())
        }
    }

    async fn reload(&mut self) -> Result<Answer, Close> {
        let demands = self.door.worker.demands.clone();
        let outcome = self.until_gone(demands.reload()).await?;
        Ok(outcome.map_err(|reason| format!("ERR nothing is changed: {reason}")))
    }

    async fn show(&mut self, what: &str, rest: &[&str]) -> Result<Answer, Close> {
        let worker = Rc::clone(&self.door.worker);
        match (what, rest) {
            ("config", []) => return Ok(Ok(worker.settings.get().shown.to_vec())),
            ("stats", []) => return Ok(Ok(show::stats(&worker.metrics.gather(), &worker.kin))),
            _ => {}
        }
        let upstream = match self.upstream(rest) {
            Ok(upstream) => upstream,
            Err(text) => return Ok(Err(text)),
        };
        let master = worker.masters.get(upstream).expect("it was found there");
        match what {
            // They show what others store.
            "hotkeys" | "slowlog" if !self.is_operator() => Ok(Err(
                "NOPERM PROXY SHOW HOTKEYS and SLOWLOG are for operators, see PROXY HELP".to_owned(),
            )),
            "hotkeys" => Ok(Ok(master.findings.hotkeys(Instant::now()))),
            "slowlog" => Ok(Ok(master.findings.slowlog(Instant::now()))),
            "failovers" => Ok(Ok(show::failovers(master))),
            "topology" => Ok(Ok(show::topology(master))),
            "clients" => {
                let fields = self.fields().await?;
                let list = worker.roster.list(Filter::all(upstream), fields);
                let list = self.until_gone(list).await?;
                Ok(Ok(String::from_utf8_lossy(&list)
                    .lines()
                    .map(str::to_owned)
                    .collect()))
            }
            "pools" => Ok(Ok(self.until_gone(worker.roster.pools(upstream)).await?)),
            _ => Ok(Err(wrong())),
        }
    }

    /// `KILL [MASTER] options`, an even number of them.
    async fn kill_clients(&mut self, words: &[&str]) -> Result<Answer, Close> {
        let (named, options) = match words {
            [name, options @ ..] if words.len() % 2 == 1 => (std::slice::from_ref(name), options),
            options => (&[][..], options),
        };
        let filter = self.upstream(named).map(|upstream| {
            let options = options.iter().map(|word| word.as_bytes());
            Filter::read(upstream, options).filter(|_| !words.is_empty())
        });
        let (filter, skips) = match filter {
            Ok(Some(read)) => read,
            Ok(None) => return Ok(Err(wrong())),
            Err(text) => return Ok(Err(text)),
        };
        let filter = if skips == Some(false) {
            filter
        } else {
            filter.without(self.id)
        };
        let roster = Arc::clone(&self.door.worker.roster);
        let filter = Arc::new(filter);
        let killed = self.until_gone(roster.kill(&filter)).await?;
        Ok(Ok(vec![format!("OK, {killed} closed")]))
    }

    async fn reconnect(&mut self, rest: &[&str]) -> Result<Answer, Close> {
        let upstream = match self.upstream(rest) {
            Ok(upstream) => upstream,
            Err(text) => return Ok(Err(text)),
        };
        let roster = Arc::clone(&self.door.worker.roster);
        self.until_gone(roster.reconnect(upstream)).await?;
        Ok(Ok(vec!["OK".to_owned()]))
    }

    async fn hand_over(&mut self, options: &[&str]) -> Result<Answer, Close> {
        let order = handover(options)
            .and_then(|(named, order)| Ok((self.master(&named)?.upstream.steering.clone(), order)));
        let (steering, order) = match order {
            Ok(order) => order,
            Err(text) => return Ok(Err(text)),
        };
        let outcome = self.until_gone(steering.hand_over(order)).await?;
        Ok(match outcome {
            Ok(done) => {
                let mut lines = vec![
                    format!("OK {} serves instead of {}", done.to, done.from),
                    format!(
                        "writes waited {} ms; it had everything up to offset {} before",
                        done.held.as_millis(),
                        done.offset
                    ),
                ];
                lines.extend(done.remarks);
                Ok(lines)
            }
            Err(reason) => Err(format!("ERR no failover: {reason}")),
        })
    }

    async fn pause(&mut self, pause: bool, rest: &[&str]) -> Result<Answer, Close> {
        let steering = match self.master(rest) {
            Ok(master) => master.upstream.steering.clone(),
            Err(text) => return Ok(Err(text)),
        };
        let ordered = async {
            if pause {
                steering.pause().await
            } else {
                steering.resume().await
            }
        };
        Ok(if self.until_gone(ordered).await? {
            Ok(vec!["OK".to_owned()])
        } else {
            Err("ERR the watcher does not take orders now".to_owned())
        })
    }

    async fn until_gone<F: Future>(&mut self, work: F) -> Result<F::Output, Close> {
        tokio::select! {
            biased;
            output = work => Ok(output),
            close = self.gone() => Err(close),
        }
    }

    /// The master that is named, else the one of this door.
    fn master(&self, named: &[&str]) -> Result<&Master, String> {
        let at = self.upstream(named)?;
        Ok(self.door.worker.masters.get(at).expect("it was found there"))
    }

    fn upstream(&self, named: &[&str]) -> Result<usize, String> {
        let names = || {
            self.door
                .worker
                .masters
                .iter()
                .map(|master| &*master.upstream.master)
        };
        match named {
            [] => Ok(self.door.fleet.upstream()),
            [name] => names().position(|known| known == *name).ok_or_else(|| {
                let known = names().collect::<Vec<_>>().join(", ");
                format!("ERR no such master; there is {known}")
            }),
            _ => Err(wrong()),
        }
    }

    /// It may order what changes things for everybody.
    fn is_operator(&self) -> bool {
        let settings = self.door.worker.settings.get();
        let face = self.client.face();
        let is_known = match settings.client_auth {
            ClientAuth::Proxy => self.admitted,
            ClientAuth::Passthrough | ClientAuth::None => self.profile.credentials.is_some(),
        };
        let mut admins = settings.admin_users.iter();
        self.origin == Origin::Here || (is_known && admins.any(|admin| admin.as_bytes() == face.user()))
    }
}

/// `[MASTER] [TO HOST:PORT] [TIMEOUT MS]`
fn handover<'a>(options: &[&'a str]) -> Result<(Vec<&'a str>, Handover), String> {
    let mut order = Handover {
        to: None,
        timeout: HANDOVER_TIMEOUT,
    };
    let mut named = Vec::new();
    let mut rest = options;
    loop {
        rest = match rest {
            [] => return Ok((named, order)),
            [word, value, rest @ ..] if word.eq_ignore_ascii_case("to") => {
                let to: HostPort = value.parse().map_err(|error| format!("ERR TO: {error}"))?;
                order.to = Some(to);
                rest
            }
            [word, value, rest @ ..] if word.eq_ignore_ascii_case("timeout") => {
                let millis = value.parse().ok().filter(|millis| *millis > 0);
                let millis = millis.ok_or("ERR TIMEOUT takes a number of milliseconds above 0")?;
                order.timeout = Duration::from_millis(millis);
                rest
            }
            // An option without its value is no name.
            [word]
                if ["to", "timeout"]
                    .iter()
                    .any(|option| word.eq_ignore_ascii_case(option)) =>
            {
                return Err(wrong());
            }
            [master, rest @ ..] if named.is_empty() && options.len() == rest.len() + 1 => {
                named.push(*master);
                rest
            }
            _ => return Err(wrong()),
        };
    }
}

fn help() -> Vec<String> {
    let lines = HELP.iter().flat_map(|(usage, what)| match *usage {
        "" => vec![(*what).to_owned()],
        usage => vec![format!("PROXY {usage}"), format!("    {what}")],
    });
    lines.collect()
}

fn wrong() -> String {
    "ERR unknown subcommand or wrong arguments. Try PROXY HELP.".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handover_is_read_in_any_order() {
        let read = |line: &str| {
            let words: Vec<_> = line.split_whitespace().collect();
            handover(&words).map(|(named, order)| {
                let to = order.to.map(|to| to.to_string());
                (named.join(" "), to.unwrap_or_default(), order.timeout.as_millis())
            })
        };
        for (line, master, to, timeout) in [
            ("", "", "", 5000),
            ("m", "m", "", 5000),
            ("m to h:1 timeout 7", "m", "h:1", 7),
            ("TIMEOUT 7 TO h:1", "", "h:1", 7),
        ] {
            assert_eq!(
                read(line),
                Ok((master.to_owned(), to.to_owned(), timeout)),
                "{line}"
            );
        }
        for line in ["m n", "TO", "TO h", "TIMEOUT x", "TIMEOUT 0", "TO h:1 m"] {
            assert!(read(line).is_err_and(|text| text.starts_with("ERR ")), "{line}");
        }
    }
}

//! What the clients of one scenario do, read from the files in `scenarios/`.
//!
//! ```text
//! == SET and GET                     a scenario begins, with a name of its own
//! only Valkey                        only with this server
//! mask id=[0-9]+                     what matches is compared as `#`, in every text and number that comes back
//! drop "ROLE"                        what comes back and matches counts for nothing
//! unordered                          the order of the elements of arrays, sets and maps does not count
//! A SET k "a b\r\n"                  client A sends one command; all that comes back is compared, for every client
//! A+ INCR n                          kept back, and sent in one write with A's next line
//! A $id CLIENT ID                    the reply is kept as ${id}; each side has its own. ${A} is A's address
//! A !raw "*1\r\n" "x"*1000           A sends these bytes
//! A !pieces "PI" "NG\r\n"            A sends these bytes, a write for each word
//! A !bytes "PING\r\n"                the same with a write for each byte
//! A !read 2                          waits until A has got 2 frames since it last sent something
//! A !end                             A sends no more (FIN), and still reads
//! A !close                           A closes
//! wait 50ms                          nobody does anything
//! ```
//! Clients are capital letters, and connect when they are first named. Words are quoted as in redis-cli; `"x"*3` and
//! `"k#"@3` as in [`super::words`].

use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use regex::bytes::Regex;
use testkit::Flavor;

/// One story told to both sides.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scenario {
    pub(crate) name: String,
    pub(crate) only: Option<Flavor>,
    pub(crate) masks: Vec<Regex>,
    pub(crate) drops: Vec<Regex>,
    pub(crate) unordered: bool,
    pub(crate) steps: Vec<Step>,
}

/// One line of it.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// This client does something.
    Client(char, Act),
    Wait(Duration),
}

/// What a client does. Texts are in words, not yet split: a `${name}` is known only when its turn comes.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// One command.
    Say(String),
    /// The same, held back until the next line.
    Keep(String),
    /// The same, its reply kept under a name.
    Ask(String, String),
    Raw(String),
    Pieces(String),
    Bytes(String),
    Read(usize),
    End,
    Close,
}

/// Reads a file of scenarios.
pub(crate) fn parse(file: &str, text: &str) -> Result<Vec<Scenario>> {
    let mut scenarios: Vec<Scenario> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix("== ") {
            let name = format!("{file}: {name}");
            ensure!(
                scenarios.iter().all(|known| known.name != name),
                "two are called {name}"
            );
            scenarios.push(Scenario {
                name,
                ..Scenario::default()
            });
            continue;
        }
        let scenario = scenarios.last_mut().context("a line before the first scenario")?;
        scenario
            .add(line)
            .with_context(|| format!("{file}, line {}: {line}", number + 1))?;
    }
    Ok(scenarios)
}

// === impl Scenario ===

impl Scenario {
    fn add(&mut self, line: &str) -> Result<()> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "only" => {
                let flavor = Flavor::ALL.into_iter().find(|flavor| flavor.to_string() == rest);
                self.only = Some(flavor.context("no such server")?);
            }
            "mask" => self.masks.push(Regex::new(rest)?),
            "drop" => self.drops.push(Regex::new(rest)?),
            "unordered" => self.unordered = true,
            "wait" => {
                let millis = rest.strip_suffix("ms").context("how many ms?")?;
                self.steps
                    .push(Step::Wait(Duration::from_millis(millis.parse()?)));
            }
            _ => {
                let mut letters = word.chars();
                let client = letters.next().filter(char::is_ascii_uppercase);
                let client = client.context("neither a client nor anything known")?;
                let act = match letters.as_str() {
                    "" => act(rest.trim_start())?,
                    "+" => Act::Keep(rest.to_owned()),
                    _ => bail!("neither a client nor anything known"),
                };
                self.steps.push(Step::Client(client, act));
            }
        }
        Ok(())
    }

    /// It may leave scripts behind.
    pub(crate) fn has_scripts(&self) -> bool {
        let text = self.to_string().to_ascii_lowercase();
        ["script", "function", "eval", "fcall"]
            .iter()
            .any(|word| text.contains(word))
    }

    /// The clients that it names.
    pub(crate) fn clients(&self) -> Vec<char> {
        let mut all: Vec<char> = self
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::Client(client, _) => Some(*client),
                Step::Wait(_) => None,
            })
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

fn act(text: &str) -> Result<Act> {
    if let Some(rest) = text.strip_prefix('$') {
        let (name, command) = rest.split_once(' ').context("a name and a command")?;
        return Ok(Act::Ask(name.to_owned(), command.to_owned()));
    }
    let Some(own) = text.strip_prefix('!') else {
        return Ok(Act::Say(text.to_owned()));
    };
    let (verb, rest) = own.split_once(' ').unwrap_or((own, ""));
    Ok(match verb {
        "raw" => Act::Raw(rest.to_owned()),
        "pieces" => Act::Pieces(rest.to_owned()),
        "bytes" => Act::Bytes(rest.to_owned()),
        "read" => Act::Read(rest.parse()?),
        "end" => Act::End,
        "close" => Act::Close,
        _ => bail!("no such verb"),
    })
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "== {}", self.name)?;
        self.masks
            .iter()
            .try_for_each(|mask| writeln!(f, "mask {mask}"))?;
        self.drops
            .iter()
            .try_for_each(|drop| writeln!(f, "drop {drop}"))?;
        if self.unordered {
            writeln!(f, "unordered")?;
        }
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (client, act) = match self {
            Self::Wait(time) => return write!(f, "wait {}ms", time.as_millis()),
            Self::Client(client, act) => (client, act),
        };
        match act {
            Act::Say(command) => write!(f, "{client} {command}"),
            Act::Keep(command) => write!(f, "{client}+ {command}"),
            Act::Ask(name, command) => write!(f, "{client} ${name} {command}"),
            Act::Raw(bytes) => write!(f, "{client} !raw {bytes}"),
            Act::Bytes(bytes) => write!(f, "{client} !bytes {bytes}"),
            Act::Pieces(pieces) => write!(f, "{client} !pieces {pieces}"),
            Act::Read(count) => write!(f, "{client} !read {count}"),
            Act::End => write!(f, "{client} !end"),
            Act::Close => write!(f, "{client} !close"),
        }
    }
}

#[test]
fn scenarios_are_read_as_written() {
    let text = "== one\nonly Valkey\nmask id=[0-9]+\nunordered\nA+ SET k v\nA GET k\nB $id CLIENT ID\nB !raw \"x\"*3\n\
                B !bytes \"PING\\r\\n\"\n\
                B !pieces \"PI\" \"NG\\r\\n\"\nA !read 2\nwait 50ms\nA !end\nA !close\n";
    let scenarios = parse("f", text).unwrap();
    let [one] = &scenarios[..] else { panic!("one") };
    assert_eq!(one.clients(), ['A', 'B']);
    assert_eq!(
        one.to_string(),
        text.replace("== one", "== f: one").replace("only Valkey\n", "")
    );
    assert!(parse("f", "== a\n== a\n").is_err());
    assert!(parse("f", "== a\nA !jump\n").is_err());
    assert!(parse("f", "A PING\n").is_err());
}

//! Commands that an operator wants refused (`--deny-commands`).

use resp_codec::spec::{COUNT, TABLE};
use resp_codec::{Command, CommandSpec};

/// The commands that no client may send. A script may still call them.
#[derive(Clone)]
pub struct Denied {
    /// By row of the command table.
    known: Box<[bool]>,
    /// Names, in lower case, that the table does not know; subcommands behind their container and a bar.
    others: Vec<String>,
}

// === impl Denied ===

impl Denied {
    /// From names in any case: `flushall`, `config|set`; a container stands for all of its subcommands. `None`
    /// without any.
    pub fn new<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> Option<Self> {
        let mut denied = Self {
            known: vec![false; COUNT].into(),
            others: Vec::new(),
        };
        let mut any = false;
        for name in names {
            denied.add(&name.as_ref().to_ascii_lowercase());
            any = true;
        }
        any.then_some(denied)
    }

    fn add(&mut self, name: &str) {
        let spec = match name.split_once('|') {
            Some((container, sub)) => CommandSpec::of(container.as_bytes()).subcommand(sub.as_bytes()),
            None => Some(CommandSpec::of(name.as_bytes())),
        };
        match spec.filter(|spec| spec.id != CommandSpec::UNKNOWN.id) {
            None => self.others.push(name.to_owned()),
            Some(spec) => {
                let within = |row: &CommandSpec| row.name.split('|').next() == Some(spec.name);
                for (known, row) in self.known.iter_mut().zip(&TABLE) {
                    *known |= row.id == spec.id || within(row);
                }
            }
        }
    }

    /// Whether `command` is one of them.
    pub(crate) fn covers<B: AsRef<[u8]>>(&self, command: &Command<B>) -> bool {
        let spec = command.spec();
        if self.known.get(spec.id.index()) == Some(&true) {
            return true;
        }
        let open = spec.is_container() || spec.id == CommandSpec::UNKNOWN.id;
        open && !self.others.is_empty() && self.names(command).any(|name| self.others.contains(&name))
    }

    /// What a command that has no row of its own may be called in the list.
    fn names<B: AsRef<[u8]>>(&self, command: &Command<B>) -> impl Iterator<Item = String> {
        let word = |at| {
            command
                .arg(at)
                .map(|word| String::from_utf8_lossy(word).to_ascii_lowercase())
        };
        let name = word(0).unwrap_or_default();
        let sub = word(1).map(|sub| format!("{name}|{sub}"));
        [Some(name), sub].into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use resp_codec::{RequestLimits, RequestScan};

    use super::*;

    fn check(list: &[&str], line: &str, want: bool) {
        let line = format!("{line}\r\n");
        let found = RequestScan::default().advance(line.as_bytes(), &RequestLimits::AUTHENTICATED);
        let command = Command::new(line.as_bytes(), found.unwrap().unwrap());
        assert_eq!(
            Denied::new(list).unwrap().covers(&command),
            want,
            "{list:?} {line}"
        );
    }

    #[test]
    fn names_stand_for_commands_and_containers_for_their_subcommands() {
        check(&["FlushAll"], "flushall async", true);
        check(&["flushall"], "FLUSHDB", false);
        check(&["config|set"], "CONFIG SET a b", true);
        check(&["config|set"], "CONFIG GET a", false);
        check(&["config"], "CONFIG GET a", true);
        check(&["config"], "CONFIG NEWTHING a", true);
        check(&["config|newthing"], "CONFIG NewThing a", true);
        check(&["json.set"], "JSON.SET k $ 1", true);
        check(&["json.set"], "JSON.GET k", false);
        check(&["ft|drop"], "FT drop x", true);
        assert!(Denied::new(Vec::<String>::new()).is_none());
    }
}

//! `--config FILE`: TOML, each key a flag without its dashes. Also taken as it is: the JSON file of `sentinel_tunnel`.
//!
//! A file's values become the flags' defaults, so that flags and environment win over it, and every value is checked by
//! the parser of its flag.

use std::error::Error as _;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde::Deserialize;
use toml::de::{DeTable, DeValue};

/// A configuration file that has been read and checked key by key.
pub(crate) struct File {
    path: PathBuf,
    entries: Vec<Entry>,
}

/// One key.
struct Entry {
    key: String,
    /// As it would stand behind the flag.
    value: OsString,
    line: usize,
}

/// What is wrong with a file, and where.
#[derive(Debug)]
pub(crate) struct FileError {
    path: PathBuf,
    line: Option<usize>,
    message: String,
}

/// The configuration of `sentinel_tunnel`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SentinelTunnel {
    #[serde(rename = "Sentinels_addresses_list")]
    sentinels: Vec<String>,
    #[serde(rename = "Databases")]
    databases: Vec<Database>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Database {
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "Local_port")]
    port: String,
}

/// Flags that mean nothing in a file.
pub(crate) const OF_THE_COMMAND_LINE: [&str; 5] =
    ["config", "check-config", "help", "upgrade-from", "version"];

/// Names closer than this are worth suggesting.
const LIKENESS: f64 = 0.8;

// === impl File ===

impl File {
    /// Reads `path` and checks each key against the flags of `command`.
    pub(crate) fn read(path: &Path, command: &Command) -> Result<Self, FileError> {
        let wrong = |line, message| FileError {
            path: path.to_owned(),
            line,
            message,
        };
        let text = std::fs::read_to_string(path).map_err(|error| {
            wrong(
                None,
                format!("{error}; --config takes a file of keys and values in TOML"),
            )
        })?;
        let entries = if text.trim_start().starts_with('{') {
            sentinel_tunnel(&text)
        } else {
            table(&text, command)
        };
        let entries = entries.map_err(|(line, message)| wrong(Some(line), message))?;
        for entry in &entries {
            let flag = flag(command, &entry.key).expect("entries are made for flags");
            check(command, flag, entry).map_err(|message| wrong(Some(entry.line), message))?;
        }
        Ok(Self {
            path: path.to_owned(),
            entries,
        })
    }

    /// Makes the values the defaults of their flags.
    pub(crate) fn apply(&self, command: Command) -> Command {
        self.entries.iter().fold(command, |command, entry| {
            let id = flag(&command, &entry.key)
                .expect("checked by `read`")
                .get_id()
                .clone();
            command.mut_arg(id, |flag| flag.required(false).default_value(entry.value.clone()))
        })
    }

    /// Forgets what flags and environment have overruled.
    pub(crate) fn keep_effective(&mut self, matches: &ArgMatches, command: &Command) {
        self.entries.retain(|entry| {
            let flag = flag(command, &entry.key).expect("checked by `read`");
            matches.value_source(flag.get_id().as_str()) == Some(ValueSource::DefaultValue)
        });
    }

    /// Where the value of `--flag` stands, for a message about it.
    pub(crate) fn place_of(&self, flag: &str) -> Option<String> {
        let key = flag.strip_prefix("--")?;
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        Some(format!("{}:{}", self.path.display(), entry.line))
    }
}

type Wrong = (usize, String);

fn table(text: &str, command: &Command) -> Result<Vec<Entry>, Wrong> {
    let line_at = |byte: usize| 1 + text.get(..byte).unwrap_or(text).matches('\n').count();
    let table = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_at(span.start));
        (line, format!("this is no TOML: {}", error.message().trim()))
    })?;
    let mut entries = Vec::new();
    for (key, value) in table.get_ref() {
        let line = line_at(key.span().start);
        let key = key.get_ref().to_string();
        let Some(flag) = flag(command, &key) else {
            return Err((line, unknown(&key, command)));
        };
        let value = written(value.get_ref(), flag).map_err(|takes| (line, format!("{key}: {takes}")))?;
        entries.push(Entry {
            key,
            value: value.into(),
            line,
        });
    }
    entries.sort_by_key(|entry| entry.line);
    Ok(entries)
}

/// A value as it would stand behind its flag.
fn written(value: &DeValue<'_>, flag: &Arg) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) => Ok(number.as_str().to_owned()),
        DeValue::Boolean(on) if matches!(flag.get_action(), ArgAction::SetTrue) => Ok(on.to_string()),
        DeValue::Boolean(on) => Ok(if *on { "yes" } else { "no" }.to_owned()),
        DeValue::Array(values) if flag.get_value_delimiter().is_some() => {
            let values = values.iter().map(|value| match value.get_ref() {
                DeValue::String(text) => Ok(text.to_string()),
                _ => Err("takes a list of strings".to_owned()),
            });
            Ok(values.collect::<Result<Vec<_>, _>>()?.join(","))
        }
        DeValue::Array(_) => Err("takes one value, not a list".to_owned()),
        DeValue::Table(_) => {
            Err("is no section: keys are flags without their dashes, side by side".to_owned())
        }
        DeValue::Float(_) | DeValue::Datetime(_) => {
            Err("takes a string, a whole number or true and false".to_owned())
        }
    }
}

fn sentinel_tunnel(text: &str) -> Result<Vec<Entry>, Wrong> {
    let file: SentinelTunnel = serde_json::from_str(text).map_err(|error| {
        let message = format!("this is no configuration of sentinel_tunnel either: {error}");
        (error.line(), message)
    })?;
    let line_of = |word: &str| 1 + text.lines().position(|line| line.contains(word)).unwrap_or(0);
    let entry = |key: &str, values: Vec<String>, word| Entry {
        key: key.to_owned(),
        value: values.join(",").into(),
        line: line_of(word),
    };
    let names = file
        .databases
        .iter()
        .map(|database| database.name.clone())
        .collect();
    let doors = file.databases.iter();
    let doors = doors
        .map(|Database { name, port }| format!("127.0.0.1:{port}={name}"))
        .collect();
    Ok(vec![
        entry("sentinels", file.sentinels, "Sentinels_addresses_list"),
        entry("master", names, "Databases"),
        entry("listen", doors, "Local_port"),
    ])
}

fn flag<'a>(command: &'a Command, key: &str) -> Option<&'a Arg> {
    let named = |flag: &&Arg| flag.get_long() == Some(key);
    command
        .get_arguments()
        .filter(|_| !OF_THE_COMMAND_LINE.contains(&key))
        .find(named)
}

fn unknown(key: &str, command: &Command) -> String {
    let names = command.get_arguments().filter_map(Arg::get_long);
    let like = names
        .filter(|name| !OF_THE_COMMAND_LINE.contains(name))
        .map(|name| (strsim::jaro_winkler(name, key), name))
        .max_by(|one, other| one.0.total_cmp(&other.0));
    match like {
        Some((likeness, name)) if likeness > LIKENESS => format!("unknown key {key}; did you mean {name}?"),
        _ => format!("unknown key {key}; keys are flags without their dashes, see --help"),
    }
}

/// Asks the flag's own parser.
fn check(command: &Command, flag: &Arg, entry: &Entry) -> Result<(), String> {
    if matches!(flag.get_action(), ArgAction::SetTrue) {
        let known = entry.value == "true" || entry.value == "false";
        return if known {
            Ok(())
        } else {
            Err(format!("{}: takes true or false", entry.key))
        };
    }
    let mut argument = OsString::from(format!("--{}=", entry.key));
    argument.push(&entry.value);
    let alone = command
        .clone()
        .mut_args(|flag| flag.required(false).env(None::<&str>));
    let parsed = alone.try_get_matches_from([OsString::from("slipring"), argument]);
    parsed.map(drop).map_err(|error| {
        let takes = match (error.source(), error.get(ContextKind::ValidValue)) {
            (Some(takes), _) => takes.to_string(),
            (None, Some(ContextValue::Strings(names))) => format!("takes one of {}", names.join(", ")),
            (None, _) => "takes another value".to_owned(),
        };
        match error.get(ContextKind::InvalidValue) {
            Some(ContextValue::String(value)) => format!("{} = {value:?}: {takes}", entry.key),
            _ => format!("{}: {takes}", entry.key),
        }
    })
}

// === impl FileError ===

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.path.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for FileError {}

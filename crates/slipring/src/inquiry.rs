//! One question to a sentinel or a node, on a connection of its own.

use std::io;

use resp_codec::Value;
use sentinel_watcher::{Dial, HostPort, Link, Manners};

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No connection, or none that answers.
    Unreachable(String),
    /// It refuses the password, or wants one. Its own words.
    Auth(String),
}

/// Asks `commands` as `manners` say. One reply for each; errors among them are the server's answers.
pub(crate) async fn ask(
    dial: &dyn Dial,
    to: &HostPort,
    manners: &Manners,
    commands: &[&[&[u8]]],
) -> Result<Vec<Value>, Failure> {
    let unreachable = |error: io::Error| match error.kind() {
        io::ErrorKind::TimedOut => Failure::Unreachable("it does not answer in time".to_owned()),
        io::ErrorKind::ConnectionRefused => Failure::Unreachable("it refuses connections".to_owned()),
        io::ErrorKind::UnexpectedEof => {
            Failure::Unreachable("it takes connections and closes them".to_owned())
        }
        _ => Failure::Unreachable(error.to_string()),
    };
    let mut link = Link::dial(dial, to, manners.connect_timeout)
        .await
        .map_err(unreachable)?;
    if let Some(credentials) = &manners.credentials {
        let auth = credentials.auth();
        let replies = link
            .ask(&[&auth], manners.answer_timeout)
            .await
            .map_err(unreachable)?;
        // A password that nobody wants is no fault.
        let refused = replies
            .first()
            .and_then(Value::as_error)
            .filter(|words| !words.contains("without any password"));
        if let Some(refused) = refused {
            return Err(Failure::Auth(refused.to_owned()));
        }
    }
    let replies = link
        .ask(commands, manners.answer_timeout)
        .await
        .map_err(unreachable)?;
    match replies.first().and_then(Value::as_error) {
        Some(error) if error.starts_with("NOAUTH") => Err(Failure::Auth(error.to_owned())),
        _ => Ok(replies),
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable(why) | Self::Auth(why) => f.write_str(why),
        }
    }
}

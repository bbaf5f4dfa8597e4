//! Who may enter: the flags about clients, and the file of users.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proxy_core::{ClientAuth, Entry, PasswordHash, User, Users};
use serde::Deserialize;

use super::doors::Door;
use super::error::ConfigError;
use super::secrets::{credentials, secret};
use crate::cli::ClientArgs;

/// One section of the file of users.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Section {
    passwords: Vec<Hash>,
    node_user: Option<String>,
    node_password_file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Hash(PasswordHash);

const FLAG: &str = "--users-file";

const TAKES: &str =
    "a section [NAME] takes passwords = [\"#SHA-256\", ...], node-user and node-password-file";

/// Who clients are, and who may enter.
pub(super) fn read(flags: &ClientArgs, doors: &[Door]) -> Result<(ClientAuth, Entry), ConfigError> {
    let password = secret(
        "--client-password-file",
        flags.client_password.as_ref(),
        flags.client_password_file.as_deref(),
    )?;
    let mut users = flags
        .users_file
        .as_deref()
        .map(users)
        .transpose()?
        .unwrap_or_default();
    if let Some(password) = password {
        let user = User {
            passwords: vec![PasswordHash::of(password.reveal())],
            node: None,
        };
        if !users.add(b"default", user) {
            let path = flags.users_file.as_deref().unwrap_or(Path::new(""));
            let remedy =
                "has a user default, whose password --client-password is too: leave out one of the two";
            return Err(ConfigError::new(FLAG, path.display(), remedy));
        }
    }
    let auth = match (flags.client_auth, users.is_empty()) {
        (None, false) => ClientAuth::Proxy,
        (None, true) => ClientAuth::Passthrough,
        (Some(ClientAuth::Proxy), true) => {
            let remedy =
                "needs --client-password, --client-password-file or --users-file: what clients must present";
            return Err(ConfigError::new("--client-auth", "proxy", remedy));
        }
        (Some(ClientAuth::Passthrough), false) => {
            let remedy = "clients prove themselves on the node: leave out client password and users file, or take proxy";
            return Err(ConfigError::new("--client-auth", "passthrough", remedy));
        }
        (Some(ClientAuth::None), false) => {
            let remedy =
                "nobody is asked for a password: leave out client password and users file, or take proxy";
            return Err(ConfigError::new("--client-auth", "none", remedy));
        }
        (Some(auth), _) => auth,
    };
    let open = doors.iter().find(|door| !door.address.is_local());
    if let (ClientAuth::None, true, Some(door)) = (auth, flags.protected_mode, open) {
        let remedy = format!(
            "whoever reaches {} {} would be slipring's own user unasked; listen on 127.0.0.1, take --client-auth proxy, \
             or allow it with --protected-mode no",
            door.flag, door.address
        );
        return Err(ConfigError::new("--client-auth", "none", remedy));
    }
    let entry = Entry {
        users,
        allow: flags.allow_cidr.clone(),
        max_clients_per_ip: flags.max_clients_per_ip,
        accept_rate_per_ip: flags.accept_rate_per_ip,
        protected_mode: flags.protected_mode,
        handshake_timeout: flags.handshake_timeout,
        tcp_keepalive: flags.tcp_keepalive,
    };
    Ok((auth, entry))
}

/// The file of users. No error quotes what stands in it but names.
fn users(path: &Path) -> Result<Users, ConfigError> {
    let wrong = |line: Option<usize>, remedy: String| {
        let line = line.map_or_else(String::new, |line| format!(":{line}"));
        ConfigError::new(FLAG, format!("{}{line}", path.display()), remedy)
    };
    let text = std::fs::read_to_string(path).map_err(|error| {
        wrong(
            None,
            format!("{error}; it takes a file that slipring's user may read"),
        )
    })?;
    let sections: BTreeMap<String, Section> = toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(1, |span| {
            1 + text.get(..span.start).unwrap_or(&text).matches('\n').count()
        });
        let told = error.message();
        let plain = ["unknown field", "missing field", "duplicate key", "takes"]
            .iter()
            .any(|start| told.starts_with(start));
        wrong(
            Some(line),
            if plain {
                format!("{told}; {TAKES}")
            } else {
                TAKES.to_owned()
            },
        )
    })?;
    let mut users = Users::default();
    for (name, section) in sections {
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(wrong(None, format!("[{name:?}] is no name of a user")));
        }
        let node = credentials(
            ["node-user", "node-password-file"],
            section.node_user.as_deref(),
            None,
            section.node_password_file.as_deref(),
        )
        .map_err(|error| wrong(None, format!("[{name}] {}", error.what())))?;
        let user = User {
            passwords: section.passwords.into_iter().map(|Hash(hash)| hash).collect(),
            node,
        };
        users.add(name.as_bytes(), user);
    }
    if users.is_empty() {
        return Err(wrong(None, format!("names nobody; {TAKES}")));
    }
    Ok(users)
}

// === impl Hash ===

impl TryFrom<String> for Hash {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `>secret`
    const SECRET: &str = "#2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

    fn read(text: &str) -> Result<Users, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("node"), "pw\n").unwrap();
        let path = folder.path().join("users.toml");
        let text = text
            .replace("$HASH", SECRET)
            .replace("$FOLDER", folder.path().to_str().unwrap());
        std::fs::write(&path, text).unwrap();
        users(&path).map_err(|error| error.to_string().replace(path.to_str().unwrap(), "FILE"))
    }

    #[test]
    fn a_file_of_users_is_read() {
        let users = read(
            "[app]\npasswords = [\"$HASH\"]\nnode-user = \"app\"\nnode-password-file = \"$FOLDER/node\"\n\n\
             [\"other-app\"]\npasswords = []\n",
        );
        assert!(!users.unwrap().is_empty());
    }

    #[test]
    fn what_is_wrong_with_it_is_told_with_its_line_and_without_secrets() {
        for (text, told) in [
            ("", "--users-file FILE: names nobody"),
            (
                "[a]\npasswords = [\"hunter2\"]",
                "FILE:2: takes # and the SHA-256",
            ),
            ("[a]\n\npasswords = \"hunter2\"", "FILE:3: a section [NAME] takes"),
            ("[a]\npassword = [\"$HASH\"]", "FILE:2: unknown field `password`"),
            ("[a]\nnode-user = \"x\"", "FILE:1: missing field `passwords`"),
            ("[a]\npasswords = []\n[a]\n", "FILE:3: duplicate key"),
            ("a = \"hunter2\"", "FILE:1: a section [NAME] takes"),
            ("hunter2", "FILE:1: a section [NAME] takes"),
            (
                "[a]\npasswords = []\nnode-user = \"x\"",
                "[a] node-user x: a user needs a password; add node-password-file",
            ),
            (
                "[a]\npasswords = []\nnode-password-file = \"/no/such\"",
                "[a] node-password-file /no/such: ",
            ),
            ("[\"a b\"]\npasswords = []", "is no name of a user"),
        ] {
            let message = read(text).err().unwrap_or_else(|| panic!("{text} was taken"));
            assert!(message.contains(told), "{text}: {message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
    }
}

//! Passwords, as given or in files.

use std::path::Path;
use std::sync::Arc;

use sentinel_watcher::{Credentials, Secret};

use super::error::ConfigError;

/// `flags`: that of the user name, and that of the file.
pub(super) fn credentials(
    flags: [&'static str; 2],
    username: Option<&str>,
    given: Option<&Secret>,
    file: Option<&Path>,
) -> Result<Option<Credentials>, ConfigError> {
    match (username, secret(flags[1], given, file)?) {
        (username, Some(password)) => Ok(Some(Credentials {
            username: username.map(|name| Arc::from(name.as_bytes())),
            password,
        })),
        (Some(username), None) => {
            let remedy = format!("a user needs a password; add {}", flags[1]);
            Err(ConfigError::new(flags[0], username, remedy))
        }
        (None, None) => Ok(None),
    }
}

/// A secret as given, or out of its file, less the newline that editors put at the end.
pub(super) fn secret(
    flag: &'static str,
    given: Option<&Secret>,
    file: Option<&Path>,
) -> Result<Option<Secret>, ConfigError> {
    let Some(path) = file else {
        return Ok(given.cloned());
    };
    let wrong = |remedy: String| ConfigError::new(flag, path.display(), remedy);
    let bytes = std::fs::read(path)
        .map_err(|error| wrong(format!("{error}; it takes a file that slipring's user may read")))?;
    let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return Err(wrong("the file is empty; write the password into it".to_owned()));
    }
    Ok(Some(Secret::new(line)))
}

#[cfg(test)]
mod tests {
    use crate::config::tests::read;

    #[test]
    fn a_password_file_loses_its_newline_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        for (content, password) in [
            ("pw", "pw"),
            ("pw\n", "pw"),
            ("pw\r\n", "pw"),
            (" p w \n\n", " p w \n"),
        ] {
            std::fs::write(&path, content).unwrap();
            let config = read(&format!("--username app --password-file {}", path.display())).unwrap();
            let credentials = config.settings.node_credentials.unwrap();
            assert_eq!(credentials.password.reveal(), password.as_bytes());
            assert_eq!(credentials.username.as_deref(), Some(&b"app"[..]));
        }
    }
}

//! What is wrong with what slipring was given.

use std::fmt;

/// Flags that do not go together, or a file that cannot be read.
#[derive(Debug)]
pub(crate) struct ConfigError {
    pub(super) flag: String,
    value: String,
    remedy: String,
    /// File and line, where the value stands in one.
    pub(super) place: Option<String>,
}

// === impl ConfigError ===

impl ConfigError {
    pub(crate) fn new(flag: impl Into<String>, value: impl fmt::Display, remedy: impl Into<String>) -> Self {
        Self {
            flag: flag.into(),
            value: value.to_string(),
            remedy: remedy.into(),
            place: None,
        }
    }

    /// The complaint alone.
    pub(crate) fn what(&self) -> String {
        format!("{} {}: {}", self.flag, self.value, self.remedy)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.flag.strip_prefix("--").unwrap_or(&self.flag);
        match &self.place {
            Some(place) => write!(f, "error: {place}: {key} = {:?}: {}", self.value, self.remedy),
            None => write!(
                f,
                "error: {} {}: {}\n\nFor more information, try '--help'.",
                self.flag, self.value, self.remedy
            ),
        }
    }
}

impl std::error::Error for ConfigError {}

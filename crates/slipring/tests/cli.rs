//! The command line as an operator meets it: the program itself, its exit codes and what it prints.

use std::process::{Command, Output};

/// Runs slipring with these arguments and variables; every caller gives something that ends it at once.
fn slipring(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slipring"));
    command
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied());
    command.output().expect("slipring was built for this test")
}

fn usage_error(arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let output = slipring(arguments, variables);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(64), "{message}");
    assert!(output.stdout.is_empty());
    message
}

#[test]
fn a_variable_stands_for_its_flag() {
    let message = usage_error(&[], &[("SLIPRING_SENTINELS", "a:1,b")]);
    assert!(message.contains("'b' for '--sentinels"), "{message}");
    let message = usage_error(&[], &[("SLIPRING_SENTINELS", "a:1"), ("SLIPRING_MASTER", "a,b")]);
    assert!(message.contains("there are 2 masters"), "{message}");
}

#[test]
fn a_flag_wins_over_its_variable() {
    let message = usage_error(&["--sentinels", "flag"], &[("SLIPRING_SENTINELS", "variable")]);
    assert!(
        message.contains("'flag'") && !message.contains("'variable'"),
        "{message}"
    );
    // The variable alone would be taken; the flag is what fails.
    let message = usage_error(
        &["--workers", "0"],
        &[("SLIPRING_WORKERS", "2"), ("SLIPRING_SENTINELS", "a:1")],
    );
    assert!(message.contains("'0' for '--workers"), "{message}");
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let message = usage_error(&[], &[("SLIPRING_SENTINELS", ""), ("SLIPRING_WORKERS", "")]);
    assert!(
        message.contains("required") && message.contains("--sentinels"),
        "{message}"
    );
    assert!(!message.contains("--workers"), "{message}");
}

#[test]
fn unknown_variables_are_ignored_and_unknown_flags_are_not() {
    let message = usage_error(
        &["--version=1"],
        &[("SLIPRING_SERVICE_HOST", "10.0.0.1"), ("SLIPRING_PORT", "tcp://")],
    );
    assert!(!message.contains("SERVICE"), "{message}");
    let output = slipring(&["--version"], &[("SLIPRING_PORT", "tcp://10.0.0.1:6379")]);
    assert!(output.status.success());
    let message = usage_error(&["--sentnels", "a:1"], &[]);
    assert!(message.contains("--sentinels"), "{message}");
}

#[test]
fn the_help_shows_flags_and_no_secrets() {
    let output = slipring(
        &["--help"],
        &[
            ("SLIPRING_PASSWORD", "hunter2"),
            ("SLIPRING_CLIENT_PASSWORD", "hunter2"),
        ],
    );
    let help = String::from_utf8(output.stdout).expect("the help is text");
    assert!(output.status.success());
    assert!(!help.contains("hunter2"), "{help}");
    for word in [
        "Whom to follow:",
        "Whom to serve:",
        "Operation:",
        "--sentinels",
        "[default: 127.0.0.1:6379]",
    ] {
        assert!(help.contains(word), "no {word} in\n{help}");
    }
}

#[test]
fn an_address_that_cannot_be_bound_is_named_with_its_flag() {
    // 192.0.2.0/24 is reserved for documentation: no machine has it.
    let output = slipring(
        &[
            "--sentinels",
            "127.0.0.1:1",
            "--listen",
            "192.0.2.1:6379",
            "--metrics-listen",
            "off",
            "--log-format",
            "json",
        ],
        &[],
    );
    assert_eq!(output.status.code(), Some(1));
    let line = String::from_utf8_lossy(&output.stderr)
        .lines()
        .last()
        .map(str::to_owned)
        .unwrap_or_default();
    let line: serde_json::Value = serde_json::from_str(&line).expect("a log line is one JSON object");
    assert_eq!(line["level"], "ERROR");
    let message = line["message"].as_str().expect("a message");
    assert!(
        message.starts_with("--listen 192.0.2.1:6379: ") && message.contains("no such address"),
        "{message}"
    );
}

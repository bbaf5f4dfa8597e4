//! `--config` and `--check-config` as an operator meets them.

use std::fs;
use std::process::{Command, Output};

use tempfile::TempDir;

/// Runs `slipring --config FILE --check-config` with `text` in the file, and more arguments and variables.
fn check(text: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let folder = TempDir::new().expect("a temporary folder");
    let file = folder.path().join("slipring.toml");
    fs::write(&file, text).expect("writable");
    Command::new(env!("CARGO_BIN_EXE_slipring"))
        .arg("--config")
        .arg(&file)
        .arg("--check-config")
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied())
        .current_dir(folder.path())
        .output()
        .expect("slipring was built for this test")
}

fn is_taken(text: &str, arguments: &[&str], variables: &[(&str, &str)]) {
    let output = check(text, arguments, variables);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{text}\n{message}");
    assert_eq!(output.stdout, b"the configuration is in order\n");
}

/// What is said of a wrong file.
fn refusal(text: &str) -> String {
    let output = check(text, &[], &[]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(64), "{text}\n{message}");
    message
}

#[test]
fn every_kind_of_value_is_taken() {
    is_taken(
        r#"
            # Whom to follow.
            sentinels = ["s1:26379", "s2:26379"]
            master = "users"
            listen = "127.0.0.1:0"
            max-clients = 500
            protected-mode = false
            idle-timeout = "5m"
            failover-hold-bytes = "64mb"
            address-map = ["10.0.0.1=db.example.net"]
        "#,
        &[],
        &[],
    );
}

#[test]
fn flags_win_over_variables_and_variables_over_the_file() {
    let file = "sentinels = 's1:26379'\nmax-clients = 'many'\n";
    assert!(refusal(file).contains("many"));
    // Each key is checked, also where something wins over it.
    let file = "sentinels = 's1:26379'\nclient-auth = 'proxy'\n";
    assert!(refusal(file).contains("slipring.toml:2"));
    is_taken(file, &[], &[("SLIPRING_CLIENT_AUTH", "passthrough")]);
    is_taken(
        file,
        &["--client-auth", "passthrough"],
        &[("SLIPRING_CLIENT_AUTH", "proxy")],
    );
}

#[test]
fn the_file_of_sentinel_tunnel_is_taken() {
    let file = r#"{
        "Sentinels_addresses_list": ["node1.local:8002", "node2.local:8002"],
        "Databases": [
            { "Name": "db1", "Local_port": "12345" },
            { "Name": "db2", "Local_port": "12346" }
        ]
    }"#;
    is_taken(file, &[], &[]);
    let message = refusal(&file.replace("12345", "port"));
    assert!(
        message.contains(":4: listen") && message.contains("takes IP:PORT"),
        "{message}"
    );
}

#[test]
fn a_wrong_file_is_refused_with_line_key_and_what_it_takes() {
    for (wrong, line, key, takes) in [
        ("max-client = 5", 2, "max-client", "did you mean max-clients?"),
        ("quorum = 2", 2, "quorum", "see --help"),
        ("config = 'other.toml'", 2, "config", "unknown key"),
        (
            "max-clients = 'many'",
            2,
            "max-clients",
            "a whole number, at least 1",
        ),
        ("max-clients = 0", 2, "max-clients", "at least 1"),
        ("max-clients = 1.5", 2, "max-clients", "a whole number"),
        (
            "idle-timeout = 5",
            2,
            "idle-timeout",
            "takes a duration with ms, s or m",
        ),
        ("\n\nconnect-timeout = '0s'", 4, "connect-timeout", "above zero"),
        (
            "failover-hold-bytes = '1tb'",
            2,
            "failover-hold-bytes",
            "kb, mb or gb",
        ),
        ("read-policy = 'nearest'", 2, "read-policy", "prefer-replica"),
        (
            "client-auth = 'proxy'",
            2,
            "client-auth",
            "needs --client-password",
        ),
        ("listen = '6379'", 2, "listen", "takes IP:PORT"),
        ("listen = 'unix:s.sock'", 2, "listen", "absolute path"),
        (
            "listen = ['127.0.0.1:1', '127.0.0.1:1']",
            2,
            "listen",
            "asked for twice",
        ),
        (
            "listen = '127.0.0.1:1=carts'",
            2,
            "listen",
            "no --master is called carts",
        ),
        ("master = ['a', 'b']", 2, "", "there are 2 masters"),
        ("master = ['a', 5]", 2, "master", "a list of strings"),
        ("workers = [1, 2]", 2, "workers", "one value, not a list"),
        ("[tls]\nlisten-tls = true", 2, "tls", "keys are flags"),
        ("node-tls = 'maybe'", 2, "node-tls", "true or false"),
        ("node-tls = true", 2, "node-tls", "needs --node-tls-ca-file"),
        (
            "node-tls-ca-file = 'ca.pem'",
            2,
            "node-tls-ca-file",
            "without --node-tls",
        ),
        ("password-file = 'nowhere'", 2, "password-file", "No such file"),
        ("username = 'app'", 2, "username", "a user needs a password"),
        ("metrics-listen = 9379", 2, "metrics-listen", "or off"),
        ("log-level = 'loud'", 2, "log-level", "debug"),
        ("max-clients = 5\nmax-clients = 6", 3, "", "duplicate key"),
        ("max-clients 5", 2, "", "no TOML"),
    ] {
        let message = refusal(&format!("sentinels = 's1:26379'\n{wrong}\n"));
        let first = message.lines().next().unwrap_or_default();
        let place = format!("slipring.toml:{line}: ");
        // What concerns several keys is told with the one flag that mends it.
        let placed = message.contains(&place) || takes.contains("masters");
        assert!(
            placed && first.contains(key) && message.contains(takes),
            "{wrong}\n{message}"
        );
    }
    let message = refusal("max-clients = 5\n");
    assert!(message.contains("--sentinels"), "{message}");
}

#[test]
fn no_message_quotes_a_secret() {
    let message = refusal("sentinels = 's1:26379'\nclient-password = 'hunter2'\nclient-auth = 'none'\n");
    assert!(
        message.contains("slipring.toml:3") && !message.contains("hunter2"),
        "{message}"
    );
    let message = refusal("sentinels = 's1:26379'\npassword = 'hunter2\n");
    assert!(!message.contains("hunter2"), "{message}");
}

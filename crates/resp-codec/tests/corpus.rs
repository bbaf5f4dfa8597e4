//! Replays the committed corpus of the fuzz targets through the checks that they run.

use resp_codec::check;
use std::path::Path;

fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).expect("the corpus is committed") {
        let path = entry.expect("readable").path();
        let bytes = std::fs::read(&path).expect("readable");
        // Named first: a check that fails panics.
        println!("{}", path.display());
        check(&bytes);
        count += 1;
    }
    assert!(count >= 10, "{} holds only {count} files", folder.display());
}

#[test]
fn requests() {
    replay("request", check::request);
}

#[test]
fn replies() {
    replay("reply", check::reply);
}

#[test]
fn commands() {
    replay("command", check::command);
}

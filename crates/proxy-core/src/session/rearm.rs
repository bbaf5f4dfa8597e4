//! What waits on a node that is primary no longer: a blocked command is armed again on another, with what is left of its
//! timeout, and WAIT is answered.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use resp_codec::{Command, write};

/// How a node that is demoted lets its blocked clients go. CLIENT UNBLOCK … ERROR has other words, and so has a stream
/// that is deleted.
pub(super) const UNBLOCKED_BY_DEMOTION: &[u8] = b"-UNBLOCKED force unblock";

/// Where the timeout stands, and its unit.
enum Timeout {
    Seconds(usize),
    Millis(usize),
}

/// The frame of `command` with `elapsed` taken off its timeout. A timeout of 0 blocks for ever and stays; what has
/// run out becomes the shortest there is, so that the node words the answer.
pub(super) fn with_timeout_left(command: &Command<Bytes>, elapsed: Duration) -> Bytes {
    left(command, elapsed).unwrap_or_else(|| command.frame().clone())
}

fn left(command: &Command<Bytes>, elapsed: Duration) -> Option<Bytes> {
    let (at, text) = match timeout(command)? {
        Timeout::Seconds(at) => {
            let seconds: f64 = std::str::from_utf8(command.arg(at)?).ok()?.parse().ok()?;
            let left = (seconds - elapsed.as_secs_f64()).max(0.001);
            (
                at,
                if seconds == 0.0 {
                    return None;
                } else {
                    format!("{left:.3}")
                },
            )
        }
        Timeout::Millis(at) => {
            let millis: u128 = std::str::from_utf8(command.arg(at)?).ok()?.parse().ok()?;
            let left = millis.saturating_sub(elapsed.as_millis()).max(1);
            (
                at,
                if millis == 0 {
                    return None;
                } else {
                    left.to_string()
                },
            )
        }
    };
    let mut args: Vec<&[u8]> = command.args().collect();
    *args.get_mut(at)? = text.as_bytes();
    let mut frame = BytesMut::new();
    write::command(&mut frame, &args);
    Some(frame.freeze())
}

fn timeout(command: &Command<Bytes>) -> Option<Timeout> {
    match command.spec().name {
        "blpop" | "brpop" | "brpoplpush" | "blmove" | "bzpopmin" | "bzpopmax" => {
            Some(Timeout::Seconds(command.argc().checked_sub(1)?))
        }
        "blmpop" | "bzmpop" => Some(Timeout::Seconds(1)),
        "xread" | "xreadgroup" => {
            let block = command
                .args()
                .position(|arg| arg.eq_ignore_ascii_case(b"block"))?;
            Some(Timeout::Millis(block + 1))
        }
        _ => None,
    }
}

/// PUBLISH reaches the replicas and changes nothing.
pub(super) const WAIT_MARK: &[u8] = b"*3\r\n$7\r\nPUBLISH\r\n$15\r\n__slipring:wait\r\n$0\r\n\r\n";

/// WAIT's and WAITAOF's answer where no replica has what was written.
pub(super) fn nobody(command: &Command<Bytes>) -> &'static [u8] {
    match command.spec().name {
        "wait" => b":0\r\n",
        _ => b"*2\r\n:0\r\n:0\r\n",
    }
}

#[cfg(test)]
mod tests {
    use resp_codec::{RequestLimits, RequestScan};

    use super::*;

    fn check(request: &str, elapsed_millis: u64, expected: &str) {
        let line = Bytes::copy_from_slice(format!("{request}\r\n").as_bytes());
        let frame = RequestScan::default()
            .advance(&line, &RequestLimits::AUTHENTICATED)
            .unwrap()
            .unwrap();
        let command = Command::new(line, frame);
        let mut out = BytesMut::new();
        write::command(
            &mut out,
            &expected.split(' ').map(str::as_bytes).collect::<Vec<_>>(),
        );
        let armed = left(&command, Duration::from_millis(elapsed_millis));
        assert_eq!(
            armed.as_deref(),
            (request != expected).then_some(&out[..]),
            "{request}"
        );
    }

    #[test]
    fn the_time_that_passed_is_taken_off() {
        check("BLPOP a b 5", 1500, "BLPOP a b 3.500");
        check("BLMOVE a b LEFT RIGHT 0.5", 100, "BLMOVE a b LEFT RIGHT 0.400");
        check("BLMPOP 2 1 k LEFT", 500, "BLMPOP 1.500 1 k LEFT");
        check("BZPOPMIN z 1", 5000, "BZPOPMIN z 0.001");
        check(
            "XREAD COUNT 1 BLOCK 300 STREAMS s $",
            100,
            "XREAD COUNT 1 BLOCK 200 STREAMS s $",
        );
    }

    #[test]
    fn for_ever_stays_for_ever() {
        check("BLPOP a 0", 1500, "BLPOP a 0");
        check("XREAD BLOCK 0 STREAMS s $", 100, "XREAD BLOCK 0 STREAMS s $");
    }
}

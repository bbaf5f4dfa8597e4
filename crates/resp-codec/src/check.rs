//! What must hold for any bytes whatever: shared by the property tests, the fuzz targets and the replay of their
//! corpus. Each function panics where something does not hold.

use crate::codec::{CodecError, CommandDecoder, ReplyDecoder};
use crate::command::Command;
use crate::error::{ReplyError, RequestError};
use crate::frame::{Progress, ReplyKind, RequestFrame, RequestShape};
use crate::limits::RequestLimits;
use crate::scan::{ReplyScan, RequestScan};
use crate::spec::{CommandSpec, TABLE};
use crate::{slot, value, write};
use bytes::BytesMut;
use redis_protocol::{resp2, resp3};
use tokio_util::codec::Decoder;

/// Requests: any split gives the same frames and the same error, and a frame's arguments lie within it.
pub fn request(bytes: &[u8]) {
    for limits in [&RequestLimits::AUTHENTICATED, &RequestLimits::UNAUTHENTICATED] {
        let (frames, error) = requests(bytes, limits, bytes.len(), Passing::Kept);
        for step in [1, 2, 7, 64] {
            for passing in [Passing::Kept, Passing::Forgotten] {
                let pieces = requests(bytes, limits, step, passing);
                assert_eq!(pieces, (frames.clone(), error), "pieces of {step}, {passing:?}");
            }
        }
        let mut rest = bytes;
        let mut decoder = CommandDecoder::new(*limits);
        let mut buf = BytesMut::from(bytes);
        for found in frames {
            let (frame, behind) = rest
                .split_at_checked(found.len)
                .expect("a frame lies in the buffer");
            rest = behind;
            let command = Command::new(frame, found);
            readable(&command, found);
            run_of(&command, rest);
            if found.shape != RequestShape::Empty {
                let decoded = decoder
                    .decode(&mut buf)
                    .expect("the scan took it")
                    .expect("the scan found it");
                assert_eq!(decoded.frame().as_ref(), frame);
            }
        }
        let last = match decoder.decode(&mut buf) {
            Ok(None) => Ok(None),
            Err(CodecError::Request(error)) => Ok(Some(error)),
            other => Err(other),
        };
        assert_eq!(last.expect("no more frames than the scan found"), error);
    }
}

/// Replies: any split gives the same frames and the same error, each frame decodes or is refused, and
/// redis-protocol sees the same ends.
pub fn reply(bytes: &[u8]) {
    let (frames, error) = replies(bytes, bytes.len());
    for step in [1, 2, 7, 64] {
        assert_eq!(replies(bytes, step), (frames.clone(), error), "pieces of {step}");
    }
    run_at_start(bytes, &frames);
    let mut decoder = ReplyDecoder::default();
    let mut buf = BytesMut::from(bytes);
    let mut start = 0;
    for (end, _) in &frames {
        let frame = bytes.get(start..*end).expect("a frame lies in the stream");
        start = *end;
        let shallow = value::decode(frame) != Err(ReplyError::TooDeep);
        let _ = crate::refusal(frame);
        let decoded = decoder
            .decode(&mut buf)
            .expect("the scan took it")
            .expect("the scan found it");
        assert_eq!(decoded, frame);
        // It recurses with its input: only where the depth cannot hurt.
        if shallow && let Some(len) = oracle(frame) {
            assert_eq!(len, frame.len(), "redis-protocol ends elsewhere");
        }
    }
    if bytes.len() <= crate::limits::MAX_VALUE_DEPTH && frames.is_empty() && error.is_none() {
        assert_eq!(
            oracle(bytes),
            None,
            "redis-protocol finds a frame where the scan waits for more"
        );
    }
}

/// The frames that an opening finds in one go are the very ones that the scan finds, and of the same command.
fn run_of(command: &Command<&[u8]>, behind: &[u8]) {
    let Some(opening) = command.opening() else { return };
    let (count, len) = opening.run(behind, 3);
    let (found, _) = requests(
        behind,
        &RequestLimits::UNAUTHENTICATED,
        behind.len(),
        Passing::Kept,
    );
    let mut rest = behind;
    for (found, _) in found.into_iter().zip(0..count) {
        let (frame, behind) = rest
            .split_at_checked(found.len)
            .expect("a frame lies in the buffer");
        rest = behind;
        let like = Command::new(frame, found);
        assert_eq!((like.spec().id, like.argc()), (command.spec().id, command.argc()));
    }
    assert_eq!(behind.len().checked_sub(rest.len()), Some(len));
}

/// The replies that are found in one go are the very ones that are found one by one.
fn run_at_start(bytes: &[u8], frames: &[(usize, ReplyKind)]) {
    let (count, len) = ReplyScan::default().run(bytes, 3);
    let ends: Vec<_> = frames.iter().zip(0..count).map(|((end, _), _)| *end).collect();
    assert_eq!(
        (ends.len() as u64, ends.last().copied().unwrap_or(0)),
        (count, len)
    );
    let odd = |kind: &ReplyKind| kind.is_error() || *kind == ReplyKind::Push;
    assert!(!frames.iter().zip(0..count).any(|((_, kind), _)| odd(kind)));
}

/// Commands: what is written is read again, by multibulk and inline alike; keys are arguments. The first two bytes
/// choose a command of the table, the rest are its arguments, parted by NUL.
pub fn command(bytes: &[u8]) {
    let (chosen, rest) = bytes.split_at_checked(2).unwrap_or((&[], bytes));
    let chosen = chosen.iter().fold(0_usize, |sum, byte| {
        sum.wrapping_mul(256).wrapping_add(usize::from(*byte))
    });
    let spec = TABLE
        .get(chosen.checked_rem(TABLE.len()).unwrap_or(0))
        .unwrap_or(CommandSpec::UNKNOWN);
    let mut args: Vec<&[u8]> = spec.name.split('|').map(str::as_bytes).collect();
    args.extend(rest.split(|byte| *byte == 0));

    let mut multibulk = BytesMut::new();
    write::command(&mut multibulk, &args);
    let written = parse(&multibulk);
    assert_eq!(written.frame().len(), multibulk.len());
    assert_eq!(written.args().collect::<Vec<_>>(), args);
    if spec.id != CommandSpec::UNKNOWN.id && !spec.is_container() {
        assert_eq!(written.spec().id, spec.id);
    }
    let keys = written.keys();
    if let Ok(keys) = &keys {
        let ranges: Vec<_> = written.arg_ranges().collect();
        assert!(
            keys.iter().all(|key| ranges.contains(key)),
            "a key is an argument"
        );
        assert!(
            keys.iter()
                .all(|key| slot::of(written.text().get(key.clone()).unwrap_or_default()) < 16384)
        );
    }

    let line: Vec<u8> = args.iter().flat_map(|arg| quoted(arg)).chain(*b"\r\n").collect();
    if line.len() <= RequestLimits::AUTHENTICATED.max_inline {
        let typed = parse(&line);
        assert_eq!(typed.args().collect::<Vec<_>>(), args);
        assert_eq!(typed.spec().id, written.spec().id);
        assert_eq!(typed.may_block(), written.may_block());
        assert_eq!(typed.keys().map(|keys| keys.len()), keys.map(|keys| keys.len()));
    }
}

/// What becomes of the bytes of a request that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passing {
    Kept,
    Forgotten,
}

fn requests(
    bytes: &[u8],
    limits: &RequestLimits,
    step: usize,
    passing: Passing,
) -> (Vec<RequestFrame>, Option<RequestError>) {
    let mut scan = RequestScan::default();
    let mut found = Vec::new();
    let (mut start, mut end, mut passed) = (0_usize, step.min(bytes.len()), 0_usize);
    loop {
        let shown = bytes.get(start..end).unwrap_or_default();
        match scan.advance(shown, limits) {
            Ok(Some(mut frame)) => {
                assert!(frame.len > 0, "a frame takes bytes");
                start = start.saturating_add(frame.len);
                frame.len = frame.len.saturating_add(std::mem::take(&mut passed));
                found.push(frame);
            }
            Ok(None) if end >= bytes.len() => return (found, None),
            Ok(None) => {
                if passing == Passing::Forgotten {
                    let gone = scan.forget(shown.len());
                    start = start.saturating_add(gone);
                    passed = passed.saturating_add(gone);
                }
                end = end.saturating_add(step).min(bytes.len());
            }
            Err(error) => return (found, Some(error)),
        }
    }
}

fn replies(bytes: &[u8], step: usize) -> (Vec<(usize, ReplyKind)>, Option<ReplyError>) {
    let mut scan = ReplyScan::default();
    let (mut found, mut at) = (Vec::new(), 0_usize);
    for mut piece in bytes.chunks(step.max(1)) {
        while !piece.is_empty() {
            match scan.feed(piece) {
                Ok(Progress::Complete { used, kind }) => {
                    assert!(used > 0 && scan.is_idle());
                    piece = piece.get(used..).expect("no more than the chunk is used");
                    at = at.saturating_add(used);
                    found.push((at, kind));
                }
                Ok(Progress::Partial) => {
                    assert!(!scan.is_idle());
                    at = at.saturating_add(piece.len());
                    piece = &[];
                }
                Err(error) => return (found, Some(error)),
            }
        }
    }
    (found, None)
}

/// Where redis-protocol sees the end of the first reply.
fn oracle(bytes: &[u8]) -> Option<usize> {
    let of_resp2 = resp2::decode::decode(bytes).ok().flatten().map(|(_, len)| len);
    of_resp2.or_else(|| {
        resp3::decode::complete::decode(bytes)
            .ok()
            .flatten()
            .map(|(_, len)| len)
    })
}

/// All that can be asked of a command can be answered.
fn readable(command: &Command<&[u8]>, found: RequestFrame) {
    assert_eq!(command.args().count(), found.argc);
    assert_eq!(command.arg_ranges().count(), found.argc);
    assert_eq!(command.arg(found.argc), None);
    assert!(
        command
            .arg_ranges()
            .all(|range| command.text().get(range).is_some())
    );
    let _ = (command.keys(), command.arity_ok(), command.may_block());
}

fn parse(bytes: &[u8]) -> Command<&[u8]> {
    let found = RequestScan::default().advance(bytes, &RequestLimits::AUTHENTICATED);
    Command::new(bytes, found.expect("well-formed").expect("complete"))
}

/// An argument as one may type it: every byte escaped, and a blank behind it.
fn quoted(arg: &[u8]) -> Vec<u8> {
    let escaped: String = arg.iter().map(|byte| format!("\\x{byte:02x}")).collect();
    format!("\"{escaped}\" ").into_bytes()
}

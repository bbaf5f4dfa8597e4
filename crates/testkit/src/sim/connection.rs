//! One connection to a fake node: commands in, one after the other; replies and messages out, in their order.

use std::io;

use bytes::BytesMut;
use resp_codec::{Command, RequestLimits, RequestScan, RequestShape};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::network::WINDOW_BYTES;
use super::node::Node;
use super::pipe::End;
use super::state::{Out, Step};

/// Serves one connection until either side ends it.
pub(super) async fn serve(node: Node, stream: End) {
    let (reader, writer) = split(stream);
    let (out, outgoing) = mpsc::unbounded_channel();
    let cut = CancellationToken::new();
    let id = node.admit(out, cut.clone());
    tokio::select! {
        biased;
        () = cut.cancelled() => {}
        _ = read(&node, id, reader) => {}
        _ = write(&node, outgoing, writer) => {}
    }
    node.dismiss(id);
}

async fn read(node: &Node, id: u64, mut reader: ReadHalf<End>) -> io::Result<()> {
    let mut scan = RequestScan::default();
    let mut input = BytesMut::new();
    loop {
        loop {
            let frame = match scan.advance(&input, &RequestLimits::AUTHENTICATED) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => {
                    node.complain(format!("{}: {:?}", error.message(), input));
                    return Ok(());
                }
            };
            let bytes = input.split_to(frame.len).freeze();
            if frame.shape == RequestShape::Empty {
                continue;
            }
            let command = Command::new(bytes, frame);
            node.thawed().await;
            let mut step = node.take(id, &command);
            if let Step::Later(delay, args) = step {
                sleep(delay).await;
                step = node.answer(id, &args);
            }
            match step {
                Step::Next | Step::Later(..) => {}
                Step::Never => std::future::pending().await,
                Step::Blocked(mut answered, until, none) => loop {
                    tokio::select! {
                        biased;
                        Ok(reply) = &mut answered => {
                            node.reply(id, reply);
                            break;
                        }
                        () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                            node.stop_waiting(id);
                            node.reply(id, none);
                            break;
                        }
                        read = reader.read_buf(&mut input) => if read? == 0 {
                            return Ok(());
                        }
                    }
                },
            }
        }
        if !node.travel().is_zero() {
            // What was written at once travels together.
            input.reserve(WINDOW_BYTES);
        }
        if reader.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
        if !node.travel().is_zero() {
            sleep(node.travel()).await;
        }
    }
}

async fn write(
    node: &Node,
    mut outgoing: mpsc::UnboundedReceiver<Out>,
    mut writer: WriteHalf<End>,
) -> io::Result<()> {
    while let Some(Out::Bytes(bytes, due)) = outgoing.recv().await {
        if due > Instant::now() {
            sleep_until(due).await;
        }
        node.thawed().await;
        writer.write_all(&bytes).await?;
    }
    Ok(())
}

//! Requests too large to be kept: passed on as they come, and what becomes of them where they are interrupted.

use std::time::Duration;

use bytes::BytesMut;
use resp_codec::write;
use tokio::time::sleep;

use crate::common::client::Client;
use crate::common::node::{Fault, Temper};
use crate::common::world::{HOLD, UNKNOWN, World, run, run_with, settle};

const BIG: usize = 4 << 20;
const MIB: f64 = 1048576.0;
const CUT_SHORT: &str = "-MASTERDOWN the connection to a:6379 was lost while the command was being sent, which is too \
                         large to be sent again; it was not executed";

#[test]
fn what_comes_is_passed_on_before_the_rest_has_come() {
    run(async |world| {
        let (mut client, mut other) = (world.client(), world.client());
        let request = set_big();
        let (begin, end) = request.split_at(BIG / 2);
        client.send("INCR n").await;
        client.send_bytes(begin).await;
        sleep(Duration::from_secs(1)).await;
        assert_eq!(client.reply().await, ":1");
        assert!(to_nodes(world) > 0.9 * BIG as f64 / 2.0, "{}", to_nodes(world));
        assert_eq!(
            other.ask("INCR n").await,
            ":2",
            "a slow sender is in nobody's way"
        );
        client.send_bytes(end).await;
        client.send("INCR n; GET big").await;
        assert_eq!(client.replies(2).await, "+OK :3");
        assert!(client.frame().await[10..].starts_with(&request[32..1000]));
        assert!(
            world.a.frames().iter().any(|frame| *frame == request),
            "byte for byte"
        );
        let opened = world.a.opened();
        client.send_bytes(&request).await;
        assert_eq!(client.reply().await, "+OK");
        assert_eq!(world.a.opened(), opened, "the lease serves again");
    });
}

#[test]
fn many_small_arguments_are_passed_on_too() {
    run(async |world| {
        let mut client = world.client();
        let values: Vec<_> = (0..60_000).map(|at| format!("value {at}")).collect();
        let words = ["RPUSH", "list"]
            .into_iter()
            .chain(values.iter().map(String::as_str));
        let words: Vec<_> = words.map(str::as_bytes).collect();
        let mut request = BytesMut::new();
        write::command(&mut request, &words);
        for piece in request.chunks(9973) {
            client.send_bytes(piece).await;
        }
        assert_eq!(client.ask("LLEN list").await, ":60000");
        assert_eq!(client.reply().await, ":60000");
        assert!(
            world.a.frames().iter().any(|frame| *frame == request),
            "byte for byte"
        );
        assert_eq!(world.metric("slipring_leases_total", "large"), 1.0);
    });
}

#[test]
fn whose_connection_is_lost_half_way_was_not_executed() {
    run(async |world| {
        let mut client = world.client();
        let rest = begin(world, &mut client).await;
        world.a.cut();
        settle().await;
        client.send_bytes(&rest).await;
        client.send("INCR n").await;
        assert_eq!(client.replies(2).await, format!("{CUT_SHORT} :1"));
        assert_eq!(world.a.received("SET big").len(), 0);
    });
}

#[test]
fn a_former_primary_gets_no_more_of_it() {
    run(async |world| {
        let mut client = world.client();
        let rest = begin(world, &mut client).await;
        let open = world.a.open();
        world.switch();
        settle().await;
        assert!(
            world.a.open() < open,
            "the lease is cut before the client says more"
        );
        client.send_bytes(&rest).await;
        client.send("INCR n").await;
        assert_eq!(client.replies(2).await, format!("{CUT_SHORT} :1"));
        assert_eq!(
            world.a.received("SET big").len() + world.b.received("SET big").len(),
            0
        );
    });
}

#[test]
fn while_there_is_no_primary_little_of_it_is_taken_and_none_lost() {
    run(async |world| {
        world.moving();
        let mut client = world.client();
        let request = set_big();
        let sending = async {
            client.send_bytes(&request).await;
            client.send("INCR n").await;
            client.replies(2).await
        };
        let switching = async {
            sleep(HOLD / 2).await;
            let taken = world.metric("slipring_received_bytes_total", "client");
            assert!(taken < 0.6 * MIB, "{taken} bytes");
            assert!(world.metric("slipring_held_bytes", "") <= taken);
            world.switch();
        };
        let (replies, ()) = tokio::join!(sending, switching);
        assert_eq!(replies, "+OK :1");
        assert!(world.b.frames().iter().any(|frame| *frame == request));
        assert_eq!(world.a.received("SET big").len(), 0);
    });
}

#[test]
fn who_waits_for_a_primary_in_vain_is_told_so_and_served_on() {
    run(async |world| {
        world.moving();
        let mut client = world.client();
        client.send_bytes(&set_big()).await;
        client.send("PING").await;
        assert_eq!(
            client.replies(2).await,
            "-MASTERDOWN no primary for \"m\" within 10s; the command was not executed +PONG"
        );
    });
}

#[test]
fn sent_whole_and_not_answered_it_is_an_unknown_outcome() {
    for fault in [Fault::CutBefore, Fault::CutAfter] {
        run(async |world| {
            let mut client = world.client();
            world.a.once("SET big", fault.clone());
            client.send_bytes(&set_big()).await;
            client.send("INCR n").await;
            assert!(client.reply().await.starts_with(UNKNOWN));
            assert_eq!(client.reply().await, ":1");
            assert_eq!(world.a.received("SET big").len(), 1);
        });
    }
}

#[test]
fn what_the_node_refuses_is_the_answer() {
    run(async |world| {
        let mut client = world.client();
        world.a.become_a(Temper::Replica);
        client.send_bytes(&set_big()).await;
        assert!(client.reply().await.starts_with("-READONLY"));
        world.a.become_a(Temper::Primary);
        client.send_bytes(&set_big()).await;
        assert_eq!(client.reply().await, "+OK");
    });
}

#[test]
fn the_node_never_sees_the_end_of_a_broken_one() {
    run(async |world| {
        for (at, bytes) in [(4, &b"xx"[..]), (2, b"\rx"), (1, b"x")] {
            let mut client = world.client();
            let mut request = set_big();
            let from = request.len() - at;
            request[from..from + bytes.len()].copy_from_slice(bytes);
            client.send_bytes(&request).await;
            if at == 4 {
                assert_eq!(client.reply().await, "+OK", "its last two bytes are its own");
                continue;
            }
            assert!(client.reply().await.starts_with("-ERR Protocol error: "));
            client.is_closed().await;
        }
        assert_eq!(world.a.received("SET big").len(), 1);
    });
}

#[test]
fn who_leaves_half_way_has_changed_nothing() {
    run(async |world| {
        let mut client = world.client();
        begin(world, &mut client).await;
        let open = world.a.open();
        drop(client);
        settle().await;
        assert_eq!(world.a.open(), open - 1, "half a request is no clean lease");
        assert_eq!(world.a.received("SET big").len(), 0);
    });
}

#[test]
fn what_an_operator_wants_refused_is_read_and_dropped() {
    let denied = |settings: &mut proxy_core::Settings| {
        settings.denied = Some(proxy_core::Denied::new(["set"]).unwrap())
    };
    run_with(denied, async |world| {
        let mut client = world.client();
        client.send_bytes(&set_big()).await;
        client.send("INCR n").await;
        assert!(
            client
                .reply()
                .await
                .starts_with("-NOPERM this proxy refuses the 'set' command")
        );
        assert_eq!(client.reply().await, ":1");
        assert!(to_nodes(world) < 1000.0, "{}", to_nodes(world));
    });
}

fn set_big() -> BytesMut {
    let value: Vec<u8> = (0..BIG).map(|at| (at / 7 + at % 251) as u8).collect();
    let mut request = BytesMut::new();
    write::command(&mut request, &[b"SET", b"big", &value]);
    request
}

/// Sends the first half of a request, which the node has then. Returns the other.
async fn begin(world: &World, client: &mut Client) -> BytesMut {
    let mut request = set_big();
    let rest = request.split_off(BIG / 2);
    client.send_bytes(&request).await;
    settle().await;
    settle().await;
    assert!(to_nodes(world) > 1.5 * MIB, "{}", to_nodes(world));
    rest
}

fn to_nodes(world: &World) -> f64 {
    world.metric("slipring_sent_bytes_total", "node")
}

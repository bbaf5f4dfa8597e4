//! Replies come in the order of their requests, whoever gives them.

use std::collections::BTreeSet;
use std::time::Duration;

use proxy_core::ReadPolicy;

use crate::common::world::{run, run_with, settle};

const SLOW: Duration = Duration::from_millis(50);

#[test]
fn commands_share_one_connection() {
    run(async |world| {
        let (mut one, mut other) = (world.client(), world.client());
        let before = world.a.opened();
        assert_eq!(
            one.ask("SET a 1; GET a; INCR a; GET nothing").await,
            "+OK 1 :2 nil"
        );
        assert_eq!(other.ask("GET a").await, "2");
        assert_eq!(world.a.opened(), before + 1);
        assert_eq!(world.b.opened(), 0);
    });
}

#[test]
fn replies_of_the_replica_wait_for_those_of_the_primary_and_the_other_way_round() {
    for (slow, fast) in [(SLOW, Duration::ZERO), (Duration::ZERO, SLOW)] {
        run(async |world| {
            world.a.latency(Duration::ZERO, slow);
            world.b.latency(Duration::ZERO, fast);
            world.a.put("x", b"read");
            let mut client = world.client_reading(ReadPolicy::PreferReplica);
            let replies = client
                .ask("GET x; SET a 1; GET x; INCR b; GET x; INCR b; SET c 1")
                .await;
            assert_eq!(replies, "read +OK read :1 read :2 +OK");
            assert_eq!(world.b.executed("GET x").len(), 3);
            assert_eq!(world.a.executed("GET x").len(), 0);
        });
    }
}

#[test]
fn what_the_session_answers_itself_waits_for_the_nodes_replies() {
    run(async |world| {
        world.a.latency(SLOW, Duration::ZERO);
        world.a.put("x", b"read");
        let mut client = world.client();
        let line = "CLIENT SETNAME me; GET x; CLIENT GETNAME; GET x; CLIENT SETINFO LIB-NAME l; PING";
        assert_eq!(client.ask(line).await, "+OK read me read +OK +PONG");
        let line = "GET x; UNSUBSCRIBE u; GET x; CLIENT REPLY ON";
        assert_eq!(client.ask(line).await, "read [unsubscribe u :0] read +OK");
    });
}

#[test]
fn a_mode_change_waits_for_what_is_outstanding() {
    run(async |world| {
        world.a.latency(Duration::ZERO, SLOW);
        let mut client = world.client();
        client
            .send("SET a 1; WATCH a; GET a; UNWATCH; INCR a; RPUSH q x; BLPOP q 1; INCR a")
            .await;
        assert_eq!(client.replies(8).await, "+OK +OK 1 +OK :2 :1 [q x] :3");
        client
            .send("INCR a; SUBSCRIBE s; UNSUBSCRIBE s; INCR a; SELECT 1; GET a")
            .await;
        assert_eq!(
            client.replies(6).await,
            ":4 [subscribe s :1] [unsubscribe s :0] :5 +OK nil"
        );
    });
}

#[test]
fn a_deep_pipeline_is_answered_whole_and_in_order() {
    run(async |world| {
        let mut client = world.client();
        let line = vec!["INCR n"; 5_000].join("; ");
        client.send(&line).await;
        for expected in 1..=5_000 {
            assert_eq!(client.reply().await, format!(":{expected}"));
        }
    });
}

#[test]
fn a_command_may_come_byte_by_byte() {
    run(async |world| {
        let mut client = world.client();
        for byte in b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$5\r\nx\r\ny\0\r\nGET a\r\n" {
            client.send_bytes(&[*byte]).await;
            settle().await;
        }
        assert_eq!(client.reply().await, "+OK");
        assert_eq!(client.frame().await, &b"$5\r\nx\r\ny\0\r\n"[..]);
    });
}

#[test]
fn clients_that_share_a_connection_get_their_own_replies() {
    run(async |world| {
        let mut clients: Vec<_> = (0..40).map(|_| world.client()).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            client
                .send(&format!("SET k{number} v{number}; GET k{number}"))
                .await;
        }
        for round in 0..5 {
            for (number, client) in clients.iter_mut().enumerate() {
                client
                    .send(&format!("GET k{number}; ECHO {round}-{number}"))
                    .await;
            }
        }
        for (number, client) in clients.iter_mut().enumerate().rev() {
            assert_eq!(client.replies(2).await, format!("+OK v{number}"));
            for round in 0..5 {
                assert_eq!(client.replies(2).await, format!("v{number} {round}-{number}"));
            }
        }
    });
}

#[test]
fn a_line_that_a_node_might_refuse_travels_with_its_lengths() {
    run(async |world| {
        let (mut client, value) = (world.client(), "v".repeat(70_000));
        let line = format!("SET k '{value}'\r\nGET k\r\n");
        client.send_bytes(line.as_bytes()).await;
        assert_eq!(client.replies(2).await, format!("+OK {value}"));
        // On a lease, too.
        client.send("MULTI").await;
        assert_eq!(client.reply().await, "+OK");
        client.send_bytes(line.as_bytes()).await;
        assert_eq!(client.replies(2).await, "+QUEUED +QUEUED");
        assert_eq!(client.ask("EXEC").await, format!("[+OK {value}]"));
        let mut sent = world.a.frames();
        sent.retain(|frame| {
            frame
                .to_ascii_lowercase()
                .windows(5)
                .any(|word| word == b"set\r\n" || word == b"set k")
        });
        assert_eq!(sent.len(), 2);
        assert!(
            sent.iter()
                .all(|frame| frame.starts_with(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$70000\r\n"))
        );
    });
}

#[test]
fn what_is_forwarded_is_byte_for_byte_what_came() {
    run(async |world| {
        let mut client = world.client();
        let frames = [
            &b"set  a \"x\\x00\\n y\" \r\n"[..],
            b"*2\r\n$3\r\ngEt\r\n$1\r\na\r\n",
            b"*3\r\n$3\r\nSET\r\n$2\r\n\r\n\r\n$0\r\n\r\n",
            b"*1\r\n$5\r\nmULTI\r\n",
            b"GET 'a b'\n",
            b"*1\r\n$4\r\nexec\r\n",
            b"watch a\r\n",
            b"*2\r\n$4\r\nincr\r\n$1\r\nn\r\n",
            b"UnWatch\r\n",
            b"*3\r\n$5\r\nblpop\r\n$1\r\nq\r\n$4\r\n0.01\r\n",
            b"subscribe s\r\n",
            b"unsubscribe\r\n",
        ];
        // The shared connection has asked whether anybody is there.
        client.ask("GET a").await;
        let before = world.a.frames().len();
        for frame in frames {
            client.send_bytes(frame).await;
            client.reply().await;
        }
        let forwarded = world.a.frames().split_off(before);
        // The blocking lease has asked for its id.
        let forwarded: Vec<_> = forwarded
            .iter()
            .map(|frame| &frame[..])
            .filter(|frame| *frame != &b"*2\r\n$6\r\ncLiEnT\r\n$2\r\nID\r\n"[..])
            .collect();
        assert_eq!(forwarded, frames);
    });
}

#[test]
fn a_session_keeps_to_one_of_several_shared_connections() {
    run_with(
        |settings| settings.mux_connections = 3,
        async |world| {
            let mut clients: Vec<_> = (0..12).map(|_| world.client()).collect();
            for _ in 0..10 {
                for (number, client) in clients.iter_mut().enumerate() {
                    client.send(&format!("INCR n{number}x; GET n{number}x")).await;
                }
            }
            for (number, client) in clients.iter_mut().enumerate() {
                for count in 1..=10 {
                    assert_eq!(client.replies(2).await, format!(":{count} {count}"));
                }
                let lines = world.a.executed(&format!("INCR n{number}x"));
                assert!(lines.iter().all(|line| line.connection == lines[0].connection));
            }
            let lines = world.a.executed("INCR");
            let connections: BTreeSet<_> = lines.iter().map(|line| line.connection).collect();
            assert_eq!(connections.len(), 3);
        },
    );
}

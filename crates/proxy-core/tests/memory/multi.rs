//! Transactions: whole on the shared connection where they come whole, else on a lease that moves with its session
//! until EXEC leaves.

use std::time::Duration;

use sentinel_watcher::Phase;
use tokio::time::{Instant, sleep};

use crate::common::node::{Fault, Temper};
use proxy_core::{ClientAuth, Settings};

use crate::common::world::{HOLD, UNKNOWN, run, run_with, settle};

const READONLY_AT_EXEC: &str = "EXECABORT Transaction discarded because of previous errors.";

#[test]
fn a_whole_transaction_travels_as_one_block_on_the_shared_connection() {
    run(async |world| {
        let mut clients: Vec<_> = (0..10).map(|_| world.client()).collect();
        assert_eq!(clients[0].ask("GET x").await, "nil");
        let opened = world.a.opened();
        for round in 0..10 {
            for (number, client) in clients.iter_mut().enumerate() {
                if (number + round) % 2 == 0 {
                    client.send("MULTI; INCR x; INCR y; EXEC; INCR z").await;
                } else {
                    client.send("INCR z; INCR z; INCR z").await;
                }
            }
        }
        for round in 0..10 {
            for (number, client) in clients.iter_mut().enumerate() {
                if (number + round) % 2 == 0 {
                    let replies = client.replies(5).await;
                    assert!(replies.starts_with("+OK +QUEUED +QUEUED [:"), "{replies}");
                } else {
                    client.replies(3).await;
                }
            }
        }
        assert_eq!(world.a.opened(), opened, "no lease was needed");
        assert_eq!(world.a.text("x").as_deref(), Some("50"));
        let lines = world.a.received("");
        let starts = lines.iter().enumerate().filter(|(_, line)| line.text == "MULTI");
        for (at, multi) in starts {
            let block: Vec<_> = lines[at..]
                .iter()
                .filter(|line| line.connection == multi.connection)
                .collect();
            let texts: Vec<_> = block[..4].iter().map(|line| &*line.text).collect();
            assert_eq!(texts, ["MULTI", "INCR x", "INCR y", "EXEC"]);
        }
    });
}

#[test]
fn a_block_that_a_demoted_node_refuses_is_replayed_whole() {
    run(async |world| {
        world.a.become_a(Temper::Replica);
        let mut client = world.client();
        client.send("MULTI; INCR n; GET n; EXEC; GET n").await;
        client.hears_nothing_for(Duration::from_millis(500)).await;
        world.moving();
        client.hears_nothing_for(Duration::from_millis(500)).await;
        world.switch();
        assert_eq!(client.replies(5).await, "+OK +QUEUED +QUEUED [:1 1] 1");
        assert_eq!(world.b.executed("INCR n").len(), 1);
    });
}

#[test]
fn a_block_demoted_between_its_commands_and_its_exec_is_replayed_whole() {
    run(async |world| {
        world.a.once("EXEC", Fault::Answer(
            "-EXECABORT Transaction discarded because of: READONLY You can't write against a read only replica.\r\n",
        ));
        let mut client = world.client();
        // The fake has queued what it refused to execute; a real node discards it.
        world.a.once("MULTI", Fault::Answer("+OK\r\n"));
        world.a.once("INCR n", Fault::Answer("+QUEUED\r\n"));
        assert_eq!(client.ask("MULTI; INCR n; EXEC").await, "+OK +QUEUED [:1]");
        assert_eq!(world.a.received("EXEC").len(), 2);
        assert_eq!(world.a.executed("INCR n").len(), 1);
    });
}

#[test]
fn a_block_that_its_client_spoiled_is_answered_at_once() {
    run(async |world| {
        let started = Instant::now();
        let replies = world.client().ask("MULTI; INCR; INCR n; EXEC").await;
        let spoiled =
            format!("+OK -ERR wrong number of arguments for 'incr' command +QUEUED -{READONLY_AT_EXEC}");
        assert_eq!(replies, spoiled);
        assert!(started.elapsed() < Duration::from_millis(10));
        assert_eq!(world.a.executed("INCR n").len(), 0);
        assert_eq!(world.a.received("EXEC").len(), 1);
    });
}

#[test]
fn a_block_that_was_lost_is_one_unknown_outcome() {
    for (fault, executed) in [(Fault::CutBefore, 0), (Fault::CutAfter, 1)] {
        run(async |world| {
            world.a.once("EXEC", fault);
            let mut client = world.client();
            let replies = client.ask("MULTI; INCR n; INCR m; EXEC").await;
            assert!(
                replies.starts_with(&format!("+OK +QUEUED +QUEUED {UNKNOWN}a:6379")),
                "{replies}"
            );
            assert_eq!(client.ask("GET x").await, "nil");
            assert_eq!(world.a.executed("INCR n").len(), executed);
            assert_eq!(world.a.received("MULTI").len(), 1);
        });
    }
}

#[test]
fn an_open_transaction_is_replayed_on_the_new_primary() {
    run(async |world| {
        let mut client = world.client();
        assert_eq!(client.ask("MULTI; INCR n").await, "+OK +QUEUED");
        world.moving();
        assert_eq!(
            client.ask("INCR n").await,
            "+QUEUED",
            "what only queues needs no primary"
        );
        client.send("EXEC; GET n").await;
        client.hears_nothing_for(Duration::from_secs(1)).await;
        world.switch();
        assert_eq!(client.replies(2).await, "[:1 :2] 2");
        assert_eq!(world.a.executed("INCR").len(), 0);
        assert_eq!(world.b.executed("INCR n").len(), 2);
    });
}

/// What promotes the node again may stand behind MULTI, of the same client's programme.
#[test]
fn multi_opens_on_a_node_that_is_demoted() {
    run(async |world| {
        world.a.become_a(Temper::Replica);
        world.moving();
        let mut client = world.client();
        assert_eq!(client.ask("MULTI; GET n").await, "+OK +QUEUED");
        client.send("INCR n; EXEC").await;
        client.hears_nothing_for(HOLD / 2).await;
        assert_eq!(
            world.a.received("INCR").len(),
            1,
            "refused, it waits as others do"
        );
        world.switch();
        assert_eq!(client.replies(2).await, "+QUEUED [nil :1]");
        // Where nobody answers, it waits.
        world.b.kill();
        world.moving();
        client.send("MULTI").await;
        client.hears_nothing_for(HOLD / 2).await;
        world.serve(&world.a);
        assert_eq!(client.reply().await, "+OK");
    });
}

#[test]
fn an_open_transaction_whose_connection_is_lost_is_replayed() {
    run(async |world| {
        let mut client = world.client();
        assert_eq!(client.ask("MULTI; INCR n").await, "+OK +QUEUED");
        world.a.cut();
        settle().await;
        assert_eq!(client.ask("INCR n; EXEC").await, "+QUEUED [:1 :2]");
        assert_eq!(client.ask("MULTI; INCR n").await, "+OK +QUEUED");
        world.a.once("INCR m", Fault::CutBefore);
        assert_eq!(client.ask("INCR m; EXEC").await, "+QUEUED [:3 :1]");
    });
}

#[test]
fn an_exec_that_was_sent_and_lost_is_an_unknown_outcome() {
    for (fault, executed) in [(Fault::CutBefore, 0), (Fault::CutAfter, 1)] {
        run(async |world| {
            let mut client = world.client();
            assert_eq!(client.ask("MULTI; INCR n").await, "+OK +QUEUED");
            world.a.once("EXEC", fault);
            assert!(client.ask("EXEC").await.starts_with(UNKNOWN));
            assert_eq!(client.ask("GET x").await, "nil", "the transaction is over");
            assert_eq!(world.a.executed("INCR n").len(), executed);
            assert_eq!(world.a.received("EXEC").len(), 1);
        });
    }
}

#[test]
fn an_exec_in_flight_at_the_switch_is_an_unknown_outcome() {
    run(async |world| {
        let mut client = world.client();
        assert_eq!(client.ask("MULTI; INCR n").await, "+OK +QUEUED");
        world.a.freeze();
        client.send("EXEC").await;
        settle().await;
        world.switch();
        assert!(client.reply().await.starts_with(UNKNOWN));
        assert_eq!(world.b.received("EXEC").len(), 0);
    });
}

#[test]
fn a_watch_that_saw_a_move_makes_exec_answer_null() {
    run(async |world| {
        let mut client = world.client();
        assert_eq!(client.ask("WATCH w").await, "+OK");
        world.moving();
        world.switch();
        assert_eq!(
            client.ask("MULTI; INCR n; EXEC; GET n").await,
            "+OK +QUEUED nil nil"
        );
        assert_eq!(
            client.ask("WATCH w; MULTI; INCR n; EXEC").await,
            "+OK +OK +QUEUED [:1]"
        );
        // Blocked meanwhile.
        client.send("WATCH w; BLPOP q 0; MULTI; INCR n; EXEC").await;
        settle().await;
        world.moving();
        settle().await;
        world.serve(&world.b);
        settle().await;
        world.b.run("RPUSH q x");
        assert_eq!(client.replies(5).await, "+OK [q x] +OK +QUEUED nil");
    });
}

#[test]
fn a_watch_that_saw_no_move_guards_as_ever() {
    run(async |world| {
        let (mut client, mut other) = (world.client(), world.client());
        assert_eq!(client.ask("WATCH w").await, "+OK");
        assert_eq!(client.ask("MULTI; INCR n").await, "+OK +QUEUED");
        assert_eq!(client.ask("EXEC").await, "[:1]");
        assert_eq!(client.ask("WATCH w").await, "+OK");
        assert_eq!(other.ask("SET w 1").await, "+OK");
        assert_eq!(client.ask("MULTI; INCR n; EXEC").await, "+OK +QUEUED nil");
        assert_eq!(client.ask("WATCH w; UNWATCH").await, "+OK +OK");
        assert_eq!(other.ask("SET w 2").await, "+OK");
        assert_eq!(client.ask("MULTI; INCR n; EXEC").await, "+OK +QUEUED [:2]");
    });
}

#[test]
fn a_transaction_too_large_to_replay_is_aborted_by_a_move() {
    run(async |world| {
        let mut client = world.client();
        assert_eq!(client.ask("MULTI").await, "+OK");
        let value = "v".repeat(100_000);
        for _ in 0..12 {
            assert_eq!(client.ask(&format!("SET big {value}")).await, "+QUEUED");
        }
        world.switch();
        let aborted =
            "-EXECABORT Transaction discarded because the primary changed and it was too large to move";
        assert_eq!(client.ask("EXEC").await, aborted);
        assert_eq!(
            client.ask("MULTI; INCR n; EXEC; GET big").await,
            "+OK +QUEUED [:1] nil"
        );
    });
}

#[test]
fn a_transaction_too_large_to_replay_is_executed_where_nothing_moves() {
    run(async |world| {
        let mut client = world.client();
        assert_eq!(client.ask("MULTI").await, "+OK");
        let value = "v".repeat(100_000);
        for _ in 0..12 {
            assert_eq!(client.ask(&format!("RPUSH big {value}")).await, "+QUEUED");
        }
        let replies = client.ask("EXEC").await;
        assert!(replies.ends_with(":12]"), "{replies}");
    });
}

#[test]
fn a_discarded_transaction_leaves_nothing() {
    run(async |world| {
        let mut client = world.client();
        assert_eq!(client.ask("MULTI; INCR n").await, "+OK +QUEUED");
        world.switch();
        assert_eq!(client.ask("DISCARD").await, "+OK");
        assert_eq!(client.ask("EXEC").await, "-ERR EXEC without MULTI");
        assert_eq!(
            client.ask("MULTI; INCR n; DISCARD; GET n").await,
            "+OK +QUEUED +OK nil"
        );
        assert_eq!(world.b.executed("INCR").len(), 0);
    });
}

#[test]
fn a_transaction_that_is_refused_inside_is_refused_whole() {
    let unasked = |settings: &mut Settings| settings.client_auth = ClientAuth::None;
    run_with(unasked, async |world| {
        let mut client = world.client();
        assert_eq!(client.ask("MULTI; SET a 1").await, "+OK +QUEUED");
        assert!(client.ask("AUTH s").await.starts_with("-ERR"));
        assert_eq!(
            client.ask("SET b 2; EXEC").await,
            format!("+QUEUED -{READONLY_AT_EXEC}")
        );
        assert_eq!(client.ask("GET a; GET b").await, "nil nil");
    });
}

#[test]
fn a_select_inside_a_transaction_outlives_it() {
    run(async |world| {
        let mut client = world.client();
        assert_eq!(
            client.ask("MULTI; SELECT 2; INCR n; EXEC").await,
            "+OK +QUEUED +QUEUED [+OK :1]"
        );
        assert_eq!(client.ask("GET n").await, "1");
        let mut other = world.client();
        assert_eq!(
            other.ask("GET n; MULTI; INCR n; EXEC").await,
            "nil +OK +QUEUED [:1]"
        );
    });
}

#[test]
fn a_finished_transaction_gives_its_lease_back_and_a_broken_one_does_not() {
    run(async |world| {
        let mut one = world.client();
        assert_eq!(one.ask("MULTI").await, "+OK");
        assert_eq!(one.ask("INCR n; EXEC").await, "+QUEUED [:1]");
        let opened = world.a.opened();
        let mut two = world.client();
        assert_eq!(two.ask("WATCH w").await, "+OK");
        assert_eq!(two.ask("MULTI").await, "+OK");
        assert_eq!(world.a.opened(), opened, "the same lease serves another session");
        drop(two);
        settle().await;
        let mut three = world.client();
        assert_eq!(three.ask("WATCH w").await, "+OK");
        assert_eq!(
            world.a.opened(),
            opened + 1,
            "an open MULTI is nobody's inheritance"
        );
        drop(three);
        settle().await;
        assert_eq!(one.ask("MULTI").await, "+OK");
        assert_eq!(one.ask("DISCARD").await, "+OK");
        assert_eq!(world.a.opened(), opened + 2, "nor is a WATCH");
        assert_eq!(one.ask("WATCH a b; UNWATCH; MULTI").await, "+OK +OK +OK");
        assert_eq!(one.ask("EXEC").await, "[]");
        assert_eq!(world.a.opened(), opened + 2);
    });
}

#[test]
fn a_hung_exec_on_a_lost_primary_does_not_hang_its_client() {
    run(async |world| {
        let mut client = world.client();
        assert_eq!(client.ask("MULTI; INCR n").await, "+OK +QUEUED");
        world.a.freeze();
        client.send("INCR n; EXEC").await;
        sleep(Duration::from_secs(1)).await;
        world.switch();
        let started = Instant::now();
        assert_eq!(client.replies(2).await, "+QUEUED [:1 :2]");
        assert!(started.elapsed() < Duration::from_millis(100));
        assert_eq!(world.a.executed("INCR n").len(), 0);
    });
}

#[test]
fn a_watch_whose_connection_is_lost_makes_exec_answer_null() {
    run(async |world| {
        let mut client = world.client();
        assert_eq!(client.ask("WATCH w; MULTI; INCR n").await, "+OK +OK +QUEUED");
        world.a.cut();
        settle().await;
        assert_eq!(client.ask("EXEC; GET n").await, "nil nil");
        assert_eq!(client.ask("WATCH w").await, "+OK");
        world.a.cut();
        settle().await;
        assert_eq!(
            client.ask("GET w; UNWATCH; MULTI; INCR n; EXEC").await,
            "nil +OK +OK +QUEUED [:1]"
        );
    });
}

#[test]
fn an_exec_on_a_connection_that_is_known_to_be_lost_is_replayed() {
    run(async |world| {
        let mut client = world.client();
        assert_eq!(client.ask("MULTI; INCR n").await, "+OK +QUEUED");
        world.a.cut();
        settle().await;
        assert_eq!(client.ask("EXEC").await, "[:1]");
    });
}

/// What a client has written behind a MULTI is part of the transaction, whatever becomes of the MULTI: none of it may be
/// executed on its own.
#[test]
fn nothing_of_a_transaction_that_found_no_primary_is_executed() {
    run(async |world| {
        for begun in [&["WATCH w"][..], &["MULTI", "SET k 0"], &["WATCH w", "MULTI"]] {
            let mut client = world.client();
            for line in begun {
                client.ask(line).await;
            }
            world.phase(Phase::Down);
            let rest = match begun.contains(&"MULTI") {
                true => "SET k 1; INCR n; EXEC",
                false => "MULTI; SET k 1; INCR n; EXEC",
            };
            client.send(rest).await;
            sleep(HOLD + Duration::from_millis(10)).await;
            world.serve(&world.a);
            let replies = client.replies(rest.split("; ").count()).await;
            let last = replies.rsplit_once(" -").map(|(_, last)| last);
            assert_eq!(last, Some(READONLY_AT_EXEC), "{begun:?}: {replies}");
            assert_eq!(client.ask("GET k; GET n").await, "nil nil", "{begun:?}");
        }
    });
}

#[test]
fn a_transaction_that_found_no_primary_can_be_discarded() {
    run(async |world| {
        let mut client = world.client();
        assert_eq!(client.ask("MULTI").await, "+OK");
        world.phase(Phase::Down);
        client.send("SET k 1").await;
        sleep(HOLD + Duration::from_millis(10)).await;
        assert!(client.reply().await.starts_with("-MASTERDOWN"));
        world.serve(&world.a);
        assert_eq!(client.ask("DISCARD; SET k 2; GET k").await, "+OK +OK 2");
    });
}

#[test]
fn a_key_stays_watched_where_a_read_behind_it_found_no_primary() {
    run(async |world| {
        let mut client = world.client();
        assert_eq!(client.ask("WATCH k; SET own 1").await, "+OK +OK");
        world.phase(Phase::Down);
        client.send("SET own 2").await;
        sleep(HOLD + Duration::from_millis(10)).await;
        assert!(client.reply().await.starts_with("-MASTERDOWN"));
        world.a.put("k", b"another's");
        world.serve(&world.a);
        assert_eq!(client.ask("MULTI; SET k mine; EXEC").await, "+OK +QUEUED nil");
        assert_eq!(world.a.text("k").as_deref(), Some("another's"));
    });
}

/// As many commands as a node is shown one at a time, if it is.
const MANY: usize = 200;

#[test]
fn what_an_open_transaction_queues_travels_together() {
    run(async |world| {
        let mut client = world.client();
        let there = Duration::from_millis(10);
        world.a.latency(there, Duration::ZERO);
        let incrs = vec!["INCR n"; MANY].join("; ");
        let started = Instant::now();
        client.send(&format!("WATCH w; MULTI; {incrs}")).await;
        assert_eq!(client.replies(2).await, "+OK +OK");
        assert_eq!(client.replies(MANY).await, vec!["+QUEUED"; MANY].join(" "));
        assert!(started.elapsed() < 10 * there, "{:?}", started.elapsed());
        let answers: Vec<_> = (1..=MANY).map(|n| format!(":{n}")).collect();
        assert_eq!(client.ask("EXEC").await, format!("[{}]", answers.join(" ")));
        world.a.latency(Duration::ZERO, Duration::ZERO);
    });
}

#[test]
fn what_an_open_transaction_queued_together_is_executed_once_whatever_becomes_of_its_node() {
    let incrs: Vec<_> = (0..MANY).map(|n| format!("INCR k{n}")).collect();
    let readonly = "-READONLY You can't write against a read only replica.\r\n";
    let faults = [Fault::CutBefore, Fault::CutAfter, Fault::Answer(readonly)];
    for fault in faults {
        run(async |world| {
            let mut client = world.client();
            world.a.once("INCR k100", fault.clone());
            client.send(&format!("MULTI; {}", incrs.join("; "))).await;
            settle().await;
            world.switch();
            assert_eq!(client.reply().await, "+OK");
            assert_eq!(client.replies(MANY).await, vec!["+QUEUED"; MANY].join(" "));
            assert_eq!(
                client.ask("EXEC").await,
                format!("[{}]", vec![":1"; MANY].join(" "))
            );
            assert_eq!(world.b.executed("INCR").len(), MANY);
        });
    }
}

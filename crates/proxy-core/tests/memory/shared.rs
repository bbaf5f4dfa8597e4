//! `--share-subscriptions`: many subscribers of one worker hear the node over one connection.

use std::time::Duration;

use proxy_core::Settings;
use tokio::time::Instant;

use crate::common::node::Fault;
use crate::common::world::{World, run_with, settle};

const SECOND: Duration = Duration::from_secs(1);

fn sharing(test: impl AsyncFnOnce(&World)) {
    let share = |settings: &mut Settings| {
        settings.share_subscriptions = true;
        settings.max_clients = 11_000;
    };
    run_with(share, test);
}

#[test]
fn ten_thousand_subscribers_use_one_connection() {
    sharing(async |world| {
        let mut subscribers = Vec::new();
        for number in 0..10_000 {
            let mut subscriber = world.client();
            if number % 2 == 0 {
                assert_eq!(subscriber.ask("SUBSCRIBE news").await, "[subscribe news :1]");
            } else {
                subscriber.send("HELLO 3; SUBSCRIBE news").await;
                subscriber.reply().await;
                assert_eq!(subscriber.reply().await, ">[subscribe news :1]");
            }
            subscribers.push(subscriber);
        }
        assert_eq!(world.a.subscribers(), 1);
        assert_eq!(world.a.received("SUBSCRIBE").len(), 1);
        // One that does not read hears of more than it may leave unread.
        let mut slow = world.narrow_client(1024);
        assert_eq!(
            slow.ask("SUBSCRIBE news; SUBSCRIBE much").await,
            "[subscribe news :1] [subscribe much :2]"
        );
        let much = "m".repeat(1 << 20);
        for number in 0..5 {
            let told = world.client().ask(&format!("PUBLISH news {number}")).await;
            assert_eq!(told, ":1", "the node counts one");
            for _ in 0..8 {
                world.client().ask(&format!("PUBLISH much {much}")).await;
            }
        }
        settle().await;
        assert_eq!(world.metric("slipring_clients_closed_total", "output"), 1.0);
        for (index, subscriber) in subscribers.iter_mut().enumerate() {
            let push = if index % 2 == 0 { "" } else { ">" };
            for number in 0..5 {
                assert_eq!(subscriber.reply().await, format!("{push}[message news {number}]"));
            }
        }
        drop(subscribers);
        settle().await;
        assert_eq!(world.a.subscribers(), 0, "nobody hears it any more");
    });
}

#[test]
fn one_that_does_not_read_is_closed_and_hurts_nobody() {
    sharing(async |world| {
        let (mut slow, mut other) = (world.narrow_client(1024), world.client());
        for subscriber in [&mut slow, &mut other] {
            assert_eq!(subscriber.ask("SUBSCRIBE news").await, "[subscribe news :1]");
        }
        let mut publisher = world.client();
        let message = "m".repeat(100_000);
        for _ in 0..400 {
            let started = Instant::now();
            assert_eq!(publisher.ask(&format!("PUBLISH news {message}")).await, ":1");
            assert_eq!(other.reply().await, format!("[message news {message}]"));
            assert!(started.elapsed() < SECOND / 10, "{:?}", started.elapsed());
        }
        assert_eq!(
            world.metric("slipring_clients_closed_total", "output"),
            1.0,
            "32 MiB waited for the slow one"
        );
        assert_eq!(other.ask("PING").await, "[pong ]");
    });
}

#[test]
fn a_subscriber_may_ask_what_redis_lets_it() {
    sharing(async |world| {
        let (mut one, mut two) = (world.client(), world.client());
        assert_eq!(
            one.ask("SUBSCRIBE a; PSUBSCRIBE b*; PING; PING x").await,
            "[subscribe a :1] [psubscribe b* :2] [pong ] [pong x]"
        );
        one.send("SUBSCRIBE c d").await;
        assert_eq!(one.replies(2).await, "[subscribe c :3] [subscribe d :4]");
        assert_eq!(
            one.ask("GET x").await,
            "-ERR Can't execute 'get': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"
        );
        assert_eq!(two.ask("SUBSCRIBE a").await, "[subscribe a :1]");
        assert_eq!(
            one.ask("UNSUBSCRIBE a; UNSUBSCRIBE nosuch").await,
            "[unsubscribe a :3] [unsubscribe nosuch :3]"
        );
        assert_eq!(world.client().ask("PUBLISH a 1; PUBLISH bb 2").await, ":1 :1");
        assert_eq!(two.reply().await, "[message a 1]");
        assert_eq!(one.reply().await, "[pmessage b* bb 2]");
        assert_eq!(one.ask("RESET; INCR n").await, "+RESET :1");
        assert_eq!(two.ask("UNSUBSCRIBE; INCR n").await, "[unsubscribe a :0] :2");
        settle().await;
        assert_eq!(world.a.subscribers(), 0);
        assert_eq!(
            two.ask("SUBSCRIBE a").await,
            "[subscribe a :1]",
            "a hub begins anew"
        );
    });
}

#[test]
fn shared_subscriptions_move_before_held_messages_flow() {
    sharing(async |world| {
        let mut subscribers: Vec<_> = (0..5).map(|_| world.client()).collect();
        for (number, subscriber) in subscribers.iter_mut().enumerate() {
            let replies = subscriber
                .ask(&format!("SUBSCRIBE news; SUBSCRIBE own:{number}"))
                .await;
            assert_eq!(
                replies,
                format!("[subscribe news :1] [subscribe own:{number} :2]")
            );
        }
        let mut publisher = world.client();
        world.moving();
        publisher.send("PUBLISH news late").await;
        publisher.hears_nothing_for(SECOND).await;
        world.b.always("SUBSCRIBE", Fault::Delay(SECOND / 50));
        world.switch();
        assert_eq!(publisher.reply().await, ":1", "it had arrived");
        for subscriber in &mut subscribers {
            assert_eq!(subscriber.reply().await, "[message news late]");
            subscriber.hears_nothing_for(SECOND / 10).await;
        }
        assert_eq!((world.a.open(), world.b.subscribers()), (0, 1));
        world.b.cut();
        settle().await;
        tokio::time::sleep(SECOND).await;
        assert_eq!(world.client().ask("PUBLISH own:3 m").await, ":1");
        assert_eq!(subscribers[3].reply().await, "[message own:3 m]");
    });
}

#[test]
fn whoever_speaks_resp3_hears_the_same_connection() {
    sharing(async |world| {
        let (mut one, mut two) = (world.client(), world.client());
        one.send("HELLO 3; SUBSCRIBE s").await;
        one.reply().await;
        assert_eq!(one.reply().await, ">[subscribe s :1]");
        assert_eq!(two.ask("SUBSCRIBE s").await, "[subscribe s :1]");
        assert_eq!(world.a.subscribers(), 1);
        one.send("PUBLISH s m").await;
        assert_eq!(one.replies(2).await, ":1 >[message s m]");
        assert_eq!(two.reply().await, "[message s m]");
        assert_eq!(one.ask("SET k v; GET k; PING; PING x").await, "+OK v +PONG x");
        assert_eq!(
            one.ask("UNSUBSCRIBE nosuch; PUNSUBSCRIBE").await,
            ">[unsubscribe nosuch :1] >[punsubscribe nil :1]"
        );
        assert_eq!(
            one.ask("MULTI; INCR n; EXEC; SELECT 3; GET k; SELECT 0").await,
            "+OK +QUEUED [:1] +OK nil +OK"
        );
        assert_eq!(
            (world.a.subscribers(), world.a.received("SUBSCRIBE").len()),
            (1, 1)
        );

        one.ask("HELLO 2").await;
        assert_eq!(
            one.ask("GET k").await,
            "-ERR Can't execute 'get': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"
        );
        assert_eq!(world.client().ask("PUBLISH s n").await, ":1");
        for subscriber in [&mut one, &mut two] {
            assert_eq!(subscriber.reply().await, "[message s n]");
        }
        assert_eq!(one.ask("RESET; GET k").await, "+RESET v");
        one.send("HELLO 3; SUBSCRIBE a b; UNSUBSCRIBE; GET k").await;
        one.reply().await;
        assert_eq!(
            one.replies(5).await,
            ">[subscribe a :1] >[subscribe b :2] >[unsubscribe a :1] >[unsubscribe b :0] v"
        );
        assert_eq!(one.ask("UNSUBSCRIBE").await, ">[unsubscribe nil :0]");
    });
}

#[test]
fn no_message_comes_in_the_middle_of_a_reply() {
    sharing(async |world| {
        let value = "v".repeat(3 << 20);
        world.a.put("big", value.as_bytes());
        let mut slow = world.narrow_client(1024);
        slow.send("HELLO 3; SUBSCRIBE s").await;
        slow.replies(2).await;
        slow.send("GET big").await;
        settle().await;
        for message in ["1", "2"] {
            assert_eq!(world.client().ask(&format!("PUBLISH s {message}")).await, ":1");
        }
        assert!(slow.reply().await == value);
        assert_eq!(slow.replies(2).await, ">[message s 1] >[message s 2]");
    });
}

#[test]
fn what_takes_a_connection_of_its_own_takes_the_subscriptions_along() {
    sharing(async |world| {
        let (mut one, mut two) = (world.client(), world.client());
        assert_eq!(two.ask("SUBSCRIBE s").await, "[subscribe s :1]");
        for (own, rest, answer) in [
            ("BLPOP q 0", "RPUSH q v", "[q v]"),
            ("MULTI", "", "+OK"),
            ("CLIENT TRACKING ON", "", "+OK"),
        ] {
            one.send("RESET; HELLO 3; SUBSCRIBE s; PSUBSCRIBE p*").await;
            one.reply().await;
            one.reply().await;
            assert_eq!(one.replies(2).await, ">[subscribe s :1] >[psubscribe p* :2]");
            assert_eq!(world.a.subscribers(), 1);
            one.send(own).await;
            if rest.is_empty() {
                assert_eq!(one.reply().await, answer, "{own}");
            }
            settle().await;
            assert_eq!(world.a.subscribers(), 2, "{own}");
            assert_eq!(
                world.client().ask("PUBLISH s m; PUBLISH pp m").await,
                ":2 :1",
                "{own}"
            );
            assert_eq!(two.reply().await, "[message s m]");
            assert_eq!(
                one.replies(2).await,
                ">[message s m] >[pmessage p* pp m]",
                "{own}"
            );
            if !rest.is_empty() {
                world.client().ask(rest).await;
                assert_eq!(one.reply().await, answer, "{own}");
            }
        }
    });
}

#[test]
fn invalidations_find_whoever_shares_a_subscription() {
    sharing(async |world| {
        let (mut listener, mut other, mut client) = (world.client(), world.client(), world.client());
        let id = listener.ask("CLIENT ID").await;
        let id = id.trim_start_matches(':');
        for subscriber in [&mut listener, &mut other] {
            assert_eq!(
                subscriber.ask("SUBSCRIBE __redis__:invalidate").await,
                "[subscribe __redis__:invalidate :1]"
            );
        }
        world.redirect(&mut client, id).await;
        assert_eq!(
            world.a.subscribers(),
            2,
            "the listener has a connection of its own"
        );
        assert_eq!(world.client().ask("PUBLISH __redis__:invalidate k").await, ":2");
        for subscriber in [&mut listener, &mut other] {
            assert_eq!(subscriber.reply().await, "[message __redis__:invalidate k]");
            assert_eq!(subscriber.ask("PING").await, "[pong ]");
        }
    });
}

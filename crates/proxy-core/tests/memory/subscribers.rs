//! Subscribers move with the primary and see nothing of it; what they leave behind is nobody's.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::common::node::Fault;
use crate::common::world::{HOLD, run, run_with, settle};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn subscribers_move_before_held_messages_flow() {
    run(async |world| {
        let mut subscribers: Vec<_> = (0..5).map(|_| world.client()).collect();
        for subscriber in &mut subscribers {
            let replies = subscriber.ask("SUBSCRIBE news; PSUBSCRIBE n*").await;
            assert_eq!(replies, "[subscribe news :1] [psubscribe n* :2]");
        }
        let mut publisher = world.client();
        assert_eq!(publisher.ask("PUBLISH news early").await, ":10");
        world.moving();
        publisher.send("PUBLISH news late").await;
        publisher.hears_nothing_for(SECOND).await;
        world
            .b
            .always("SUBSCRIBE", Fault::Delay(Duration::from_millis(20)));
        let started = Instant::now();
        world.switch();
        assert_eq!(publisher.reply().await, ":10", "all of them had arrived");
        assert!(
            started.elapsed() < Duration::from_millis(50),
            "{:?}",
            started.elapsed()
        );
        for subscriber in &mut subscribers {
            let messages = subscriber.replies(4).await;
            let early = "[message news early] [pmessage n* news early]";
            assert_eq!(messages, format!("{early} {}", early.replace("early", "late")));
            subscriber.hears_nothing_for(SECOND / 10).await;
        }
        assert_eq!(world.b.subscribers(), 5);
        assert_eq!(world.a.open(), 0);
    });
}

/// Who could not reach the primary waits as who was held, be it said that it moves or not.
#[test]
fn subscribers_move_before_messages_that_found_the_primary_dead() {
    for is_said in [true, false] {
        run(async |world| {
            let (mut subscriber, mut publisher) = (world.client(), world.client());
            assert_eq!(subscriber.ask("SUBSCRIBE news").await, "[subscribe news :1]");
            assert_eq!(publisher.ask("PUBLISH news early").await, ":1");
            world.a.kill();
            publisher.send("PUBLISH news late").await;
            publisher.hears_nothing_for(SECOND).await;
            if is_said {
                world.moving();
                publisher.hears_nothing_for(SECOND).await;
            }
            world
                .b
                .always("SUBSCRIBE", Fault::Delay(Duration::from_millis(20)));
            world.switch();
            assert_eq!(publisher.reply().await, ":1", "said: {is_said}");
            let messages = "[message news early] [message news late]";
            assert_eq!(subscriber.replies(2).await, messages);
        });
    }
}

#[test]
fn a_message_published_behind_a_subscription_is_heard_though_nobody_waited_for_its_confirmation() {
    for workers in [1, 2] {
        run_with(
            |settings| settings.workers = workers,
            async |world| {
                let (mut publisher, mut other) = (world.client(), world.client());
                assert_eq!(publisher.ask("PUBLISH news nobody; GET a").await, ":0 nil");
                assert_eq!(other.ask("PING").await, "+PONG");
                let mut subscriber = world.client();
                assert_eq!(subscriber.ask("PING").await, "+PONG");
                subscriber.send("SUBSCRIBE news").await;
                publisher.send("PUBLISH news first; GET a").await;
                other.send("GET a; PUBLISH news second").await;
                assert_eq!(publisher.replies(2).await, ":1 nil");
                assert_eq!(other.replies(2).await, "nil :1");
                assert_eq!(subscriber.reply().await, "[subscribe news :1]");
                let mut heard = [subscriber.reply().await, subscriber.reply().await];
                heard.sort();
                assert_eq!(heard, ["[message news first]", "[message news second]"]);
                // One that the node does not confirm is not waited for without end, and by no later message.
                world.a.once("SUBSCRIBE", Fault::Delay(SECOND));
                let mut late = world.client();
                assert_eq!(late.ask("PING").await, "+PONG");
                late.send("SUBSCRIBE news").await;
                let started = Instant::now();
                assert_eq!(
                    publisher.ask("PUBLISH news third; PUBLISH news fourth").await,
                    ":1 :1"
                );
                assert!(started.elapsed() < SECOND / 5, "{:?}", started.elapsed());
                let started = Instant::now();
                assert_eq!(other.ask("PUBLISH news fifth").await, ":1");
                assert!(started.elapsed() < SECOND / 50, "{:?}", started.elapsed());
            },
        );
    }
}

#[test]
fn a_subscriber_that_went_on_asking_keeps_its_order() {
    run(async |world| {
        let mut subscriber = world.client();
        assert_eq!(subscriber.ask("SUBSCRIBE a").await, "[subscribe a :1]");
        assert_eq!(subscriber.ask("PING; PING x").await, "[pong ] [pong x]");
        assert_eq!(
            subscriber.ask("GET a").await,
            "-ERR Can't execute 'get' while subscribed"
        );
        world.a.freeze();
        subscriber.send("SUBSCRIBE b; UNSUBSCRIBE a; SUBSCRIBE c").await;
        settle().await;
        world.moving();
        settle().await;
        world.switch();
        assert_eq!(
            subscriber.replies(3).await,
            "[subscribe b :2] [unsubscribe a :1] [subscribe c :2]"
        );
        assert_eq!(world.client().ask("PUBLISH a 1; PUBLISH b 2").await, ":0 :1");
        assert_eq!(subscriber.reply().await, "[message b 2]");
    });
}

#[test]
fn a_subscriber_whose_connection_is_lost_subscribes_again_unseen() {
    run(async |world| {
        let mut subscriber = world.client();
        assert_eq!(subscriber.ask("SUBSCRIBE s").await, "[subscribe s :1]");
        for _ in 0..3 {
            world.a.cut();
            subscriber.hears_nothing_for(SECOND).await;
            assert_eq!(world.client().ask("PUBLISH s m").await, ":1");
            assert_eq!(subscriber.reply().await, "[message s m]");
        }
    });
}

#[test]
fn a_subscription_lost_before_its_confirmation_is_made_again() {
    for fault in [Fault::CutBefore, Fault::CutAfter] {
        run(async |world| {
            world.a.once("SUBSCRIBE", fault);
            let mut subscriber = world.client();
            assert_eq!(subscriber.ask("SUBSCRIBE s t").await, "[subscribe s :1]");
            assert_eq!(subscriber.reply().await, "[subscribe t :2]");
            subscriber.hears_nothing_for(SECOND).await;
        });
    }
}

#[test]
fn a_resp3_subscriber_does_all_else_too() {
    run(async |world| {
        let mut subscriber = world.client();
        assert!(subscriber.ask("HELLO 3").await.starts_with("%[server"));
        assert_eq!(
            subscriber.ask("SUBSCRIBE s; INCR n; GET x").await,
            ">[subscribe s :1] :1 nil"
        );
        assert_eq!(subscriber.ask("PUBLISH s m").await, ">[message s m]");
        assert_eq!(subscriber.reply().await, ":1");
        world.moving();
        subscriber.send("INCR n; GET n").await;
        settle().await;
        world.switch();
        let started = Instant::now();
        assert_eq!(subscriber.replies(2).await, ":2 2");
        assert!(started.elapsed() < Duration::from_millis(50));
        assert_eq!(subscriber.ask("UNSUBSCRIBE").await, ">[unsubscribe s :0]");
        assert_eq!(subscriber.ask("INCR n; GET x").await, ":3 nil");
    });
}

#[test]
fn a_resp3_subscribers_write_is_held_like_any_other() {
    run(async |world| {
        let mut subscriber = world.client();
        subscriber.send("HELLO 3; SUBSCRIBE s").await;
        subscriber.replies(2).await;
        world.moving();
        subscriber.send("INCR n").await;
        subscriber.hears_nothing_for(HOLD / 2).await;
        assert_eq!(world.a.received("INCR n").len(), 0);
        world.switch();
        assert_eq!(subscriber.reply().await, ":1");
    });
}

#[test]
fn a_subscription_while_moving_waits_for_the_new_primary() {
    run(async |world| {
        let mut subscriber = world.client();
        world.moving();
        subscriber.send("SUBSCRIBE s").await;
        subscriber.hears_nothing_for(SECOND).await;
        world.switch();
        assert_eq!(subscriber.reply().await, "[subscribe s :1]");
        assert_eq!(world.b.subscribers(), 1);
        assert_eq!(world.a.received("SUBSCRIBE").len(), 0);
    });
}

#[test]
fn whoever_unsubscribes_from_all_gives_a_clean_lease_back() {
    run(async |world| {
        let (mut one, mut two) = (world.client(), world.client());
        let replies = one
            .ask("SUBSCRIBE s; PSUBSCRIBE t*; UNSUBSCRIBE; PUNSUBSCRIBE")
            .await;
        assert_eq!(
            replies,
            "[subscribe s :1] [psubscribe t* :2] [unsubscribe s :1] [punsubscribe t* :0]"
        );
        assert_eq!(one.ask("INCR n").await, ":1");
        let opened = world.a.opened();
        assert_eq!(two.ask("SUBSCRIBE u").await, "[subscribe u :1]");
        assert_eq!(world.a.opened(), opened, "the lease that one gave back");
        assert_eq!(one.ask("PUBLISH s m; PUBLISH t m").await, ":0 :0");
        two.hears_nothing_for(SECOND / 10).await;
    });
}

#[test]
fn what_a_subscriber_leaves_behind_is_closed() {
    run(async |world| {
        let mut one = world.client();
        assert_eq!(one.ask("SUBSCRIBE s").await, "[subscribe s :1]");
        let opened = world.a.opened();
        drop(one);
        settle().await;
        assert_eq!(world.a.subscribers(), 0);
        let mut two = world.client();
        assert_eq!(two.ask("SUBSCRIBE t").await, "[subscribe t :1]");
        assert_eq!(world.a.opened(), opened + 1, "a dirty lease is not used again");
        assert_eq!(world.client().ask("PUBLISH s m").await, ":0");
        two.hears_nothing_for(SECOND / 10).await;
    });
}

#[test]
fn a_reset_ends_all_subscriptions() {
    run(async |world| {
        let mut subscriber = world.client();
        assert_eq!(subscriber.ask("SUBSCRIBE s").await, "[subscribe s :1]");
        assert_eq!(subscriber.ask("RESET").await, "+RESET");
        assert_eq!(subscriber.ask("INCR n").await, ":1");
        settle().await;
        assert_eq!(world.a.subscribers(), 0);
    });
}

#[test]
fn subscribers_wait_for_a_primary_for_as_long_as_it_takes() {
    run(async |world| {
        let mut subscriber = world.client();
        assert_eq!(subscriber.ask("SUBSCRIBE s").await, "[subscribe s :1]");
        world.a.kill();
        world.moving();
        subscriber.hears_nothing_for(5 * HOLD).await;
        world.switch();
        sleep(SECOND).await;
        assert_eq!(world.client().ask("PUBLISH s m").await, ":1");
        assert_eq!(subscriber.reply().await, "[message s m]");
    });
}

#[test]
fn who_sends_no_more_gets_what_it_is_owed() {
    run(async |world| {
        world
            .a
            .once("SUBSCRIBE s", Fault::Delay(Duration::from_millis(50)));
        let mut client = world.client();
        client.send("SUBSCRIBE s").await;
        client.end().await;
        assert_eq!(client.reply().await, "[subscribe s :1]");
        client.is_closed().await;
    });
}

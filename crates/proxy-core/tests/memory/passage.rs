//! Sessions that leave for another process and go on there: nothing is lost, nobody is told, and nothing is said twice.

use std::time::Duration;

use proxy_core::Settings;
use tokio::time::{Instant, sleep};

use crate::common::node::Temper;
use crate::common::world::{guard, run, run_with, settle};
use crate::profiles::{NOAUTH, with_passwords};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_session_is_what_it_was() {
    run(async |world| {
        let mut client = world.client();
        assert_eq!(
            client.ask("SELECT 3; SET k v; CLIENT SETNAME me").await,
            "+OK +OK +OK"
        );
        let id = client.ask("CLIENT ID").await;
        let mut other = world.client();
        let others = other.ask("CLIENT ID").await;
        assert_eq!(world.upgrade().await, 2);
        assert_eq!(
            client.ask("GET k; CLIENT GETNAME; CLIENT ID").await,
            format!("v me {id}")
        );
        assert_eq!(other.ask("GET k; CLIENT ID").await, format!("nil {others}"));
        let newcomer = world.client().ask("CLIENT ID").await;
        assert!(newcomer != id && newcomer != others, "{newcomer}");
        assert_eq!(world.metric("slipring_clients_closed_total", "moved"), 2.0);
        assert_eq!(world.metric("slipring_clients_adopted_total", ""), 2.0);
    });
}

#[test]
fn what_is_half_read_is_read_to_the_end() {
    run(async |world| {
        let request = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\nv\r\n1\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n";
        for at in 1..request.len() {
            let mut client = world.client();
            client.send_bytes(&request[..at]).await;
            settle().await;
            assert_eq!(world.upgrade().await, 1, "{at}");
            client.send_bytes(&request[at..]).await;
            assert_eq!(client.replies(2).await, "+OK v\r\n1", "{at}");
        }
    });
}

#[test]
fn what_is_under_way_is_answered_before() {
    run(async |world| {
        let mut client = world.client();
        client.ask("SET k 0").await;
        world.a.freeze();
        client.send("INCR k; INCR k").await;
        settle().await;
        assert_eq!(world.upgrade().await, 0, "two answers are owed");
        client.send("INCR k").await;
        world.a.thaw();
        assert_eq!(client.replies(3).await, ":1 :2 :3");
        assert_eq!(world.upgrade().await, 1);
        assert_eq!(client.ask("GET k").await, "3");
    });
}

#[test]
fn what_the_client_has_not_taken_goes_along() {
    run(async |world| {
        let mut client = world.narrow_client(1000);
        let value = "v".repeat(5000);
        assert_eq!(client.ask(&format!("SET k {value}")).await, "+OK");
        client.send("GET k; GET k").await;
        settle().await;
        assert_eq!(world.upgrade().await, 1);
        assert_eq!(client.replies(2).await, format!("{value} {value}"));
    });
}

#[test]
fn subscriptions_are_there_before_anything_else() {
    run(async |world| {
        let mut subscriber = world.client();
        let replies = subscriber.ask("SUBSCRIBE news; PSUBSCRIBE n*").await;
        assert_eq!(replies, "[subscribe news :1] [psubscribe n* :2]");
        let mut publisher = world.client();
        assert_eq!(publisher.ask("GET k").await, "nil");
        assert_eq!(world.upgrade().await, 2);
        assert_eq!(publisher.ask("PUBLISH news late").await, ":2");
        assert_eq!(
            subscriber.replies(2).await,
            "[message news late] [pmessage n* news late]"
        );
        assert_eq!(
            subscriber.ask("UNSUBSCRIBE; PUNSUBSCRIBE; GET k").await,
            "[unsubscribe news :1] [punsubscribe n* :0] nil"
        );
        // It is an ordinary session again, and leaves as one.
        assert_eq!(world.upgrade().await, 2);
        assert_eq!(subscriber.ask("GET k").await, "nil");
    });
}

#[test]
fn a_blocked_command_goes_along_with_what_is_left_of_its_time() {
    run(async |world| {
        let mut client = world.client();
        let started = Instant::now();
        client.send("BLPOP q 5").await;
        sleep(SECOND).await;
        assert_eq!(world.a.blocked(), 1);
        assert_eq!(world.upgrade().await, 1);
        assert_eq!(world.a.blocked(), 1, "it is armed again");
        assert_eq!(client.reply().await, "nil");
        let waited = started.elapsed();
        // Nobody holds it while it is on its way, which takes a second here.
        assert!(
            waited >= 5 * SECOND && waited <= 6 * SECOND + SECOND / 10,
            "{waited:?}"
        );
        client.send("BLPOP q 0; GET k").await;
        settle().await;
        assert_eq!(world.upgrade().await, 1);
        assert_eq!(world.client().ask("RPUSH q x").await, ":1");
        assert_eq!(client.replies(2).await, "[q x] nil");
    });
}

#[test]
fn a_transaction_ends_where_it_began() {
    run(async |world| {
        let mut client = world.client();
        assert_eq!(client.ask("WATCH k; MULTI").await, "+OK +OK");
        assert_eq!(world.upgrade().await, 0);
        assert_eq!(client.ask("SET k v; EXEC").await, "+QUEUED [+OK]");
        client.send("XREAD BLOCK 0 STREAMS s $").await;
        settle().await;
        assert_eq!(world.upgrade().await, 0, "it would miss what is added meanwhile");
        world.client().ask("XADD s 1-1 a b").await;
        client.reply().await;
        assert_eq!(world.upgrade().await, 1);
        assert_eq!(client.ask("GET k").await, "v");
    });
}

#[test]
fn what_waits_for_a_primary_is_released_before_it_leaves() {
    run(async |world| {
        let mut client = world.client();
        client.ask("SET k 0").await;
        world.moving();
        settle().await;
        client.send("INCR k").await;
        settle().await;
        assert_eq!(world.upgrade().await, 0);
        world.b.become_a(Temper::Primary);
        world.serve(&world.b);
        assert!(client.reply().await.starts_with(':'));
        assert_eq!(world.upgrade().await, 1);
    });
}

#[test]
fn whoever_has_presented_the_password_need_not_again() {
    let proxy = |settings: &mut Settings| guard(settings, b"pw");
    run_with(proxy, async |world| {
        let (mut known, mut nobody) = (world.client(), world.client());
        assert_eq!(known.ask("AUTH pw").await, "+OK");
        settle().await;
        assert_eq!(world.upgrade().await, 2);
        assert_eq!(known.ask("GET k").await, "nil");
        assert!(nobody.ask("GET k").await.starts_with("-NOAUTH"));
    });
}

#[test]
fn whoever_the_node_has_proven_stays_that_user_and_nobody_stays_nobody() {
    run(async |world| {
        with_passwords(world).await;
        let (mut ann, mut bob, mut nobody) = (world.client(), world.client(), world.client());
        assert_eq!(ann.ask("AUTH ann a1").await, "+OK");
        assert_eq!(bob.ask("AUTH bob b1").await, "+OK");
        bob.ask("HELLO 3").await;
        assert_eq!(nobody.ask("GET k").await, NOAUTH);
        assert_eq!(world.upgrade().await, 3);
        assert_eq!(ann.ask("INCR n").await, ":1");
        assert_eq!(bob.ask("INCR n").await, ":2");
        assert_eq!(nobody.ask("INCR n").await, NOAUTH);
        let users = world.a.executed("INCR n").into_iter().map(|line| line.user);
        assert_eq!(users.collect::<Vec<_>>(), ["ann", "bob"]);
        assert_eq!(bob.ask("SUBSCRIBE c").await, ">[subscribe c :1]");
        assert_eq!(ann.ask("SUBSCRIBE c").await, "[subscribe c :1]");
    });
}

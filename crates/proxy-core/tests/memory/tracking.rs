//! CLIENT TRACKING: who caches is told when it may have missed a change, and who is redirected to moves along.

use crate::common::node::Node;
use crate::common::world::{INVALIDATE_ALL, run, settle};

#[test]
fn a_tracking_client_forgets_all_when_the_primary_changes() {
    run(async |world| {
        let mut client = world.client();
        client
            .send("HELLO 3; CLIENT TRACKING ON OPTIN; CLIENT CACHING YES")
            .await;
        client.replies(3).await;
        world.switch();
        assert_eq!(client.reply().await, INVALIDATE_ALL);
        assert_eq!(client.ask("GET k").await, "nil");
        let received = |name: &str| world.b.received(name).len();
        assert_eq!(received("CLIENT TRACKING ON OPTIN"), 1);
        assert_eq!(received("CLIENT CACHING YES"), 1);
        assert_eq!(client.ask("GET k").await, "nil");
    });
}

/// A push is no reply: who wants none is told all the same that it may have missed a change.
#[test]
fn a_tracking_client_that_wants_no_replies_forgets_all_when_the_primary_changes() {
    for hush in ["OFF", "SKIP"] {
        run(async |world| {
            let mut client = world.client();
            client.send("HELLO 3; CLIENT TRACKING ON").await;
            client.replies(2).await;
            client.send(&format!("CLIENT REPLY {hush}")).await;
            settle().await;
            world.switch();
            assert_eq!(client.reply().await, INVALIDATE_ALL, "{hush}");
        });
    }
}

#[test]
fn an_answer_asked_for_before_the_change_is_not_cached_either() {
    run(async |world| {
        let mut client = world.client();
        client.send("HELLO 3; CLIENT TRACKING ON").await;
        client.replies(2).await;
        world.a.freeze();
        client.send("GET k").await;
        settle().await;
        world.switch();
        assert_eq!(
            client.replies(3).await,
            format!("{INVALIDATE_ALL} nil {INVALIDATE_ALL}")
        );
    });
}

#[test]
fn whoever_tracks_no_more_shares_again() {
    run(async |world| {
        let mut client = world.client();
        client
            .send("HELLO 3; CLIENT TRACKING ON; CLIENT TRACKING OFF; GET k")
            .await;
        assert_eq!(client.replies(3).await.split_once("] ").unwrap().1, "+OK +OK");
        assert_eq!(client.reply().await, "nil");
        let opened = world.a.opened();
        assert_eq!(client.ask("GET k; GET k").await, "nil nil");
        world.switch();
        assert_eq!(client.ask("GET k").await, "nil", "and hears of no change");
        assert!(world.a.opened() <= opened + 1);
    });
}

#[test]
fn a_redirected_client_and_its_listener_move_together() {
    run(async |world| {
        let (mut listener, mut client) = (world.client(), world.client());
        let id = listener.ask("CLIENT ID").await;
        let id = id.trim_start_matches(':');
        assert_eq!(
            listener.ask("SUBSCRIBE __redis__:invalidate").await,
            "[subscribe __redis__:invalidate :1]"
        );
        assert_eq!(
            client.ask(&format!("CLIENT TRACKING ON REDIRECT {id}")).await,
            "+OK"
        );
        let redirects = |node: &Node| node.received("CLIENT TRACKING ON REDIRECT").len();
        assert_eq!(redirects(&world.a), 1);
        world.switch();
        assert_eq!(listener.reply().await, "[message __redis__:invalidate nil]");
        assert_eq!(client.ask("GET k").await, "nil");
        assert_eq!(redirects(&world.b), 1);
    });
}

#[test]
fn nobody_is_redirected_to_a_client_that_is_gone() {
    run(async |world| {
        let (mut listener, mut client) = (world.client(), world.client());
        client.send("HELLO 3; CLIENT TRACKING ON REDIRECT 4711").await;
        client.reply().await;
        settle().await;
        let asked = world.a.received("CLIENT TRACKING");
        assert!(asked[0].text.contains(&i64::MAX.to_string()), "{asked:?}");
        drop(client);

        let mut client = world.client();
        client.send("HELLO 3").await;
        client.reply().await;
        let id = listener.ask("CLIENT ID").await;
        let id = id.trim_start_matches(':');
        listener.ask("SUBSCRIBE __redis__:invalidate").await;
        assert_eq!(
            client.ask(&format!("CLIENT TRACKING ON REDIRECT {id}")).await,
            "+OK"
        );
        drop(listener);
        settle().await;
        world.switch();
        assert_eq!(client.reply().await, format!(">[tracking-redir-broken :{id}]"));
    });
}

#[test]
fn invalidations_find_whoever_streams_on_what_began_as_a_transaction() {
    run(async |world| {
        let (mut listener, mut client) = (world.client(), world.client());
        let id = listener.ask("CLIENT ID").await;
        let id = id.trim_start_matches(':');
        assert_eq!(listener.ask("WATCH w; SUBSCRIBE x").await, "+OK [subscribe x :1]");
        world.redirect(&mut client, id).await;
    });
}

//! The crate `redis`, synchronous and asynchronous.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use futures_util::StreamExt as _;
use redis::aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection};
use redis::streams::{StreamReadOptions, StreamReadReply};
use redis::{AsyncCommands as _, AsyncIter, Client, Commands as _, Connection, Script, cmd, pipe};
use testkit::{Flavor, Proxy, on_each_server};

use super::programme::{PATIENCE, fail_over, lab, left_no_trace};

on_each_server! {
    fn does_what_its_users_do_through_a_failover(flavor: Flavor) -> Result<()> {
        let (cluster, proxy) = lab(flavor)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        for resp in [2, 3] {
            synchronous(&client(&proxy, resp)?)?;
            runtime.block_on(asynchronous(&client(&proxy, resp)?))?;
        }
        let (client, address) = (client(&proxy, 3)?, proxy.address());
        runtime.block_on(async {
            let failover = thread::spawn(move || {
                thread::sleep(Duration::from_millis(300));
                fail_over(&cluster, address)?;
                thread::sleep(Duration::from_millis(300));
                // Its servers end with it.
                Ok(cluster)
            });
            let _cluster = through_a_failover(&client, || failover.is_finished()).await.and_then(|()| {
                failover.join().map_err(|_| anyhow!("the failover panicked"))?
            })?;
            anyhow::Ok(())
        })?;
        left_no_trace(&proxy)
    }
}

fn client(proxy: &Proxy, resp: u8) -> Result<Client> {
    Ok(Client::open(format!(
        "redis://{}/?protocol=resp{resp}",
        proxy.address()
    ))?)
}

/// The crate gives up after half a second unless told otherwise.
async fn multiplexed(client: &Client) -> Result<MultiplexedConnection> {
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
    Ok(client
        .get_multiplexed_async_connection_with_config(&config)
        .await?)
}

async fn managed(client: &Client) -> Result<ConnectionManager> {
    let config = ConnectionManagerConfig::new().set_response_timeout(Some(PATIENCE));
    Ok(ConnectionManager::new_with_config(client.clone(), config).await?)
}

fn synchronous(client: &Client) -> Result<()> {
    let mut con = client.get_connection()?;
    cmd("FLUSHALL").exec(&mut con)?;
    let (n, text): (i64, String) = pipe()
        .atomic()
        .incr("n", 5)
        .set("text", "some")
        .ignore()
        .get("text")
        .query(&mut con)?;
    ensure!((n, text.as_str()) == (5, "some"));

    // Another's write between WATCH and EXEC makes it try once more.
    let mut rounds = 0;
    let mut other = client.get_connection()?;
    let (seen,): (i64,) = redis::transaction(&mut con, &["n"], |con, pipe| {
        rounds += 1;
        let old: i64 = con.get("n")?;
        if rounds == 1 {
            other.incr::<_, _, ()>("n", 10)?;
        }
        pipe.set("n", old + 1).ignore().get("n").query(con)
    })?;
    ensure!((seen, rounds) == (16, 2));

    let mut subscriber = client.get_connection()?;
    let mut subscription = subscriber.as_pubsub();
    subscription.subscribe("headlines")?;
    ensure!(con.publish::<_, _, i64>("headlines", "hello")? == 1);
    ensure!(subscription.get_message()?.get_payload::<String>()? == "hello");

    let script = Script::new("return redis.call('incrby', KEYS[1], ARGV[1])");
    cmd("SCRIPT").arg("FLUSH").exec(&mut con)?;
    ensure!(script.key("sum").arg(3).invoke::<i64>(&mut con)? == 3);

    let large = "x".repeat(8 << 20);
    con.set::<_, _, ()>("large", &large)?;
    ensure!(con.get::<_, String>("large")? == large);
    con.del::<_, ()>("large")?;
    queue(client, con)
}

fn queue(client: &Client, mut con: Connection) -> Result<()> {
    thread::scope(|scope| {
        let pops: Vec<_> = (0..5)
            .map(|_| {
                scope.spawn(|| -> Result<i64> {
                    let (_, item): (String, i64) = client.get_connection()?.blpop("queue", 0.0)?;
                    Ok(item)
                })
            })
            .collect();
        con.rpush::<_, _, ()>("queue", &[0, 1, 2, 3, 4])?;
        let popped = pops
            .into_iter()
            .map(|pop| pop.join().map_err(|_| anyhow!("a pop panicked"))?)
            .collect::<Result<BTreeSet<_>>>()?;
        ensure!(popped.into_iter().eq(0..5));
        Ok(())
    })
}

async fn asynchronous(client: &Client) -> Result<()> {
    let mut con = multiplexed(client).await?;
    // Many at once on one connection.
    let increments = (0..500).map(|_| {
        let mut con = con.clone();
        async move { con.incr::<_, _, i64>("many", 1).await }
    });
    let counts = futures_util::future::join_all(increments).await;
    let counts = counts.into_iter().collect::<Result<BTreeSet<_>, _>>()?;
    ensure!(counts.into_iter().eq(1..=500));

    for i in 0..500 {
        con.set::<_, _, ()>(format!("scan:{i}"), i).await?;
    }
    let found: AsyncIter<String> = con.scan_match("scan:*").await?;
    let found: BTreeSet<String> = found.filter_map(async |key| key.ok()).collect().await;
    ensure!(found.len() == 500, "{}", found.len());

    con.xgroup_create_mkstream::<_, _, _, ()>("log", "workers", "$")
        .await?;
    let id: String = con.xadd("log", "*", &[("n", 1)]).await?;
    let options = StreamReadOptions::default().group("workers", "one").block(1000);
    let read: StreamReadReply = con.xread_options(&["log"], &[">"], &options).await?;
    ensure!(read.keys[0].ids[0].id == id);
    ensure!(con.xack::<_, _, _, i64>("log", "workers", &[id]).await? == 1);
    con.del::<_, ()>("log").await?;

    let (mut sink, mut messages) = client.get_async_pubsub().await?.split();
    sink.subscribe("news").await?;
    sink.psubscribe("pattern:*").await?;
    con.publish::<_, _, ()>("news", "hello").await?;
    con.publish::<_, _, ()>("pattern:x", "there").await?;
    for expected in ["hello", "there"] {
        let message = messages.next().await.context("a message")?;
        ensure!(message.get_payload::<String>()? == expected);
    }
    Ok(())
}

/// Counts in four ways, fills a queue and publishes until `over`; nothing of it may be lost, doubled or refused.
async fn through_a_failover(client: &Client, over: impl Fn() -> bool) -> Result<()> {
    let mut con = managed(client).await?;
    cmd("FLUSHALL").exec_async(&mut con).await?;
    let (mut multiplexed, mut popper) = (multiplexed(client).await?, multiplexed(client).await?);
    let (sink, messages) = client.get_async_pubsub().await?.split();
    let mut sink = sink;
    sink.subscribe("news").await?;
    let script = Script::new("return redis.call('incr', KEYS[1])");
    let published = Cell::new(0);
    let popped = RefCell::new(Vec::new());
    let step = Duration::from_millis(1);

    let (mut counter, mut transactor, mut publisher) = (con.clone(), con.clone(), con.clone());
    let counting = async {
        let mut rounds = 0_i64;
        while !over() {
            rounds += 1;
            ensure!(counter.incr::<_, _, i64>("counter", 1).await? == rounds);
            ensure!(
                script
                    .key("scripted")
                    .invoke_async::<i64>(&mut multiplexed)
                    .await?
                    == rounds
            );
            tokio::time::sleep(step).await;
        }
        Ok(rounds)
    };
    let transacting = async {
        let mut rounds = 0_i64;
        while !over() {
            rounds += 1;
            let both: (i64, i64) = pipe()
                .atomic()
                .incr("left", 1)
                .incr("right", 1)
                .query_async(&mut transactor)
                .await?;
            ensure!(both == (rounds, rounds), "{both:?} in round {rounds}");
            tokio::time::sleep(step).await;
        }
        Ok(())
    };
    let publishing = async {
        while !over() {
            publisher.publish::<_, _, ()>("news", published.get()).await?;
            publisher.rpush::<_, _, ()>("queue", published.get()).await?;
            published.set(published.get() + 1);
            tokio::time::sleep(step).await;
        }
        publisher.publish::<_, _, ()>("news", -1).await?;
        publisher.rpush::<_, _, ()>("queue", -1).await?;
        Ok(())
    };
    let popping = async {
        loop {
            let (_, item): (String, i64) = popper.blpop("queue", 0.0).await?;
            if item < 0 {
                return anyhow::Ok(());
            }
            popped.borrow_mut().push(item);
        }
    };
    let listening = async {
        let payloads = messages.map(|message| message.get_payload::<i64>());
        let heard: Vec<_> = payloads
            .take_while(|heard| std::future::ready(!matches!(heard, Ok(-1))))
            .collect()
            .await;
        Ok(heard.into_iter().collect::<Result<Vec<i64>, _>>()?)
    };
    let (rounds, (), (), (), heard) =
        tokio::try_join!(counting, transacting, publishing, popping, listening)?;
    ensure!(rounds > 50, "only {rounds} rounds");
    let all: Vec<i64> = (0..published.get()).collect();
    ensure!(popped.into_inner() == all, "popped something else");
    ensure!(heard == all, "heard something else");
    Ok(())
}

"""redis-py's asyncio half behind slipring, as its users use it; see `redis_py.py`."""

import asyncio
import sys
import time

import redis.asyncio as redis
from redis.exceptions import ResponseError, WatchError

PORT = int(sys.argv[1])
PATIENCE = 30


def connect(protocol, **options):
    return redis.Redis(port=PORT, protocol=protocol, decode_responses=True, socket_timeout=PATIENCE, **options)


async def eventually(what, condition):
    deadline = time.monotonic() + PATIENCE
    while not await condition():
        assert time.monotonic() < deadline, f"never: {what}"
        await asyncio.sleep(0.005)


# Features


async def pool(r, protocol):
    await asyncio.gather(*[r.set(f"pool:{i}", i) for i in range(80)])
    assert await asyncio.gather(*[r.get(f"pool:{i}") for i in range(80)]) == [str(i) for i in range(80)]
    few = redis.BlockingConnectionPool(port=PORT, protocol=protocol, decode_responses=True, max_connections=3)
    async with redis.Redis.from_pool(few) as narrow:
        assert await asyncio.gather(*[narrow.get(f"pool:{i}") for i in range(50)]) == [str(i) for i in range(50)]
    async with connect(protocol, db=5, client_name="fifth") as other:
        assert await other.client_getname() == "fifth" and await other.dbsize() == 0


async def pipelines(r, _):
    pipe = r.pipeline(transaction=False)
    for i in range(500):
        pipe.set(f"pipe:{i}", i).get(f"pipe:{i}")
    assert (await pipe.execute())[1::2] == [str(i) for i in range(500)]
    wrong, right = await pipe.lpush("pipe:1", "no list").get("pipe:2").execute(raise_on_error=False)
    assert isinstance(wrong, ResponseError) and right == "2"


async def transactions(r, _):
    await r.set("balance", 0)

    async def deposit(pipe):
        old = int(await pipe.get("balance"))
        pipe.multi()
        pipe.set("balance", old + 1)

    await asyncio.gather(*[r.transaction(deposit, "balance") for _ in range(20)])
    assert await r.get("balance") == "20"
    async with r.pipeline() as pipe:
        await pipe.watch("balance")
        await r.set("balance", 0)
        pipe.multi()
        pipe.incr("balance")
        try:
            await pipe.execute()
            raise AssertionError("a touched key stops EXEC")
        except WatchError:
            pass


async def publish_and_subscribe(r, _):
    async with r.pubsub() as p:
        await p.subscribe("news")
        await p.psubscribe("pattern:*")
        assert [(await p.get_message(timeout=PATIENCE))["data"] for _ in range(2)] == [1, 2]
        assert await r.publish("news", "hello") == 1 and await r.publish("pattern:x", "there") == 1
        assert [(await p.get_message(timeout=PATIENCE))["data"] for _ in range(2)] == ["hello", "there"]
        await p.unsubscribe("news")
        assert (await p.get_message(timeout=PATIENCE))["data"] == 1
        assert await r.publish("news", "gone") == 0


async def queues(r, _):
    pops = [asyncio.create_task(r.blpop("queue", timeout=PATIENCE)) for _ in range(50)]

    async def all_blocked():
        return (await r.info("clients"))["blocked_clients"] == 50

    await eventually("fifty blocked clients", all_blocked)
    await r.rpush("queue", *range(50))
    assert sorted(int(item) for _, item in await asyncio.gather(*pops)) == list(range(50))
    # Given up by its own client: what comes later stays.
    pop = asyncio.create_task(r.blpop("queue", timeout=0))
    await asyncio.sleep(0.05)
    pop.cancel()
    await asyncio.gather(pop, return_exceptions=True)

    async def none_blocked():
        return (await r.info("clients"))["blocked_clients"] == 0

    await eventually("nobody blocked", none_blocked)
    await r.rpush("queue", "late")
    assert await r.lpop("queue") == "late"


async def scripts(r, _):
    add = r.register_script("return redis.call('incrby', KEYS[1], ARGV[1])")
    await r.script_flush()
    assert await add(keys=["sum"], args=[3]) == 3
    await r.script_flush()
    async with r.pipeline() as pipe:
        await add(keys=["sum"], args=[4], client=pipe)
        assert await pipe.get("sum").execute() == [7, "7"]


async def streams(r, _):
    await r.xgroup_create("log", "workers", mkstream=True)
    read = asyncio.create_task(r.xreadgroup("workers", "one", {"log": ">"}, block=PATIENCE * 1000))
    ident = await r.xadd("log", {"n": 1})
    assert ident in str(await read) and await r.xack("log", "workers", ident) == 1


async def iterators(r, _):
    await r.mset({f"scan:{i}": i for i in range(500)})
    assert len({key async for key in r.scan_iter("scan:*", count=20)}) == 500


async def large_values(r, _):
    value = "x" * 4 * 1024 * 1024
    await r.set("large", value)
    assert await asyncio.gather(*[r.get("large") for _ in range(4)]) == [value] * 4


# The same through a failover


async def through_a_failover(r):
    await r.flushall()
    add = r.register_script("return redis.call('incr', KEYS[1])")
    working, published, popped, heard = True, [], [], []

    async def transact():
        async with r.pipeline() as pipe:
            assert (await pipe.incr("left").incr("right").execute())[0] == int(await r.get("right"))

    async def deposit(pipe):
        old = int(await pipe.get("watched") or 0)
        pipe.multi()
        pipe.set("watched", old + 1)

    async def publish():
        published.append(str(len(published)))
        await r.publish("news", published[-1])
        await r.rpush("queue", published[-1])

    async def works(step):
        rounds = 0
        while working:
            await step()
            rounds += 1
            await asyncio.sleep(0.001)
        return rounds

    async def consume():
        while "end" not in popped:
            popped.append((await r.blpop("queue", timeout=0))[1])

    async def listen(p):
        while "end" not in heard:
            message = await p.get_message(timeout=1)
            heard.extend([message["data"]] if message else [])

    listener = r.pubsub()
    await listener.subscribe("news")
    assert (await listener.get_message(timeout=PATIENCE))["type"] == "subscribe"
    consumers = [asyncio.create_task(consume()), asyncio.create_task(listen(listener))]
    steps = {
        "counter": lambda: r.incr("counter"),
        "left": transact,
        "watched": lambda: r.transaction(deposit, "watched"),
        "scripted": lambda: add(keys=["scripted"]),
    }
    tasks = {key: asyncio.create_task(works(step)) for key, step in steps.items()}
    producer = asyncio.create_task(works(publish))

    print("failover", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    await asyncio.sleep(0.5)
    working = False
    for key, task in tasks.items():
        rounds = await task
        assert rounds > 20 and await r.get(key) == str(rounds), (key, rounds, await r.get(key))
    await producer
    published.append("end")
    await r.publish("news", "end")
    await r.rpush("queue", "end")
    await asyncio.wait_for(asyncio.gather(*consumers), PATIENCE)
    assert popped == published and heard == published
    await listener.aclose()


async def main():
    features = [pool, pipelines, transactions, publish_and_subscribe, queues, scripts, streams, iterators, large_values]
    for protocol in (2, 3):
        for feature in features:
            async with connect(protocol) as r:
                await r.flushall()
                await feature(r, protocol)
    async with connect(3) as r:
        await through_a_failover(r)


asyncio.run(main())

"""redis-py behind slipring, as its users use it: every feature with RESP2 and RESP3, then all at once through a failover.

Takes the port. Prints `failover` when a planned one may begin, and works on until it reads a line: it is over.
"""

import sys
import threading
import time
from contextlib import contextmanager

import redis
from redis.cache import CacheConfig
from redis.connection import CacheProxyConnection
from redis.exceptions import NoScriptError, WatchError

PORT = int(sys.argv[1])
PATIENCE = 30

# redis-py keeps its cache from servers that it does not know; tracking has been the same since Redis 6.
CacheProxyConnection.MIN_ALLOWED_VERSION = "6.0.0"


def connect(protocol, **options):
    return redis.Redis(port=PORT, protocol=protocol, decode_responses=True, socket_timeout=PATIENCE, **options)


def eventually(what, condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.005)


# Features


def pool(protocol):
    r = connect(protocol, max_connections=8, client_name="pooled")
    assert r.client_getname() == "pooled"

    def work(n):
        for i in range(20):
            r.set(f"pool:{n}", i)
            assert r.get(f"pool:{n}") == str(i)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert r.mget([f"pool:{n}" for n in range(8)]) == ["19"] * 8
    other = connect(protocol, db=5)
    assert other.dbsize() == 0 and other.set("k", "five") and r.get("k") is None
    other.flushdb()


def pipelines(protocol):
    r = connect(protocol)
    pipe = r.pipeline(transaction=False)
    for i in range(1000):
        pipe.set(f"pipe:{i}", i)
        pipe.get(f"pipe:{i}")
    assert pipe.execute()[1::2] == [str(i) for i in range(1000)]
    pipe.lpush("pipe:1", "no list").get("pipe:2")
    wrong, right = pipe.execute(raise_on_error=False)
    assert isinstance(wrong, redis.ResponseError) and right == "2"


def transactions(protocol):
    r = connect(protocol)
    r.set("balance", 0)

    def deposit():
        for _ in range(10):
            r.transaction(lambda pipe: (lambda old: (pipe.multi(), pipe.set("balance", old + 1)))(int(pipe.get("balance"))), "balance")

    threads = [threading.Thread(target=deposit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert r.get("balance") == "40"

    with r.pipeline() as pipe:
        pipe.watch("balance")
        pipe.multi()
        pipe.incr("balance")
        r.set("balance", 0)
        try:
            pipe.execute()
            raise AssertionError("a touched key stops EXEC")
        except WatchError:
            pass
    assert r.pipeline().incr("balance").hset("h", mapping={"a": 1, "b": 2}).hgetall("h").execute() == [1, 2, {"a": "1", "b": "2"}]


def publish_and_subscribe(protocol):
    r = connect(protocol)
    with r.pubsub() as p:
        p.subscribe(*[f"news:{i}" for i in range(100)])
        p.psubscribe("pattern:*")
        for _ in range(101):
            assert p.get_message(timeout=PATIENCE)["type"] in ("subscribe", "psubscribe")
        p.ping()
        assert p.get_message(timeout=PATIENCE)
        assert r.pubsub_numsub("news:7") == [("news:7", 1)] and r.pubsub_numpat() == 1
        assert r.publish("news:7", "hello") == 1 and r.publish("pattern:x", "there") == 1
        assert p.get_message(timeout=PATIENCE)["data"] == "hello"
        assert p.get_message(timeout=PATIENCE)["data"] == "there"
        p.unsubscribe()
        p.punsubscribe()
        for _ in range(101):
            assert p.get_message(timeout=PATIENCE)["type"] in ("unsubscribe", "punsubscribe")
    eventually("nobody subscribed", lambda: r.publish("news:7", "gone") == 0)


def queues(protocol):
    r = connect(protocol)
    popped = []
    threads = [threading.Thread(target=lambda: popped.append(r.blpop("queue", timeout=PATIENCE)[1])) for _ in range(10)]
    for thread in threads:
        thread.start()
    eventually("ten blocked clients", lambda: r.info("clients")["blocked_clients"] == 10)
    r.rpush("queue", *range(10))
    for thread in threads:
        thread.join()
    assert sorted(popped) == [str(i) for i in range(10)]
    assert r.blpop("queue", timeout=0.05) is None
    r.zadd("scores", {"low": 1, "high": 2})
    assert list(r.bzpopmax("scores", timeout=1)) == ["scores", "high", 2.0]
    r.rpush("from", "moved")
    assert r.blmove("from", "to", 1) == "moved" and r.lrange("to", 0, -1) == ["moved"]


def scripts(protocol):
    r = connect(protocol)
    add = r.register_script("return redis.call('incrby', KEYS[1], ARGV[1])")
    r.script_flush()
    # EVALSHA, NOSCRIPT, SCRIPT LOAD, EVALSHA.
    assert add(keys=["sum"], args=[3]) == 3
    r.script_flush()
    with r.pipeline() as pipe:
        add(keys=["sum"], args=[4], client=pipe)
        pipe.get("sum")
        assert pipe.execute() == [7, "7"]
    try:
        r.evalsha("0" * 40, 0)
        raise AssertionError("an unknown script")
    except NoScriptError:
        pass
    assert r.eval("return {1, 'two', {3}}", 0) == [1, "two", [3]]
    assert r.function_load("#!lua name=lib\nredis.register_function('hello', function() return 'world' end)", replace=True) == "lib"
    assert r.fcall("hello", 0) == "world"


def streams(protocol):
    r = connect(protocol)
    ids = [r.xadd("log", {"n": i}) for i in range(20)]
    r.xgroup_create("log", "workers", id="0")
    read = r.xreadgroup("workers", "one", {"log": ">"}, count=15)
    entries = (dict(read)["log"][0] if isinstance(read, dict) else dict(read)["log"])
    assert len(entries) == 15 and r.xack("log", "workers", *ids[:10]) == 10
    assert r.xpending("log", "workers")["pending"] == 5
    assert len(r.xautoclaim("log", "workers", "two", min_idle_time=0)[1]) == 5

    heard = []
    thread = threading.Thread(target=lambda: heard.append(r.xread({"log": "$"}, block=PATIENCE * 1000)))
    thread.start()
    eventually("a blocked reader", lambda: r.info("clients")["blocked_clients"] == 1)
    r.xadd("log", {"n": "late"})
    thread.join()
    assert "late" in str(heard)


def iterators(protocol):
    r = connect(protocol)
    r.mset({f"scan:{i}": i for i in range(1000)})
    assert len(set(r.scan_iter("scan:*", count=50))) == 1000
    r.hset("map", mapping={f"f{i}": i for i in range(1000)})
    r.sadd("set", *range(1000))
    r.zadd("zset", {str(i): i for i in range(1000)})
    assert len(dict(r.hscan_iter("map"))) == len(set(r.sscan_iter("set"))) == len(dict(r.zscan_iter("zset"))) == 1000


def large_values(protocol):
    r = connect(protocol)
    for size in (64 * 1024, 1024 * 1024, 16 * 1024 * 1024):
        value = "x" * size
        r.set("large", value)
        assert r.get("large") == value
        assert [len(found) for found in r.pipeline().get("large").get("large").execute()] == [size] * 2
    r.delete("large")


def cached_reads(_):
    other = connect(3)
    r = connect(3, cache_config=CacheConfig())
    other.set("cached", "old")
    assert r.get("cached") == "old" and r.get("cached") == "old"
    assert r.get_cache().size == 1
    other.set("cached", "new")
    eventually("an invalidation", lambda: r.get("cached") == "new")


# The same through a failover


class Works:
    """Goes on in a thread until it is stopped; what goes wrong there is raised here."""

    def __init__(self, step):
        self.step, self.rounds, self.error, self.on = step, 0, None, True
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        try:
            while self.on:
                self.step()
                self.rounds += 1
        except BaseException as error:
            self.error = error

    def stop(self):
        self.on = False
        self.thread.join()
        if self.error:
            raise self.error
        return self.rounds


@contextmanager
def a_failover():
    print("failover", flush=True)
    yield
    sys.stdin.readline()


def through_a_failover(protocol):
    r = connect(protocol)
    r.flushall()
    r.xgroup_create("log", "workers", mkstream=True)
    add = r.register_script("return redis.call('incr', KEYS[1])")
    cached, heard, popped, read = connect(3, cache_config=CacheConfig()), [], [], []
    listener, published, queue = r.pubsub(), [], connect(protocol)
    listener.subscribe("news")
    assert listener.get_message(timeout=PATIENCE)["type"] == "subscribe"

    def publish():
        published.append(str(len(published)))
        r.publish("news", published[-1])
        r.rpush("queue", published[-1])
        r.xadd("log", {"n": published[-1]})
        time.sleep(0.002)

    def transact():
        with r.pipeline() as pipe:
            pipe.incr("left").incr("right")
            left, right = pipe.execute()
            assert left == right, (left, right)

    def watch():
        r.transaction(lambda pipe: (lambda old: (pipe.multi(), pipe.set("watched", old + 1)))(int(pipe.get("watched") or 0)), "watched")

    def consume():
        item = queue.blpop("queue", timeout=1)
        popped.extend([item[1]] if item else [])

    def follow():
        batch = r.xreadgroup("workers", "one", {"log": ">"}, count=10, block=1000)
        found = [stream[0] if isinstance(batch, dict) else stream for stream in dict(batch or []).values()]
        for ident, fields in (entry for entries in found for entry in entries):
            read.append(fields["n"])
            r.xack("log", "workers", ident)

    def listen():
        message = listener.get_message(timeout=1)
        heard.extend([message["data"]] if message else [])

    def refresh():
        value = str(time.monotonic())
        r.set("cached", value)
        eventually("the cache follows", lambda: cached.get("cached") == value)

    counts = {
        "counter": Works(lambda: r.incr("counter")),
        "left": Works(transact),
        "watched": Works(watch),
        "scripted": Works(lambda: add(keys=["scripted"])),
    }
    others = [Works(step) for step in (consume, follow, listen, refresh)]
    producer = Works(publish)
    with a_failover():
        time.sleep(0.2)
    time.sleep(0.5)
    for key, works in counts.items():
        rounds = works.stop()
        assert rounds > 50 and r.get(key) == str(rounds), (key, rounds, r.get(key))
    producer.stop()
    for name, got in (("queue", popped), ("stream", read), ("subscriber", heard)):
        eventually(f"{name} has all", lambda: len(got) >= len(published) or any(works.error for works in others))
    for works in others:
        works.stop()
    assert popped == published and read == published and heard == published


FEATURES = [pool, pipelines, transactions, publish_and_subscribe, queues, scripts, streams, iterators, large_values]

if __name__ == "__main__":
    CacheProxyConnection.DEFAULT_SERVER_NAME = connect(3).execute_command("HELLO")["server"]
    for version in (2, 3):
        for feature in FEATURES + ([cached_reads] if version == 3 else []):
            connect(version).flushall()
            feature(version)
    for_resp2 = Works(lambda: connect(2).incr("resp2"))
    through_a_failover(3)
    for_resp2.stop()

// node-redis behind slipring, as its users use it: every feature with RESP2 and RESP3, then all at once through a failover.
'use strict';

const assert = require('node:assert');
const { createClient, createClientPool, defineScript, WatchError } = require('redis');
const { eventually, works, failover, run } = require('./work');

let port;
let RESP;
const clients = [];

const scripts = {
  bump: defineScript({
    SCRIPT: "return redis.call('incr', KEYS[1])",
    NUMBER_OF_KEYS: 1,
    parseCommand: (parser, key) => parser.pushKey(key),
    transformReply: reply => reply,
  }),
};

// No reconnecting: a connection that breaks is a failure.
async function connect(options = {}) {
  const client = createClient({ RESP, socket: { port, reconnectStrategy: false }, scripts, ...options });
  client.on('error', error => {
    throw error;
  });
  clients.push(client);
  await client.connect();
  return client;
}

const features = {
  async pipelines(r) {
    const replies = await Promise.all(Array.from({ length: 1000 }, (_, i) => r.set(`pipe:${i}`, i).then(() => r.get(`pipe:${i}`))));
    replies.forEach((reply, i) => assert.strictEqual(reply, String(i)));
    const named = await connect({ name: 'fifth', database: 5 });
    assert.strictEqual(await named.clientGetName(), 'fifth');
    assert.strictEqual(await named.dbSize(), 0);
    const pool = createClientPool({ RESP, socket: { port } }, { minimum: 2, maximum: 5 });
    await pool.connect();
    await Promise.all(Array.from({ length: 50 }, () => pool.execute(client => client.incr('pooled'))));
    assert.strictEqual(await pool.get('pooled'), '50');
    await pool.close();
  },

  async transactions(r) {
    assert.deepStrictEqual(await r.multi().incr('n').set('k', 'v').get('k').exec(), [1, 'OK', 'v']);
    const other = await connect();
    await r.watch('n');
    await other.incr('n');
    await assert.rejects(r.multi().incr('n').exec(), WatchError);
    await r.watch('n');
    assert.deepStrictEqual(await r.multi().incr('n').exec(), [3]);
  },

  async publishAndSubscribe(r) {
    const subscriber = await connect();
    const heard = [];
    const channels = Array.from({ length: 100 }, (_, i) => `news:${i}`);
    await subscriber.subscribe(channels, message => heard.push(message));
    await subscriber.pSubscribe('pattern:*', message => heard.push(message));
    await subscriber.sSubscribe('shard', message => heard.push(message));
    assert.strictEqual(await r.publish('news:7', 'hello'), 1);
    assert.strictEqual(await r.publish('pattern:x', 'there'), 1);
    assert.strictEqual(await r.sPublish('shard', 'sharded'), 1);
    await eventually('all messages', () => heard.length === 3);
    await subscriber.unsubscribe(channels);
    await subscriber.pUnsubscribe('pattern:*');
    await subscriber.sUnsubscribe('shard');
    assert.strictEqual(String(await subscriber.set('again', 'usable')), 'OK');
    assert.strictEqual(await r.publish('news:7', 'gone'), 0);
  },

  async queues(r) {
    const pops = await Promise.all(Array.from({ length: 10 }, async () => ({ pop: (await connect()).blPop('queue', 0) })));
    await eventually('ten blocked clients', async () => /blocked_clients:10\r/.test(await r.info('clients')));
    await r.rPush('queue', [...Array(10).keys()].map(String));
    const popped = (await Promise.all(pops.map(({ pop }) => pop))).map(({ element }) => Number(element));
    assert.deepStrictEqual(popped.sort((a, b) => a - b), [...Array(10).keys()]);
    assert.strictEqual(await r.blPop('queue', 0.05), null);
  },

  async scripts(r) {
    await r.scriptFlush();
    assert.strictEqual(await r.bump('sum'), 1);
    await r.scriptFlush();
    assert.strictEqual(await r.bump('sum'), 2);
  },

  async streams(r) {
    await r.xGroupCreate('log', 'workers', '$', { MKSTREAM: true });
    const reading = (await connect()).xReadGroup('workers', 'one', { key: 'log', id: '>' }, { BLOCK: 0 });
    const id = await r.xAdd('log', '*', { n: '1' });
    assert.ok(JSON.stringify(await reading).includes(id));
    assert.strictEqual((await r.xPending('log', 'workers')).pending, 1);
    assert.strictEqual(await r.xAck('log', 'workers', id), 1);
  },

  async iterators(r) {
    await r.mSet(Array.from({ length: 1000 }, (_, i) => [`scan:${i}`, String(i)]));
    const found = new Set();
    for await (const keys of r.scanIterator({ MATCH: 'scan:*', COUNT: 50 })) keys.forEach(key => found.add(key));
    assert.strictEqual(found.size, 1000);
  },

  async largeValues(r) {
    const value = 'x'.repeat(8 * 1024 * 1024);
    await r.set('large', value);
    for (const found of await Promise.all([r.get('large'), r.get('large')])) assert.strictEqual(found, value);
  },

  async cachedReads(r) {
    if (RESP !== 3) return;
    const cached = await connect({ clientSideCache: { ttl: 0, maxEntries: 0, evictPolicy: 'LRU' } });
    await r.set('cached', 'old');
    assert.strictEqual(await cached.get('cached'), 'old');
    assert.strictEqual(await cached.get('cached'), 'old');
    await r.set('cached', 'new');
    await eventually('an invalidation', async () => (await cached.get('cached')) === 'new');
  },
};

async function throughAFailover(r) {
  const [queue, subscriber, watcher] = await Promise.all([connect(), connect(), connect()]);
  const cached = await connect({ clientSideCache: { ttl: 0, maxEntries: 0, evictPolicy: 'LRU' } });
  const [published, popped, heard] = [[], [], []];
  await subscriber.subscribe('news', message => heard.push(message));
  const consumer = (async () => {
    while (popped.at(-1) !== 'end') popped.push((await queue.blPop('queue', 0)).element);
  })();
  const counts = {
    counter: works(() => r.incr('counter')),
    left: works(async () => {
      const [left, right] = await r.multi().incr('left').incr('right').exec();
      assert.strictEqual(left, right);
    }),
    scripted: works(() => r.bump('scripted')),
    refreshed: works(async () => {
      const value = String(await r.incr('refreshed'));
      await eventually('the cache follows', async () => (await cached.get('refreshed')) === value);
    }),
  };
  let watched = 0;
  const watching = works(async () => {
    await watcher.watch('watched');
    const old = Number(await watcher.get('watched'));
    try {
      await watcher.multi().set('watched', String(old + 1)).exec();
      watched += 1;
    } catch (error) {
      if (!(error instanceof WatchError)) throw error;
    }
  });
  const producer = works(async () => {
    const item = String(published.push(String(published.length)) - 1);
    await Promise.all([r.publish('news', item), r.rPush('queue', item)]);
  });
  await failover();
  for (const [key, working] of Object.entries(counts)) {
    const rounds = await working.stop();
    assert.ok(rounds > 20);
    assert.strictEqual(await r.get(key), String(rounds), key);
  }
  await watching.stop();
  assert.strictEqual(await r.get('watched'), String(watched));
  await producer.stop();
  published.push('end');
  await Promise.all([r.publish('news', 'end'), r.rPush('queue', 'end')]);
  await consumer;
  await eventually('the last message', () => heard.at(-1) === 'end');
  assert.deepStrictEqual(popped, published);
  assert.deepStrictEqual(heard, published);
}

run(async given => {
  port = given;
  for (RESP of [2, 3]) {
    const last = RESP === 3 ? [throughAFailover] : [];
    for (const feature of [...Object.values(features), ...last]) {
      const r = await connect();
      await r.flushAll();
      await feature(r);
      clients.splice(0).forEach(client => client.destroy());
    }
  }
});

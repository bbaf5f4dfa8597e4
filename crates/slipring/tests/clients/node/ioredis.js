// ioredis behind slipring, as its users use it: every feature, then all at once through a failover.
'use strict';

const assert = require('node:assert');
const Redis = require('ioredis');
const { eventually, works, failover, run } = require('./work');

let port;
const clients = [];

// Whoever is not told to retry is to be told of every error: none is expected.
function connect(options = {}) {
  const client = new Redis({ port, maxRetriesPerRequest: 0, retryStrategy: null, ...options });
  client.on('error', error => {
    throw error;
  });
  clients.push(client);
  return client;
}

const features = {
  async pipelines(r) {
    const pipe = r.pipeline();
    for (let i = 0; i < 1000; i += 1) pipe.set(`pipe:${i}`, i).get(`pipe:${i}`);
    const replies = await pipe.exec();
    for (let i = 0; i < 1000; i += 1) assert.deepStrictEqual(replies[2 * i + 1], [null, String(i)]);
    const auto = connect({ enableAutoPipelining: true, connectionName: 'auto', db: 5 });
    await Promise.all(Array.from({ length: 200 }, (_, i) => auto.incr('auto')));
    assert.strictEqual(await auto.get('auto'), '200');
    assert.strictEqual(await r.get('auto'), null);
    assert.strictEqual(await auto.client('GETNAME'), 'auto');
    const [[wrong], [, right]] = await r.pipeline().lpush('pipe:1', 'no list').get('pipe:2').exec();
    assert.match(wrong.message, /^WRONGTYPE/);
    assert.strictEqual(right, '2');
  },

  async transactions(r) {
    assert.deepStrictEqual(await r.multi().incr('n').hset('h', 'a', 1).hgetall('h').exec(), [[null, 1], [null, 1], [null, { a: '1' }]]);
    await r.multi({ pipeline: false });
    assert.strictEqual(await r.incr('n'), 'QUEUED');
    assert.deepStrictEqual(await r.exec(), [[null, 2]]);
    const other = connect();
    await r.watch('n');
    await other.incr('n');
    assert.strictEqual(await r.multi().incr('n').exec(), null);
    await assert.rejects(r.multi().set('only the key').exec(), /EXECABORT/);
  },

  async publishAndSubscribe(r) {
    const subscriber = connect();
    const heard = [];
    subscriber.on('message', (channel, message) => heard.push(message));
    subscriber.on('pmessage', (pattern, channel, message) => heard.push(message));
    const channels = Array.from({ length: 100 }, (_, i) => `news:${i}`);
    assert.strictEqual(await subscriber.subscribe(...channels), 100);
    await subscriber.psubscribe('pattern:*');
    assert.deepStrictEqual(await subscriber.ping(), ['pong', '']);
    assert.strictEqual(await r.publish('news:7', 'hello'), 1);
    assert.strictEqual(await r.publish('pattern:x', 'there'), 1);
    await eventually('both messages', () => heard.length === 2);
    await subscriber.unsubscribe(...channels);
    await subscriber.punsubscribe('pattern:*');
    assert.strictEqual(await subscriber.set('again', 'usable'), 'OK');
    assert.strictEqual(await r.publish('news:7', 'gone'), 0);
  },

  async queues(r) {
    const pops = Array.from({ length: 10 }, () => connect().blpop('queue', 0));
    await eventually('ten blocked clients', async () => /blocked_clients:10\r/.test(await r.info('clients')));
    await r.rpush('queue', ...Array(10).keys());
    const popped = (await Promise.all(pops)).map(([, item]) => Number(item));
    assert.deepStrictEqual(popped.sort((a, b) => a - b), [...Array(10).keys()]);
    assert.strictEqual(await r.blpop('queue', 0.05), null);
  },

  async scripts(r) {
    const own = connect({ scripts: { add: { numberOfKeys: 1, lua: "return redis.call('incrby', KEYS[1], ARGV[1])" } } });
    await r.script('FLUSH');
    assert.strictEqual(await own.add('sum', 3), 3);
    await r.script('FLUSH');
    assert.strictEqual(await own.add('sum', 4), 7);
    // In a pipeline ioredis asks for the script first, and sends it whole where it is missing.
    assert.deepStrictEqual(await own.pipeline().add('sum', 1).get('sum').exec(), [[null, 8], [null, '8']]);
  },

  async streams(r) {
    await r.xgroup('CREATE', 'log', 'workers', '$', 'MKSTREAM');
    const reading = connect().xreadgroup('GROUP', 'workers', 'one', 'BLOCK', 0, 'STREAMS', 'log', '>');
    const id = await r.xadd('log', '*', 'n', 1);
    assert.deepStrictEqual(await reading, [['log', [[id, ['n', '1']]]]]);
    assert.strictEqual((await r.xpending('log', 'workers'))[0], 1);
    assert.strictEqual(await r.xack('log', 'workers', id), 1);
  },

  async iterators(r) {
    await r.mset(Object.fromEntries(Array.from({ length: 1000 }, (_, i) => [`scan:${i}`, i])));
    const found = new Set();
    for await (const keys of r.scanStream({ match: 'scan:*', count: 50 })) keys.forEach(key => found.add(key));
    assert.strictEqual(found.size, 1000);
  },

  async largeValues(r) {
    const value = Buffer.alloc(8 * 1024 * 1024, 'x');
    await r.set('large', value);
    const read = await Promise.all([r.getBuffer('large'), r.getBuffer('large')]);
    read.forEach(found => assert.ok(found.equals(value)));
  },
};

async function throughAFailover(r) {
  const [queue, subscriber, watcher] = [connect(), connect(), connect()];
  r.defineCommand('bump', { numberOfKeys: 1, lua: "return redis.call('incr', KEYS[1])" });
  const [published, popped, heard] = [[], [], []];
  subscriber.on('message', (channel, message) => heard.push(message));
  await subscriber.subscribe('news');
  const consumer = (async () => {
    while (popped.at(-1) !== 'end') popped.push((await queue.blpop('queue', 0))[1]);
  })();
  const counts = {
    counter: works(() => r.incr('counter')),
    left: works(async () => {
      const [[, left], [, right]] = await r.multi().incr('left').incr('right').exec();
      assert.strictEqual(left, right);
    }),
    scripted: works(() => r.bump('scripted')),
  };
  let watched = 0;
  const watching = works(async () => {
    await watcher.watch('watched');
    const old = Number(await watcher.get('watched'));
    if (await watcher.multi().set('watched', old + 1).exec()) watched += 1;
  });
  const producer = works(async () => {
    const item = String(published.push(String(published.length)) - 1);
    await Promise.all([r.publish('news', item), r.rpush('queue', item)]);
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
  await Promise.all([r.publish('news', 'end'), r.rpush('queue', 'end')]);
  await consumer;
  await eventually('the last message', () => heard.at(-1) === 'end');
  assert.deepStrictEqual(popped, published);
  assert.deepStrictEqual(heard, published);
}

run(async given => {
  port = given;
  for (const feature of [...Object.values(features), throughAFailover]) {
    const r = connect();
    await r.flushall();
    await feature(r);
    clients.splice(0).forEach(client => client.disconnect());
  }
});

// What both programmes share: waiting, working on, and a failover in the middle.
'use strict';

const PATIENCE_MS = 30_000;

const sleep = ms => new Promise(resolve => setTimeout(resolve, ms));

async function eventually(what, condition) {
  const deadline = Date.now() + PATIENCE_MS;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`never: ${what}`);
    await sleep(5);
  }
}

/** Repeats a step until it is stopped; `stop` gives the number of rounds. */
function works(step) {
  let on = true;
  const rounds = (async () => {
    let count = 0;
    for (; on; count += 1) {
      await step();
      await sleep(1);
    }
    return count;
  })();
  rounds.catch(() => {});
  return { stop: () => ((on = false), rounds) };
}

/** Says that a failover may begin, and waits for the line that says that it is over. */
async function failover() {
  console.log('failover');
  await new Promise(resolve => process.stdin.once('data', resolve));
  await sleep(500);
}

/** Runs the programme; whatever goes wrong anywhere ends it with an error. */
function run(main) {
  process.on('unhandledRejection', error => {
    console.error(error);
    process.exit(1);
  });
  main(Number(process.argv[2])).then(() => process.exit(0));
}

module.exports = { PATIENCE_MS, sleep, eventually, works, failover, run };

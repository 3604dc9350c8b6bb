// Connections between engine and Redis that are lost, silent, or cut within a reply.
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll } from 'vitest';
import { pick } from './harness/forms.ts';
import type { Direction } from './harness/proxy.ts';
import { scenario } from './harness/scenario.ts';
import { measuredPromise, printTimings } from './harness/timings.ts';
import { GROUP, STREAM, type World } from './harness/world.ts';

afterAll(printTimings);

const RATE = pick(200, 1000);
const READER = 'subito:reader:events';
const COMMITTER = 'subito:committer';
/** With the waiting of a read, and the time after which an answer that is due is no longer expected. */
const SILENCE_MS = 500 + 5000;

/** What was in hand when it happened is settled at once, and not only when somebody claims it. */
async function recovered(world: World, what: string): Promise<void> {
  world.note(what);
  const beginMs = performance.now();
  await world.settledIds(await world.pending(), 60_000);
  measuredPromise(`${what}, until its events are settled`, performance.now() - beginMs, 500);
}

scenario('replies are lost after commits', { concurrent: true }, async (world) => {
  const { proxy } = world.engine(0);
  world.producer.start(RATE);
  for (let round = 0; round < pick(8, 50); round += 1) {
    await proxy.loseReplyTo('EVALSHA', COMMITTER);
    await recovered(world, 'the reply to a commit is lost');
    await world.flows();
  }
});

scenario('replies are lost after reads', { concurrent: true }, async (world) => {
  const { proxy } = world.engine(0);
  world.producer.start(RATE);
  for (let round = 0; round < pick(8, 50); round += 1) {
    await proxy.loseReplyTo('XREADGROUP', READER);
    await recovered(world, 'the reply to a read is lost');
    await world.flows();
  }
});

scenario('replies are cut in their middle', { concurrent: true }, async (world) => {
  const { proxy } = world.engine(0);
  world.producer.start(RATE);
  for (let round = 0; round < pick(8, 50); round += 1) {
    const name = round % 2 === 0 ? READER : COMMITTER;
    await proxy.truncateReply(name);
    await recovered(world, `a reply to ${name} is cut`);
    await world.flows();
  }
});

scenario('an outage that is longer than a read waits', { concurrent: true, engines: 2 }, async (world) => {
  world.producer.start(RATE);
  for (let round = 0; round < pick(1, 4); round += 1) {
    await world.flows();
    await sleep(300);
    world.note('outage');
    for (const { proxy } of world.engines) proxy.refuse();
    await sleep(pick(2000, 8000));
    for (const { proxy } of world.engines) proxy.accept();
    measuredPromise('the network back until events are settled again', await world.flows(), 1000);
  }
});

const halfOpen: readonly (readonly [string, string, Direction])[] = [
  ['the reader', READER, 'down'],
  ['the reader', READER, 'both'],
  ['the committer', COMMITTER, 'up'],
  ['the committer', COMMITTER, 'down'],
];
for (const [who, name, direction] of halfOpen) {
  scenario(`half-open: ${who}, ${direction}`, { concurrent: true }, async (world) => {
    const { proxy } = world.engine(0);
    world.producer.start(100);
    for (let round = 0; round < pick(1, 3); round += 1) {
      await world.flows();
      await sleep(200);
      world.note('silence');
      // Over at once for whoever connects anew.
      proxy.silence(direction, name)();
      const beginMs = performance.now();
      // By then nothing that was under way is left, nor room for more.
      await sleep(500);
      await world.settledEvent(world.producer.count, 60_000);
      const what = `half-open, ${who}, ${direction}: until events are settled again`;
      measuredPromise(what, performance.now() - beginMs, SILENCE_MS + 1500);
    }
  });
}

scenario(
  'half-open: the control connection; the engine still takes over what another has left',
  {
    concurrent: true,
    engines: 2,
    model: 'trouble',
    data: () => ({ do: 'wait', ms: 2 }),
    limits: { batch_rows_max: 64 },
  },
  async (world) => {
    const [left, stays] = [world.engine(0), world.engine(1)];
    world.producer.start(100);
    await world.flows();
    world.note('silence');
    stays.proxy.silence('both', 'subito:control')();
    await sleep(7000);
    await world.inHand();
    await left.process.kill();
    const ids = await world.pending();
    world.note(`killed the other with ${ids.length} in hand`);
    await world.settledIds(ids, 60_000);
    // What needs the control connection works again, too.
    await world.inHand();
    world.note('XGROUP DESTROY');
    await world.client.xgroup('DESTROY', STREAM, GROUP);
    await world.flows(25_000);
  },
);

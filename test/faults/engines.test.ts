// Engines that are killed, paused and taken away under load.
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, expect } from 'vitest';
import { pick } from './harness/forms.ts';
import { scenario } from './harness/scenario.ts';
import { measured, measuredPromise, printTimings } from './harness/timings.ts';
import { CLAIM_IDLE_MS } from './harness/world.ts';

afterAll(printTimings);

const KILLS = 5;
/** Before it is given up: a machine may have much else to do. */
const WAIT_MS = 60_000;
/** What the project promises beyond the claim time. */
const RECOVERY_MS = CLAIM_IDLE_MS + 2000;

scenario('SIGKILL of the engine mid-batch, five times in a row under load', {}, async (world) => {
  const { process } = world.engine(0);
  world.producer.start(pick(300, 3000));
  let left = 0;
  for (let round = 0; round < KILLS; round += 1) {
    await world.flows();
    await sleep(pick(150, 1500));
    await world.inHand();
    await process.kill();
    const ids = await world.pending();
    left += ids.length;
    world.note(`killed with ${ids.length} in hand`);
    await process.start();
    if (ids.length > 0) await world.settledIds(ids, WAIT_MS);
  }
  // Else this shows nothing.
  expect(left).toBeGreaterThan(0);
  await world.producer.stop();
  await world.outcomes.read();
  expect(world.outcomes.all().filter(({ stream }) => stream === 'deadletters')).toEqual([]);
});

/** Each batch takes a while, so that there is always one in hand. */
const slow = {
  model: 'trouble',
  data: () => ({ do: 'wait', ms: 2 }),
  limits: { batch_rows_max: 64 },
} as const;

scenario(
  'SIGKILL of one of two engines: the other settles its events',
  { engines: 2, concurrent: true, ...slow },
  async (world) => {
    world.producer.start(100);
    await world.flows();
    for (let round = 0; round < pick(1, 4); round += 1) {
      await sleep(500);
      await world.inHand();
      await world.engine(0).process.kill();
      const beginMs = performance.now();
      const ids = await world.pending();
      world.note(`killed with ${ids.length} in hand`);
      await world.settledIds(ids, WAIT_MS);
      const what = 'SIGKILL of an engine until another has settled its events';
      measuredPromise(what, performance.now() - beginMs, RECOVERY_MS);
      await world.engine(0).process.start();
    }
  },
);

scenario(
  'an engine is paused past the claim time, another serves its events, and it wakes up',
  { engines: 2, concurrent: true, ...slow },
  async (world) => {
    world.producer.start(100);
    await world.flows();
    for (let round = 0; round < pick(1, 4); round += 1) {
      await sleep(500);
      await world.inHand();
      world.engine(0).process.pause();
      const beginMs = performance.now();
      await sleep(50);
      const ids = await world.pending();
      world.note(`paused, ${ids.length} in hand`);
      await sleep(CLAIM_IDLE_MS + 500);
      await world.settledIds(ids, WAIT_MS);
      measured('SIGSTOP of an engine until another has settled its events', performance.now() - beginMs);
      world.engine(0).process.resume();
      world.note('resumed');
      await sleep(1000);
    }
  },
);

scenario(
  'scale-in during a burst: what the leaving engine has not finished is served by the other at once',
  // What is in hand takes longer than a stop may; a claim would come far too late.
  {
    engines: 2,
    concurrent: true,
    model: 'trouble',
    data: () => ({ do: 'wait', ms: 10 }),
    limits: { stop_ms_max: 900, infer_ms_max: 900, batch_rows_max: 32, claim_idle_ms: 600_000 },
  },
  async (world) => {
    void world.producer.send(450);
    await world.flows();
    await sleep(300);
    world.note('SIGTERM');
    await world.engine(0).process.terminate();
    const beginMs = performance.now();
    const ids = await world.pending();
    world.note(`it left; ${ids.length} are pending`);
    expect(ids.length).toBeGreaterThan(0);
    await world.settledIds(ids, WAIT_MS);
    measured('SIGTERM during a burst until the other has settled the leftovers', performance.now() - beginMs);
  },
);

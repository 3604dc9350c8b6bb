// The stream and its group are deleted, shared and tidied up while events flow.
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, expect } from 'vitest';
import { until } from '../support/core.ts';
import { pick } from './harness/forms.ts';
import { scenario } from './harness/scenario.ts';
import { measured, printTimings } from './harness/timings.ts';
import { CLAIM_IDLE_MS, GROUP, STREAM, type World } from './harness/world.ts';

afterAll(printTimings);

const RATE = 40;
/** There is always something in hand, and what came later is settled already by the other engine. */
const slow = {
  concurrent: true,
  engines: 2,
  model: 'trouble',
  data: (n: number) => ({ do: 'wait', ms: n % 8 === 0 ? 200 : 1 }),
  limits: { batch_rows_max: 2 },
} as const;

/** Carries the command out under load; returns the number of the first event after it. */
async function under(world: World, ...command: readonly [string, ...string[]]): Promise<number> {
  await world.flows();
  await sleep(pick(800, 1500));
  const ids = await world.inHand();
  world.note(`${command.join(' ')}, ${ids.length} in hand`);
  const next = await world.producer.inOrder(...command);
  measured(`${command.slice(0, 2).join(' ')} until events are settled again`, await world.flows());
  return next;
}

scenario('XGROUP DESTROY under load', slow, async (world) => {
  world.producer.start(RATE);
  for (let round = 0; round < pick(2, 6); round += 1) {
    await under(world, 'XGROUP', 'DESTROY', STREAM, GROUP);
  }
  await sleep(300);
});

scenario('DEL of the stream under load', slow, async (world) => {
  world.producer.start(RATE);
  let from = 0;
  for (let round = 0; round < pick(2, 6); round += 1) {
    const next = await under(world, 'DEL', STREAM);
    // What was settled before has kept its outcome; the rest is gone with the stream.
    world.fate(from, next, 'either');
    from = next;
  }
  await sleep(300);
});

scenario('FLUSHALL under load', slow, async (world) => {
  world.producer.start(RATE);
  let from = 0;
  for (let round = 0; round < pick(2, 6); round += 1) {
    const next = await under(world, 'FLUSHALL');
    world.fate(from, next, 'either');
    from = next;
  }
  await sleep(300);
});

scenario(
  'the input is never trimmed past what a slower group has not read',
  { engines: 2, concurrent: true, stream: { events_keep_ms: 0 } },
  async (world) => {
    const { client, producer } = world;
    await client.xgroup('CREATE', STREAM, 'slow', '0', 'MKSTREAM');
    const seen: string[] = [];
    let reading = true;
    const slow = (async () => {
      while (reading) {
        const reply = await client.xreadgroup('GROUP', 'slow', 'me', 'COUNT', 40, 'STREAMS', STREAM, '>');
        const [[, entries] = ['', []]] = (reply ?? []) as [string, [string, string[]][]][];
        if (entries.length > 0) await client.xack(STREAM, 'slow', ...entries.map(([id]) => id));
        seen.push(...entries.map(([id]) => id));
        await sleep(100);
      }
    })();
    producer.start(pick(600, 1200));
    await sleep(pick(3000, 20_000));
    await producer.stop();
    await until('the slow group has read everything', () => seen.length >= producer.added, 60_000);
    reading = false;
    await slow;
    const added = Array.from({ length: producer.count }, (_, n) => producer.sent(n));
    expect(seen).toEqual(added.map((sent) => (sent.state === 'added' ? sent.id : '')));
    // Nobody needs them any more; a node of the stream that is not full yet stays.
    await until('what both groups have settled goes', async () => (await client.xlen(STREAM)) < 200, 20_000);
  },
);

scenario(
  'the reaper leaves those alone who live, and loses nothing of those who do not',
  {
    engines: 2,
    concurrent: true,
    model: 'trouble',
    // One after the other, so slowly that a dead consumer keeps its rows for longer than the reaper waits.
    data: () => ({ do: 'wait', ms: 300 }),
    limits: { batch_rows_max: 1 },
  },
  async (world) => {
    const { client, producer } = world;
    await producer.send(30);
    // One who dies with rows, and one who dies without.
    const read = ['COUNT', '30', 'STREAMS', STREAM, '>'];
    await producer.send(30);
    await client.call('XREADGROUP', 'GROUP', GROUP, 'gone-00000000-0', ...read);
    await client.xgroup('CREATECONSUMER', STREAM, GROUP, 'gone-00000000-1');
    const held = async () => {
      const rows = (await client.xpending(STREAM, GROUP, '-', '+', 100, 'gone-00000000-0')) as unknown[];
      return rows.length;
    };
    expect(await held()).toBeGreaterThan(5);
    // A live one that is slow to answer, and so looks dead for a while.
    for (let round = 0; round < pick(1, 4); round += 1) {
      const { process } = world.engine(round % 2);
      process.pause();
      await sleep(CLAIM_IDLE_MS + 1500);
      process.resume();
      world.note(`resumed; the dead consumer holds ${await held()}`);
      void producer.send(10);
      await sleep(1500);
    }
    const names = async () => {
      const consumers = (await client.xinfo('CONSUMERS', STREAM, GROUP)) as string[][];
      return consumers.map((consumer) => consumer[1]);
    };
    const gone = async () => !(await names()).some((name) => name?.startsWith('gone-'));
    await until('the dead are gone', gone, 60_000);
  },
);

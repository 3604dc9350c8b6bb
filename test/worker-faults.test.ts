// Workers that die, hang, or cannot be started for a while, under a real engine on a real Redis: only an
// event that really kills workers is given up, and everything else is predicted once.
import { renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { collectNotices, until } from './support/core.ts';
import { entriesOf, FIXTURE_MODELS, modelsDir, startTestEngine, type TestEngine } from './support/engine.ts';

/** Does what its events say. */
const HANDLER = `
export const handler = {
  fields: [], predicts: [],
  create: () => ({
    decode(data, row) {
      if (data.do === 'throw') throw new Error('cannot be decoded');
      if (data.do === 'exit') process.exit(3);
      if (data.do === 'hang') for (;;);
      row.x[0] = data.x;
    },
    encode: (outputs) => ({ y: outputs.y[0] }),
  }),
};`;
const INFER_MS_MAX = 1500;

const notices = collectNotices();
const models = modelsDir({ obedient: { from: join(FIXTURE_MODELS, 'no_batch') } });
const handler = join(models, 'obedient', 'handler.ts');
const onnx = join(models, 'obedient', '1', 'model.onnx');
let running: TestEngine;

beforeAll(async () => {
  writeFileSync(handler, HANDLER);
  running = await startTestEngine(models, {
    workers: { max: 2 },
    limits: { infer_ms_max: INFER_MS_MAX, claim_idle_ms: 2 * INFER_MS_MAX },
  });
});
afterEach(async () => {
  notices.all.length = 0;
  await running.client.del('predictions', 'deadletters');
});
afterAll(async () => {
  await running.stop();
  notices.stop();
  rmSync(models, { recursive: true });
});

/** Adds these events in one transaction, so that they share batches; resolves with their ids. */
async function send(events: readonly object[]): Promise<string[]> {
  const all = running.client.multi();
  for (const event of events) all.xadd('events', '*', 'key', 'u', 'data', JSON.stringify(event));
  return ((await all.exec()) ?? []).map(([, id]) => id as string);
}

const good = (count: number) => Array.from({ length: count }, (_, x) => ({ x }));
const reasons = () => running.engine.backend.health().reasons.join('; ');

/** What became of these events, in their order, once all are settled: `ok`, or the dead letter's detail. */
async function outcomes(ids: readonly string[]): Promise<string[]> {
  const { client } = running;
  const found = async () => {
    const outcome = new Map<string, string[]>();
    const add = (source: unknown, what: unknown) =>
      outcome.set(String(source), [...(outcome.get(String(source)) ?? []), String(what)]);
    for (const fields of await entriesOf(client, 'predictions')) add(fields['source'], fields['status']);
    for (const fields of await entriesOf(client, 'deadletters'))
      add(fields['source'], `${fields['reason']}: ${fields['detail']}`);
    return outcome;
  };
  await until(
    'all are settled',
    async () => {
      const outcome = await found();
      return ids.every((id) => outcome.has(id));
    },
    40_000,
  );
  const outcome = await found();
  expect((await client.xpending('events', 'subito'))[0]).toBe(0);
  return ids.map((id) => outcome.get(id)?.join(' and ') ?? '');
}

const ok = (count: number) => Array.from({ length: count }, () => 'ok');

test('an event on which the handler throws is given up at once, and no worker dies', async () => {
  const ids = await send([...good(3), { do: 'throw' }, ...good(3)]);
  expect(await outcomes(ids)).toEqual([...ok(3), 'failed: cannot be decoded', ...ok(3)]);
  expect(notices.codes()).not.toContain('WORKER_DIED');
});

test.each([
  ['ends its worker', 'exit', /^failed: the worker died on this event: worker exited with code: 3/],
  ['hangs', 'hang', /^failed: the worker died on this event: .* took longer than 1500 ms/],
])(
  'an event that %s is given up, and the others of its batch are not',
  async (_, what, detail) => {
    const ids = await send([...good(5), { do: what }, ...good(5)]);
    const found = await outcomes(ids);
    expect(found[5]).toMatch(detail);
    expect(found.filter((outcome) => outcome === 'ok')).toHaveLength(10);
    await until('it is ready', () => running.engine.backend.health().ready);
  },
  30_000,
);

/** Kills both workers while they cannot be started again; then they can. */
async function passes(away: () => void, back: () => void, says: RegExp): Promise<void> {
  away();
  const killers = await send([{ do: 'exit' }, ...good(20)]);
  await until('one worker is gone', () => notices.codes().includes('WORKER_DIED'));
  const more: string[] = [];
  await until('none is left, and readiness says why', async () => {
    more.push(...(await send(good(2))));
    await sleep(20);
    return says.test(reasons());
  });
  // Successors go on failing meanwhile.
  await sleep(1000);
  more.push(...(await send(good(20))));
  await sleep(200);
  expect(await entriesOf(running.client, 'deadletters')).toEqual([]);
  expect(reasons()).toMatch(says);
  back();
  const found = await outcomes([...killers, ...more]);
  expect(found[0]).toMatch(/^failed: the worker died on this event/);
  expect(found.slice(1)).toEqual(ok(20 + more.length));
  await until('it is ready', () => running.engine.backend.health().ready);
}

test('while the handler cannot be loaded its events wait', async () => {
  const away = () => renameSync(handler, `${handler}.away`);
  const back = () => renameSync(`${handler}.away`, handler);
  await passes(away, back, /no worker can be started: .*handler\.ts/);
}, 90_000);

test('while the model file is not there its events wait', async () => {
  const away = () => renameSync(onnx, `${onnx}.away`);
  const back = () => renameSync(`${onnx}.away`, onnx);
  await passes(away, back, /no worker can be started: .*model\.onnx/);
}, 90_000);

test('while the handler ends each worker that loads it, its events wait', async () => {
  const away = () => writeFileSync(handler, 'process.exit(4);');
  const back = () => writeFileSync(handler, HANDLER);
  await passes(away, back, /no worker can be started: it ended while it loaded/);
}, 90_000);

// The guard between the runner and the workers, with a model of the test's own that fails on command: what
// counts against it, what answers instead, and that each row gets one fate.
import { expect, test } from 'vitest';
import type { InferResult, InferTask } from '../src/infer/protocol.ts';
import type { Batch } from '../src/schedule/batch.ts';
import { Batcher } from '../src/schedule/batcher.ts';
import { BREAKER_DEFAULTS } from '../src/schedule/breaker.ts';
import type { Answer } from '../src/schedule/direct.ts';
import { Guard } from '../src/schedule/guard.ts';
import { Intake } from '../src/schedule/intake.ts';
import { Ladder, type Rung, rungOf } from '../src/schedule/ladder.ts';
import { LastKnown } from '../src/schedule/last-known.ts';
import { BatchRunner } from '../src/schedule/runner.ts';
import { RESULT, ROW, ROW_COLUMNS } from '../src/schedule/slab.ts';
import {
  addModelLane,
  addRejectLane,
  admissionOf,
  INTAKE_LIMITS,
  streamOf,
  withEntry,
} from './support/batches.ts';
import { collectNotices, until } from './support/core.ts';

type Mood = 'well' | 'fails' | 'dies' | 'slow';
const PREVIOUS: Rung = { kind: 'previous', slot: 1, label: 'm@0' };
const CONSTANT: Rung = { kind: 'constant', msgpack: Buffer.from('constant'), json: Buffer.from('json') };
const lastKnown = (): Rung => ({
  kind: 'last_known',
  known: new LastKnown({ entriesMax: 100, bytesMax: 1e6, ageMsMax: 1e6 }),
});

/** Rows whose data begins with `bad` fail, with `odd` are invalid, with `kill` end their worker. */
function work({ slot, first, rows }: InferTask, batch: Batch, mood: Mood): InferResult {
  const layout = batch.layout!;
  const parts: Buffer[] = [];
  let bytes = 0;
  if (mood === 'dies') throw new Error('worker exited');
  for (let row = first; row < first + rows; row += 1) {
    const at = row * ROW_COLUMNS;
    const from = layout.arenaInOffset + (batch.table[at + ROW.inOffset] as number);
    const data = batch.memory.toString('utf8', from, from + (batch.table[at + ROW.inLength] as number));
    if (data.startsWith('kill')) throw new Error('worker exited');
    const result = data.startsWith('odd')
      ? 'invalid'
      : mood === 'fails' || /^bad/.test(data)
        ? 'failed'
        : 'ok';
    const part = Buffer.from(result === 'ok' ? `${slot}: ${data}` : `${result} on ${slot}`);
    batch.table[at + ROW.result] = RESULT[result];
    batch.table[at + ROW.outOffset] = bytes;
    batch.table[at + ROW.outLength] = part.length;
    part.copy(batch.memory, layout.arenaOutOffset + bytes);
    bytes += part.length;
    parts.push(part);
  }
  return { inferUs: mood === 'slow' ? 200_000 : 50, runUs: 5, spill: null };
}

interface Options {
  readonly rungs?: readonly Rung[];
  readonly enforced?: boolean;
}

function setUp({ rungs = [], enforced = true }: Options = {}) {
  const settled: string[][] = [];
  const tasks: InferTask[] = [];
  const state = { mood: 'well' as Mood, previousMood: 'well' as Mood, nowMs: 1000, provider: 'cpu' };
  const settings = { ...BREAKER_DEFAULTS };
  const guard = new Guard({
    models: [
      { slot: 0, label: 'm@1', settings, enforced, ladder: new Ladder(rungs) },
      { slot: 1, label: 'm@0', settings, enforced: true, ladder: new Ladder([]) },
    ],
    providerOf: () => state.provider,
    expectedMs: () => 2,
    probeMsMax: 1000,
    now: () => state.nowMs,
    random: () => 0,
  });
  const batcher = new Batcher<Batch>(1, (lane, batch) => runner.run(lane, batch));
  const lane = addModelLane(batcher, { name: 'm', rowsMax: 4, batches: 6, arenaBytes: 256 });
  const rejects = addRejectLane(batcher);
  const batches = new Map(lane.free.map((batch) => [batch.slab, batch]));
  const admission = admissionOf(batcher);
  const intake = new Intake({ ...INTAKE_LIMITS, batcher, admission, lanes: [lane], rejects });
  const runner: BatchRunner = new BatchRunner({
    batcher,
    guard,
    streamNames: ['events'],
    infer: async (task) => {
      tasks.push(task);
      const mood = task.slot === 0 ? state.mood : state.previousMood;
      return work(task, batches.get(task.slab) as Batch, mood);
    },
    settle: (batch) => {
      settled.push(rowsOf(batch));
      setImmediate(() => runner.settled(batch));
    },
    admission,
    onFreeRows: (of, rows, ms) => intake.released(of, rows, ms),
  });
  for (const one of [lane, rejects]) runner.addLane(one);
  let id = 0;
  const put = (data: string) =>
    withEntry(`${++id}-0`, ['data', data, 'key', `key of ${data}`], (buffer, entry) =>
      intake.take(streamOf(lane), buffer, entry),
    );
  /** What becomes of a batch of these. */
  const send = async (...rows: string[]): Promise<string[]> => {
    const before = settled.length;
    for (const row of rows) expect(put(row)).toBe(true);
    batcher.flush();
    await until('settled', () => settled.length > before && intake.rowsInFlight === 0);
    expect([settled.length, lane.free.length]).toEqual([before + 1, 6]);
    return settled.at(-1) as string[];
  };
  return Object.assign(state, { guard, intake, lane, batcher, tasks, settled, send });
}

function rowsOf(batch: Batch): string[] {
  return Array.from({ length: batch.rows }, (_, row) => {
    const at = row * ROW_COLUMNS;
    const from = batch.table[at + ROW.outOffset] as number;
    const text = batch.outputs.toString('utf8', from, from + (batch.table[at + ROW.outLength] as number));
    const result = ['ok', 'invalid', 'failed'][batch.table[at + ROW.result] as number];
    return `${rungOf(batch, row) || result}: ${text}`;
  });
}

type Bench = ReturnType<typeof setUp>;
const breaker = ({ guard }: Bench) => guard.breakers().find(({ model }) => model === 'm@1')?.state;

async function open(bench: Bench): Promise<void> {
  bench.mood = 'fails';
  for (let i = 0; i < 5; i += 1) await bench.send('x');
  expect(breaker(bench)).toBe('open');
}

test('a model that fails: from its second batch on the ladder answers, then nothing is asked', async () => {
  const notices = collectNotices();
  const bench = setUp({ rungs: [lastKnown(), CONSTANT] });
  expect(await bench.send('a', 'b')).toEqual(['ok: 0: a', 'ok: 0: b']);
  bench.mood = 'fails';
  expect(await bench.send('a')).toEqual(['failed: failed on 0']);
  expect(await bench.send('a', 'odd', 'c')).toEqual([
    'last_known: 0: a',
    'invalid: invalid on 0',
    'constant: constant',
  ]);
  for (let i = 0; i < 3; i += 1) await bench.send('a');
  expect(breaker(bench)).toBe('open');
  const asked = bench.tasks.length;
  expect(await bench.send('b', 'odd')).toEqual(['last_known: 0: b', 'constant: constant']);
  expect(bench.tasks.length).toBe(asked);
  expect(bench.guard.compromises()).toEqual([
    'm@1 on cpu: circuit breaker open; its events are answered by last_known, constant',
  ]);
  // It heals: three probes, and it answers for itself.
  bench.mood = 'well';
  bench.nowMs += 250;
  for (let i = 0; i < 3; i += 1) expect(await bench.send('d')).toEqual(['ok: 0: d']);
  expect(bench.guard.compromises()).toEqual([]);
  notices.stop();
  expect(notices.all.map(({ code, message }) => `${code} ${message}`)).toEqual([
    'BREAKER m@1 on cpu: circuit breaker open: 5 batches in a row failed or were slow; ' +
      'its events are answered by last_known, constant',
    'BREAKER m@1 on cpu: circuit breaker half open, batches are let through on trial',
    'BREAKER m@1 on cpu: circuit breaker closed',
  ]);
});

test('a probe that fails is answered by the ladder too', async () => {
  const bench = setUp({ rungs: [CONSTANT] });
  await open(bench);
  bench.nowMs += 250;
  const asked = bench.tasks.length;
  expect(await bench.send('x')).toEqual(['constant: constant']);
  expect([bench.tasks.length, breaker(bench)]).toEqual([asked + 1, 'open']);
});

test('bad events alone never open it, nor does what is malformed', async () => {
  const bench = setUp({ rungs: [CONSTANT] });
  for (let i = 0; i < 50; i += 1) {
    expect(await bench.send('bad', 'good')).toEqual(['failed: failed on 0', 'ok: 0: good']);
    expect(await bench.send('odd', 'odd')).toEqual(['invalid: invalid on 0', 'invalid: invalid on 0']);
  }
  expect(await bench.send('bad')).toEqual(['failed: failed on 0']);
  expect(await bench.send('good')).toEqual(['ok: 0: good']);
  expect(await bench.send('bad')).toEqual(['failed: failed on 0']);
  expect(breaker(bench)).toBe('closed');
});

test('an event that kills its worker is given up; its neighbours have their own answers', async () => {
  const notices = collectNotices();
  const bench = setUp({ rungs: [CONSTANT] });
  const died = 'failed: the worker died on this event: worker exited';
  expect(await bench.send('a', 'kill', 'b')).toEqual(['ok: 0: a', died, 'ok: 0: b']);
  expect(breaker(bench)).toBe('closed');
  notices.stop();
});

test('a model on which every worker dies is no longer asked, in the middle of a batch', async () => {
  const notices = collectNotices();
  const bench = setUp({ rungs: [CONSTANT] });
  bench.mood = 'dies';
  const rows = await bench.send('a', 'b', 'c', 'd');
  // Twice together, then three rows alone.
  expect(bench.tasks.map(({ rows: count }) => count)).toEqual([4, 4, 1, 1, 1]);
  expect(rows.slice(0, 3).every((row) => row.startsWith('failed: the worker died'))).toBe(true);
  expect(rows[3]).toBe('constant: constant');
  expect(await bench.send('x')).toEqual(['constant: constant']);
  expect(bench.tasks).toHaveLength(5);
  notices.stop();
});

test('batches that take far longer than measured open it', async () => {
  const bench = setUp({ rungs: [CONSTANT] });
  bench.mood = 'slow';
  for (let i = 0; i < 5; i += 1) expect(await bench.send('x')).toEqual(['ok: 0: x']);
  expect(await bench.send('x')).toEqual(['constant: constant']);
});

test('the previous version runs the batch; what it cannot take goes further down', async () => {
  const bench = setUp({ rungs: [PREVIOUS, CONSTANT] });
  await open(bench);
  expect(await bench.send('a', 'odd', 'bad')).toEqual([
    'previous: 1: a',
    'invalid: invalid on 1',
    'constant: constant',
  ]);
  expect(bench.tasks.at(-1)?.slot).toBe(1);
  const notices = collectNotices();
  bench.previousMood = 'dies';
  for (let i = 0; i < 5; i += 1) expect(await bench.send('a')).toEqual(['constant: constant']);
  // By now it has a breaker that is open, too.
  const asked = bench.tasks.length;
  expect(await bench.send('a')).toEqual(['constant: constant']);
  expect(bench.tasks.length).toBe(asked);
  expect(bench.guard.breakers()).toEqual([
    { model: 'm@1', provider: 'cpu', state: 'open' },
    { model: 'm@0', provider: 'cpu', state: 'open' },
  ]);
  notices.stop();
});

test('the previous version is not asked where each row is known', async () => {
  const bench = setUp({ rungs: [lastKnown(), PREVIOUS] });
  await bench.send('a', 'b');
  await open(bench);
  const asked = bench.tasks.length;
  expect(await bench.send('b', 'a')).toEqual(['last_known: 0: b', 'last_known: 0: a']);
  expect(bench.tasks.length).toBe(asked);
  expect(await bench.send('b', 'new')).toEqual(['last_known: 0: b', 'previous: 1: new']);
});

test('when no rung answers, rows fail at once; requests are told when to ask again', async () => {
  const bench = setUp({ rungs: [lastKnown()] });
  await open(bench);
  const refused = 'failed: m@1 cannot be asked, its circuit breaker is open; no answer from last_known';
  for (let i = 0; i < 100; i += 1) expect(await bench.send('new', 'newer')).toEqual([refused, refused]);
  const answers: Answer[] = [];
  const event = { model: 'm', key: 'k', event: '', json: false, deadlineMs: 0, data: Buffer.from('x') };
  bench.intake.takeDirect(bench.lane, event, Date.now(), (answer) => answers.push({ ...answer }));
  bench.batcher.flush();
  await until('answered', () => answers.length === 1);
  expect(answers[0]).toMatchObject({ status: 'unavailable', retryMs: 250, rung: '', model: 'm@1' });
});

test('requests are answered as degraded, with the rung', async () => {
  const bench = setUp({ rungs: [CONSTANT] });
  await open(bench);
  const answers: (Answer & { text: string })[] = [];
  for (const json of [false, true]) {
    const event = { model: 'm', key: 'k', event: '', json, deadlineMs: 0, data: Buffer.from('x') };
    bench.intake.takeDirect(bench.lane, event, Date.now(), (answer) =>
      answers.push({ ...answer, text: Buffer.from(answer.outputs).toString() }),
    );
  }
  bench.batcher.flush();
  await until('answered', () => answers.length === 2);
  expect(answers).toMatchObject([
    { status: 'degraded', rung: 'constant', text: 'constant', detail: '' },
    { status: 'degraded', rung: 'constant', text: 'json', detail: '' },
  ]);
});

test('where the manifest asks for nothing, batches go to the model all the same', async () => {
  const bench = setUp({ enforced: false });
  await open(bench);
  expect(await bench.send('x')).toEqual(['failed: failed on 0']);
  expect(bench.guard.compromises()).toEqual([
    'm@1 on cpu: circuit breaker open; batches go there all the same, as its manifest names nothing to ' +
      'answer instead',
  ]);
  bench.mood = 'well';
  expect(await bench.send('x')).toEqual(['ok: 0: x']);
  bench.nowMs += 250;
  for (let i = 0; i < 3; i += 1) expect(await bench.send('x')).toEqual(['ok: 0: x']);
  expect(breaker(bench)).toBe('closed');
});

test('a model that has moved to another provider starts anew there', async () => {
  const bench = setUp({ rungs: [CONSTANT] });
  bench.provider = 'cuda';
  await open(bench);
  bench.provider = 'cpu';
  bench.mood = 'well';
  expect(await bench.send('x')).toEqual(['ok: 0: x']);
  expect(bench.guard.breakers()).toEqual([{ model: 'm@1', provider: 'cpu', state: 'closed' }]);
  expect(bench.guard.compromises()).toEqual([]);
  bench.provider = 'cuda';
  expect(await bench.send('x')).toEqual(['constant: constant']);
});

// The runner with an infer function of the test: whatever workers do, every row gets one fate.
import { expect, test } from 'vitest';
import type { InferResult, InferTask } from '../src/infer/protocol.ts';
import { channels, type SettleReport } from '../src/observe/channels.ts';
import type { Batch } from '../src/schedule/batch.ts';
import { Batcher } from '../src/schedule/batcher.ts';
import type { Answer } from '../src/schedule/direct.ts';
import { Intake } from '../src/schedule/intake.ts';
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

type Infer = (task: InferTask, batch: Batch, run: number) => Promise<InferResult>;

interface Settled {
  readonly model: string;
  readonly record: number | null;
  /** Per row: id, result, and the prediction or the detail. */
  readonly rows: readonly (readonly [string, number, string])[];
}

function setUp(infer: Infer, { rowsMax = 4, record = false } = {}) {
  const settled: Settled[] = [];
  const tasks: InferTask[] = [];
  const freed: number[] = [];
  const batcher = new Batcher<Batch>(1, (lane, batch) => runner.run(lane, batch));
  const lane = addModelLane(batcher, { name: 'm', rowsMax, batches: 4, arenaBytes: 256, record });
  const rejects = addRejectLane(batcher);
  const batches = new Map(lane.free.map((batch) => [batch.slab, batch]));
  const admission = admissionOf(batcher);
  const intake = new Intake({ ...INTAKE_LIMITS, batcher, admission, lanes: [lane], rejects });
  const runner: BatchRunner = new BatchRunner({
    batcher,
    streamNames: ['events', 'more'],
    infer: (task) => {
      tasks.push(task);
      return infer(task, batches.get(task.slab) as Batch, tasks.length);
    },
    settle: (batch, model, recordStream) => {
      settled.push({ model, record: recordStream, rows: rowsOf(batch) });
      setImmediate(() => runner.settled(batch));
    },
    admission,
    onFreeRows: (of, rows, ms) => {
      freed.push(rows.rows);
      intake.released(of, rows, ms);
    },
  });
  for (const one of [lane, rejects]) runner.addLane(one);
  const put = (n: number, stream = 0) =>
    withEntry(`${n}-0`, ['data', String(n), 'key', `k${n}`], (buffer, entry) =>
      intake.take({ ...streamOf(lane), index: stream }, buffer, entry),
    );
  return { batcher, intake, lane, rejects, settled, tasks, freed, put };
}

function rowsOf(batch: Batch): Settled['rows'] {
  return Array.from({ length: batch.rows }, (_, row) => {
    if (batch.layout === null) return [batch.id(row), RESULT.invalid, batch.details[row] as string] as const;
    const at = row * ROW_COLUMNS;
    const from = batch.table[at + ROW.outOffset] as number;
    const text = batch.outputs.toString('utf8', from, from + (batch.table[at + ROW.outLength] as number));
    return [batch.id(row), batch.table[at + ROW.result] as number, text] as const;
  });
}

/** What a worker does: each row's prediction says the row's data. `spill`: beside the slab, not within. */
function work({ first, rows }: InferTask, batch: Batch, spill = false): InferResult {
  const layout = batch.layout!;
  const parts: Buffer[] = [];
  let bytes = 0;
  for (let row = first; row < first + rows; row += 1) {
    const at = row * ROW_COLUMNS;
    const from = layout.arenaInOffset + (batch.table[at + ROW.inOffset] as number);
    const data = batch.memory.toString('utf8', from, from + (batch.table[at + ROW.inLength] as number));
    const part = Buffer.from(`out of ${data}`);
    batch.table[at + ROW.result] = RESULT.ok;
    batch.table[at + ROW.outOffset] = bytes;
    batch.table[at + ROW.outLength] = part.length;
    bytes += part.length;
    parts.push(part);
  }
  const all = Buffer.concat(parts);
  if (!spill) all.copy(batch.memory, layout.arenaOutOffset);
  return { inferUs: 10 * rows, runUs: 5 * rows, spill: spill ? new Uint8Array(all) : null };
}

const died = () => Promise.reject(new Error('worker exited'));
const good = (n: number) => [`${n}-0`, RESULT.ok, `out of ${n}`];

test('rows run once, together, and are free again', async () => {
  const bench = setUp(async (task, batch) => work(task, batch));
  for (const n of [1, 2, 3]) bench.put(n);
  bench.batcher.flush();
  await until('settled', () => bench.freed.length === 1);
  expect(bench.settled).toEqual([{ model: 'm@1', record: null, rows: [good(1), good(2), good(3)] }]);
  expect(bench.tasks.map(({ first, rows }) => [first, rows])).toEqual([[0, 3]]);
  expect([bench.freed, bench.intake.rowsInFlight, bench.lane.free.length]).toEqual([[3], 0, 4]);
});

test('a worker that dies once costs nothing but a second run', async () => {
  const notices = collectNotices();
  const bench = setUp((task, batch, run) => (run === 1 ? died() : Promise.resolve(work(task, batch))));
  for (const n of [1, 2]) bench.put(n);
  bench.batcher.flush();
  await until('settled', () => bench.freed.length === 1);
  notices.stop();
  expect(bench.tasks.map(({ first, rows }) => [first, rows])).toEqual([
    [0, 2],
    [0, 2],
  ]);
  expect(bench.settled[0]?.rows).toEqual([good(1), good(2)]);
  expect(notices.codes()).toEqual(['WORKER_DIED']);
});

test.each([false, true])('only the row that kills is given up (spill: %s)', async (spill) => {
  const kills = (task: InferTask) => task.first <= 1 && task.first + task.rows > 1;
  const bench = setUp((task, batch) => (kills(task) ? died() : Promise.resolve(work(task, batch, spill))));
  for (const n of [11, 22, 33, 44]) bench.put(n);
  bench.batcher.flush();
  await until('settled', () => bench.freed.length === 1);
  expect(bench.tasks.map(({ first, rows }) => [first, rows])).toEqual([
    [0, 4],
    [0, 4],
    [0, 1],
    [1, 1],
    [2, 1],
    [3, 1],
  ]);
  expect(bench.settled).toHaveLength(1);
  expect(bench.settled[0]?.rows).toEqual([
    good(11),
    ['22-0', RESULT.failed, 'the worker died on this event: worker exited'],
    good(33),
    good(44),
  ]);
  // The worker is free again, and the batch starts afresh.
  for (const n of [1, 2]) bench.put(n);
  bench.batcher.flush();
  await until('settled', () => bench.freed.length === 2);
  expect(bench.intake.rowsInFlight).toBe(0);
});

test('while a batch runs alone its worker is not given away', async () => {
  let running = 0;
  let runningMax = 0;
  const bench = setUp(
    async (task, batch) => {
      running += 1;
      runningMax = Math.max(runningMax, running);
      await new Promise((resolve) => setTimeout(resolve, 2));
      running -= 1;
      if (task.first === 0) throw new Error('died');
      return work(task, batch);
    },
    { rowsMax: 2 },
  );
  for (const n of [1, 2, 3, 4, 5, 6]) bench.put(n);
  bench.batcher.flush();
  await until('settled', () => bench.freed.length === 3);
  expect(runningMax).toBe(1);
});

test('predictions that did not fit the slab are taken from beside it', async () => {
  const bench = setUp(async (task, batch) => work(task, batch, true));
  for (const n of [5, 6]) bench.put(n);
  bench.batcher.flush();
  await until('settled', () => bench.freed.length === 1);
  expect(bench.settled[0]?.rows).toEqual([good(5), good(6)]);
  // The next batch of the same slab is read from the slab again.
  expect(bench.lane.free.every((batch) => batch.outputs.buffer === batch.shared)).toBe(true);
});

test('requests are answered before Redis has been told, each once, with its own outcome', async () => {
  const results = [RESULT.ok, RESULT.invalid, RESULT.failed];
  const bench = setUp(
    async (task, batch) => {
      const result = work(task, batch);
      for (let row = 0; row < task.rows; row += 1)
        batch.table[row * ROW_COLUMNS + ROW.result] = results[row] as number;
      return result;
    },
    { record: true },
  );
  const answers: string[] = [];
  const event = { model: 'm', key: '', event: '', json: false, deadlineMs: 0 };
  for (let n = 0; n < 3; n += 1) {
    bench.intake.takeDirect(
      bench.lane,
      { ...event, data: Buffer.from(String(n)) },
      Date.now(),
      (answer: Answer) => {
        expect(bench.settled).toEqual([]);
        answers.push(`${answer.model} ${answer.status} ${Buffer.from(answer.outputs)} ${answer.detail}`);
      },
    );
  }
  bench.batcher.flush();
  await until('settled', () => bench.freed.length === 1);
  expect(answers).toEqual(['m@1 ok out of 0 ', 'm@1 invalid  out of 1', 'm@1 failed  out of 2']);
  expect(bench.settled[0]?.record).toBe(0);
});

test('rejected events need no worker', async () => {
  const bench = setUp(() => new Promise(() => {}));
  bench.put(1);
  bench.batcher.flush();
  bench.intake.reject(streamOf(bench.lane), '9-9', 'because');
  bench.batcher.flush();
  await until('settled', () => bench.freed.length === 1);
  expect(bench.settled).toEqual([{ model: '', record: null, rows: [['9-9', RESULT.invalid, 'because']] }]);
});

test('the report of a batch counts each stream and each outcome for itself', async () => {
  const reports: SettleReport[] = [];
  const listen = (report: unknown) => {
    const { arrivedMs, ...rest } = report as SettleReport;
    reports.push({ ...rest, arrivedMs: arrivedMs.slice(0, rest.rows) });
  };
  channels.settle.subscribe(listen);
  const bench = setUp(async (task, batch) => {
    const result = work(task, batch);
    if (task.rows > 1) batch.table[ROW_COLUMNS + ROW.result] = RESULT.invalid;
    return result;
  });
  for (const [n, stream] of [
    [1, 0],
    [2, 0],
    [3, 1],
    [4, 0],
  ] as const)
    bench.put(n, stream);
  bench.batcher.flush();
  await until('settled', () => bench.freed.length === 2);
  channels.settle.unsubscribe(listen);
  const seen = reports.map(({ stream, ok, invalid, failed, rows, arrivedMs }) => ({
    stream,
    ok,
    invalid,
    failed,
    rows,
    arrivedMs: [...arrivedMs],
  }));
  expect(seen).toEqual([
    { stream: 'events', ok: 2, invalid: 1, failed: 0, rows: 3, arrivedMs: [1, 2, 4] },
    { stream: 'more', ok: 1, invalid: 0, failed: 0, rows: 1, arrivedMs: [3] },
  ]);
});

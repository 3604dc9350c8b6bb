/** Who is measured, and how each is started, filled, watched and checked. */
import { join } from 'node:path';
import type { MakeWay } from '../../src/load/run.ts';
import { PYTHON, programOf } from '../peers/python.ts';
import { Runner } from '../runner.ts';
import type { Site } from '../site.ts';
import { MODEL_PATH } from '../site.ts';
import { added, field, fillStream, lastAddedMs, verifyOnce } from '../streams.ts';
import { BullWay, EVENTS, jobs, openQueue } from './bullmq-way.ts';
import { startEngine } from './engine.ts';

export interface Contestant {
  readonly name: string;
  /** What it does, for the results. */
  readonly what: string;
  /** Events a second that it about reaches: so many are in the first fill. */
  readonly guessPerS: number;
  /** Its virtual environment; null: not Python. */
  readonly venv: string | null;
  start(site: Site): Promise<Runner>;
  fill(site: Site, batch: string, count: number): Promise<void>;
  /** Events answered since the server was emptied. */
  answered(site: Site): Promise<number>;
  /** Unix milliseconds of the last answer, by the server's clock. */
  lastAnswerMs(site: Site): Promise<number>;
  /** Null, or what is wrong with the answers to a batch. */
  verify(site: Site, batch: string, count: number): Promise<string | null>;
  /** Gives back the memory of what is answered and checked. */
  forget(site: Site): Promise<void>;
  /** How the open loop reaches it; null: over the stream. */
  way(site: Site): MakeWay | null;
}

const trim = (site: Site, stream: string) => site.wire.call(['XTRIM', stream, 'MAXLEN', '0']);

/** What all contestants on streams have in common. */
const onStreams = {
  venv: null,
  fill: (site: Site, batch: string, count: number) => fillStream(site.wire, batch, count),
  answered: (site: Site) => added(site.wire, 'predictions'),
  lastAnswerMs: (site: Site) => lastAddedMs(site.wire, 'predictions'),
  verify: (site: Site, batch: string, count: number) =>
    verifyOnce(site.wire, 'predictions', batch, count, (fields) =>
      field(fields, 'status') === 'ok' ? field(fields, 'event') : undefined,
    ),
  async forget(site: Site) {
    await trim(site, 'events');
    await trim(site, 'predictions');
  },
  way: () => null,
};

/** What both BullMQ workers have in common. */
const onQueue = {
  venv: null,
  guessPerS: 5_000,
  async fill(site: Site, batch: string, count: number) {
    const queue = openQueue(site.redisUrl);
    for (let from = 0; from < count; from += 1000) {
      await queue.addBulk(jobs(batch, from, Math.min(1000, count - from)));
    }
    await queue.close();
  },
  async answered(site: Site) {
    const queued = await Promise.all(
      ['wait', 'active'].map((list) => site.wire.call(['LLEN', `bull:bench:${list}`])),
    );
    const total = Number((await site.wire.call(['GET', 'bull:bench:id'])) ?? 0);
    return total - (queued as number[]).reduce((sum, length) => sum + length, 0);
  },
  lastAnswerMs: (site: Site) => lastAddedMs(site.wire, EVENTS),
  verify: (site: Site, batch: string, count: number) =>
    verifyOnce(site.wire, EVENTS, batch, count, (fields) =>
      field(fields, 'event') === 'completed' ? field(fields, 'jobId') : undefined,
    ),
  async forget(site: Site) {
    await trim(site, EVENTS);
  },
  way:
    (site: Site): MakeWay =>
    (run, settle, fail) =>
      new BullWay(site.redisUrl, run, settle, fail),
};

const saysReady = async (output: string) => output.includes('ready\n');

const peer = (name: string, ...args: readonly string[]) => {
  const path = new URL(`../peers/${name}.ts`, import.meta.url).pathname;
  return (site: Site) => Runner.start([path, site.redisUrl, MODEL_PATH, ...args], saysReady);
};

/** `file` of bench/peers/python, in its own virtual environment. */
const pythonPeer = (venv: string, file: string) => ({
  venv,
  start: (site: Site) =>
    Runner.start([join(PYTHON, file), site.redisUrl, MODEL_PATH], saysReady, {
      program: programOf(venv, 'python'),
      env: { PYTHONDONTWRITEBYTECODE: '1' },
    }),
});

/** A drain is checked whole: nothing may be trimmed before. */
const KEEP_ALL = { predictions_max: 10_000_000 };

const engine = (env: Readonly<Record<string, string>>) => async (site: Site) => {
  const { runner } = await startEngine(site, { config: { limits: KEEP_ALL }, env });
  return runner;
};

export const subito: Contestant = {
  name: 'subito',
  what: 'the engine as users start it: `subito serve`, one worker thread, gateway on',
  guessPerS: 100_000,
  ...onStreams,
  start: engine({}),
};

/** Without the native addon. */
export const twin: Contestant = {
  ...subito,
  name: 'subito-twin',
  what: 'the same with `native: off`: its pieces in TypeScript',
  start: engine({ SUBITO_NATIVE: 'off' }),
};

const batchedText = 'XREADGROUP COUNT 128, one run a batch, pipelined XADDs and one XACK, reads ahead';
const bullText = 'BullMQ 6: concurrency 100, result returned, finished jobs removed';

export const contestants: readonly Contestant[] = [
  subito,
  twin,
  {
    name: 'batched',
    what: `ioredis 6: ${batchedText}`,
    guessPerS: 50_000,
    ...onStreams,
    start: peer('batched', 'ioredis'),
  },
  {
    name: 'batched-iovalkey',
    what: 'the same on iovalkey, the faster client',
    guessPerS: 50_000,
    ...onStreams,
    start: peer('batched', 'iovalkey'),
  },
  {
    name: 'batched-python',
    what: 'the same in Python: redis-py 8 with hiredis',
    guessPerS: 20_000,
    ...onStreams,
    ...pythonPeer('consumer', 'consumer.py'),
  },
  {
    name: 'naive',
    what: 'ioredis 6: XREADGROUP COUNT 1, one run an event, XADD, XACK',
    guessPerS: 3_000,
    ...onStreams,
    start: peer('naive'),
  },
  {
    name: 'bullmq',
    what: `${bullText}; each job runs the model for itself, as its documentation has it`,
    ...onQueue,
    start: peer('bullmq', 'each'),
  },
  {
    name: 'bullmq-batched',
    what: 'the same, kinder to it: the jobs in hand are one run, which else only BullMQ Pro has',
    ...onQueue,
    start: peer('bullmq', 'together'),
  },
];

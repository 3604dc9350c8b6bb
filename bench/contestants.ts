/** Who is measured, and how each is started, filled, watched and checked. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { MakeWay } from '../src/load/run.ts';
import { freePort } from '../src/redis/embedded.ts';
import { BullWay, EVENTS, jobs, openQueue } from './bullmq-way.ts';
import type { Site } from './site.ts';
import { MODEL_PATH, Runner } from './site.ts';
import { added, field, fillStream, lastAddedMs, verifyOnce } from './streams.ts';

export interface Contestant {
  readonly name: string;
  /** What it does, for the results. */
  readonly what: string;
  /** Events of the first drain; later ones last as long as asked. */
  readonly firstCount: number;
  start(site: Site): Promise<Runner>;
  fill(site: Site, batch: string, count: number): Promise<void>;
  /** Events answered since the server was emptied. */
  answered(site: Site): Promise<number>;
  /** Unix milliseconds of the last answer, by the server's clock. */
  lastAnswerMs(site: Site): Promise<number>;
  /** Null, or what is wrong with the answers to a batch. */
  verify(site: Site, batch: string, count: number): Promise<string | null>;
  /** How the open loop reaches it; null: over the stream. */
  way(site: Site): MakeWay | null;
}

const path = (name: string) => new URL(name, import.meta.url).pathname;

/** What all contestants on streams have in common. */
const onStreams = {
  fill: (site: Site, batch: string, count: number) => fillStream(site.wire, batch, count),
  answered: (site: Site) => added(site.wire, 'predictions'),
  lastAnswerMs: (site: Site) => lastAddedMs(site.wire, 'predictions'),
  verify: (site: Site, batch: string, count: number) =>
    verifyOnce(site.wire, 'predictions', batch, count, (fields) =>
      field(fields, 'status') === 'ok' ? field(fields, 'event') : undefined,
    ),
  way: () => null,
};

const peer = (name: string) => (site: Site) =>
  Runner.start([path(`peers/${name}.ts`), site.redisUrl, MODEL_PATH], async (output) =>
    output.includes('ready\n'),
  );

export const subito: Contestant = {
  name: 'subito',
  what: 'the engine as users start it: `subito serve`, one worker thread, gateway on',
  firstCount: 200_000,
  ...onStreams,
  async start(site) {
    const port = await freePort();
    const config = {
      redis: { url: site.redisUrl },
      streams: [{ name: 'events', model: 'mlp', deadline_ms: 3_600_000 }],
      models: { path: path('models') },
      workers: { min: 1, max: 1 },
      gateway: { port },
      log: { level: 'warn' },
      // The drain is checked whole: nothing may be trimmed before.
      limits: { predictions_max: 10_000_000 },
    };
    const file = join(site.directory, 'subito.yaml');
    writeFileSync(file, JSON.stringify(config));
    const ready = () =>
      fetch(`http://127.0.0.1:${port}/v2/health/ready`).then(
        (response) => response.ok,
        () => false,
      );
    return Runner.start([path('../src/main.ts'), 'serve', '--config', file], ready);
  },
};

export const contestants: readonly Contestant[] = [
  subito,
  {
    name: 'batched',
    what: 'ioredis 6, XREADGROUP COUNT 128, one run a batch, pipelined XADDs and one XACK, reads ahead',
    firstCount: 100_000,
    ...onStreams,
    start: peer('batched'),
  },
  {
    name: 'naive',
    what: 'ioredis 6, XREADGROUP COUNT 1, one run an event, XADD, XACK',
    firstCount: 10_000,
    ...onStreams,
    start: peer('naive'),
  },
  {
    name: 'bullmq',
    what: 'BullMQ 6, concurrency 100, jobs in hand run as one batch, result returned, finished jobs removed',
    firstCount: 10_000,
    start: peer('bullmq'),
    async fill(site, batch, count) {
      const queue = openQueue(site.redisUrl);
      for (let from = 0; from < count; from += 1000) {
        await queue.addBulk(jobs(batch, from, Math.min(1000, count - from)));
      }
      await queue.close();
    },
    async answered(site) {
      const queued = await Promise.all(
        ['wait', 'active'].map((list) => site.wire.call(['LLEN', `bull:bench:${list}`])),
      );
      const total = Number((await site.wire.call(['GET', 'bull:bench:id'])) ?? 0);
      return total - (queued as number[]).reduce((sum, length) => sum + length, 0);
    },
    lastAnswerMs: (site) => lastAddedMs(site.wire, EVENTS),
    verify: (site, batch, count) =>
      verifyOnce(site.wire, EVENTS, batch, count, (fields) =>
        field(fields, 'event') === 'completed' ? field(fields, 'jobId') : undefined,
      ),
    way: (site) => (run, settle, fail) => new BullWay(site.redisUrl, run, settle, fail),
  },
];

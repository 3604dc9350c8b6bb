/**
 * A good hand-written consumer on ioredis, or on iovalkey, which speaks the same API: XREADGROUP COUNT 128,
 * one session.run a batch, all predictions and one XACK in one pipeline. The next batch is asked for while
 * this one is computed and the last one is committed, on connections of their own, and the model runs in this
 * thread: a batch of 128 takes 65 us, a trip to another thread 50.
 * Tried and left: RESP2 instead of ioredis 6's RESP3 (no difference), Buffers or MessagePack in the XADDs (a
 * fifth more CPU than text, which ioredis joins into one string).
 * Arguments: Redis URL, path of the model, `ioredis` or `iovalkey`.
 */
import type { Redis as Client } from 'ioredis';
import { fieldOf, loadModel, ROW_BYTES, ROW_FLOATS } from './session.ts';

const BATCH = 128;
/** Pipelines on the way; more would only hide a Redis that cannot keep up. */
const COMMITS_MAX = 4;

const [url = '', modelPath = '', client = 'ioredis'] = process.argv.slice(2);

// What is used of iovalkey has the types of ioredis.
const { Redis } = (await import(client)) as { readonly Redis: new (url: string) => Client };

const reader = new Redis(url);
const writer = new Redis(url);
const model = await loadModel(modelPath, BATCH);
await writer.xgroup('CREATE', 'events', 'bench', '0', 'MKSTREAM');
process.stdout.write('ready\n');

type Reply = [Buffer, [Buffer, Buffer[]][]][] | null;
const read = () =>
  reader.xreadgroupBuffer(
    'GROUP',
    'bench',
    'one',
    'COUNT',
    BATCH,
    'BLOCK',
    5000,
    'STREAMS',
    'events',
    '>',
  ) as Promise<Reply>;

const rows = new Float32Array(BATCH * ROW_FLOATS);
const rowBytes = new Uint8Array(rows.buffer);
const commits: Promise<unknown>[] = [];
let next = read();
for (;;) {
  const entries = (await next)?.[0]?.[1] ?? [];
  next = read();
  if (entries.length === 0) continue;
  for (let i = 0; i < entries.length; i++) {
    fieldOf(entries[i]![1], 'features').copy(rowBytes, i * ROW_BYTES, 0, ROW_BYTES);
  }
  const scores = await model.run(rows, entries.length);
  const pipeline = writer.pipeline();
  for (let i = 0; i < entries.length; i++) {
    const [id, fields] = entries[i]!;
    pipeline.xadd(
      'predictions',
      '*',
      'source',
      id.toString('latin1'),
      'event',
      fieldOf(fields, 'event').toString(),
      'key',
      fieldOf(fields, 'key').toString(),
      'model',
      'mlp@1',
      'status',
      'ok',
      'outputs',
      JSON.stringify({ score: scores[i] }),
    );
  }
  pipeline.xack('events', 'bench', ...entries.map(([id]) => id.toString('latin1')));
  if (commits.length >= COMMITS_MAX) await commits.shift();
  commits.push(
    pipeline.exec().then((replies) => {
      // A pipeline resolves even when its commands fail.
      for (const [error] of replies ?? []) if (error !== null) throw error;
    }),
  );
}

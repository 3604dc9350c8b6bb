/** Writing the commands that settle a batch, and taking the answers (publish/committer.ts, link.ts). */
import { limitsDefault } from '../../src/limits.ts';
import type { Native } from '../../src/native.ts';
import { Committer } from '../../src/publish/committer.ts';
import { nativeWriteRows, writeRows } from '../../src/publish/rows.ts';
import { parseEndpoint } from '../../src/redis/endpoint.ts';
import { Fence } from '../../src/redis/fence.ts';
import { type Batch, ID_BYTES_MAX } from '../../src/schedule/batch.ts';
import { Batcher } from '../../src/schedule/batcher.ts';
import { both, type MicroCase, twinOnly } from './case.ts';
import { addon, type FakeConnection, fakeConnect, lanesOf, OUTPUT, remembered, STREAM } from './stream.ts';

export interface FakeCommitter {
  readonly committer: Committer;
  readonly fence: Fence;
  /** Answers everything that was written since the last call: so many rows were settled. */
  readonly answer: (rows: number) => void;
}

/** A committer on one stream, on a connection that answers when it is told to. */
export function committerOf(onSettled: (batch: Batch) => void, native: Native | null = null): FakeCommitter {
  const fence = new Fence();
  fence.learn('1763900000000');
  const made: FakeConnection[] = [];
  const connect = fakeConnect((connection) => made.push(connection));
  const committer = new Committer({
    consumer: () => 'host-0123abcd-0',
    streams: [
      {
        name: STREAM,
        group: 'subito',
        predictions: 'predictions',
        deadletters: 'deadletters',
        predictionsMax: limitsDefault.predictionsMax,
        endpoint: parseEndpoint('redis://127.0.0.1:6379'),
        fence,
      },
    ],
    onSettled,
    writeRows: native === null ? writeRows : nativeWriteRows(native),
    connect,
  });
  committer.start();
  const [connection] = made;
  if (connection === undefined) throw new Error('the committer made no connection');
  const answers = remembered((rows) => Buffer.from(`:${rows}\r\n`));
  return {
    committer,
    fence,
    answer: (rows) => {
      if (connection.writes === 0 || connection.writtenBytes < rows * 40)
        throw new Error('too little was written');
      for (; connection.writes > 0; connection.writes--) connection.receive(answers(rows));
      connection.writtenBytes = 0;
    },
  };
}

/** Of the first row; each further one came a millisecond later. */
const ARRIVED_MS = 1_763_900_000_000;

/** A batch whose rows stand for `settle` again and again. */
function fill(batch: Batch, rows: number, mark: number): void {
  for (let row = 0; row < rows; row++) {
    batch.idBytes[row] = batch.ids.write(`${ARRIVED_MS + row}-0`, row * ID_BYTES_MAX, 'latin1');
    batch.keyBytes[row] = batch.keys.write(`user-${row * 17}`, row * batch.keyBytesMax);
    batch.eventBytes[row] = batch.events.write(`load-${row}`, row * batch.eventIdBytesMax);
    batch.arrivedMs[row] = ARRIVED_MS + row;
    batch.origin[row] = 0;
    batch.fences[row] = mark;
  }
}

function predictions(name: string, output: Buffer): MicroCase {
  const workOf = (native: Native | null) => {
    let settled = 0;
    const { committer, fence, answer } = committerOf((batch) => {
      settled += batch.rows;
    }, native);
    const lanes = lanesOf(new Batcher<Batch>(0, () => {}), output, native);
    const batch = lanes.model.all[0]!;
    fill(batch, batch.rowsMax, fence.mark);
    return (events: number) => {
      settled = 0;
      batch.rows = events;
      batch.dispatchedMs = ARRIVED_MS + batch.rowsMax + 0.4;
      batch.inferUs = 84;
      committer.settle(batch, 'mlp@1', null);
      answer(events);
      if (settled !== events) throw new Error(`${settled} of ${events} events were settled`);
    };
  };
  return { name, allocatesNothing: true, variants: both(addon, workOf) };
}

function deadLetters(): MicroCase {
  let settled = 0;
  const { committer, answer } = committerOf((batch) => {
    settled += batch.rows;
  });
  const batcher = new Batcher<Batch>(0, () => {});
  const all = lanesOf(batcher, OUTPUT).rejects.all;
  for (const batch of all) {
    fill(batch, batch.rowsMax, 1);
    batch.details.fill('features: 12 bytes; a row of mlp has 256');
  }
  // Slabs of rejected events are smaller than the largest batch: several make one.
  const work = (events: number) => {
    for (let left = events; left > 0; ) {
      const batch = all[0]!;
      batch.rows = Math.min(left, batch.rowsMax);
      left -= batch.rows;
      committer.settle(batch, '', null);
      answer(batch.rows);
    }
    if (settled !== events) throw new Error(`${settled} of ${events} events were settled`);
    settled = 0;
  };
  return { name: 'dead letters', variants: twinOnly(work) };
}

export function cases(): MicroCase[] {
  return [
    predictions('predictions of 12 bytes', OUTPUT),
    predictions('predictions of 600 bytes', Buffer.alloc(600, 'x')),
    deadLetters(),
  ];
}

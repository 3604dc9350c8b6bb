// Lanes, batches and stream entries for tests of the schedule and publish stages.

import { type EntryColumns, StreamReplyParser } from '../../src/redis/stream-reply.ts';
import { Admission } from '../../src/schedule/admission.ts';
import { Batch, ID_BYTES_MAX, ORIGIN_DIRECT } from '../../src/schedule/batch.ts';
import { Batcher, type Lane } from '../../src/schedule/batcher.ts';
import { ENTRY_FIELDS } from '../../src/schedule/entry.ts';
import { Intake, type IntakeOptions, type IntakeStream, type ModelLane } from '../../src/schedule/intake.ts';
import { Latest } from '../../src/schedule/latest.ts';
import { RESULT, ROW, ROW_COLUMNS, slabLayout, type TensorSpec } from '../../src/schedule/slab.ts';

export type Fields = readonly (string | Buffer)[];

/** Hands `use` the columns of an entry, parsed from the bytes that Redis would send; null fields: deleted. */
export function withEntry<T>(
  id: string,
  fields: Fields | null,
  use: (buffer: Buffer, entry: EntryColumns) => T,
  deliveries?: number,
): T {
  const bulk = (value: string | Buffer) => {
    const bytes = Buffer.from(value as string);
    return Buffer.concat([Buffer.from(`$${bytes.length}\r\n`), bytes, Buffer.from('\r\n')]);
  };
  const values =
    fields === null ? [Buffer.from('*-1\r\n')] : [Buffer.from(`*${fields.length}\r\n`), ...fields.map(bulk)];
  const parts = deliveries === undefined ? 2 : 3;
  const reply = Buffer.concat([
    ...[Buffer.from(`*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*${parts}\r\n`), bulk(id), ...values],
    Buffer.from(deliveries === undefined ? '' : `:${deliveries}\r\n`),
  ]);
  let result: { readonly value: T } | null = null;
  const parser = new StreamReplyParser({
    fields: ENTRY_FIELDS,
    entryBytesMax: 10_000_000,
    onEntry: (buffer, entry) => {
      result = { value: use(buffer, entry) };
      return true;
    },
    onOversize: () => true,
    onReplyEnd: () => {},
    onError: () => {},
  });
  parser.parse(reply, 0, reply.length);
  return (result as unknown as { readonly value: T }).value;
}

export const tensor = (name: string, elements: number): TensorSpec => ({
  name,
  dtype: 'float32',
  shape: [elements],
  elements,
  rowBytes: elements * 4,
});

export interface LaneOptions {
  readonly name: string;
  readonly inputs?: readonly TensorSpec[];
  readonly rowsMax?: number;
  readonly batches?: number;
  readonly arenaBytes?: number;
  readonly deadlineMs?: number;
  readonly record?: boolean;
  readonly latestOnly?: boolean;
}

let slabs = 0;

export function addModelLane(batcher: Batcher<Batch>, options: LaneOptions): ModelLane {
  const { name, inputs = [tensor('features', 3)], rowsMax = 4, batches = 3, arenaBytes = 1024 } = options;
  const layout = slabLayout(inputs, [tensor('out', 1)], rowsMax, arenaBytes);
  const slabsOf = Array.from(
    { length: batches },
    () => new Batch({ rowsMax, layout, slab: slabs++, keyBytesMax: 128, eventIdBytesMax: 64 }),
  );
  const sized = inputs.every(({ rowBytes }) => rowBytes > 0);
  return Object.assign(batcher.addLane(name, slabsOf), {
    slot: 0,
    label: `${name}@1`,
    nameBytes: [Buffer.from(name), Buffer.from(`${name}@1`)],
    inputs,
    featuresBytes: sized ? inputs.reduce((sum, { rowBytes }) => sum + rowBytes, 0) : 0,
    deadlineMs: options.deadlineMs ?? 0,
    record: options.record ?? false,
    latest: options.latestOnly ? new Latest() : null,
  });
}

export function addRejectLane(batcher: Batcher<Batch>, rowsMax = 4, batches = 2): Lane<Batch> {
  const made = Array.from(
    { length: batches },
    () => new Batch({ rowsMax, layout: null, slab: slabs++, keyBytesMax: 128, eventIdBytesMax: 64 }),
  );
  return batcher.addLane('', made, false);
}

export const INTAKE_LIMITS: Omit<IntakeOptions, 'batcher' | 'lanes' | 'rejects' | 'admission'> = {
  payloadBytesMax: 1000,
  keyBytesMax: 128,
  eventIdBytesMax: 64,
  deadlineMsDefault: 1000,
  deadlineMsMax: 3_600_000,
  modelNameBytesMax: 128,
  traceBytesMax: 55,
};

export function streamOf(lane: ModelLane | null, index = 0): IntakeStream {
  return { index, lane, deadlineMs: 0, json: false };
}

export interface RowSpec {
  /** '' : a direct row. */
  readonly id: string;
  readonly stream?: number;
  readonly key?: string;
  readonly event?: string;
  readonly result?: keyof typeof RESULT;
  /** The prediction, or the detail when the result is not ok. */
  readonly output?: string | Buffer;
}

/** Fills a batch as intake and a worker would have left it. */
export function fillBatch(batch: Batch, rows: readonly RowSpec[], dispatchedMs = Date.now()): Batch {
  batch.dispatchedMs = dispatchedMs;
  batch.inferUs = 77;
  const parts: Buffer[] = [];
  let bytes = 0;
  rows.forEach(({ id, stream = 0, key = 'k', event = '', result = 'ok', output = 'out' }, row) => {
    batch.idBytes[row] = batch.ids.write(id, row * ID_BYTES_MAX, 'latin1');
    batch.keyBytes[row] = batch.keys.write(key, row * batch.keyBytesMax);
    batch.eventBytes[row] = batch.events.write(event, row * batch.eventIdBytesMax);
    batch.origin[row] = id === '' ? ORIGIN_DIRECT : stream;
    batch.arrivedMs[row] = id === '' ? dispatchedMs : Number.parseInt(id, 10);
    const part = Buffer.from(output as string);
    if (batch.layout === null) {
      batch.details[row] = part.toString();
      batch.results[row] = RESULT[result === 'ok' ? 'invalid' : result];
    } else {
      batch.table[row * ROW_COLUMNS + ROW.result] = RESULT[result];
      batch.table[row * ROW_COLUMNS + ROW.outOffset] = bytes;
      batch.table[row * ROW_COLUMNS + ROW.outLength] = part.length;
    }
    parts.push(part);
    bytes += part.length;
  });
  batch.rows = rows.length;
  batch.outputs = Buffer.concat(parts);
  return batch;
}

export interface Bench {
  readonly batcher: Batcher<Batch>;
  readonly admission: Admission<Batch>;
  readonly intake: Intake;
  readonly lanes: readonly ModelLane[];
  readonly rejects: Lane<Batch>;
  readonly dispatched: { readonly lane: Lane<Batch>; readonly batch: Batch }[];
}

/** The open batch of the lane, over all its queues. */
export function openOf({ queues }: Lane<Batch>): Batch | null {
  return queues.find(({ open }) => open !== null)?.open ?? null;
}

export function readyOf({ queues }: Lane<Batch>): Batch[] {
  return queues.flatMap(({ ready }) => ready);
}

/** Of one worker, which has measured nothing. */
export function admissionOf(batcher: Batcher<Batch>): Admission<Batch> {
  return new Admission<Batch>({ batcher, workers: () => 1 });
}

/** An intake with lanes of its own, whose dispatched batches are only collected. */
export function intakeBench(lanes: readonly LaneOptions[], limits: Partial<IntakeOptions> = {}): Bench {
  const dispatched: Bench['dispatched'] = [];
  const batcher = new Batcher<Batch>(100, (lane, batch) => dispatched.push({ lane, batch }));
  const models = lanes.map((options) => addModelLane(batcher, options));
  const rejects = addRejectLane(batcher);
  const admission = admissionOf(batcher);
  const intake = new Intake({ ...INTAKE_LIMITS, batcher, admission, lanes: models, rejects, ...limits });
  return { batcher, admission, intake, lanes: models, rejects, dispatched };
}

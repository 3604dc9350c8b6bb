/** What the pieces of the stream path share: entries as Redis sends them, slabs, connections. */
import { limitsDefault } from '../../src/limits.ts';
import { loadNative, type Native } from '../../src/native.ts';
import { encodeBulk } from '../../src/redis/resp.ts';
import type { Connect, Connection, RedisSocketOptions } from '../../src/redis/socket.ts';
import type { Batch } from '../../src/schedule/batch.ts';
import type { Batcher, Lane } from '../../src/schedule/batcher.ts';
import type { ModelLane } from '../../src/schedule/intake.ts';
import { openNative } from '../../src/schedule/many.ts';
import { RESULT, ROW, ROW_COLUMNS } from '../../src/schedule/slab.ts';
import { addModelLane, addRejectLane, tensor } from '../../test/support/batches.ts';
import { ROWS_MAX } from './case.ts';
import { packedMap } from './maps.ts';

/** Null: this machine has none. */
export const { native: addon } = loadNative('auto');

export const STREAM = 'events';
export const FEATURES = 64;
/** Of the entries' ids: near now, so that waiting times have as many digits as real ones. */
const ID_MS = Date.now();

/** What an event of the stream brings. */
export const FORMS = {
  '256-byte features': ['key', 'features', 'event'],
  'data, a map of 8 fields': ['key', 'data', 'event'],
  'every field': ['key', 'model', 'features', 'deadline_ms', 'priority', 'event', 'trace'],
} as const;
export type Form = keyof typeof FORMS;
export const FORM_NAMES = Object.keys(FORMS) as Form[];

const data = packedMap(8);

function fieldValue(field: string, event: number): string | Buffer {
  const floats = () => new Float32Array(FEATURES).map((_, i) => (event * 31 + i * 7) / 1000);
  switch (field) {
    case 'features':
      return Buffer.from(floats().buffer);
    case 'data':
      return data;
    case 'key':
      return `user-${(event * 7919) % 100_000}`;
    case 'model':
      return 'mlp';
    case 'deadline_ms':
      return '3600000';
    case 'priority':
      return '0';
    case 'trace':
      return '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';
    default:
      return `load-${event}`;
  }
}

/** An answer to XREADGROUP or XREAD. */
export function reply(stream: string, entries: readonly (readonly (string | Buffer)[])[]): Buffer {
  const parts = entries.flatMap((fields, i) => [
    Buffer.from('*2\r\n'),
    encodeBulk(`${ID_MS + (i >> 3)}-${i & 7}`),
    Buffer.from(`*${fields.length}\r\n`),
    ...fields.map(encodeBulk),
  ]);
  const head = [Buffer.from('*1\r\n*2\r\n'), encodeBulk(stream), Buffer.from(`*${entries.length}\r\n`)];
  return Buffer.concat([...head, ...parts]);
}

/** Answers with so many entries of this form, made when first asked for. */
export function repliesOf(form: Form): (events: number) => Buffer {
  return remembered((events) => {
    const entry = (event: number) => FORMS[form].flatMap((field) => [field, fieldValue(field, event)]);
    return reply(
      STREAM,
      Array.from({ length: events }, (_, event) => entry(event)),
    );
  });
}

/** By number of events: made once, so that no window makes it. */
export function remembered<T>(make: (events: number) => T): (events: number) => T {
  const made = new Map<number, T>();
  return (events) => {
    let value = made.get(events);
    if (value === undefined) {
      value = make(events);
      made.set(events, value);
    }
    return value;
  };
}

export interface Lanes {
  readonly model: ModelLane;
  readonly rejects: Lane<Batch>;
}

/** The slabs of one model, as many as an engine of two workers has; each holds what a worker would answer. */
export function lanesOf(batcher: Batcher<Batch>, output: Buffer, native: Native | null = null): Lanes {
  const model = addModelLane(batcher, {
    name: 'mlp',
    inputs: [tensor('features', FEATURES)],
    rowsMax: ROWS_MAX,
    batches: 10,
    arenaBytes: limitsDefault.slabArenaBytes,
  });
  for (const batch of model.all) {
    answer(batch, output);
    if (native !== null) batch.handle = openNative(native, model, batch, limitsDefault);
  }
  return { model, rejects: addRejectLane(batcher, 128, 3) };
}

/** Every row of the batch has `output` as its prediction. */
function answer(batch: Batch, output: Buffer): void {
  const { table, rowsMax } = batch;
  const arena = batch.arenaOut;
  for (let row = 0; row < rowsMax; row++) {
    const at = row * ROW_COLUMNS;
    table[at + ROW.result] = RESULT.ok;
    table[at + ROW.outOffset] = row * output.length;
    table[at + ROW.outLength] = output.length;
    output.copy(arena, row * output.length);
  }
}

/** A prediction of one score as the worker encodes it: {"score": 0.5}. */
export const OUTPUT = Buffer.from([0x81, 0xa5, ...Buffer.from('score'), 0xca, 0x3f, 0, 0, 0]);

/** Stands where the socket would: counts what is written, and hands over what it is given as answers. */
export class FakeConnection implements Connection {
  readonly #options: RedisSocketOptions;
  readonly clientId = '1';
  isOpen = false;
  writes = 0;
  /** Bytes written, so that nobody may leave out the writing. */
  writtenBytes = 0;
  onWrite: (bytes: Uint8Array) => void = () => {};

  constructor(options: RedisSocketOptions) {
    this.#options = options;
  }

  open(): void {
    this.isOpen = true;
    this.#options.onOpen();
  }

  write(bytes: Uint8Array): void {
    this.writes += 1;
    this.writtenBytes += bytes.length;
    this.onWrite(bytes);
  }

  /** Throws when the owner does not take all of it. */
  receive(bytes: Buffer): void {
    const next = this.#options.onBytes(bytes, 0, bytes.length);
    if (next !== bytes.length) throw new Error(`${bytes.length - next} bytes were not taken`);
  }

  hold(): void {
    throw new Error('there was no room');
  }

  release(): void {}

  fail(reason: string): void {
    throw new Error(reason);
  }

  close(): void {
    this.isOpen = false;
  }
}

/** For an owner's `connect` option; `made` gets the connection. */
export function fakeConnect(made: (connection: FakeConnection) => void): Connect {
  return (options) => {
    const connection = new FakeConnection(options);
    made(connection);
    return connection;
  };
}

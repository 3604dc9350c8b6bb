/**
 * The stream path of the main thread, whole: a reply of Redis goes in, the commands that settle its events
 * come out. What is real is everything of Subito's own; what is not: sockets, Redis, and the worker, whose
 * answers stand in the slabs already.
 */
import { nowMs } from '../../src/clock.ts';
import { StreamReader } from '../../src/ingest/reader.ts';
import { limitsDefault } from '../../src/limits.ts';
import type { Native } from '../../src/native.ts';
import { Totals } from '../../src/observe/totals.ts';
import { parseEndpoint } from '../../src/redis/endpoint.ts';
import { StreamReplyParser } from '../../src/redis/stream-reply.ts';
import { Admission } from '../../src/schedule/admission.ts';
import type { Batch } from '../../src/schedule/batch.ts';
import { Batcher, type Lane } from '../../src/schedule/batcher.ts';
import { ENTRY_FIELDS } from '../../src/schedule/entry.ts';
import { Intake, type IntakeStream, type ModelLane } from '../../src/schedule/intake.ts';
import { BatchRunner } from '../../src/schedule/runner.ts';
import { both, type MicroCase, twinOnly } from './case.ts';
import { committerOf, type FakeCommitter } from './committer.ts';
import {
  addon,
  type FakeConnection,
  FORM_NAMES,
  type Form,
  fakeConnect,
  lanesOf,
  OUTPUT,
  repliesOf,
  STREAM,
} from './stream.ts';

/** Parser, intake, batcher and committer, in one turn of the event loop. */
function stages(
  form: Form,
  native: Native | null = null,
  perEvent: () => void = () => {},
): (events: number) => void {
  const replies = repliesOf(form);
  let settled = 0;
  const batcher = new Batcher<Batch>(1, (lane, batch) => dispatch(lane, batch));
  const { model: lane, rejects } = lanesOf(batcher, OUTPUT, native);
  const admission = new Admission<Batch>({ batcher, workers: () => 1 });
  const intake = new Intake({ ...limitsDefault, native, batcher, admission, lanes: [lane], rejects });
  const stream: IntakeStream = { index: 0, lane, deadlineMs: 0, json: false };
  const fake: FakeCommitter = committerOf((batch) => {
    const { rows } = batch;
    batch.reset();
    batcher.release(lane, batch);
    intake.released(lane, { rows, deliveries: 1 }, 0);
    settled += rows;
  }, native);
  const dispatch = (of: Lane<Batch>, batch: Batch) => {
    if (of !== lane) throw new Error(`an event was rejected: ${batch.details[0]}`);
    batch.dispatchedMs = nowMs();
    batch.inferredMs = batch.dispatchedMs;
    batch.inferUs = 84;
    batcher.workerFreed();
    fake.committer.settle(batch, lane.label, null);
  };
  const { fence } = fake;
  const parser = new StreamReplyParser({
    fields: ENTRY_FIELDS,
    entryBytesMax: limitsDefault.entryBytesMax,
    onEntries: (buffer, start, end, max) => intake.takeMany(stream, buffer, start, end, max, fence.mark),
    onEntry: (buffer, entry) => {
      perEvent();
      return intake.take(stream, buffer, entry, fence.mark);
    },
    onOversize: () => false,
    onReplyEnd: () => {},
    onError: (message) => {
      throw new Error(message);
    },
  });
  return (events) => {
    const bytes = replies(events);
    settled = 0;
    intake.received(nowMs());
    parser.parse(bytes, 0, bytes.length);
    batcher.flush();
    fake.answer(events);
    if (settled !== events) throw new Error(`${settled} of ${events} events were settled`);
  };
}

/**
 * The same with everything that the engine has around it: the reader, which asks for the entries; the runner,
 * which waits for the worker; the counting of outcomes and times.
 */
class Engine {
  readonly #batcher: Batcher<Batch>;
  readonly #intake: Intake;
  readonly #fake: FakeCommitter;
  readonly #reader: StreamReader;
  readonly #lane: ModelLane;
  readonly #replies: (events: number) => Buffer;
  #connection: FakeConnection | null = null;
  #settled = 0;
  /** The reader has asked for entries and waits. */
  #asked: () => void = () => {};

  constructor(form: Form, native: Native | null) {
    this.#replies = repliesOf(form);
    this.#batcher = new Batcher<Batch>(1, (lane, batch) => runner.run(lane, batch));
    const batcher = this.#batcher;
    const lanes = lanesOf(batcher, OUTPUT, native);
    const { model, rejects } = lanes;
    this.#lane = model;
    const admission = new Admission<Batch>({ batcher, workers: () => 1 });
    this.#intake = new Intake({ ...limitsDefault, native, batcher, admission, lanes: [model], rejects });
    const intake = this.#intake;
    const runner: BatchRunner = new BatchRunner({
      batcher,
      streamNames: [STREAM],
      infer: async () => ({ inferUs: 84, runUs: 60, spill: null }),
      settle: (batch, model, record) => {
        this.#fake.committer.settle(batch, model, record);
        this.#fake.answer(batch.rows);
      },
      admission,
      onFreeRows: (lane, rows, ms) => {
        intake.released(lane, rows, ms);
        this.#settled += rows.rows;
        this.#reader.kick();
      },
    });
    for (const lane of [lanes.model, lanes.rejects]) runner.addLane(lane);
    this.#fake = committerOf((batch) => runner.settled(batch), native);
    this.#reader = this.#readerOf({ index: 0, lane: this.#lane, deadlineMs: 0, json: false });
    this.#reader.start();
  }

  #readerOf(stream: IntakeStream): StreamReader {
    const intake = this.#intake;
    return new StreamReader({
      endpoint: parseEndpoint('redis://127.0.0.1:6379'),
      stream: STREAM,
      group: 'subito',
      consumer: () => 'host-0123abcd-0',
      fields: ENTRY_FIELDS,
      entryBytesMax: limitsDefault.entryBytesMax,
      countMax: limitsDefault.readCountMax,
      blockMs: limitsDefault.readBlockMs,
      claimIdleMs: null,
      deliveriesMax: limitsDefault.deliveriesMax,
      fence: this.#fake.fence,
      demand: () => intake.demand(stream),
      demandAlone: () => intake.demandAlone(stream),
      alone: intake.alone,
      received: () => intake.received(nowMs()),
      take: (buffer, entry, mark) => intake.take(stream, buffer, entry, mark),
      takeMany: (buffer, start, end, max, mark) => intake.takeMany(stream, buffer, start, end, max, mark),
      isInHand: (id) => intake.isInHand(stream, id),
      reject: (id, _deliveries, detail) => {
        throw new Error(`${id} was rejected: ${detail}`);
      },
      flush: () => this.#batcher.flush(),
      createGroup: () => Promise.reject(new Error('the group is gone')),
      unblock: () => {},
      connect: fakeConnect((connection) => {
        this.#connection = connection;
        connection.onWrite = (bytes) => this.#onCommand(bytes);
      }),
      // Nothing is swept for twice.
      now: () => 0,
    });
  }

  #onCommand(bytes: Uint8Array): void {
    // The first thing on a connection is a sweep for what is pending: there is nothing.
    const text = Buffer.from(bytes.buffer, bytes.byteOffset, 40).toString('latin1');
    if (text.includes('EVALSHA')) {
      const head = `${this.#fake.fence.epoch} -`;
      const none = Buffer.from(`*1\r\n*2\r\n$${head.length}\r\n${head}\r\n*0\r\n`);
      setImmediate(() => this.#connection?.receive(none));
    } else if (text.includes('XREADGROUP')) this.#asked();
    else throw new Error(`the reader sent ${JSON.stringify(text)}`);
  }

  async run(events: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#asked = resolve;
    this.#settled = 0;
    this.#connection?.receive(this.#replies(events));
    await promise;
    if (this.#settled !== events) throw new Error(`${this.#settled} of ${events} events were settled`);
  }

  /** Resolves when the reader has asked for its first entries. */
  async started(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#asked = resolve;
    await promise;
  }

  close(): void {
    this.#reader.close();
  }
}

async function engine(form: Form): Promise<MicroCase> {
  // It counts for whoever runs.
  const totals = new Totals();
  const twin = new Engine(form, null);
  const native = addon === null ? null : new Engine(form, addon);
  const running = native === null ? [twin] : [twin, native];
  for (const one of running) await one.started();
  return {
    name: `reader to counting, ${form}`,
    allocatesNothing: true,
    variants: {
      twin: (events) => twin.run(events),
      native: native === null ? null : (events) => native.run(events),
    },
    close: () => {
      for (const one of running) one.close();
      totals.stop();
    },
  };
}

export async function cases(): Promise<MicroCase[]> {
  return [
    ...FORM_NAMES.map((form) => ({
      name: `parser to committer, ${form}`,
      allocatesNothing: true,
      variants: both(addon, (native) => stages(form, native)),
    })),
    await engine('256-byte features'),
  ];
}

let last: object | null = null;

/** For the test of the measuring: the path as it is, and with one object more for every event. */
export function leakyCases(): MicroCase[] {
  const leak = () => {
    last = { before: last === null };
  };
  return [
    { name: 'as it is', variants: twinOnly(stages('256-byte features')) },
    { name: 'with an object', variants: twinOnly(stages('256-byte features', null, leak)) },
  ];
}

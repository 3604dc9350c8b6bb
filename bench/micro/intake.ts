/** Filling slabs (schedule/intake.ts): from a reply of Redis, and from the gateway. */
import { nowMs } from '../../src/clock.ts';
import { limitsDefault } from '../../src/limits.ts';
import type { Native } from '../../src/native.ts';
import { type EntryColumns, StreamReplyParser } from '../../src/redis/stream-reply.ts';
import { Admission } from '../../src/schedule/admission.ts';
import type { Batch } from '../../src/schedule/batch.ts';
import { Batcher, type Lane } from '../../src/schedule/batcher.ts';
import type { DirectEvent } from '../../src/schedule/direct.ts';
import { ENTRY_FIELDS } from '../../src/schedule/entry.ts';
import { Intake, type IntakeStream, type ModelLane } from '../../src/schedule/intake.ts';
import { both, type MicroCase, twinOnly } from './case.ts';
import { packedMap } from './maps.ts';
import { addon, FORM_NAMES, type Form, lanesOf, OUTPUT, remembered, repliesOf } from './stream.ts';

/** An intake whose batches come back empty the moment they are dispatched. */
class Slabs {
  readonly batcher: Batcher<Batch>;
  readonly intake: Intake;
  readonly lane: ModelLane;
  readonly stream: IntakeStream;
  rows = 0;

  constructor(native: Native | null = null) {
    this.batcher = new Batcher<Batch>(1, (lane, batch) => this.#back(lane, batch));
    const lanes = lanesOf(this.batcher, OUTPUT, native);
    const { batcher } = this;
    const { model, rejects } = lanes;
    const admission = new Admission<Batch>({ batcher, workers: () => 1 });
    this.intake = new Intake({ ...limitsDefault, native, batcher, admission, lanes: [model], rejects });
    this.lane = lanes.model;
    this.stream = { index: 0, lane: this.lane, deadlineMs: 0, json: false };
  }

  #back(lane: Lane<Batch>, batch: Batch): void {
    if (lane !== this.lane) throw new Error(`an event was rejected: ${batch.details[0]}`);
    const { rows } = batch;
    batch.reset();
    this.batcher.workerFreed();
    this.batcher.release(lane, batch);
    this.intake.released(lane, { rows, deliveries: 1 }, 0);
    this.rows += rows;
  }

  flushed(events: number): void {
    this.batcher.flush();
    if (this.rows !== events) throw new Error(`${this.rows} of ${events} events came back`);
    this.rows = 0;
  }
}

/** Parser and intake together: a reply of Redis becomes rows of a slab. */
function parsed(form: Form): MicroCase {
  const workOf = (native: Native | null) => {
    const replies = repliesOf(form);
    const slabs = new Slabs(native);
    const { intake, stream } = slabs;
    const parser = new StreamReplyParser({
      fields: ENTRY_FIELDS,
      entryBytesMax: limitsDefault.entryBytesMax,
      onEntries: (buffer, start, end, max) => intake.takeMany(stream, buffer, start, end, max, 1),
      onEntry: (buffer, entry) => intake.take(stream, buffer, entry, 1),
      onOversize: () => false,
      onReplyEnd: () => {},
      onError: (message) => {
        throw new Error(message);
      },
    });
    return (events: number) => {
      const bytes = replies(events);
      intake.received(nowMs());
      parser.parse(bytes, 0, bytes.length);
      slabs.flushed(events);
    };
  };
  return { name: `parser and intake, ${form}`, allocatesNothing: true, variants: both(addon, workOf) };
}

/** Where the fields lie is known already. */
function taken(form: Form): MicroCase {
  const replies = repliesOf(form);
  const columns = remembered((events) => columnsOf(replies(events)));
  const slabs = new Slabs();
  const { intake, stream } = slabs;
  const work = (events: number) => {
    const buffer = replies(events);
    intake.received(nowMs());
    for (const entry of columns(events)) {
      if (!intake.take(stream, buffer, entry, 1)) throw new Error('no room');
    }
    slabs.flushed(events);
  };
  return { name: `intake alone, ${form}`, allocatesNothing: true, variants: twinOnly(work) };
}

function columnsOf(reply: Buffer): EntryColumns[] {
  const found: EntryColumns[] = [];
  const parser = new StreamReplyParser({
    fields: ENTRY_FIELDS,
    entryBytesMax: limitsDefault.entryBytesMax,
    onEntry: (_buffer, entry) => {
      found.push({ ...entry, fields: entry.fields.slice() });
      return true;
    },
    onOversize: () => false,
    onReplyEnd: () => {},
    onError: () => {},
  });
  parser.parse(reply, 0, reply.length);
  return found;
}

function direct(): MicroCase {
  const slabs = new Slabs();
  const { intake, lane } = slabs;
  const event: DirectEvent = {
    model: 'mlp',
    key: 'user-42',
    event: 'load-42',
    data: packedMap(8),
    json: false,
    deadlineMs: 0,
  };
  const answer = () => {};
  const work = (events: number) => {
    for (let i = 0; i < events; i++) {
      if (!intake.takeDirect(lane, event, nowMs(), answer)) throw new Error('no room');
    }
    slabs.flushed(events);
  };
  return { name: 'direct, a map of 8 fields', variants: twinOnly(work) };
}

export function cases(): MicroCase[] {
  return [...FORM_NAMES.map(parsed), ...FORM_NAMES.map(taken), direct()];
}

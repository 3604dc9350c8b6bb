/**
 * The bytes of a pushed prediction. Everything but `ch`, `seq` and `conf` is the same for all subscribers, so it is
 * encoded at most once per encoding, and each subscriber gets its own short head in front of that shared tail.
 */
import { Packr } from 'msgpackr';
import type { Prediction } from './backend.ts';
import { recode } from './codec.ts';
import { mapEntries } from './msgpack.ts';

const packr = new Packr({ useRecords: false, variableMapSize: true });

/** One prediction while it is offered; afterwards only the tails that somebody holds live on. */
export class SharedTail {
  readonly #prediction: Prediction;
  #json: Uint8Array | null = null;
  #msgpack: Uint8Array | null = null;

  constructor(prediction: Prediction) {
    this.#prediction = prediction;
  }

  /** To be called while the prediction's outputs are valid; the bytes themselves may be kept. */
  bytes(json: boolean): Uint8Array {
    if (json) {
      this.#json ??= jsonTail(this.#prediction);
      return this.#json;
    }
    this.#msgpack ??= msgpackTail(this.#prediction);
    return this.#msgpack;
  }
}

function sharedFields(prediction: Prediction): Record<string, unknown> {
  const { sid, event, source, key, model, status, waitUs, inferUs } = prediction;
  return {
    ...(sid === '' ? {} : { sid }),
    ...(event === '' ? {} : { re: event }),
    ...(source === '' ? {} : { src: source }),
    key,
    model,
    st: status,
    ms: { q: waitUs / 1000, i: inferUs / 1000 },
  };
}

/** `"sid":...,"d":{...}}`: what follows the head, to the end of the frame. */
function jsonTail(prediction: Prediction): Buffer {
  const text = JSON.stringify(sharedFields(prediction)).slice(1);
  if (prediction.outputs.length === 0) return Buffer.from(text, 'utf8');
  const open = Buffer.from(`${text.slice(0, -1)},"d":`, 'utf8');
  return Buffer.concat([open, recode(prediction.outputs, true), Buffer.from('}')]);
}

/** One byte with the number of entries, then the entries: the head says how many there are in all. */
function msgpackTail(prediction: Prediction): Buffer {
  const map = packr.pack(sharedFields(prediction));
  const count = mapEntries(map).length;
  const entries = map.subarray(1);
  const count1 = Buffer.of(count);
  if (prediction.outputs.length === 0) return Buffer.concat([count1, entries]);
  const d = Buffer.of(0xa1, 0x64);
  return Buffer.concat([Buffer.of(count + 1), entries, d, recode(prediction.outputs, false)]);
}

/** The head's constant part for one channel. */
export function headOf(channel: string, json: boolean): Buffer {
  if (json) return Buffer.from(`{"t":"pred","ch":${JSON.stringify(channel)},"seq":`, 'utf8');
  // The entries without their map head: t, ch, and the name of the third, seq.
  const map = packr.pack({ t: 'pred', ch: channel });
  return Buffer.concat([map.subarray(1), packr.pack('seq')]);
}

/** Entries that the head brings: t, ch, seq, conf. */
const HEAD_ENTRIES = 4;
const CONF = Buffer.of(0xa4, 0x63, 0x6f, 0x6e, 0x66);

/** The whole frame. */
export function predictionFrame(
  head: Buffer,
  json: boolean,
  seq: number,
  conf: number,
  tail: Uint8Array,
): Buffer {
  if (json) {
    const middle = `${seq},"conf":${conf},`;
    const out = Buffer.allocUnsafe(head.length + middle.length + tail.length);
    out.set(head, 0);
    out.write(middle, head.length, 'latin1');
    out.set(tail, head.length + middle.length);
    return out;
  }
  // map16, and both numbers as float 64: one fixed size, and every decoder reads them as plain numbers.
  const out = Buffer.allocUnsafe(3 + head.length + 9 + CONF.length + 9 + tail.length - 1);
  out[0] = 0xde;
  out.writeUInt16BE(HEAD_ENTRIES + tail[0]!, 1);
  out.set(head, 3);
  let at = writeNumber(out, seq, 3 + head.length);
  out.set(CONF, at);
  at = writeNumber(out, conf, at + CONF.length);
  out.set(tail.subarray(1), at);
  return out;
}

function writeNumber(out: Buffer, value: number, at: number): number {
  out[at] = 0xcb;
  return out.writeDoubleBE(value, at + 1);
}

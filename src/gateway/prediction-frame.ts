/**
 * The bytes of a pushed prediction. Everything but `ch`, `seq` and `conf` is the same for all subscribers,
 * so it is encoded at most once per encoding, and each subscriber gets its own short head in front of that
 * shared tail.
 */
import { Packr } from 'msgpackr';
import type { Prediction } from '../publish/prediction.ts';
import { recode } from './codec.ts';

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

/**
 * `"sid":...,"d":{...}}`: what follows the head, to the end of the frame. Put together by hand, because
 * this runs for every prediction that anyone wants.
 */
function jsonTail(prediction: Prediction): Buffer {
  const { sid, event, source, key, model, status, rung = '', waitUs, inferUs, outputs } = prediction;
  let text = sid === '' ? '' : `"sid":"${sid}",`;
  if (event !== '') text += `"re":${JSON.stringify(event)},`;
  if (source !== '') text += `"src":${JSON.stringify(source)},`;
  text += `"key":${JSON.stringify(key)},"model":${JSON.stringify(model)},"st":${JSON.stringify(status)},`;
  if (rung !== '') text += `"rung":${JSON.stringify(rung)},`;
  text += `"ms":{"q":${waitUs / 1000},"i":${inferUs / 1000}}`;
  if (outputs.length === 0) return Buffer.from(`${text}}`, 'utf8');
  text += ',"d":';
  const values = recode(outputs, true);
  const textBytes = Buffer.byteLength(text);
  const out = Buffer.allocUnsafe(textBytes + values.length + 1);
  out.write(text, 0, 'utf8');
  out.set(values, textBytes);
  out[out.length - 1] = 0x7d;
  return out;
}

/** One byte with the number of entries, then the entries: the head says how many there are in all. */
function msgpackTail(prediction: Prediction): Buffer {
  const { sid, event, source, key, model, status, rung = '', waitUs, inferUs, outputs } = prediction;
  const fields: Record<string, unknown> = {
    key,
    model,
    st: status,
    ms: { q: waitUs / 1000, i: inferUs / 1000 },
  };
  let count = 4;
  if (sid !== '') count = add(fields, 'sid', sid, count);
  if (event !== '') count = add(fields, 're', event, count);
  if (source !== '') count = add(fields, 'src', source, count);
  if (rung !== '') count = add(fields, 'rung', rung, count);
  // Fewer than sixteen entries: the map's head is one byte, which the count replaces.
  const entries = packr.pack(fields);
  if (outputs.length === 0) {
    entries[0] = count;
    return entries;
  }
  const values = recode(outputs, false);
  const out = Buffer.allocUnsafe(entries.length + 2 + values.length);
  out.set(entries, 0);
  out[0] = count + 1;
  out[entries.length] = 0xa1;
  out[entries.length + 1] = 0x64;
  out.set(values, entries.length + 2);
  return out;
}

function add(fields: Record<string, unknown>, name: string, value: string, count: number): number {
  fields[name] = value;
  return count + 1;
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

/**
 * XADD commands that lie ready: sending an event is a matter of six digits. What a generator costs is taken
 * from the processors that the engine under test needs.
 */
import { encodeBulk } from '../src/redis/resp.ts';
import { KEYS, payloads } from './streams.ts';

/** Commands in the ring; a power of ten, so that the last digits of an event's number stay as they are. */
export const RING = 10_000;
const RING_DIGITS = 4;
const LAP_DIGITS = 6;
const DIGITS = LAP_DIGITS + RING_DIGITS;
const ZERO = 48;

export class EventRing {
  readonly #bytes: Buffer;
  /** Where each command starts, and the end of the last. */
  readonly #starts = new Uint32Array(RING + 1);
  /** Where the digits of each event's number start. */
  readonly #digits = new Uint32Array(RING);
  readonly #lap = Buffer.alloc(LAP_DIGITS, ZERO);
  #lapNumber = 0;

  /** Events are named `<batch>-<ten digits>`. */
  constructor(stream: string, batch: string) {
    const head = Buffer.concat([Buffer.from('*9\r\n'), ...['XADD', stream, '*', 'key'].map(encodeBulk)]);
    const bodies = payloads.map((payload) =>
      Buffer.concat([encodeBulk('features'), encodeBulk(payload), encodeBulk('event')]),
    );
    const parts: Buffer[] = [];
    let at = 0;
    for (let slot = 0; slot < RING; slot++) {
      const name = encodeBulk(`${batch}-${String(slot).padStart(DIGITS, '0')}`);
      const key = encodeBulk(`load-${slot % KEYS}`);
      const body = bodies[slot % bodies.length]!;
      parts.push(head, key, body, name);
      at += head.length + key.length + body.length + name.length;
      this.#starts[slot + 1] = at;
      this.#digits[slot] = at - '\r\n'.length - DIGITS;
    }
    this.#bytes = Buffer.concat(parts);
  }

  /**
   * The commands of events `from` to `from + count`, in one piece or two. They are the ring's own memory: the
   * replies to the last lap's commands must have come.
   */
  commands(from: number, count: number): Buffer[] {
    if (count > RING) throw new Error(`${count} events at once are more than ${RING}`);
    for (let seq = from; seq < from + count; seq++) this.#number(seq);
    const first = from % RING;
    const end = first + count;
    const piece = (start: number, stop: number) =>
      this.#bytes.subarray(this.#starts[start], this.#starts[stop]);
    return end <= RING ? [piece(first, end)] : [piece(first, RING), piece(0, end - RING)];
  }

  #number(seq: number): void {
    const lap = Math.floor(seq / RING);
    if (lap !== this.#lapNumber) {
      this.#lapNumber = lap;
      this.#lap.write(String(lap).padStart(LAP_DIGITS, '0'), 'latin1');
    }
    const at = this.#digits[seq % RING]!;
    for (let i = 0; i < LAP_DIGITS; i++) this.#bytes[at + i] = this.#lap[i]!;
  }
}

/** The number in the name of an event, or -1 when `name` is none of this batch's. */
export function numberIn(name: Buffer, prefix: Buffer): number {
  if (name.length !== prefix.length + DIGITS) return -1;
  for (let i = 0; i < prefix.length; i++) if (name[i] !== prefix[i]) return -1;
  let value = 0;
  for (let i = prefix.length; i < name.length; i++) {
    const digit = name[i]! - ZERO;
    if (digit < 0 || digit > 9) return -1;
    value = value * 10 + digit;
  }
  return value;
}

/** What the names of a batch's events begin with. */
export function prefixOf(batch: string): Buffer {
  return Buffer.from(`${batch}-`);
}

/**
 * The last prediction of each key, encoded as it went out, for when the model cannot be asked. Bounded by
 * entries and bytes: the key that was predicted longest ago goes first. A prediction that is too old is none.
 *
 * A key's bytes are kept in memory of their own and written over by the next of the same length, which
 * predictions of one model mostly have.
 */
import { copyBytes } from '../redis/resp.ts';
import { ENCODING } from './slab.ts';

interface Known {
  bytes: Uint8Array;
  atMs: number;
}

export interface LastKnownOptions {
  readonly entriesMax: number;
  /** Keys and predictions. */
  readonly bytesMax: number;
  readonly ageMsMax: number;
}

/** What an entry takes beside its key and its prediction, about. */
const ENTRY_BYTES = 200;

export class LastKnown {
  readonly #options: LastKnownOptions;
  /** By encoding and key; the oldest first. */
  readonly #known = new Map<string, Known>();
  #bytes = 0;

  constructor(options: LastKnownOptions) {
    this.#options = options;
  }

  get entries(): number {
    return this.#known.size;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** `source[start, end)` is copied. `key`: its bytes as latin1, which is the fastest to make and as good. */
  keep(key: string, encoding: number, source: Uint8Array, start: number, end: number, nowMs: number): void {
    const name = nameOf(key, encoding);
    const before = this.#known.get(name);
    if (before !== undefined) this.#known.delete(name);
    const length = end - start;
    if (before?.bytes.length === length) {
      copyBytes(source, start, end, before.bytes, 0);
      before.atMs = nowMs;
      this.#known.set(name, before);
      return;
    }
    if (before !== undefined) this.#bytes -= sizeOf(name, before);
    const known = { bytes: Uint8Array.prototype.slice.call(source, start, end), atMs: nowMs };
    this.#known.set(name, known);
    this.#bytes += sizeOf(name, known);
    this.#shrink();
  }

  /** Valid until the next `keep`; undefined: there is none, or it is too old. */
  get(key: string, encoding: number, nowMs: number): Uint8Array | undefined {
    const name = nameOf(key, encoding);
    const known = this.#known.get(name);
    if (known === undefined) return undefined;
    if (nowMs - known.atMs <= this.#options.ageMsMax) return known.bytes;
    this.#drop(name, known);
    return undefined;
  }

  #shrink(): void {
    const { entriesMax, bytesMax } = this.#options;
    for (const [name, known] of this.#known) {
      if (this.#known.size <= entriesMax && this.#bytes <= bytesMax) return;
      this.#drop(name, known);
    }
  }

  #drop(name: string, known: Known): void {
    this.#known.delete(name);
    this.#bytes -= sizeOf(name, known);
  }
}

/** No key begins with this sign: there is none like it in latin1. */
const nameOf = (key: string, encoding: number) => (encoding === ENCODING.json ? `\u0100${key}` : key);

const sizeOf = (name: string, { bytes }: Known) => name.length + bytes.length + ENTRY_BYTES;

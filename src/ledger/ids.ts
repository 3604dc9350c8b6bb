/**
 * Entry ids by the million: numbers in columns, 17 bytes an id, where strings or a map would take a hundred.
 */

/** `ms-seq`. Both are exact: ids whose parts do not fit into a number are no ids here. */
export interface EntryId {
  readonly ms: number;
  readonly seq: number;
}

export const ID_MIN: EntryId = { ms: 0, seq: 0 };

const ZERO = 0x30;
const DASH = 0x2d;

/** Null for what is no entry id, or has a part beyond 2^53 - 1 (which no clock gives). */
export function parseId(text: Buffer | string): EntryId | null {
  const bytes = typeof text === 'string' ? Buffer.from(text) : text;
  const dash = bytes.indexOf(DASH);
  if (dash === -1) return null;
  const ms = parseDigits(bytes, 0, dash);
  const seq = parseDigits(bytes, dash + 1, bytes.length);
  return ms === null || seq === null ? null : { ms, seq };
}

function parseDigits(bytes: Buffer, from: number, to: number): number | null {
  let value = 0;
  for (let at = from; at < to; at += 1) {
    const digit = bytes[at]! - ZERO;
    if (digit < 0 || digit > 9) return null;
    value = value * 10 + digit;
  }
  return to > from && Number.isSafeInteger(value) ? value : null;
}

export function idText({ ms, seq }: EntryId): string {
  return `${ms}-${seq}`;
}

export function compareIds(left: EntryId, right: EntryId): number {
  return left.ms - right.ms || left.seq - right.seq;
}

const FIRST_ROOM = 1024;
/** A table that is full grows to so many times its size, so that growing costs little per id. */
const GROWTH = 1.5;

/**
 * Ids, each with a small number (its tag). Push, then sort, then read: places are those of the sorted order,
 * by id and then by tag. While it grows it takes up to 43 bytes an id, afterwards 17 to 26; ids that were not
 * pushed in order take 4 more, and about 20 while they are sorted.
 */
export class IdTable {
  #ms = new Float64Array(FIRST_ROOM);
  #seq = new Float64Array(FIRST_ROOM);
  #tags = new Uint8Array(FIRST_ROOM);
  /** Null while they lie in order as pushed. */
  #order: Uint32Array | null = null;
  #ordered = true;
  #length = 0;

  get length(): number {
    return this.#length;
  }

  push(id: EntryId, tag = 0): void {
    const at = this.#length;
    if (at === this.#ms.length) this.#grow();
    this.#ms[at] = id.ms;
    this.#seq[at] = id.seq;
    this.#tags[at] = tag;
    this.#length = at + 1;
    if (at > 0 && this.#ordered) this.#ordered = this.#compare(at - 1, at) <= 0;
  }

  sort(): void {
    if (this.#ordered) return;
    this.#order = new Uint32Array(this.#length);
    for (let at = 0; at < this.#length; at += 1) this.#order[at] = at;
    this.#order.sort((left, right) => this.#compare(left, right));
  }

  id(place: number): EntryId {
    const at = this.#at(place);
    return { ms: this.#ms[at]!, seq: this.#seq[at]! };
  }

  tag(place: number): number {
    return this.#tags[this.#at(place)]!;
  }

  /** Less than 0 where the id at this place is smaller than the one given. */
  compare(place: number, id: EntryId): number {
    const at = this.#at(place);
    return this.#ms[at]! - id.ms || this.#seq[at]! - id.seq;
  }

  /** The first place of the id; -1 where it is not in the table. */
  indexOf(id: EntryId): number {
    let low = 0;
    let high = this.#length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.compare(middle, id) < 0) low = middle + 1;
      else high = middle;
    }
    return low < this.#length && this.compare(low, id) === 0 ? low : -1;
  }

  /** In order. */
  *[Symbol.iterator](): Generator<EntryId> {
    for (let place = 0; place < this.#length; place += 1) yield this.id(place);
  }

  texts(): string[] {
    return Array.from(this, idText);
  }

  #at(place: number): number {
    return this.#order === null ? place : this.#order[place]!;
  }

  #compare(left: number, right: number): number {
    return (
      this.#ms[left]! - this.#ms[right]! ||
      this.#seq[left]! - this.#seq[right]! ||
      this.#tags[left]! - this.#tags[right]!
    );
  }

  #grow(): void {
    const room = Math.ceil(this.#length * GROWTH);
    const ms = new Float64Array(room);
    const seq = new Float64Array(room);
    const tags = new Uint8Array(room);
    ms.set(this.#ms);
    seq.set(this.#seq);
    tags.set(this.#tags);
    this.#ms = ms;
    this.#seq = seq;
    this.#tags = tags;
  }
}

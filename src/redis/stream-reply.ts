/**
 * Columnar parser of XREADGROUP and XREAD replies (RESP2, one stream). It finds where each entry's known
 * fields lie in the receive buffer and tells the owner; it copies nothing and makes no object per entry.
 *
 *   *1 [ *2 [ stream name, *N [ *2 [ id, *2K [ field, value, ... ] ] ... ] ] ]      or *-1 (nothing came in
 *   time)
 *
 * claim.lua answers in the same form, with more to say: where the stream's name stands, `head` (a text of its
 * own, handed to `onHead`), and as a third part of each entry how often it has been given out.
 *
 * States: head -> entries -> head. An entry is offered only when it is complete; until then its bytes stay in
 * the buffer. One that is larger than `entryBytesMax` is never kept: `skip` walks over it as it arrives, and
 * the owner is told its id. The owner may refuse an entry for want of room: the parser then stops in front of
 * it (`refused`).
 */
import { lineEnd } from './resp.ts';

/**
 * Where the parts of one entry lie: valid during `onEntry`, all positions in the buffer handed to `parse`.
 */
export interface EntryColumns {
  idStart: number;
  idEnd: number;
  /** Start and end of known field i at [2i] and [2i + 1]; start -1: the entry has no such field. */
  readonly fields: Int32Array;
  /** The first field that is not known; start -1: none. */
  unknownStart: number;
  unknownEnd: number;
  /** The entry was deleted from the stream but is still pending: it has an id and nothing else. */
  deleted: boolean;
  /** How often the entry has been given out, this time included; 1 where the reply does not say. */
  deliveries: number;
}

/** What was taken of a reply's entries in one go; valid until the next time. */
export interface TakenEntries {
  readonly entries: number;
  /** Where the first entry begins that was not taken. */
  readonly next: number;
}

export interface StreamReplyOptions {
  readonly fields: readonly string[];
  readonly entryBytesMax: number;
  /** Returns false when there is no room: the entry will be offered again. */
  readonly onEntry: (buffer: Buffer, entry: EntryColumns) => boolean;
  /**
   * Takes at most `entriesMax` whole entries from `start` on, those about which there is nothing to say, and
   * says how many and where it stopped. The others are offered by `onEntry`.
   */
  readonly onEntries?: (buffer: Buffer, start: number, end: number, entriesMax: number) => TakenEntries;
  readonly onOversize: (id: string, deliveries: number) => boolean;
  /** What stands where the stream's name does, at `start` to `end`; before the reply's entries. */
  readonly onHead?: (buffer: Buffer, start: number, end: number) => void;
  /** The reply is complete; `entries` is 0 when nothing came in time. */
  readonly onReplyEnd: (entries: number) => void;
  /** The server answered with an error instead. */
  readonly onError: (message: string) => void;
}

const INCOMPLETE = -1;
const NIL = -1;
/** Lengths of replies have at most ten digits; more would not be a safe integer. */
const DIGITS_MAX = 15;

export class StreamReplyParser {
  readonly #options: StreamReplyOptions;
  readonly #names: readonly Buffer[];
  readonly #entry: EntryColumns;
  /** Entries of the current reply that are still to come; NIL: waiting for a reply's head. */
  #left = NIL;
  #entries = 0;
  /** Cursor of the number reader below: a second return value without an object. */
  #next = 0;
  #oversizeId: string | null = null;
  #skipBulks = 0;
  #skipBytes = 0;
  /** The entry that is walked over ends with its count of deliveries. */
  #skipCount = false;
  #skipDeliveries = 1;
  /** True while the owner has refused the next entry. */
  refused = false;

  constructor(options: StreamReplyOptions) {
    this.#options = options;
    this.#names = options.fields.map((name) => Buffer.from(name));
    this.#entry = {
      idStart: 0,
      idEnd: 0,
      fields: new Int32Array(options.fields.length * 2),
      unknownStart: -1,
      unknownEnd: -1,
      deleted: false,
      deliveries: 1,
    };
  }

  /** After a reconnect: forgets a reply that will never be completed. */
  reset(): void {
    this.#left = NIL;
    this.#entries = 0;
    this.#oversizeId = null;
    this.#skipBulks = 0;
    this.#skipBytes = 0;
    this.#skipCount = false;
    this.refused = false;
  }

  /**
   * Takes what it can of bytes `start` to `end`; returns where it stopped. Throws when the bytes are no such
   * reply.
   */
  parse(buffer: Buffer, start: number, end: number): number {
    let at = start;
    this.refused = false;
    while (at < end || this.#left === 0 || this.#skipped()) {
      if (this.#left === 0) {
        const entries = this.#entries;
        this.reset();
        this.#options.onReplyEnd(entries);
        continue;
      }
      let next: number;
      const left = this.#left;
      if (this.#left === NIL) next = this.#head(buffer, at, end);
      else if (this.#oversizeId !== null) next = this.#skip(buffer, at, end);
      else {
        next = this.#many(buffer, at, end);
        if (next === at) next = this.#one(buffer, at, end);
      }
      // An oversize entry that is reported again takes no byte, but is one entry less.
      if (this.refused || (next === at && this.#left === left)) return next;
      at = next;
    }
    return at;
  }

  /** An oversize entry has been walked over and waits to be reported. */
  #skipped(): boolean {
    return this.#oversizeId !== null && this.#skipBulks === 0 && this.#skipBytes === 0 && !this.#skipCount;
  }

  /** Reads the head of a reply; returns `start` again while it is incomplete. */
  #head(buffer: Buffer, start: number, end: number): number {
    if (buffer[start] === 0x2d) {
      const cr = lineEnd(buffer, start, end);
      if (cr < 0) return start;
      this.#options.onError(buffer.toString('utf8', start + 1, cr));
      return cr + 2;
    }
    const streams = this.#number(buffer, start, end, 0x2a);
    if (streams === null) return start;
    if (streams <= 0) {
      const next = this.#next;
      this.#options.onReplyEnd(0);
      return next;
    }
    const parts = this.#number(buffer, this.#next, end, 0x2a);
    if (parts === null) return start;
    const nameBytes = this.#number(buffer, this.#next, end, 0x24);
    if (nameBytes === null || this.#next + nameBytes + 2 > end) return start;
    const nameStart = this.#next;
    const entries = this.#number(buffer, nameStart + nameBytes + 2, end, 0x2a);
    if (entries === null) return start;
    if (streams !== 1 || parts !== 2)
      throw new Error(`a reply of ${streams} streams of ${parts} parts was not asked for`);
    this.#options.onHead?.(buffer, nameStart, nameStart + nameBytes);
    this.#left = Math.max(entries, 0);
    this.#entries = this.#left;
    return this.#next;
  }

  /** Hands over what can be taken as it stands; returns `start` again when that is nothing. */
  #many(buffer: Buffer, start: number, end: number): number {
    const { onEntries } = this.#options;
    if (onEntries === undefined) return start;
    const { entries, next } = onEntries(buffer, start, end, this.#left);
    this.#left -= entries;
    return next;
  }

  /** Offers one entry; returns `start` again while it is incomplete or refused. */
  #one(buffer: Buffer, start: number, end: number): number {
    const next = this.#locate(buffer, start, end);
    if (next === INCOMPLETE) {
      if (end - start < this.#options.entryBytesMax) return start;
      return this.#beginSkip(buffer, start, end);
    }
    if (next - start > this.#options.entryBytesMax) return this.#beginSkip(buffer, start, end);
    if (!this.#options.onEntry(buffer, this.#entry)) {
      this.refused = true;
      return start;
    }
    this.#left -= 1;
    return next;
  }

  /** Finds the parts of the entry at `start`; returns its end or INCOMPLETE. */
  #locate(buffer: Buffer, start: number, end: number): number {
    const entry = this.#entry;
    const items = this.#number(buffer, start, end, 0x2a);
    if (items === null) return INCOMPLETE;
    const idBytes = this.#number(buffer, this.#next, end, 0x24);
    if (idBytes === null) return INCOMPLETE;
    entry.idStart = this.#next;
    entry.idEnd = this.#next + idBytes;
    if (entry.idEnd + 2 > end) return INCOMPLETE;
    const parts = this.#number(buffer, entry.idEnd + 2, end, 0x2a);
    if (parts === null) return INCOMPLETE;
    // XREADGROUP says nil; a script can only say that there are no fields.
    entry.deleted = parts < 0 || (parts === 0 && items === 3);
    entry.deliveries = 1;
    entry.fields.fill(-1);
    entry.unknownStart = -1;
    entry.unknownEnd = -1;
    for (let pair = 0; pair < parts; pair += 2) {
      const nameBytes = this.#number(buffer, this.#next, end, 0x24);
      if (nameBytes === null) return INCOMPLETE;
      const nameStart = this.#next;
      const nameEnd = nameStart + nameBytes;
      if (nameEnd + 2 > end) return INCOMPLETE;
      const valueBytes = this.#number(buffer, nameEnd + 2, end, 0x24);
      if (valueBytes === null) return INCOMPLETE;
      const valueStart = this.#next;
      this.#next = valueStart + valueBytes + 2;
      if (this.#next > end) return INCOMPLETE;
      const field = this.#fieldAt(buffer, nameStart, nameBytes);
      if (field >= 0) {
        entry.fields[2 * field] = valueStart;
        entry.fields[2 * field + 1] = valueStart + valueBytes;
      } else if (entry.unknownStart < 0) {
        entry.unknownStart = nameStart;
        entry.unknownEnd = nameEnd;
      }
    }
    if (items === 3) {
      const deliveries = this.#number(buffer, this.#next, end, 0x3a);
      if (deliveries === null) return INCOMPLETE;
      entry.deliveries = deliveries;
    }
    return this.#next;
  }

  #fieldAt(buffer: Buffer, start: number, length: number): number {
    const names = this.#names;
    for (let i = 0; i < names.length; i += 1) {
      const name = names[i] as Buffer;
      if (name.length !== length) continue;
      let at = 0;
      while (at < length && buffer[start + at] === name[at]) at += 1;
      if (at === length) return i;
    }
    return -1;
  }

  /** The entry at `start` is too large: remember its id and walk over its fields as they come. */
  #beginSkip(buffer: Buffer, start: number, end: number): number {
    const items = this.#number(buffer, start, end, 0x2a);
    const idBytes = this.#number(buffer, this.#next, end, 0x24) ?? 0;
    const idStart = this.#next;
    const parts = this.#number(buffer, idStart + idBytes + 2, end, 0x2a);
    if (parts === null) throw new Error('an entry id is longer than the largest entry allowed');
    this.#oversizeId = buffer.toString('latin1', idStart, idStart + idBytes);
    this.#skipBulks = parts;
    this.#skipBytes = 0;
    this.#skipCount = items === 3;
    this.#skipDeliveries = 1;
    return this.#next;
  }

  #skip(buffer: Buffer, start: number, end: number): number {
    let at = start;
    while (this.#skipBulks > 0 || this.#skipBytes > 0) {
      if (this.#skipBytes > 0) {
        const step = Math.min(this.#skipBytes, end - at);
        at += step;
        this.#skipBytes -= step;
        if (this.#skipBytes > 0) return at;
      } else {
        const length = this.#number(buffer, at, end, 0x24);
        if (length === null) return at;
        at = this.#next;
        this.#skipBytes = length + 2;
        this.#skipBulks -= 1;
      }
    }
    if (this.#skipCount) {
      const deliveries = this.#number(buffer, at, end, 0x3a);
      if (deliveries === null) return at;
      at = this.#next;
      this.#skipDeliveries = deliveries;
      this.#skipCount = false;
    }
    if (!this.#options.onOversize(this.#oversizeId as string, this.#skipDeliveries)) {
      this.refused = true;
      return at;
    }
    this.#oversizeId = null;
    this.#left -= 1;
    return at;
  }

  /**
   * Reads `<type><digits>\r\n` at `at` and sets #next behind it; null while incomplete. Only an array may be
   * nil: a string below zero would send the cursor back.
   */
  #number(buffer: Buffer, at: number, end: number, type: number): number | null {
    if (at >= end) return null;
    if (buffer[at] !== type)
      throw new Error(`expected byte 0x${type.toString(16)}, got 0x${buffer[at]?.toString(16)}`);
    let i = at + 1;
    let value = 0;
    let sign = 1;
    if (i < end && buffer[i] === 0x2d && type === 0x2a) {
      sign = -1;
      i += 1;
    }
    for (; i < end; i += 1) {
      const digit = (buffer[i] as number) - 48;
      if (digit < 0 || digit > 9) break;
      value = value * 10 + digit;
    }
    if (i - at > DIGITS_MAX) throw new Error('a length is out of range');
    if (i + 1 >= end) return null;
    if (buffer[i] !== 13 || buffer[i + 1] !== 10) throw new Error('a length is not a number');
    this.#next = i + 2;
    return sign * value;
  }
}

// Streams of Redis 7.0 as the model holds them: entries, groups, pending entries, and what `~` trims.
// Follows t_stream.c of 7.0.15, function by function where that matters.

/** Both parts are exact up to 2^53; Infinity stands for the largest number of 64 bits. */
export interface Id {
  readonly ms: number;
  readonly seq: number;
}

export const ID_MIN: Id = { ms: 0, seq: 0 };
export const ID_MAX: Id = { ms: Number.POSITIVE_INFINITY, seq: Number.POSITIVE_INFINITY };
const PART_MAX = '18446744073709551615';

export function compareIds(a: Id, b: Id): number {
  if (a.ms !== b.ms) return a.ms < b.ms ? -1 : 1;
  return a.seq === b.seq ? 0 : a.seq < b.seq ? -1 : 1;
}

const partText = (part: number) => (part === Number.POSITIVE_INFINITY ? PART_MAX : String(part));
export const idText = ({ ms, seq }: Id) => `${partText(ms)}-${partText(seq)}`;
export const nextId = ({ ms, seq }: Id): Id => ({ ms, seq: seq + 1 });

function parsePart(text: string): number | null {
  if (!/^(0|[1-9]\d{0,19})$/.test(text)) return null;
  return text === PART_MAX ? Number.POSITIVE_INFINITY : Number(text);
}

/** `ms` or `ms-seq`; null when it is neither. */
export function parseId(text: string, missingSeq = 0): Id | null {
  const dash = text.indexOf('-');
  const ms = parsePart(dash < 0 ? text : text.slice(0, dash));
  const seq = dash < 0 ? missingSeq : parsePart(text.slice(dash + 1));
  return ms === null || seq === null ? null : { ms, seq };
}

/** A node of the radix tree: what `~` trims as a whole. */
interface Node {
  live: number;
  /** With the entries that were deleted from it. */
  total: number;
  last: Id;
}

export interface Entry {
  readonly id: Id;
  readonly text: string;
  readonly fields: readonly string[];
  readonly node: Node;
}

export interface Consumer {
  readonly name: string;
  seenMs: number;
  pending: number;
}

export interface Pending {
  readonly id: Id;
  readonly text: string;
  consumer: Consumer;
  deliveredMs: number;
  count: number;
}

/** Index of the first item that is not before `id`. */
function indexOf(items: readonly { readonly id: Id }[], id: Id): number {
  let low = 0;
  let high = items.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (compareIds((items[middle] as { readonly id: Id }).id, id) < 0) low = middle + 1;
    else high = middle;
  }
  return low;
}

export class Group {
  readonly name: string;
  last: Id;
  /** Null: not known. */
  read: number | null;
  readonly pel: Pending[] = [];
  readonly #byId = new Map<string, Pending>();
  readonly consumers = new Map<string, Consumer>();

  constructor(name: string, last: Id, read: number | null) {
    this.name = name;
    this.last = last;
    this.read = read;
  }

  pending(id: string): Pending | undefined {
    return this.#byId.get(id);
  }

  /** The consumer, made when there is none; its seen-time is now. */
  consumer(name: string, nowMs: number): Consumer {
    let consumer = this.consumers.get(name);
    if (consumer === undefined) {
      consumer = { name, seenMs: nowMs, pending: 0 };
      this.consumers.set(name, consumer);
    }
    consumer.seenMs = nowMs;
    return consumer;
  }

  /** Pending entries from `start` on, of one consumer or of all. */
  from(start: Id, end: Id, consumer?: Consumer): Pending[] {
    const found: Pending[] = [];
    for (let i = indexOf(this.pel, start); i < this.pel.length; i += 1) {
      const pending = this.pel[i] as Pending;
      if (compareIds(pending.id, end) > 0) break;
      if (consumer === undefined || pending.consumer === consumer) found.push(pending);
    }
    return found;
  }

  /** Gives an entry to a consumer: a new pending entry, or one that changes hands. */
  give(id: Id, text: string, consumer: Consumer, deliveredMs: number, count: number): Pending {
    let pending = this.#byId.get(text);
    if (pending === undefined) {
      pending = { id, text, consumer, deliveredMs, count };
      consumer.pending += 1;
      this.pel.splice(indexOf(this.pel, id), 0, pending);
      this.#byId.set(text, pending);
    } else {
      pending.consumer.pending -= 1;
      consumer.pending += 1;
      pending.consumer = consumer;
      pending.deliveredMs = deliveredMs;
      pending.count = count;
    }
    return pending;
  }

  /** No longer pending; false when it was not. */
  remove(text: string): boolean {
    const pending = this.#byId.get(text);
    if (pending === undefined) return false;
    pending.consumer.pending -= 1;
    this.#byId.delete(text);
    this.pel.splice(indexOf(this.pel, pending.id), 1);
    return true;
  }

  /** Returns how many entries were pending for it. */
  deleteConsumer(name: string): number {
    const consumer = this.consumers.get(name);
    if (consumer === undefined) return 0;
    const mine = this.pel.filter((pending) => pending.consumer === consumer);
    for (const { text } of mine) this.remove(text);
    this.consumers.delete(name);
    return mine.length;
  }

  clone(): Group {
    const copy = new Group(this.name, this.last, this.read);
    for (const consumer of this.consumers.values())
      copy.consumers.set(consumer.name, { ...consumer, pending: 0 });
    for (const { id, text, consumer, deliveredMs, count } of this.pel)
      copy.give(id, text, copy.consumers.get(consumer.name) as Consumer, deliveredMs, count);
    return copy;
  }
}

export interface Trim {
  readonly maxLength?: number;
  readonly minId?: Id;
  readonly approximate: boolean;
  /** Entries at most; 0: no limit. */
  readonly limit: number;
}

export class Stream {
  entries: Entry[] = [];
  readonly groups = new Map<string, Group>();
  last: Id = ID_MIN;
  maxDeleted: Id = ID_MIN;
  added = 0;
  readonly #nodeEntries: number;
  #tail: Node | null = null;

  /** `nodeEntries`: stream-node-max-entries. */
  constructor(nodeEntries: number) {
    this.#nodeEntries = nodeEntries;
  }

  get firstId(): Id {
    return this.entries[0]?.id ?? ID_MIN;
  }

  entry(id: Id): Entry | undefined {
    const found = this.entries[indexOf(this.entries, id)];
    return found !== undefined && compareIds(found.id, id) === 0 ? found : undefined;
  }

  range(start: Id, end: Id, count: number, reverse = false): Entry[] {
    const from = indexOf(this.entries, start);
    let to = indexOf(this.entries, end);
    if (to < this.entries.length && compareIds((this.entries[to] as Entry).id, end) === 0) to += 1;
    if (from >= to) return [];
    const most = count > 0 ? count : to - from;
    if (!reverse) return this.entries.slice(from, Math.min(to, from + most));
    return this.entries.slice(Math.max(from, to - most), to).reverse();
  }

  /** The id must be above `last`. */
  append(id: Id, fields: readonly string[]): Entry {
    if (this.#tail === null || this.#tail.total >= this.#nodeEntries)
      this.#tail = { live: 0, total: 0, last: id };
    const node = this.#tail;
    node.live += 1;
    node.total += 1;
    node.last = id;
    const entry = { id, text: idText(id), fields, node };
    this.entries.push(entry);
    this.added += 1;
    this.last = id;
    return entry;
  }

  delete(id: Id): boolean {
    const at = indexOf(this.entries, id);
    const entry = this.entries[at];
    if (entry === undefined || compareIds(entry.id, id) !== 0) return false;
    this.entries.splice(at, 1);
    entry.node.live -= 1;
    if (entry.node.live === 0 && entry.node === this.#tail) this.#tail = this.entries.at(-1)?.node ?? null;
    if (compareIds(id, this.maxDeleted) > 0) this.maxDeleted = id;
    return true;
  }

  trim({ maxLength, minId, approximate, limit }: Trim): number {
    let deleted = 0;
    while (this.entries.length > 0) {
      if (maxLength !== undefined && this.entries.length <= maxLength) break;
      const { node } = this.entries[0] as Entry;
      if (limit > 0 && deleted + node.live > limit) break;
      const whole =
        maxLength === undefined
          ? compareIds(node.last, minId as Id) < 0
          : this.entries.length - node.live >= maxLength;
      if (whole) {
        deleted += node.live;
        this.entries.splice(0, node.live);
        if (node === this.#tail) this.#tail = null;
        continue;
      }
      if (!approximate) deleted += this.#trimWithin(node, maxLength, minId);
      break;
    }
    return deleted;
  }

  #trimWithin(node: Node, maxLength: number | undefined, minId: Id | undefined): number {
    let count = 0;
    while (count < node.live) {
      const { id } = this.entries[count] as Entry;
      if (
        maxLength === undefined ? compareIds(id, minId as Id) >= 0 : this.entries.length - count <= maxLength
      )
        break;
      count += 1;
    }
    this.entries.splice(0, count);
    node.live -= count;
    return count;
  }

  /** streamRangeHasTombstones, to the stream's end. */
  #hasTombstones(start: Id): boolean {
    if (this.entries.length === 0 || compareIds(this.maxDeleted, ID_MIN) === 0) return false;
    if (compareIds(this.firstId, this.maxDeleted) > 0) return false;
    return compareIds(start, this.maxDeleted) <= 0;
  }

  /** streamEstimateDistanceFromFirstEverEntry; null when it cannot be known. */
  #distance(id: Id): number | null {
    if (this.added === 0) return 0;
    const length = this.entries.length;
    const toLast = compareIds(id, this.last);
    if (length === 0 && toLast < 1) return this.added;
    if (toLast === 0) return this.added;
    if (toLast > 0) return null;
    const toFirst = compareIds(id, this.firstId);
    if (compareIds(this.maxDeleted, ID_MIN) === 0 || compareIds(this.maxDeleted, this.firstId) < 0) {
      if (toFirst < 0) return this.added - length;
      if (toFirst === 0) return this.added - length + 1;
    }
    return null;
  }

  lag(group: Group): number | null {
    if (this.added === 0) return 0;
    if (group.read !== null && !this.#hasTombstones(group.last)) return this.added - group.read;
    const read = this.#distance(group.last);
    return read === null ? null : this.added - read;
  }

  /** The group has been given this entry as a new one. */
  advance(group: Group, id: Id): void {
    if (compareIds(id, group.last) <= 0) return;
    if (group.read !== null && !this.#hasTombstones(id)) group.read += 1;
    else if (this.added > 0) group.read = this.#distance(id);
    group.last = id;
  }

  clone(): Stream {
    const copy = new Stream(this.#nodeEntries);
    const nodes = new Map<Node, Node>();
    const nodeOf = (node: Node) => {
      let cloned = nodes.get(node);
      if (cloned === undefined) {
        cloned = { ...node };
        nodes.set(node, cloned);
      }
      return cloned;
    };
    copy.entries = this.entries.map((entry) => ({ ...entry, node: nodeOf(entry.node) }));
    copy.#tail = this.#tail === null ? null : nodeOf(this.#tail);
    for (const group of this.groups.values()) copy.groups.set(group.name, group.clone());
    copy.last = this.last;
    copy.maxDeleted = this.maxDeleted;
    copy.added = this.added;
    return copy;
  }
}

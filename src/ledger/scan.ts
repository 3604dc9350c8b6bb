/**
 * Reads streams of any length in pages. Nothing here writes to Redis, and no command takes it long: a page is
 * some megabytes at most.
 */
import { messageOf, SubitoError } from '../errors.ts';
import type { Control } from '../redis/control.ts';
import { refusedBy } from './deadletters-fault.ts';
import { type EntryId, IdTable, idText, parseId } from './ids.ts';

/** Id, then names and values in turn. */
export type RawEntry = readonly [id: Buffer, values: readonly Buffer[]];

export interface StreamInfo {
  readonly length: number;
  /** Entries that were ever added. */
  readonly added: number;
  /** Id that was generated last, even if its entry is gone. */
  readonly last: EntryId;
  /** The largest id that was deleted with XDEL. */
  readonly deleted: EntryId;
  /** Null for a stream without entries. */
  readonly first: EntryId | null;
  /** Last id that the group was given; null where there is no such group. */
  readonly delivered: EntryId | null;
  /** Unix time, by the server's clock. */
  readonly nowMs: number;
}

const ENTRIES_MAX = 1000;
/** Of the first page, when nothing is known of the entries' size. */
const ENTRIES_FIRST = 100;
const PAGE_BYTES = 4 << 20;

export class Scan {
  readonly #control: Control;
  readonly #signal: AbortSignal | undefined;
  /** Called with how many entries (or pending rows) came. */
  readonly #onRows: (rows: number) => void;

  constructor(control: Control, signal: AbortSignal | undefined, onRows: (rows: number) => void) {
    this.#control = control;
    this.#signal = signal;
    this.#onRows = onRows;
  }

  /** Null for a stream that does not exist. */
  async info(stream: string, group = ''): Promise<StreamInfo | null> {
    const reply = await this.#ask(stream, null, () => this.#control.script('inspect', [stream], [group]));
    const [time, length, added, last, deleted, first, delivered] = reply as readonly (string | number)[];
    if (length === undefined) return null;
    return {
      nowMs: Number(time),
      length: Number(length),
      added: Number(added),
      last: knownId(stream, last),
      deleted: knownId(stream, deleted),
      first: first === '' ? null : knownId(stream, first),
      delivered: delivered === '' ? null : knownId(stream, delivered),
    };
  }

  /** Entries from one id to another, both included, a page at a time. */
  async *pages(stream: string, from: EntryId, to: EntryId): AsyncGenerator<readonly RawEntry[]> {
    let start = idText(from);
    let count = ENTRIES_FIRST;
    for (;;) {
      const asked = count;
      const page = (await this.#ask(stream, null, () =>
        this.#control.callBuffer('XRANGE', stream, start, idText(to), 'COUNT', asked),
      )) as readonly RawEntry[];
      const last = page.at(-1);
      if (last === undefined) return;
      this.#onRows(page.length);
      yield page;
      if (page.length < asked) return;
      start = `(${last[0].toString('latin1')}`;
      const entryBytes = 1 + bytesOf(page) / page.length;
      count = Math.max(1, Math.min(ENTRIES_MAX, Math.floor(PAGE_BYTES / entryBytes)));
    }
  }

  async has(stream: string, id: EntryId): Promise<boolean> {
    const text = idText(id);
    const reply = await this.#ask(stream, null, () => this.#control.callBuffer('XRANGE', stream, text, text));
    return (reply as unknown[]).length > 0;
  }

  /** Ids that the group has pending from one to another, both included; none where there is no such group. */
  async pending(stream: string, group: string, from: EntryId, to: EntryId): Promise<IdTable> {
    const table = new IdTable();
    for (let start = idText(from); ; ) {
      const reply = await this.#ask(stream, /^NOGROUP/, () =>
        this.#control.callBuffer('XPENDING', stream, group, start, idText(to), ENTRIES_MAX),
      );
      const rows = (reply ?? []) as readonly (readonly [Buffer, ...unknown[]])[];
      this.#onRows(rows.length);
      for (const [id] of rows) table.push(knownId(stream, id));
      const last = rows.at(-1);
      if (last === undefined || rows.length < ENTRIES_MAX) return table;
      start = `(${last[0].toString('latin1')}`;
    }
  }

  /** Nothing up to this id is unread or pending. Cheap, however long the stream. */
  async isSettled(stream: string, group: string, upTo: string | undefined): Promise<boolean> {
    const info = await this.info(stream, group);
    if (info === null || upTo === undefined) return true;
    const after = info.delivered === null ? '-' : `(${idText(info.delivered)}`;
    const unread = await this.#ask(stream, null, () =>
      this.#control.callBuffer('XRANGE', stream, after, upTo, 'COUNT', 1),
    );
    if ((unread as unknown[]).length > 0) return false;
    const pending = await this.#ask(stream, /^NOGROUP/, () =>
      this.#control.callBuffer('XPENDING', stream, group, '-', upTo, 1),
    );
    return ((pending ?? []) as unknown[]).length === 0;
  }

  /** Null where Redis answers with the error that is expected here. */
  async #ask(stream: string, expected: RegExp | null, command: () => Promise<unknown>): Promise<unknown> {
    this.#signal?.throwIfAborted();
    try {
      return await command();
    } catch (error) {
      if (expected?.test(messageOf(error))) return null;
      throw refusedBy(stream, error);
    }
  }
}

/** An id of a stream itself, where a text that is none can only be one beyond what can be compared here. */
export function knownId(stream: string, text: unknown): EntryId {
  const id = parseId(Buffer.isBuffer(text) ? text : String(text));
  if (id !== null) return id;
  throw new SubitoError('STREAM_UNUSABLE', `${stream}: the entry id ${String(text)} is beyond 2^53 - 1`, {
    fix: 'the ledger of such a stream cannot be audited; let Redis choose the ids (XADD with *)',
  });
}

/** The last value under the name, as of fields given twice; undefined where there is none. */
export function lastValue(values: readonly Buffer[], name: string): Buffer | undefined {
  for (let at = values.length - 2; at >= 0; at -= 2) {
    const found = values[at]!;
    if (found.length === name.length && found.toString('latin1') === name) return values[at + 1];
  }
  return undefined;
}

function bytesOf(page: readonly RawEntry[]): number {
  let bytes = 0;
  for (const [, values] of page) for (const value of values) bytes += value.length;
  return bytes;
}

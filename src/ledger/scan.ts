/**
 * Reads streams of any length in pages. Nothing here writes to Redis, and no command takes it long: a page is
 * some megabytes at most.
 */
import { messageOf, SubitoError } from '../errors.ts';
import type { Control } from '../redis/control.ts';
import { type EntryId, ID_MIN, IdTable, idText, parseId } from './ids.ts';

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
  async info(stream: string): Promise<StreamInfo | null> {
    // ioredis knows where the key of XINFO stands, so this finds its node of a cluster too.
    const reply = await this.#ask(stream, /^ERR no such key/, () =>
      this.#control.call('XINFO', 'STREAM', stream),
    );
    if (reply === null) return null;
    const info = asRecord(reply);
    const first = info['first-entry'] as readonly [string, ...unknown[]] | null | undefined;
    return {
      length: Number(info['length']),
      added: Number(info['entries-added']),
      last: knownId(stream, info['last-generated-id']),
      deleted: knownId(stream, info['max-deleted-entry-id']),
      first: first ? knownId(stream, first[0]) : null,
    };
  }

  /** Last id that the group was given; null where there is no such group. */
  async delivered(stream: string, group: string): Promise<EntryId | null> {
    const reply = await this.#ask(stream, /^ERR no such key/, () =>
      this.#control.call('XINFO', 'GROUPS', stream),
    );
    for (const each of (reply as unknown[] | null) ?? []) {
      const found = asRecord(each);
      if (found['name'] === group) return knownId(stream, found['last-delivered-id']);
    }
    return null;
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

  /** Null where Redis answers with the error that is expected here. */
  async #ask(
    stream: string,
    expected: RegExp | null,
    command: () => Promise<unknown>,
  ): Promise<unknown | null> {
    this.#signal?.throwIfAborted();
    try {
      return await command();
    } catch (cause) {
      const message = messageOf(cause);
      if (expected?.test(message)) return null;
      if (/^(WRONGTYPE|NOPERM)/.test(message)) {
        throw new SubitoError('STREAM_UNUSABLE', `${stream}: ${message}`, { cause });
      }
      throw new SubitoError('REDIS_UNREACHABLE', `cannot read ${stream}: ${message}`, { cause });
    }
  }
}

/** An id of a stream itself, where a text that is none can only be one beyond what can be compared here. */
export function knownId(stream: string, text: unknown): EntryId {
  // A stream from before 7.0 has not noted what was deleted.
  if (text === undefined) return ID_MIN;
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

/** RESP2 sends a map as a flat list, RESP3 as a map. */
function asRecord(value: unknown): Record<string, unknown> {
  if (!Array.isArray(value)) return value as Record<string, unknown>;
  const record: Record<string, unknown> = {};
  for (let i = 0; i + 1 < value.length; i += 2) record[String(value[i])] = value[i + 1];
  return record;
}

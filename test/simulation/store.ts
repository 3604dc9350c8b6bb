// The keys of the model, with their types and times of expiry; and what every command needs.
import { Stream } from './stream.ts';
import { ErrorReply, type Value } from './values.ts';

export type Content = string | Map<string, string> | Stream;

interface Key {
  content: Content;
  /** Unix milliseconds; Infinity: never. */
  expiresMs: number;
}

/** Thrown by commands; becomes their reply. */
export class CommandError extends Error {
  readonly reply: ErrorReply;

  constructor(text: string) {
    super(text);
    this.reply = new ErrorReply(text);
  }
}

export const WRONGTYPE = 'WRONGTYPE Operation against a key holding the wrong kind of value';
export const SYNTAX = 'ERR syntax error';

export class Store {
  readonly nowMs: () => number;
  readonly nodeEntries: number;
  readonly #keys = new Map<string, Key>();
  /** A stream got entries, lost its group or is gone: clients may wait for it. */
  readonly changed = new Set<string>();

  constructor(nowMs: () => number, nodeEntries: number) {
    this.nowMs = nowMs;
    this.nodeEntries = nodeEntries;
  }

  #find(key: string): Key | undefined {
    const found = this.#keys.get(key);
    if (found === undefined || found.expiresMs > this.nowMs()) return found;
    this.delete(key);
    return undefined;
  }

  get(key: string): Content | undefined {
    return this.#find(key)?.content;
  }

  get size(): number {
    for (const key of [...this.#keys.keys()]) this.#find(key);
    return this.#keys.size;
  }

  set(key: string, content: Content, expiresMs = Number.POSITIVE_INFINITY): void {
    this.#keys.set(key, { content, expiresMs });
    this.changed.add(key);
  }

  delete(key: string): boolean {
    this.changed.add(key);
    return this.#keys.delete(key);
  }

  clear(): void {
    for (const key of [...this.#keys.keys()]) this.delete(key);
  }

  expiry(key: string): number | undefined {
    return this.#find(key)?.expiresMs;
  }

  expireAt(key: string, ms: number): boolean {
    const found = this.#find(key);
    if (found === undefined) return false;
    found.expiresMs = ms;
    this.#find(key);
    return true;
  }

  typeOf(key: string): 'none' | 'string' | 'hash' | 'stream' {
    const content = this.get(key);
    if (content === undefined) return 'none';
    if (typeof content === 'string') return 'string';
    return content instanceof Map ? 'hash' : 'stream';
  }

  stream(key: string): Stream | undefined {
    const content = this.get(key);
    if (content === undefined || content instanceof Stream) return content;
    throw new CommandError(WRONGTYPE);
  }

  hash(key: string): Map<string, string> | undefined {
    const content = this.get(key);
    if (content === undefined || content instanceof Map) return content;
    throw new CommandError(WRONGTYPE);
  }

  text(key: string): string | undefined {
    const content = this.get(key);
    if (content === undefined || typeof content === 'string') return content;
    throw new CommandError(WRONGTYPE);
  }

  /** A copy of everything, as a replica or a file on disk has it. */
  clone(): Store {
    const copy = new Store(this.nowMs, this.nodeEntries);
    for (const [key, { content, expiresMs }] of this.#keys) {
      const cloned =
        typeof content === 'string' ? content : content instanceof Map ? new Map(content) : content.clone();
      copy.#keys.set(key, { content: cloned, expiresMs });
    }
    return copy;
  }

  streams(): [string, Stream][] {
    const found: [string, Stream][] = [];
    for (const [key, { content }] of this.#keys) if (content instanceof Stream) found.push([key, content]);
    return found;
  }
}

/** A whole number of 64 bits, as Redis reads it. */
export function integer(text: string, message = 'ERR value is not an integer or out of range'): number {
  if (!/^(0|-?[1-9]\d{0,18})$/.test(text)) throw new CommandError(message);
  return Number(text);
}

/** Who runs a command. */
export interface Context {
  readonly store: Store;
  readonly inScript: boolean;
  /** Makes the client wait; null where it cannot (a script). */
  readonly wait: ((waiting: Waiting) => void) | null;
}

/** An XREAD or XREADGROUP that waits for entries. */
export interface Waiting {
  readonly key: string;
  readonly count: number;
  /** 0: for ever. */
  readonly timeoutMs: number;
  readonly group: string | null;
  readonly consumer: string;
  /** Without a group: entries after this id. */
  readonly after: { readonly ms: number; readonly seq: number };
}

/** Returned by a command whose client waits. */
export const WAITS = Symbol('waits');

export interface Command {
  /** As Redis counts: with the name; negative: at least. */
  readonly arity: number;
  readonly write?: boolean;
  readonly denyOom?: boolean;
  readonly run: (context: Context, args: readonly string[]) => Value | typeof WAITS;
}

export type Commands = Readonly<Record<string, Command>>;

/**
 * A small incremental RESP2 parser: plain values, bulk strings as latin1 text (ids, numbers and codes are
 * ASCII).
 */

export class RedisReplyError extends Error {}

export type Reply = string | number | null | RedisReplyError | Reply[];

const CR = 13;

export class RespParser {
  #rest: Buffer | null = null;
  #bytes: Buffer = Buffer.alloc(0);
  #at = 0;

  /** Calls `emit` for every complete reply; keeps the beginning of an incomplete one for the next chunk. */
  push(chunk: Buffer, emit: (reply: Reply) => void): void {
    this.#bytes = this.#rest === null ? chunk : Buffer.concat([this.#rest, chunk]);
    this.#at = 0;
    let whole = 0;
    while (whole < this.#bytes.length) {
      const reply = this.#parse();
      if (reply === undefined) break;
      whole = this.#at;
      emit(reply);
    }
    this.#rest = whole < this.#bytes.length ? this.#bytes.subarray(whole) : null;
  }

  #parse(): Reply | undefined {
    const type = this.#bytes[this.#at];
    const end = this.#bytes.indexOf(CR, this.#at);
    // The LF after the CR must be there too.
    if (end === -1 || end + 1 >= this.#bytes.length) return undefined;
    const start = this.#at + 1;
    this.#at = end + 2;
    if (type === 0x24 /* $ */) return this.#bulk(this.#integer(start, end));
    if (type === 0x2a /* * */) return this.#array(this.#integer(start, end));
    if (type === 0x3a /* : */) return this.#integer(start, end);
    const text = this.#bytes.toString('latin1', start, end);
    if (type === 0x2b /* + */) return text;
    if (type === 0x2d /* - */) return new RedisReplyError(text);
    throw new Error(`not a Redis server: a reply begins with byte ${type}`);
  }

  #integer(start: number, end: number): number {
    let value = 0;
    const negative = this.#bytes[start] === 0x2d;
    for (let i = negative ? start + 1 : start; i < end; i++) value = value * 10 + (this.#bytes[i]! - 48);
    return negative ? -value : value;
  }

  #bulk(length: number): Reply | undefined {
    if (length < 0) return null;
    const end = this.#at + length;
    if (end + 2 > this.#bytes.length) return undefined;
    const text = this.#bytes.toString('latin1', this.#at, end);
    this.#at = end + 2;
    return text;
  }

  #array(length: number): Reply | undefined {
    if (length < 0) return null;
    const items: Reply[] = [];
    for (let i = 0; i < length; i++) {
      const item = this.#parse();
      if (item === undefined) return undefined;
      items.push(item);
    }
    return items;
  }
}

/** One command as RESP. */
export function encodeCommand(args: readonly (string | Buffer)[]): Buffer {
  const parts: Buffer[] = [Buffer.from(`*${args.length}\r\n`)];
  for (const arg of args) parts.push(encodeBulk(arg));
  return Buffer.concat(parts);
}

export function encodeBulk(arg: string | Buffer): Buffer {
  const bytes = typeof arg === 'string' ? Buffer.from(arg) : arg;
  return Buffer.concat([Buffer.from(`$${bytes.length}\r\n`), bytes, Buffer.from('\r\n')]);
}

/**
 * Reads any RESP2 reply as values; bulk strings as latin1 text (ids, numbers and codes are ASCII). For
 * connections that are not hot: stream-reply.ts reads events, and resp.ts reads replies of one line.
 */

/** An error reply. As an element of an array it is a value like any other. */
export class RedisReplyError extends Error {}

export type Reply = string | number | null | RedisReplyError | Reply[];

const CR = 13;

export class ReplyReader {
  #bytes: Buffer = Buffer.alloc(0);
  #at = 0;
  #end = 0;

  /** Where the next reply starts, after one was read. */
  get next(): number {
    return this.#at;
  }

  /** The reply at `start`; undefined while it is not complete before `end`. Throws on bytes that are none. */
  read(bytes: Buffer, start: number, end: number): Reply | undefined {
    this.#bytes = bytes;
    this.#at = start;
    this.#end = end;
    return this.#reply();
  }

  #reply(): Reply | undefined {
    const type = this.#bytes[this.#at];
    const end = this.#bytes.indexOf(CR, this.#at);
    // The LF after the CR must be there too.
    if (end === -1 || end + 2 > this.#end) return undefined;
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
    if (end + 2 > this.#end) return undefined;
    const text = this.#bytes.toString('latin1', this.#at, end);
    this.#at = end + 2;
    return text;
  }

  #array(length: number): Reply | undefined {
    if (length < 0) return null;
    const items: Reply[] = [];
    for (let i = 0; i < length; i++) {
      const item = this.#reply();
      if (item === undefined) return undefined;
      items.push(item);
    }
    return items;
  }
}

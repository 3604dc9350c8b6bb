/**
 * Writing commands and reading short replies of the Redis protocol (RESP2), without an object per element.
 */

const CR = 13;
const LF = 10;

/** Commands are small and few where this is used: connection set-up, reads. */
export function encodeCommand(args: readonly (string | number | Buffer)[]): Buffer {
  const parts: Buffer[] = [];
  let text = `*${args.length}\r\n`;
  for (const arg of args) {
    if (typeof arg === 'object') {
      parts.push(Buffer.from(`${text}$${arg.length}\r\n`), arg);
      text = '\r\n';
    } else {
      const value = String(arg);
      text += `$${Buffer.byteLength(value)}\r\n${value}\r\n`;
    }
  }
  const rest = Buffer.from(text);
  return parts.length === 0 ? rest : Buffer.concat([...parts, rest]);
}

/** One argument, for those who put commands together from prepared parts. */
export function encodeBulk(arg: string | Buffer): Buffer {
  const bytes = typeof arg === 'string' ? Buffer.from(arg) : arg;
  return Buffer.concat([Buffer.from(`$${bytes.length}\r\n`), bytes, Buffer.from('\r\n')]);
}

/** `$0\r\n` to `$1023\r\n`, ready to copy: formatting a number costs more than the row it announces. */
const BULK_HEADS: readonly Buffer[] = Array.from({ length: 1024 }, (_, n) => Buffer.from(`$${n}\r\n`));

/** Writes one command into a buffer of its own, which grows to the largest command seen and is then kept. */
export class CommandWriter {
  #buffer: Buffer;
  #at = 0;

  constructor(bytes: number) {
    this.#buffer = Buffer.allocUnsafeSlow(bytes);
  }

  reset(): void {
    this.#at = 0;
  }

  /** Bytes written since the last reset. */
  get length(): number {
    return this.#at;
  }

  subarray(start: number, end: number): Buffer {
    return this.#buffer.subarray(start, end);
  }

  array(items: number): void {
    this.#reserve(16);
    this.#at += this.#buffer.write(`*${items}\r\n`, this.#at, 'latin1');
  }

  /** A string of ASCII characters. */
  ascii(value: string): void {
    this.#head(value.length);
    this.#at += this.#buffer.write(value, this.#at, 'latin1');
    this.#end();
  }

  utf8(value: string): void {
    this.#head(Buffer.byteLength(value));
    this.#at += this.#buffer.write(value, this.#at, 'utf8');
    this.#end();
  }

  /** A whole number from 0 to 2^31 - 1. */
  int(value: number): void {
    const digits = digitsOf(value);
    this.#head(digits);
    const buffer = this.#buffer;
    for (let at = this.#at + digits - 1, rest = value; at >= this.#at; at -= 1) {
      buffer[at] = 48 + (rest % 10);
      rest = (rest / 10) | 0;
    }
    this.#at += digits;
    this.#end();
  }

  /** Arguments, or a whole command's beginning, as they are sent. */
  encoded(bytes: Uint8Array): void {
    this.#reserve(bytes.length);
    this.#buffer.set(bytes, this.#at);
    this.#at += bytes.length;
  }

  /** An argument of so many bytes, which the caller puts into `buffer` from `at` on, all of them, at once. */
  bulk(bytes: number): { readonly buffer: Buffer; readonly at: number } {
    this.#head(bytes);
    const at = this.#at;
    this.#at += bytes;
    this.#end();
    return { buffer: this.#buffer, at };
  }

  /**
   * Lets `write` append whatever it wants from `at` of the buffer on. It returns how many bytes it wrote;
   * below zero: how many it needs, and it is asked again.
   */
  append(write: (buffer: Buffer, at: number) => number): void {
    let bytes = write(this.#buffer, this.#at);
    if (bytes < 0) {
      this.#reserve(-bytes);
      bytes = write(this.#buffer, this.#at);
    }
    this.#at += bytes;
  }

  #head(length: number): void {
    this.#reserve(length + 16);
    if (length < BULK_HEADS.length) {
      const head = BULK_HEADS[length] as Buffer;
      const buffer = this.#buffer;
      let at = this.#at;
      for (let i = 0; i < head.length; i += 1) buffer[at++] = head[i] as number;
      this.#at = at;
    } else {
      this.#at += this.#buffer.write(`$${length}\r\n`, this.#at, 'latin1');
    }
  }

  #end(): void {
    this.#buffer[this.#at] = CR;
    this.#buffer[this.#at + 1] = LF;
    this.#at += 2;
  }

  #reserve(bytes: number): void {
    if (this.#at + bytes + 2 <= this.#buffer.length) return;
    const grown = Buffer.allocUnsafeSlow(Math.max(this.#buffer.length * 2, this.#at + bytes + 2));
    this.#buffer.copy(grown, 0, 0, this.#at);
    this.#buffer = grown;
  }
}

/** Digits of a whole number from 0 to 2^31 - 1. */
export function digitsOf(value: number): number {
  let digits = 1;
  for (let bound = 10; value >= bound && digits < 10; bound *= 10) digits += 1;
  return digits;
}

/** A call into native code costs about what a loop over this many bytes does. */
const COPY_LOOP_BYTES_MAX = 48;

/** Copies without allocating: a loop for short runs, else one native copy. */
export function copyBytes(
  source: Uint8Array,
  start: number,
  end: number,
  target: Uint8Array,
  at: number,
): void {
  if (end - start > COPY_LOOP_BYTES_MAX && source instanceof Buffer) {
    source.copy(target, at, start, end);
    return;
  }
  for (let from = start, to = at; from < end; from += 1, to += 1) target[to] = source[from] as number;
}

/** Index of the CR of the line that starts at `from`, or -1 while the line is not complete before `end`. */
export function lineEnd(buffer: Uint8Array, from: number, end: number): number {
  for (let at = from; at + 1 < end; at += 1) if (buffer[at] === CR && buffer[at + 1] === LF) return at;
  return -1;
}

/** A one-line reply: status, error or integer; null bulk and null array count as 'nil'. */
export interface LineReply {
  readonly kind: 'ok' | 'error' | 'integer' | 'nil';
  readonly text: string;
  /** Where the next reply starts. */
  readonly next: number;
}

/**
 * Reads a reply that is one line, or one short bulk string. Returns null while it is incomplete. Throws on a
 * byte that can start no such reply: the connection is out of step and must be dropped.
 */
export function readLineReply(buffer: Buffer, from: number, end: number): LineReply | null {
  const cr = lineEnd(buffer, from, end);
  if (cr < 0) return null;
  const text = buffer.toString('latin1', from + 1, cr);
  const next = cr + 2;
  switch (buffer[from]) {
    case 0x2b: // +
      return { kind: 'ok', text, next };
    case 0x2d: // -
      return { kind: 'error', text, next };
    case 0x3a: // :
      return { kind: 'integer', text, next };
    case 0x24: {
      // $
      const length = Number(text);
      if (!Number.isSafeInteger(length)) throw new Error(`"${text}" is no length of a reply`);
      if (length < 0) return { kind: 'nil', text: '', next };
      if (next + length + 2 > end) return null;
      return { kind: 'ok', text: buffer.toString('utf8', next, next + length), next: next + length + 2 };
    }
    case 0x2a: // *
      if (text === '-1') return { kind: 'nil', text: '', next };
      throw new Error(`unexpected array reply of ${text} elements`);
    default:
      throw new Error(`unexpected reply byte 0x${(buffer[from] as number).toString(16)}`);
  }
}

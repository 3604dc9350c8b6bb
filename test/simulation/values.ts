// Values of the Redis protocol as the model holds them, and their bytes. Strings hold one byte per character
// (latin1), so that any payload passes unchanged.

export class Status {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

/** An error reply; its text begins with the code. */
export class ErrorReply {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

/** `*-1`, which is not the same as a missing string, `$-1` (null). */
export const NIL_ARRAY = Symbol('nil array');

export type Value = string | number | null | Status | ErrorReply | typeof NIL_ARRAY | Value[];

export const OK = new Status('OK');

/** RESP2. */
export function encodeValue(value: Value): string {
  if (typeof value === 'string') return `$${value.length}\r\n${value}\r\n`;
  if (typeof value === 'number') return `:${value}\r\n`;
  if (value === null) return '$-1\r\n';
  if (value === NIL_ARRAY) return '*-1\r\n';
  if (value instanceof Status) return `+${value.text}\r\n`;
  if (value instanceof ErrorReply) return `-${value.text}\r\n`;
  let text = `*${value.length}\r\n`;
  for (const item of value) text += encodeValue(item);
  return text;
}

/** Takes bytes apart into commands, whatever pieces they come in. */
export class CommandParser {
  #text = '';

  /** The commands that these bytes complete. */
  push(bytes: Uint8Array): string[][] {
    const text = this.#text + Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('latin1');
    const commands: string[][] = [];
    let at = 0;
    for (;;) {
      const command: string[] = [];
      const next = readCommand(text, at, command);
      if (next < 0) break;
      commands.push(command);
      at = next;
    }
    this.#text = text.slice(at);
    return commands;
  }
}

/** Puts the arguments at `start` into `command`; returns where they end, or -1 while they are incomplete. */
function readCommand(text: string, start: number, command: string[]): number {
  let line = text.indexOf('\r\n', start);
  if (line < 0) return -1;
  if (text[start] !== '*') throw new Error(`a command does not begin with ${JSON.stringify(text[start])}`);
  const count = Number(text.slice(start + 1, line));
  let at = line + 2;
  for (let i = 0; i < count; i += 1) {
    line = text.indexOf('\r\n', at);
    if (line < 0) return -1;
    if (text[at] !== '$') throw new Error('a string was expected');
    const length = Number(text.slice(at + 1, line));
    at = line + 2;
    if (at + length + 2 > text.length) return -1;
    command.push(text.slice(at, at + length));
    at += length + 2;
  }
  return at;
}

/** As binary text: strings by their UTF-8 bytes. */
export function binary(value: string | number | Buffer): string {
  if (typeof value === 'number') return String(value);
  return typeof value === 'string' ? Buffer.from(value).toString('latin1') : value.toString('latin1');
}

/** As binary text is read by people and clients. */
export function text(value: string): string {
  return Buffer.from(value, 'latin1').toString();
}

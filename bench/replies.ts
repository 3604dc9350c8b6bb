/** Counts replies without reading them: bulk strings (of XADD: an id), whole numbers (of XACK), errors. */

const LF = 10;
const DOLLAR = 0x24;
const MINUS = 0x2d;

export class Replies {
  count = 0;
  /** The first error's text; empty while there was none. */
  error = '';
  /** The first byte of the line at hand; 0 before it has come. */
  #first = 0;
  /** The line at hand is the content of a bulk string, in which no line may break. */
  #content = false;
  /** What of an error's line came with earlier bytes. */
  #text = '';

  /** Takes all of the bytes from `start` to `end`. */
  take(buffer: Buffer, start: number, end: number): void {
    let lineStart = start;
    for (let at = start; at < end; at++) {
      const byte = buffer[at]!;
      if (this.#first === 0) this.#first = byte;
      if (byte !== LF) continue;
      this.#line(buffer, lineStart, at);
      lineStart = at + 1;
    }
    if (this.#first === MINUS && !this.#content) this.#text += buffer.toString('latin1', lineStart, end);
  }

  #line(buffer: Buffer, start: number, end: number): void {
    const first = this.#first;
    this.#first = 0;
    if (this.#content) {
      this.#content = false;
      this.count++;
      return;
    }
    if (first === DOLLAR) {
      this.#content = true;
      return;
    }
    this.count++;
    if (first !== MINUS) return;
    const text = this.#text + buffer.toString('latin1', start, end);
    this.#text = '';
    if (this.error === '') this.error = text.trim();
  }
}

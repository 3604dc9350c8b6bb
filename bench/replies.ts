/** Counts replies without reading them: bulk strings (of XADD: an id), whole numbers (of XACK), errors. */

const LF = 10;
const DOLLAR = 0x24;
const MINUS = 0x2d;
const ERROR_BYTES_MAX = 200;

export class Replies {
  count = 0;
  /** The first error's text; empty while there was none. */
  error = '';
  /** The first byte of the line at hand; 0 before it has come. */
  #first = 0;
  /** The line at hand is the content of a bulk string, in which no line may break. */
  #content = false;

  /** Takes all of the bytes from `start` to `end`. */
  take(buffer: Buffer, start: number, end: number): void {
    for (let at = start; at < end; at++) {
      const byte = buffer[at]!;
      if (this.#first === 0) this.#first = byte;
      if (byte !== LF) continue;
      const first = this.#first;
      this.#first = 0;
      if (first === DOLLAR && !this.#content) {
        this.#content = true;
        continue;
      }
      if (first === MINUS && !this.#content && this.error === '') {
        // What stands before in the buffer may belong to other replies: the last line is this one.
        const text = buffer.toString('latin1', Math.max(start, at - ERROR_BYTES_MAX), at).trim();
        this.error = text.slice(text.lastIndexOf('\n') + 1);
      }
      this.#content = false;
      this.count++;
    }
  }
}

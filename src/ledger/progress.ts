/** One line about what goes on: rewritten in place on a terminal, elsewhere a new one every few seconds. */

const LIVE_MS = 100;
const PLAIN_MS = 2000;

export interface ProgressOptions {
  readonly write: (text: string) => void;
  /** It goes to a terminal. */
  readonly live: boolean;
  /** Any clock, in milliseconds. */
  readonly now: () => number;
}

export class Progress {
  readonly #options: ProgressOptions;
  #saidMs: number;
  #shown = false;

  constructor(options: ProgressOptions) {
    this.#options = options;
    this.#saidMs = options.now();
  }

  /** Short work ends without a line. `text` is called when its line is due. */
  say(text: () => string): void {
    const { write, live, now } = this.#options;
    const nowMs = now();
    if (nowMs - this.#saidMs < (live ? LIVE_MS : PLAIN_MS)) return;
    this.#saidMs = nowMs;
    this.#shown = live;
    write(live ? `\r\x1b[K${text()}` : `${text()}\n`);
  }

  /** Takes the line off the terminal, before something else is printed. */
  clear(): void {
    if (this.#shown) this.#options.write('\r\x1b[K');
    this.#shown = false;
  }
}

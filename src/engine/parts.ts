/** What has been started so far, so that a start that fails half-way leaves nothing behind. */
export class Parts {
  readonly #closers: (() => unknown)[] = [];
  #abandoned = false;

  /** Throws when the start was given up meanwhile; the part is closed then. */
  add<T>(part: T, close: (part: T) => unknown): T {
    if (this.#abandoned) {
      close(part);
      throw new Error('the start was given up');
    }
    this.#closers.push(() => close(part));
    return part;
  }

  /** Last started, first closed. */
  async abandon(): Promise<void> {
    this.#abandoned = true;
    for (const close of this.#closers.reverse()) await close();
  }
}

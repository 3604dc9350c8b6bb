/**
 * Where a batch's predictions and details are written: the slab's output arena until that is full, from then
 * on a private buffer that takes its place (the spill). Offsets handed out are relative and hold in both.
 */
export class OutArena {
  bytes: Buffer<ArrayBufferLike> = Buffer.alloc(0);
  view: DataView = new DataView(this.bytes.buffer);
  /** Next byte to write, an index into `bytes`. Writers call `ensure` first. */
  at = 0;
  #base = 0;
  #end = 0;
  #spilled = false;

  /** Starts a batch. `bytes` and `view` cover the whole slab. */
  reset(bytes: Buffer<ArrayBufferLike>, view: DataView, base: number, length: number): void {
    this.bytes = bytes;
    this.view = view;
    this.at = base;
    this.#base = base;
    this.#end = base + length;
    this.#spilled = false;
  }

  /** Bytes written since the batch began. */
  get length(): number {
    return this.at - this.#base;
  }

  /** What was written must be given away with the batch: the slab's arena could not hold it. */
  get spilled(): boolean {
    return this.#spilled;
  }

  /** Somebody else wrote into the slab's arena, which now holds `length` bytes. */
  advance(length: number): void {
    this.at = this.#base + length;
  }

  /** Takes back what was written past `length`. */
  rewind(length: number): void {
    this.at = this.#base + length;
  }

  /** Makes room for `count` more bytes. `bytes`, `view` and `at` may be others afterwards. */
  ensure(count: number): void {
    if (this.at + count <= this.#end) return;
    const grown = Buffer.allocUnsafeSlow(Math.max(2 * (this.#end - this.#base), this.length + count));
    this.bytes.copy(grown, 0, this.#base, this.at);
    this.at = this.length;
    this.bytes = grown;
    this.view = new DataView(grown.buffer);
    this.#base = 0;
    this.#end = grown.length;
    this.#spilled = true;
  }

  text(text: string): void {
    // UTF-8 takes at most three bytes for a UTF-16 unit.
    this.ensure(text.length * 3);
    this.at += this.bytes.write(text, this.at);
  }

  /** Copies a few bytes; for so few a loop is faster than the call of `set`. */
  copy(source: Uint8Array): void {
    this.ensure(source.length);
    const { bytes } = this;
    let at = this.at;
    for (let i = 0; i < source.length; i++) bytes[at++] = source[i]!;
    this.at = at;
  }

  /** What was written, if the slab's arena could not hold it. */
  spill(): Uint8Array | null {
    return this.#spilled ? new Uint8Array(this.bytes.subarray(0, this.at)) : null;
  }
}

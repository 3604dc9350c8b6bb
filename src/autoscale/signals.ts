/**
 * Rates from counters. Pure: samples come in with their time, about one a second; rates over a window go out.
 *
 * What one replica can do is not configured but measured: the rows that its workers ran, by the share of the
 * time for which the busiest of its parts was busy. Parts are the workers and the main thread; small models
 * leave the workers idle while the main thread has no more to give. At a light load batches are small and a
 * row costs more, so such a measurement says too little: once a busy window has been seen, only another busy
 * one replaces it.
 */

/** Counters since the start of the process, or of the stream; null: not known. */
export interface Sample {
  /** Monotonic. */
  readonly atMs: number;
  /** Entries ever added to the input streams, all together. */
  readonly added: number | null;
  /** When that was counted. */
  readonly addedAtMs: number;
  /** Events that came to this replica over a socket. */
  readonly directRows: number;
  /** Rows that the workers of this replica ran. */
  readonly ranRows: number;
  /** Rows that this replica settled, in whatever way. */
  readonly settledRows: number;
  /** Time that the workers of this replica spent on batches, all together. */
  readonly busyUs: number;
  /** Time for which the main thread was not waiting. */
  readonly loopActiveMs: number;
  /** Workers at this time. */
  readonly workers: number;
}

/** Null: not known. */
export interface Rates {
  /** Into the input streams. */
  readonly streamArrivalsPerS: number | null;
  /** Over the sockets of this replica. */
  readonly directArrivalsPerS: number | null;
  /** Settled by this replica. */
  readonly settledPerS: number | null;
  /** Share of its workers' time, 0 to 1. */
  readonly workerBusyRatio: number | null;
  /** Share of its main thread's time, 0 to 1. */
  readonly loopBusyRatio: number | null;
  /** Of the part that was busier, over the last seconds. */
  readonly recentBusyRatio: number | null;
  /** What this replica does while it is busy all the time. */
  readonly serviceRatePerS: number | null;
}

export const UNKNOWN_RATES: Rates = {
  streamArrivalsPerS: null,
  directArrivalsPerS: null,
  settledPerS: null,
  workerBusyRatio: null,
  loopBusyRatio: null,
  recentBusyRatio: null,
  serviceRatePerS: null,
};

/** A window that was busy for less does not replace what a busier one has shown. */
const BUSY_RATIO_MIN = 0.2;
const RECENT_MS = 3000;
/** Rows and busy time below which a window says nothing about what a row costs. */
const ROWS_MIN = 20;
const BUSY_MS_MIN = 20;

export class RateWindow {
  readonly #windowMs: number;
  readonly #samples: Sample[] = [];
  /** Worker time that there was, summed up over the samples, in step with them. */
  readonly #workerMs: number[] = [];
  #serviceRatePerS: number | null = null;
  #measuredBusy = false;

  constructor(windowMs: number) {
    this.#windowMs = windowMs;
  }

  /** Samples come in the order of their times. */
  add(sample: Sample): void {
    const samples = this.#samples;
    const before = samples.at(-1);
    if (before !== undefined && sample.atMs <= before.atMs) return;
    const elapsedMs = before === undefined ? 0 : sample.atMs - before.atMs;
    const workers = before === undefined ? 0 : (before.workers + sample.workers) / 2;
    samples.push(sample);
    this.#workerMs.push((this.#workerMs.at(-1) ?? 0) + elapsedMs * workers);
    // One sample at the edge or beyond stays, so that the rates cover the whole window.
    while (samples.length > 2 && samples[1]!.atMs <= sample.atMs - this.#windowMs) {
      samples.shift();
      this.#workerMs.shift();
    }
    this.#measure();
  }

  rates(): Rates {
    const first = this.#samples[0];
    const last = this.#samples.at(-1);
    if (first === undefined || last === undefined || first === last)
      return { ...UNKNOWN_RATES, serviceRatePerS: this.#serviceRatePerS };
    const seconds = (last.atMs - first.atMs) / 1000;
    return {
      streamArrivalsPerS: this.#arrivals(),
      directArrivalsPerS: (last.directRows - first.directRows) / seconds,
      settledPerS: (last.settledRows - first.settledRows) / seconds,
      workerBusyRatio: this.#workerBusy(0),
      loopBusyRatio: share(last.loopActiveMs - first.loopActiveMs, last.atMs - first.atMs),
      recentBusyRatio: this.#busy(Math.max(0, this.#recent())),
      serviceRatePerS: this.#serviceRatePerS,
    };
  }

  /** Index of the newest sample that is so old, or the oldest one. */
  #recent(): number {
    const lastMs = this.#samples.at(-1)!.atMs;
    return this.#samples.findLastIndex(({ atMs }) => atMs <= lastMs - RECENT_MS);
  }

  /**
   * A count that went back (a stream that was deleted, a failover) begins anew; one that is missing ends it.
   */
  #arrivals(): number | null {
    const samples = this.#samples;
    const last = samples.at(-1)!;
    if (last.added === null) return null;
    let from = samples.length - 1;
    while (from > 0) {
      const [older, newer] = [samples[from - 1]!.added, samples[from]!.added];
      if (older === null || newer === null || older > newer) break;
      from -= 1;
    }
    const first = samples[from]!;
    const elapsedMs = last.addedAtMs - first.addedAtMs;
    return elapsedMs > 0 ? (last.added - first.added!) / (elapsedMs / 1000) : null;
  }

  /** Since the sample of that index. */
  #workerBusy(from: number): number | null {
    const busyMs = (this.#samples.at(-1)!.busyUs - this.#samples[from]!.busyUs) / 1000;
    return share(busyMs, this.#workerMs.at(-1)! - this.#workerMs[from]!);
  }

  #busy(from: number): number {
    const [first, last] = [this.#samples[from]!, this.#samples.at(-1)!];
    const loop = share(last.loopActiveMs - first.loopActiveMs, last.atMs - first.atMs);
    return Math.max(this.#workerBusy(from) ?? 0, loop ?? 0);
  }

  #measure(): void {
    const [first, last] = [this.#samples[0]!, this.#samples.at(-1)!];
    if (first === last) return;
    const elapsedMs = last.atMs - first.atMs;
    const rows = last.ranRows - first.ranRows;
    const busy = this.#busy(0);
    if (rows < ROWS_MIN || busy * elapsedMs < BUSY_MS_MIN) return;
    const isBusy = busy >= BUSY_RATIO_MIN;
    if (this.#measuredBusy && !isBusy) return;
    this.#measuredBusy = isBusy;
    this.#serviceRatePerS = rows / (elapsedMs / 1000) / busy;
  }
}

function share(part: number, whole: number): number | null {
  return whole > 0 ? Math.min(1, Math.max(0, part / whole)) : null;
}

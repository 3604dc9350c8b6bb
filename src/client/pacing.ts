/**
 * Keeps a producer to the rate that the engines suggest: call `turn` before each XADD. It has no imports and
 * knows no Redis client: it is handed a function that reads the hints beside the stream.
 *
 *   const pacer = createPacer({ read: () => redis.hgetall('{events}:hints') });
 *   await pacer.turn();
 *   await redis.xadd('events', '*', 'key', 'u42', 'data', data);
 *
 * What it goes by is, in turn: unknown, until the first look has ended, one way or the other; a hint, as
 * fresh as the last look; nothing, when the hash is gone or cannot be read. Then it goes on at its last rate,
 * for the engine may be back in a moment, and after `keepMs` unpaced, for nobody should be held back by an
 * engine that is no more. A stop does not outlive the hash: what waits then goes at the rate before it.
 *
 * It looks only while it is used: there is no timer but while somebody waits.
 */

export interface PacerOptions {
  /** Reads the hash of the hints; an empty one, or null, where there is none. */
  readonly read: () => Promise<Readonly<Record<string, string | undefined>> | null>;
  /** This producer's part of the rate, which is meant for all of them together. Default 1. */
  readonly share?: number;
  /** Of the rate, what may go at once after a pause, in milliseconds; at least one event. Default 100. */
  readonly burstMs?: number;
  /** Between two looks, about. Default 500. */
  readonly pollMs?: number;
  /** A turn that takes longer ends in PACING_TIMEOUT. Default 10,000. */
  readonly waitMsMax?: number;
  /** Turns that wait; more are refused with PACING_FULL. Default 1000. */
  readonly waitersMax?: number;
  /** How long the last rate holds when nothing is heard any more. Default 60,000. */
  readonly keepMs?: number;
  /** A look that takes longer has failed. Default 2000. */
  readonly readMsMax?: number;
  /** Milliseconds of a clock that only goes forward. */
  readonly now?: () => number;
  /** From 0 to 1. */
  readonly random?: () => number;
  /** Runs something later; the answer takes it back. */
  readonly after?: (ms: number, run: () => void) => () => void;
}

/** `none`: there are no hints, or they cannot be read. */
export type PacerHint = 'unknown' | 'none' | 'ok' | 'slow' | 'stop';

export interface PacerState {
  readonly hint: PacerHint;
  /** Events/s that this producer may send now; Infinity: as many as it likes. */
  readonly ratePerS: number;
  /** Turns that wait now. */
  readonly waiting: number;
  /** Turns given, how many of them had to wait, and for how long, all together and the longest. */
  readonly turns: number;
  readonly waits: number;
  readonly waitedMs: number;
  readonly waitedMsMax: number;
  /** Turns that ended in PACING_TIMEOUT, and in PACING_FULL. */
  readonly timeouts: number;
  readonly refusals: number;
  /** Looks that failed. */
  readonly readErrors: number;
  /** Since hints were last read; Infinity: never. */
  readonly heardMsAgo: number;
}

export interface Pacer {
  /**
   * Resolves when so many events may be sent. Rejects with a PacerError, or with the signal's reason. Turns
   * are given in the order in which they were asked for.
   */
  turn(events?: number, options?: { readonly signal?: AbortSignal }): Promise<void>;
  readonly state: PacerState;
}

/**
 * PACING_TIMEOUT: the turn did not come in time. PACING_FULL: too many wait already. Both may be tried again
 * later. PACING_INVALID: the options, or the number of events, cannot be.
 */
export type PacerErrorCode = 'PACING_TIMEOUT' | 'PACING_FULL' | 'PACING_INVALID';

export class PacerError extends Error {
  override readonly name = 'PacerError';
  readonly code: PacerErrorCode;
  readonly retryable: boolean;

  constructor(code: PacerErrorCode, message: string) {
    super(message);
    this.code = code;
    this.retryable = code !== 'PACING_INVALID';
  }
}

interface Waiter {
  readonly events: number;
  readonly sinceMs: number;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

const UNPACED = Number.POSITIVE_INFINITY;
/** The hints expire after that; while they cannot be read they are believed for as long. */
const HINT_MS = 5000;
/** After a look that never ended; in `readMsMax`. */
const HUNG_READS = 5;
/** Tokens are sums of fractions. */
const NEARLY = 1e-6;

type Settings = Required<PacerOptions>;

const defaults = {
  share: 1,
  burstMs: 100,
  pollMs: 500,
  waitMsMax: 10_000,
  waitersMax: 1000,
  keepMs: 60_000,
  readMsMax: 2000,
};

const later = (ms: number, run: () => void): (() => void) => {
  const timer = setTimeout(run, ms);
  return () => clearTimeout(timer);
};

export function createPacer(options: PacerOptions): Pacer {
  const { now = () => performance.now(), random = Math.random, after = later } = options;
  const settings: Settings = { ...defaults, ...defined(options), now, random, after };
  check(settings);
  return new PacerOfStream(settings);
}

/** Without what is there and undefined. */
function defined(options: PacerOptions): PacerOptions {
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  return Object.fromEntries(given) as unknown as PacerOptions;
}

function check(settings: Settings): void {
  const between = (name: keyof typeof defaults, low: number, high: number) => {
    const value = settings[name];
    if (typeof value === 'number' && value >= low && value <= high) return;
    throw new PacerError('PACING_INVALID', `${name} is ${value}: it must be from ${low} to ${high}`);
  };
  if (typeof settings.read !== 'function') throw new PacerError('PACING_INVALID', 'read is no function');
  between('share', 1e-6, 1);
  between('burstMs', 0, 60_000);
  between('pollMs', 50, 60_000);
  between('waitMsMax', 1, 3_600_000);
  between('waitersMax', 1, 1_000_000);
  between('keepMs', 0, 86_400_000);
  between('readMsMax', 1, 60_000);
}

class PacerOfStream implements Pacer {
  readonly #settings: Settings;
  readonly #waiters = new Set<Waiter>();
  #hint: PacerHint = 'unknown';
  /** 0: nothing goes, for now. */
  #ratePerS = 0;
  /** The last rate at which something went. */
  #goingPerS = UNPACED;
  #tokens = 0;
  #refilledMs: number;
  #heardMs = Number.NEGATIVE_INFINITY;
  #lookMs = Number.NEGATIVE_INFINITY;
  #looking = false;
  #cancel = () => {};
  #turns = 0;
  #waits = 0;
  #waitedMs = 0;
  #waitedMsMax = 0;
  #timeouts = 0;
  #refusals = 0;
  #readErrors = 0;

  constructor(settings: Settings) {
    this.#settings = settings;
    this.#refilledMs = settings.now();
  }

  get state(): PacerState {
    return {
      hint: this.#hint,
      ratePerS: this.#ratePerS,
      waiting: this.#waiters.size,
      turns: this.#turns,
      waits: this.#waits,
      waitedMs: this.#waitedMs,
      waitedMsMax: this.#waitedMsMax,
      timeouts: this.#timeouts,
      refusals: this.#refusals,
      readErrors: this.#readErrors,
      heardMsAgo: this.#settings.now() - this.#heardMs,
    };
  }

  turn(events = 1, { signal }: { readonly signal?: AbortSignal } = {}): Promise<void> {
    if (!Number.isSafeInteger(events) || events < 1) {
      const message = `a turn for ${events} events: it must be a whole number of at least 1`;
      return Promise.reject(new PacerError('PACING_INVALID', message));
    }
    if (signal?.aborted) return Promise.reject(signal.reason);
    this.#look();
    if (this.#waiters.size === 0 && this.#take(events)) {
      this.#turns++;
      return Promise.resolve();
    }
    const { waitersMax, now } = this.#settings;
    if (this.#waiters.size >= waitersMax) {
      this.#refusals++;
      return Promise.reject(
        new PacerError('PACING_FULL', `${waitersMax} turns wait already: ${this.#why()}`),
      );
    }
    return new Promise((resolve, reject) => {
      const onAbort = () => {
        this.#waiters.delete(waiter);
        reject(signal?.reason);
        this.#pump();
      };
      const settle = <T>(done: (value: T) => void) => {
        return (value: T): void => {
          signal?.removeEventListener('abort', onAbort);
          done(value);
        };
      };
      const [granted, refused] = [settle<void>(resolve), settle<unknown>(reject)];
      const waiter: Waiter = { events, sinceMs: now(), resolve: () => granted(), reject: refused };
      this.#waiters.add(waiter);
      signal?.addEventListener('abort', onAbort);
      this.#pump();
    });
  }

  /** Looks at the hints when it is time to. */
  #look(): void {
    const { now, pollMs, random, read, readMsMax, after } = this.#settings;
    if (this.#looking || now() < this.#lookMs) return;
    this.#looking = true;
    // Jittered, so that producers that began together do not look together for ever.
    this.#lookMs = now() + pollMs * (0.75 + random() / 2);
    let ended = false;
    const end = (heard: () => void) => {
      if (ended) return;
      ended = true;
      cancel();
      this.#looking = false;
      heard();
      this.#pump();
    };
    const cancel = after(readMsMax, () =>
      end(() => {
        // It may still be waiting in a client that is reconnecting: let it not be one of many there.
        this.#lookMs = Math.max(this.#lookMs, now() + readMsMax * HUNG_READS);
        this.#deaf();
      }),
    );
    Promise.resolve()
      .then(read)
      .then(
        (hash) => end(() => this.#heard(hash)),
        () => end(() => this.#deaf()),
      );
  }

  #heard(hash: Readonly<Record<string, string | undefined>> | null): void {
    const { state, rate_per_s: rate } = hash ?? {};
    const limit = rate === undefined || rate === '' ? UNPACED : Number(rate);
    const isKnown = (state === 'ok' || state === 'slow' || state === 'stop') && limit >= 0;
    if (!isKnown) {
      this.#none();
      return;
    }
    this.#heardMs = this.#settings.now();
    this.#hint = state;
    this.#setRate(state === 'stop' ? 0 : limit * this.#settings.share);
  }

  /** The look failed: what was heard is believed for as long as the hash would be there. */
  #deaf(): void {
    this.#readErrors++;
    if (this.#settings.now() - this.#heardMs >= HINT_MS) this.#none();
  }

  #none(): void {
    this.#hint = 'none';
    const { now, keepMs } = this.#settings;
    this.#setRate(now() - this.#heardMs > keepMs ? UNPACED : this.#goingPerS);
  }

  #setRate(ratePerS: number): void {
    this.#refill();
    this.#ratePerS = ratePerS;
    if (ratePerS > 0) this.#goingPerS = ratePerS;
  }

  /** Tokens at most. */
  #burst(): number {
    const { burstMs } = this.#settings;
    return this.#ratePerS === UNPACED ? 0 : Math.max(1, (this.#ratePerS * burstMs) / 1000);
  }

  #refill(): void {
    const nowMs = this.#settings.now();
    const passedMs = nowMs - this.#refilledMs;
    this.#refilledMs = nowMs;
    if (this.#ratePerS === UNPACED) return;
    this.#tokens = Math.min(this.#burst(), this.#tokens + (passedMs * this.#ratePerS) / 1000);
  }

  /** More events than a burst has are a debt, which those who come after wait off. */
  #take(events: number): boolean {
    if (this.#ratePerS === UNPACED) return true;
    if (this.#ratePerS === 0) return false;
    this.#refill();
    if (this.#tokens < Math.min(events, this.#burst()) - NEARLY) return false;
    this.#tokens -= events;
    return true;
  }

  /** Gives what turns there are, ends those that have waited too long, and comes back when it has to. */
  #pump(): void {
    const { now, waitMsMax, after } = this.#settings;
    this.#cancel();
    this.#look();
    for (const waiter of this.#waiters) {
      const waitedMs = now() - waiter.sinceMs;
      if (this.#take(waiter.events)) {
        this.#given(waiter, waitedMs);
      } else if (waitedMs >= waitMsMax) {
        this.#waiters.delete(waiter);
        this.#timeouts++;
        waiter.reject(new PacerError('PACING_TIMEOUT', `no turn within ${waitMsMax} ms: ${this.#why()}`));
      } else {
        this.#cancel = after(this.#nextMs(waiter), () => this.#pump());
        return;
      }
    }
  }

  #given(waiter: Waiter, waitedMs: number): void {
    this.#waiters.delete(waiter);
    this.#turns++;
    this.#waits++;
    this.#waitedMs += waitedMs;
    this.#waitedMsMax = Math.max(this.#waitedMsMax, waitedMs);
    waiter.resolve();
  }

  /** Until something can change for the first of those who wait. */
  #nextMs({ events, sinceMs }: Waiter): number {
    const { now, waitMsMax } = this.#settings;
    const lookMs = this.#looking ? Number.POSITIVE_INFINITY : this.#lookMs - now();
    const missing = Math.min(events, this.#burst()) - this.#tokens;
    const tokensMs = this.#ratePerS > 0 ? (missing * 1000) / this.#ratePerS : Number.POSITIVE_INFINITY;
    return Math.max(1, Math.min(lookMs, tokensMs, sinceMs + waitMsMax - now()));
  }

  #why(): string {
    if (this.#hint === 'unknown') return 'the hints have not been read yet';
    if (this.#ratePerS === 0) return 'the engine says stop';
    return `the rate is ${Math.round(this.#ratePerS * 10) / 10} events/s`;
  }
}

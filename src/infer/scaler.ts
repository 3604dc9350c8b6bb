/**
 * How many workers there should be. Pure: it is shown the workers every now and then, with the time, and says
 * a number and why. Whoever asks it starts and ends them (scaling.ts).
 *
 *   steady --work waits, all are busy--> one more --it is warm--> on trial --it was worth it--> steady
 *   steady --the others would do---> one less
 *   on trial --no more rows than before--> one less, and no other for a while, longer each time
 *
 * Up is quick, down is slow: a worker that is missing costs every event its time, one too many costs memory.
 * A worker that was ended and is missed soon afterwards makes the next end slower: that is what keeps a load
 * that comes and goes from starting and ending workers all the time.
 *
 * A start takes processor time from the workers that are there, so nothing is decided meanwhile, and nothing
 * that was seen before a change of their number counts afterwards. On a machine with fewer processors than
 * workers another one makes all of them slower: that is what the trial is for.
 */

/** Workers are judged by what they did in this time. */
const WINDOW_MS = 1_000;
/** Above this share of the time a worker has no room for what comes unevenly. */
const BUSY_HIGH = 0.8;
/** Rows that wait for longer than this share of the latency target wait for want of a worker. */
const WAIT_SHARE = 0.5;
/** Both of them for so long, give and take. */
const UP_AFTER_MS = 750;
/** One look counts for no more, however late the next one comes. */
const LOOK_MS_MAX = 500;
/** Those who stay would be busy for at most this share of the time, */
const BUSY_LOW = 0.5;
/** for so long, at first; twice as long each time that the worker is missed afterwards, up to a limit. */
const DOWN_AFTER_MS = 30_000;
const DOWN_AFTER_MS_MAX = 480_000;
/** It is missed when another one is started within so many times that. */
const MISSED_WITHIN = 4;
/** From when it is warm; the first second does not count: events that have waited go first. */
const TRIAL_MS = 3_000;
/** What another worker adds at least, in shares of what one of those before it did. */
const GAIN = 0.25;
/** After a trial that brought nothing, and after a start that failed. Twice as long each time. */
const AGAIN_MS = { trial: 60_000, start: 5_000 } as const;
const AGAIN_MS_MAX = { trial: 3_600_000, start: 600_000 } as const;

export interface WorkersSeen {
  /** Of a clock that does not go back. */
  readonly atMs: number;
  /** Work of all workers together since any fixed time: milliseconds, and rows. */
  readonly busyMs: number;
  readonly rows: number;
  /** How long the row has waited that has waited longest for a worker; 0: none waits. */
  readonly oldestMs: number;
  /** Workers that take batches. */
  readonly workers: number;
  /** One of them is being started, ended or replaced. */
  readonly changing: boolean;
}

export interface ScalerOptions {
  readonly min: number;
  readonly max: number;
  /** latency.target_ms. */
  readonly targetMs: number;
}

export interface Wanted {
  readonly workers: number;
  /** '' when that is what there is. */
  readonly why: string;
}

interface Trial {
  readonly workers: number;
  /** Rows per second that those before it did, or could have done had they been busy all the time. */
  readonly before: number;
  /** It has been warm since; null: it is not yet. */
  sinceMs: number | null;
}

/** Busy: of one worker, 0 to 1. */
interface Figures {
  readonly busy: number;
  readonly rowsPerSecond: number;
}

export class Scaler {
  readonly #options: ScalerOptions;
  /** Of one and the same number of workers, the oldest at least WINDOW_MS ago, if any is. */
  #looks: WorkersSeen[] = [];
  #highMs = 0;
  #lowSinceMs: number | null = null;
  #downAfterMs = DOWN_AFTER_MS;
  /** When a worker was ended for which no other has been started since. */
  #downMs: number | null = null;
  #trial: Trial | null = null;
  #notBeforeMs = Number.NEGATIVE_INFINITY;
  readonly #againMs: Record<keyof typeof AGAIN_MS, number> = { ...AGAIN_MS };

  constructor(options: ScalerOptions) {
    this.#options = options;
  }

  /** To be called a few times a second. */
  look(seen: WorkersSeen): Wanted {
    const { workers } = seen;
    const stay = { workers, why: '' };
    const before = this.#looks.at(-1);
    if (seen.changing || (before !== undefined && before.workers !== workers)) this.#forget();
    if (seen.changing) return stay;
    this.#looks.push(seen);
    while (this.#looks.length > 2 && this.#looks[1]!.atMs <= seen.atMs - WINDOW_MS) this.#looks.shift();
    if (this.#trial !== null && this.#trial.workers !== workers) this.#trial = null;
    if (this.#trial !== null) this.#trial.sinceMs ??= seen.atMs;
    const figures = this.#figures();
    if (figures === null) return stay;
    this.#weigh(seen, figures, Math.min(LOOK_MS_MAX, seen.atMs - before!.atMs));
    if (this.#trial !== null) return this.#judge(seen, figures, this.#trial);
    if (this.#highMs >= UP_AFTER_MS) return this.#up(seen, figures);
    return this.#down(seen, figures);
  }

  /** The worker that was asked for could not be started. Returns how long none is asked for. */
  failed(atMs: number): number {
    this.#trial = null;
    return this.#wait('start', atMs);
  }

  #up({ atMs, workers, oldestMs }: WorkersSeen, { busy, rowsPerSecond }: Figures): Wanted {
    const { max } = this.#options;
    if (workers >= max || atMs < this.#notBeforeMs) return { workers, why: '' };
    if (this.#downMs !== null && atMs - this.#downMs < MISSED_WITHIN * this.#downAfterMs) {
      this.#downAfterMs = Math.min(DOWN_AFTER_MS_MAX, 2 * this.#downAfterMs);
    }
    this.#downMs = null;
    this.#trial = { workers: workers + 1, before: rowsPerSecond / busy, sinceMs: null };
    const why = `${share(busy)} of the time busy, and rows have waited ${oldestMs.toFixed(0)} ms for one`;
    return { workers: workers + 1, why };
  }

  #down({ atMs, workers }: WorkersSeen, { busy }: Figures): Wanted {
    const { min } = this.#options;
    const sinceMs = this.#lowSinceMs;
    if (workers <= min || sinceMs === null || atMs - sinceMs < this.#downAfterMs) return { workers, why: '' };
    const seconds = (this.#downAfterMs / 1000).toFixed(0);
    // The one before was not missed.
    if (this.#downMs !== null) this.#downAfterMs = Math.max(DOWN_AFTER_MS, this.#downAfterMs / 2);
    this.#downMs = atMs;
    this.#lowSinceMs = null;
    const rest = share((busy * workers) / (workers - 1));
    const limit = share(BUSY_LOW);
    return { workers: workers - 1, why: `without it below ${limit} busy for ${seconds} s, now ${rest}` };
  }

  /** As long as work waits, the rows that are done show what the workers can do. */
  #judge({ atMs, workers }: WorkersSeen, { busy, rowsPerSecond }: Figures, trial: Trial): Wanted {
    const stay = { workers, why: '' };
    if (atMs - trial.sinceMs! < TRIAL_MS) return stay;
    this.#trial = null;
    this.#againMs.start = AGAIN_MS.start;
    // There is nothing more to do: it was what was missing, or the load is gone.
    if (this.#highMs < UP_AFTER_MS) return stay;
    const now = rowsPerSecond / busy;
    const gain = ((now - trial.before) / trial.before) * (workers - 1);
    if (gain >= GAIN) {
      this.#againMs.trial = AGAIN_MS.trial;
      return stay;
    }
    const waitMs = this.#wait('trial', atMs);
    const rates = `${now.toFixed(0)} rows/s instead of ${trial.before.toFixed(0)}`;
    const why = `another one made it ${rates}; none is tried for ${(waitMs / 1000).toFixed(0)} s`;
    return { workers: workers - 1, why };
  }

  #wait(after: keyof typeof AGAIN_MS, atMs: number): number {
    const waitMs = this.#againMs[after];
    this.#againMs[after] = Math.min(AGAIN_MS_MAX[after], 2 * waitMs);
    this.#notBeforeMs = Math.max(this.#notBeforeMs, atMs + waitMs);
    return waitMs;
  }

  /** One look between others may find no row waiting, or one that has only just begun to. */
  #weigh({ atMs, workers, oldestMs }: WorkersSeen, { busy }: Figures, tookMs: number): void {
    const isHigh = busy > BUSY_HIGH && oldestMs > WAIT_SHARE * this.#options.targetMs;
    const highMs = this.#highMs + (isHigh ? tookMs : -tookMs);
    this.#highMs = Math.min(UP_AFTER_MS, Math.max(0, highMs));
    const isLow = workers > 1 && busy * workers < BUSY_LOW * (workers - 1);
    this.#lowSinceMs = isLow ? (this.#lowSinceMs ?? atMs) : null;
  }

  /** Null: not for long enough have there been so many workers. */
  #figures(): Figures | null {
    const first = this.#looks[0]!;
    const last = this.#looks.at(-1)!;
    const ms = last.atMs - first.atMs;
    if (ms < WINDOW_MS) return null;
    const busy = Math.min(1, Math.max(0, last.busyMs - first.busyMs) / (ms * last.workers));
    return { busy, rowsPerSecond: ((last.rows - first.rows) * 1000) / ms };
  }

  #forget(): void {
    this.#looks = [];
    this.#highMs = 0;
    this.#lowSinceMs = null;
  }
}

const share = (part: number) => `${(100 * part).toFixed(0)} %`;

/**
 * What `GET /autoscale` and `subito_desired_replicas` say: once a second the signals are collected and the
 * policy is asked. Each replica does so for all of them, from what Redis knows of the whole and from what it
 * measures of itself, taking itself for one like the others; so any of them may be asked.
 */
import type { StreamBacklog } from '../observe/sources.ts';
import type { Totals } from '../observe/totals.ts';
import type { Counted } from './census.ts';
import { type Decision, Policy, type PolicyConfig, type PolicySignals } from './policy.ts';
import { type Rates, RateWindow } from './signals.ts';

export interface AutoscaleConfig extends PolicyConfig {
  /** Rates are taken over so long. */
  readonly windowMs: number;
}

export interface AdvisorOptions {
  readonly config: AutoscaleConfig;
  readonly totals: Pick<Totals, 'directRows' | 'batchRows' | 'busyUs' | 'settled'>;
  /** Input streams and partitions, of each of which the backlog is to be known. */
  readonly streams: number;
  readonly backlog: () => readonly StreamBacklog[];
  readonly workers: () => number;
  readonly count: () => Promise<Counted>;
  /** Milliseconds for which the main thread has not been waiting, since any time. */
  readonly loopActiveMs: () => number;
  /** Monotonic. */
  readonly now: () => number;
  /** Unix milliseconds, as in entry ids. */
  readonly wallNow: () => number;
}

/** The JSON of `GET /autoscale`. A signal that is not known is null, never zero. */
export interface AutoscaleReport {
  readonly desired_replicas: number;
  /** By the formula alone; null while a signal is missing. */
  readonly needed_replicas: number | null;
  readonly reasons: readonly string[];
  readonly signals: {
    readonly replicas: number | null;
    /** All replicas together: entries added to the streams, and events over sockets, as of this replica. */
    readonly arrivals_per_second: number | null;
    readonly backlog_events: number | null;
    readonly pending_events: number | null;
    readonly oldest_unread_seconds: number | null;
    readonly oldest_pending_seconds: number | null;
    /** This replica. */
    readonly settled_per_second: number | null;
    readonly worker_busy_ratio: number | null;
    readonly main_busy_ratio: number | null;
    /** What one replica does while it is busy all the time. */
    readonly service_rate_per_second: number | null;
  };
}

/** What Redis said is not known any more when it is older than this. */
const STALE_MS = 5000;
const UNCOUNTED: Counted = { added: null, replicas: null };

export class Advisor {
  readonly #options: AdvisorOptions;
  readonly #window: RateWindow;
  readonly #policy: Policy;
  #counted = UNCOUNTED;
  #countedMs = Number.NEGATIVE_INFINITY;
  #counting = false;
  #report: AutoscaleReport | null = null;

  constructor(options: AdvisorOptions) {
    this.#options = options;
    this.#window = new RateWindow(options.config.windowMs);
    this.#policy = new Policy(options.config);
  }

  /** Every second or so. A Redis that does not answer holds up nobody; it is asked once at a time. */
  tick(): void {
    this.#decide();
    if (this.#counting) return;
    this.#counting = true;
    const askedMs = this.#options.now();
    void this.#options.count().then((counted) => {
      this.#counting = false;
      this.#counted = counted;
      this.#countedMs = askedMs;
    });
  }

  report(): AutoscaleReport {
    return this.#report ?? this.#decide();
  }

  #decide(): AutoscaleReport {
    const { config, now, totals, workers, loopActiveMs } = this.#options;
    const nowMs = now();
    const isFresh = nowMs - this.#countedMs <= Math.max(STALE_MS, config.windowMs / 2);
    const { added, replicas } = isFresh ? this.#counted : UNCOUNTED;
    this.#window.add({
      atMs: nowMs,
      added,
      addedAtMs: isFresh ? this.#countedMs : nowMs,
      directRows: totals.directRows,
      ranRows: totals.batchRows,
      settledRows: Object.values(totals.settled).reduce((sum, rows) => sum + rows, 0),
      busyUs: totals.busyUs,
      loopActiveMs: loopActiveMs(),
      workers: workers(),
    });
    const rates = this.#window.rates();
    const signals = this.#signals(rates, replicas);
    const decision = this.#policy.decide(nowMs, signals);
    this.#report = this.#reportOf(decision, signals, rates);
    return this.#report;
  }

  #signals(rates: Rates, replicas: number | null): PolicySignals {
    const { streamArrivalsPerS, directArrivalsPerS, serviceRatePerS, recentBusyRatio } = rates;
    const ageSeconds = this.#age('unread', 'oldestUnreadMs');
    // What comes over sockets is spread over all replicas; this one knows its own part.
    const direct =
      directArrivalsPerS === 0 ? 0 : (directArrivalsPerS ?? Number.NaN) * (replicas ?? Number.NaN);
    const arrivalsPerS = (streamArrivalsPerS ?? Number.NaN) + direct;
    return {
      arrivalsPerS: Number.isNaN(arrivalsPerS) ? null : arrivalsPerS,
      backlogEvents: this.#sum('unread'),
      pendingEvents: this.#sum('pending'),
      serviceRatePerS,
      replicas,
      busyRatio: recentBusyRatio,
      oldestUnreadAgeMs: ageSeconds === null ? null : ageSeconds * 1000,
    };
  }

  /** Null when any one stream's figure is not known. */
  #sum(part: 'unread' | 'pending'): number | null {
    const streams = this.#options.backlog();
    if (streams.length < this.#options.streams) return null;
    return streams.reduce<number | null>((sum, stream) => {
      const value = stream[part];
      return sum === null || value === null ? null : sum + value;
    }, 0);
  }

  /** Seconds; 0 where there is none, null where it is not known. */
  #age(part: 'unread' | 'pending', oldest: 'oldestUnreadMs' | 'oldestPendingMs'): number | null {
    if (this.#sum(part) === null) return null;
    const times = this.#options.backlog().flatMap((stream) => stream[oldest] ?? []);
    return times.length === 0 ? 0 : Math.max(0, this.#options.wallNow() - Math.min(...times)) / 1000;
  }

  #reportOf(decision: Decision, signals: PolicySignals, rates: Rates): AutoscaleReport {
    return {
      desired_replicas: decision.replicas,
      needed_replicas: decision.needed,
      reasons: decision.reasons,
      signals: {
        replicas: signals.replicas,
        arrivals_per_second: rounded(signals.arrivalsPerS),
        backlog_events: signals.backlogEvents,
        pending_events: signals.pendingEvents,
        oldest_unread_seconds: rounded(this.#age('unread', 'oldestUnreadMs')),
        oldest_pending_seconds: rounded(this.#age('pending', 'oldestPendingMs')),
        settled_per_second: rounded(rates.settledPerS),
        worker_busy_ratio: rounded(rates.workerBusyRatio),
        main_busy_ratio: rounded(rates.loopBusyRatio),
        service_rate_per_second: rounded(signals.serviceRatePerS),
      },
    };
  }
}

function rounded(value: number | null): number | null {
  return value === null ? null : Math.round(value * 1000) / 1000;
}

/**
 * How many replicas there should be. Pure: signals and the time come in, a number and the reasons go out.
 *
 *   needed = ceil(max(arrivals / (utilisation * service rate),
 *                     (arrivals + backlog / drain time) / service rate))
 *
 * where the service rate is that of one replica. The first term leaves room for what was not foreseen, the
 * second one works off what has piled up. It is capped by `replicasMax`, and by the optimum of the Universal
 * Scalability Law, sqrt((1 - sigma) / kappa), past which one more replica makes all of them slower.
 *
 * Arrivals that stop all of a sudden have not ended: producers, or the way from them, are out, and what they
 * kept comes on top of the usual when they are back, before another replica could be started. So while there
 * is silence (less than a tenth of the usual, and for no longer than the stabilisation window), the usual
 * times `comeback` is prepared for.
 *
 * A rate that was measured at a light load says too little, for batches are small then. So while replicas are
 * not half as busy as they are meant to be, a backlog asks for no more of them: either it is gone before one
 * had started, or it keeps them busy, and the rate is measured anew. One that is older than the drain time is
 * believed all the same.
 *
 * Up it goes at once. Down only to the most that was needed within the stabilisation window, whose first
 * entry is the number of replicas that were there: a replica that has just started knows nothing of the peak
 * it was started for, and must not send away the others.
 *
 * What is not known can only raise the answer. It then stays where it was (before the first answer: at the
 * replicas that are there), at least one, and says which signal is missing.
 */

export interface ReplicaLimits {
  readonly replicasMin: number;
  readonly replicasMax: number;
}

/** Parameters of the Universal Scalability Law, fitted to measured throughput by number of replicas. */
export interface Usl {
  /** Contention: the share of the work that cannot be done side by side, 0 to 1. */
  readonly sigma: number;
  /** Coherency: what each pair of replicas costs; 0: throughput never falls. */
  readonly kappa: number;
}

export interface PolicyConfig extends ReplicaLimits {
  /** A backlog is to be gone after so long. */
  readonly drainMs: number;
  /** Share of its capacity at which a replica is meant to run, above 0 and at most 1. */
  readonly utilisation: number;
  /** Scaling down waits until fewer were needed for so long. */
  readonly stabilisationMs: number;
  /** How many times the usual may come after a silence; 0: a silence is believed. */
  readonly comeback: number;
  /** Absent: not known, and no cap. */
  readonly usl?: Usl;
}

/** Of the usual: less than that is a silence. */
const SILENCE_SHARE = 0.1;

/** Of all replicas together unless it says otherwise; null: not known. */
export interface PolicySignals {
  readonly arrivalsPerS: number | null;
  /** Entries that nobody has read. */
  readonly backlogEvents: number | null;
  /** Entries read and not settled. */
  readonly pendingEvents: number | null;
  /** What one replica settles while it is busy all the time. */
  readonly serviceRatePerS: number | null;
  /** Live replicas. */
  readonly replicas: number | null;
  /** Share of its time for which a replica was busy just now, 0 to 1. */
  readonly busyRatio: number | null;
  readonly oldestUnreadAgeMs: number | null;
}

export interface Decision {
  readonly replicas: number;
  /** By the formula, before the stabilisation window; null where a signal was missing. */
  readonly needed: number | null;
  /** In words, the deciding one first. */
  readonly reasons: readonly string[];
}

/** Past it one more replica makes all of them slower; Infinity where throughput never falls. */
export function uslOptimum({ sigma, kappa }: Usl): number {
  return kappa > 0 ? Math.sqrt(Math.max(0, 1 - sigma) / kappa) : Number.POSITIVE_INFINITY;
}

/** What may not be less than zero, or is no number at all, is not known. */
function known(value: number | null): number | null {
  return value !== null && Number.isFinite(value) && value >= 0 ? value : null;
}

interface Need {
  readonly replicas: number;
  readonly reason: string;
}

/** The largest of what was said within a while: of two entries, the older one is larger. */
class Peak {
  readonly #keepMs: number;
  readonly #entries: { readonly atMs: number; readonly value: number }[] = [];

  constructor(keepMs: number) {
    this.#keepMs = keepMs;
  }

  /** Forgets what is too old, and what is no larger than this one: it can never again be the most. */
  add(atMs: number, value: number): void {
    const entries = this.#entries;
    while (entries.length > 0 && entries.at(-1)!.value <= value) entries.pop();
    entries.push({ atMs, value });
    const young = entries.findIndex((entry) => entry.atMs > atMs - this.#keepMs);
    entries.splice(0, young);
  }

  /** Null before the first one. */
  get most(): { readonly atMs: number; readonly value: number } | null {
    return this.#entries[0] ?? null;
  }
}

/**
 * The arrivals of some minutes, in the mean; bursts hardly count. A silence does not count until it is over.
 */
class Usual {
  readonly #overMs: number;
  #atMs = 0;
  #silentSinceMs: number | null = null;
  arrivalsPerS = Number.NaN;

  constructor(overMs: number) {
    this.#overMs = overMs;
  }

  /** False once it has lasted: then it is the usual. */
  isSilence(nowMs: number, arrivalsPerS: number): boolean {
    const weight = 1 - Math.exp(-(nowMs - this.#atMs) / this.#overMs);
    this.#atMs = nowMs;
    if (arrivalsPerS < this.arrivalsPerS * SILENCE_SHARE) {
      this.#silentSinceMs ??= nowMs;
      if (nowMs - this.#silentSinceMs < this.#overMs) return true;
    } else {
      this.#silentSinceMs = null;
    }
    const before = Number.isNaN(this.arrivalsPerS) ? arrivalsPerS : this.arrivalsPerS;
    this.arrivalsPerS = before + weight * (arrivalsPerS - before);
    return false;
  }
}

export class Policy {
  readonly #config: PolicyConfig;
  readonly #most: number;
  readonly #mostReason: string;
  /** Replicas that were needed. */
  readonly #needs: Peak;
  readonly #usual: Usual;
  #last: number | null = null;
  #seeded = false;

  constructor(config: PolicyConfig) {
    this.#config = config;
    this.#needs = new Peak(config.stabilisationMs);
    this.#usual = new Usual(config.stabilisationMs);
    const { replicasMin, replicasMax, usl } = config;
    const optimum = usl === undefined ? Number.POSITIVE_INFINITY : Math.max(1, Math.floor(uslOptimum(usl)));
    this.#most = Math.max(replicasMin, Math.min(replicasMax, optimum), 1);
    this.#mostReason =
      optimum < replicasMax
        ? `more than ${optimum} would slow each other down (usl)`
        : `there may be ${replicasMax} at most (replicas_max)`;
  }

  /** `nowMs` never goes back. */
  decide(nowMs: number, signals: PolicySignals): Decision {
    const present = known(signals.replicas);
    if (!this.#seeded && present !== null) {
      this.#seeded = true;
      this.#needs.add(nowMs, this.#within(present));
    }
    const missing = missingOf(signals);
    const formula = this.#unlessIdle(needOf(signals, this.#config), signals);
    const comeback = this.#comeback(nowMs, signals);
    const need = comeback !== null && comeback.replicas > formula.replicas ? comeback : formula;
    return missing.length > 0 ? this.#hold(nowMs, present, need, missing) : this.#settle(nowMs, need);
  }

  /** No more than there are while those are not busy. */
  #unlessIdle(need: Need, signals: PolicySignals): Need {
    const { utilisation, drainMs } = this.#config;
    const present = known(signals.replicas);
    const busy = known(signals.busyRatio);
    const ageMs = known(signals.oldestUnreadAgeMs);
    if (present === null || busy === null || ageMs === null || present < 1) return need;
    if (need.replicas <= present || busy >= utilisation / 2 || ageMs >= drainMs) return need;
    const share = `${Math.round(busy * 100)} %`;
    return {
      replicas: present,
      reason: `${present}, not ${need.replicas}: they are busy for ${share} of their time`,
    };
  }

  /** What those need who may come back; null while there is no silence, or it is not known. */
  #comeback(nowMs: number, signals: PolicySignals): Need | null {
    const { comeback, utilisation } = this.#config;
    const arrivals = known(signals.arrivalsPerS);
    const rate = known(signals.serviceRatePerS) ?? 0;
    if (arrivals === null || !this.#usual.isSilence(nowMs, arrivals)) return null;
    const usual = this.#usual.arrivalsPerS * comeback;
    if (rate === 0 || usual === 0) return null;
    const replicas = Math.ceil(usual / (utilisation * rate));
    return { replicas, reason: `${replicas} in case that what has stopped comes back, ${count(usual)}/s` };
  }

  /** Something is not known: it stays, unless what is known asks for more. */
  #hold(nowMs: number, present: number | null, need: Need, missing: readonly string[]): Decision {
    const before = this.#last;
    const held = Math.max(1, this.#within(before ?? present ?? this.#config.replicasMin));
    const replicas = Math.max(held, this.#within(need.replicas));
    this.#last = replicas;
    this.#needs.add(nowMs, replicas);
    const unknown = `not known: ${missing.join(', ')}`;
    const kept = before === null ? (present === null ? 'the least' : 'as many as there are') : 'as before';
    const reasons = replicas > held ? [need.reason, unknown] : [`${replicas}, ${kept}: ${unknown}`];
    return { replicas, needed: null, reasons };
  }

  #settle(nowMs: number, { replicas: wanted, reason }: Need): Decision {
    const needed = this.#within(wanted);
    const reasons = [reason];
    if (needed < wanted) reasons.unshift(`${needed}, not ${wanted}: ${this.#mostReason}`);
    if (needed > wanted) reasons.unshift(`${needed}: there must be so many (replicas_min)`);
    this.#needs.add(nowMs, needed);
    const most = this.#needs.most!;
    if (most.value > needed) {
      const ago = Math.round((nowMs - most.atMs) / 1000);
      const forS = Math.round(this.#config.stabilisationMs / 1000);
      reasons.unshift(`${most.value}: so many were needed, or there, ${ago} s ago; kept for ${forS} s`);
    }
    this.#last = most.value;
    return { replicas: most.value, needed, reasons };
  }

  #within(replicas: number): number {
    return Math.min(this.#most, Math.max(this.#config.replicasMin, replicas));
  }
}

/** The signals that are missing, by their names in words; without work no service rate is missed. */
function missingOf(signals: PolicySignals): string[] {
  const arrivals = known(signals.arrivalsPerS);
  const backlog = known(signals.backlogEvents);
  const pending = known(signals.pendingEvents);
  const missing: string[] = [];
  if (arrivals === null) missing.push('the arrival rate');
  if (backlog === null) missing.push('the backlog');
  if (pending === null) missing.push('what is pending');
  const idle = arrivals === 0 && backlog === 0 && pending === 0;
  if (!idle && !(known(signals.serviceRatePerS) ?? 0)) missing.push('the service rate of a replica');
  return missing;
}

/** By the formula; what is not known counts as nothing. */
function needOf(signals: PolicySignals, { utilisation, drainMs }: PolicyConfig): Need {
  const arrivals = known(signals.arrivalsPerS) ?? 0;
  const backlog = known(signals.backlogEvents) ?? 0;
  const pending = known(signals.pendingEvents) ?? 0;
  const rate = known(signals.serviceRatePerS) ?? 0;
  if (arrivals === 0 && backlog === 0 && pending === 0)
    return { replicas: 0, reason: 'there is nothing to do' };
  if (rate === 0) return { replicas: 1, reason: '1: there is work' };
  const steady = arrivals / (utilisation * rate);
  const draining = (arrivals + backlog / (drainMs / 1000)) / rate;
  const replicas = Math.max(1, Math.ceil(Math.max(steady, draining)));
  const each = `${count(rate)}/s each`;
  const reason =
    steady >= draining
      ? `${replicas} for ${count(arrivals)} arrivals/s at ${utilisation} of ${each}`
      : `${replicas} for ${count(arrivals)} arrivals/s and ${count(backlog)} unread in ${drainMs / 1000} s ` +
        `at ${each}`;
  return { replicas, reason };
}

function count(value: number): string {
  return value >= 100 ? Math.round(value).toLocaleString('en-US') : String(Number(value.toPrecision(3)));
}

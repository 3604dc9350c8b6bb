/**
 * How fast the producers of a stream may send, as far as one engine can take it: a pure function of what the
 * engine saw in the last second and of what it suggested before. The engines of a group each suggest their
 * own part and the parts are added up (redis/lua/hints.lua), so nobody coordinates.
 *
 * What the suggestion is, by what is seen:
 *
 * - no limit, as long as there never was a backlog, and again when what is sent has been far below the limit
 *   for a while;
 * - late (unread events older than a share of the deadline, or events given up for want of time): the engine
 *   works as fast as it can, so what it serves is its capacity. What is sent should then be less than that,
 *   by as much as drains the backlog within some seconds;
 * - not late: up to the capacity quickly, and beyond it by feeling the way: a percent a second at first, more
 *   when that goes well for long, for capacity may have come;
 * - stop: Redis refuses settlements, or the engine has served nothing for a while although events wait.
 *
 * The limit is not set to what should be sent, it is moved: by what should be sent over what was sent under
 * the limit that was in force. So it is right in the end for any number of producers, whether they divide the
 * rate among them or each take all of it, and whoever does not look at it. Which limit was in force is not
 * known to the second: of the last two it is the one by which less changes, so that nothing is corrected
 * twice.
 */

export type HintState = 'ok' | 'slow' | 'stop';

/** One engine's view of one stream over one interval. */
export interface Seen {
  /** Length of the interval. */
  readonly intervalMs: number;
  /** Events that this engine settled by running them. */
  readonly served: number;
  /** Events that it gave up, because they were late or there was no room. */
  readonly shed: number;
  /** What the other engines of the group served, events/s. */
  readonly othersServedPerS: number;
  /** What all producers added, events/s; null: not known. */
  readonly arrivedPerS: number | null;
  /** Unread events, and the age of the oldest, 0 for none; null: not known. */
  readonly backlog: number | null;
  readonly oldestMs: number | null;
  /** Of events that name none. */
  readonly deadlineMs: number;
  /** Redis refuses settlements. */
  readonly refused: boolean;
}

/** What is suggested, and what has to be remembered of it. */
export interface RateState {
  readonly state: HintState;
  /** Of all producers, as far as this engine goes; Infinity: no limit. */
  readonly ratePerS: number;
  /** What this engine can serve, as last seen; 0: never seen. */
  readonly capacityPerS: number;
  readonly late: boolean;
  /** Since it was last late. */
  readonly quietMs: number;
  /** How long nothing has been served although events wait. */
  readonly stalledMs: number;
  /** The suggestion before this one. */
  readonly beforePerS: number;
}

export const UNLIMITED: RateState = {
  state: 'ok',
  ratePerS: Number.POSITIVE_INFINITY,
  capacityPerS: 0,
  late: false,
  quietMs: 0,
  stalledMs: 0,
  beforePerS: Number.POSITIVE_INFINITY,
};

/** Of the deadline: unread events older than that are late. */
const LATE_SHARE = 0.1;
/** Younger events wait for a read that is under way, however short the deadline is. */
const LATE_MS_MIN = 50;
/** Of what is settled: fewer given up are strays. */
const SHED_SHARE = 0.01;
/** A backlog should be gone after so long. Less than twice the delay of a second or two would oscillate. */
const DRAIN_S = 5;
/** Of the capacity: so much less, at least and at most, is sent while there is a backlog. */
const DRAIN_SHARE_MIN = 0.05;
const DRAIN_SHARE_MAX = 0.75;
/** Of the capacity: where producers are brought to quickly. */
const AIM_SHARE = 0.95;
/** The limit is moved by no more than this in one interval. */
const FALL_MAX = 0.4;
const RISE_MAX = 2;
/**
 * Of the capacity: the limit never falls below it while anything is served, so that everybody gets through.
 */
const FLOOR_SHARE = 0.02;
/**
 * Growth beyond the known capacity: per second, and how much more of it for each second past the first ones.
 */
const PROBE = 0.01;
const PROBE_MORE = 0.005;
const PROBE_MORE_AFTER_MS = 10_000;
const PROBE_MAX = 1.25;
/** What is sent is less than this share of the limit, for so long: nobody needs it. */
const UNUSED_SHARE = 0.5;
const UNUSED_MS = 10_000;
/** After a stop. */
const RESUME_SHARE = 0.5;
const STALLED_MS = 3000;
/** How far a new measurement of the capacity is believed. */
const CAPACITY_WEIGHT = 0.5;

const clamp = (value: number, low: number, high: number) => Math.min(high, Math.max(low, value));

export function suggestRate(before: RateState, seen: Seen): RateState {
  const { intervalMs, served, shed, backlog, oldestMs, refused } = seen;
  if (refused) return stopped({ ...before, stalledMs: 0 });
  // Not known is no reason to change anything.
  if (backlog === null || oldestMs === null || !(intervalMs > 0)) return before;
  const lateMs = Math.max(LATE_MS_MIN, seen.deadlineMs * LATE_SHARE);
  const late = oldestMs > lateMs || shed > SHED_SHARE * (served + shed);
  // An interval counts when events waited at both its ends.
  const waited = late && (before.late || before.stalledMs > 0);
  const stalledMs = waited && served === 0 ? before.stalledMs + intervalMs : 0;
  if (stalledMs >= STALLED_MS) return stopped({ ...before, stalledMs });
  const resumed = before.state === 'stop' ? resume(before) : before;
  const capacityPerS = capacityOf(resumed, seen, late);
  const next = { ...resumed, capacityPerS, late, stalledMs, beforePerS: resumed.ratePerS };
  if (!late) return { ...next, state: 'ok', ...quiet(next, resumed, seen) };
  const ratePerS = slowed({ ...resumed, capacityPerS }, seen);
  return { ...next, state: 'slow', quietMs: 0, ratePerS };
}

function stopped(before: RateState): RateState {
  return { ...before, state: 'stop', ratePerS: 0, beforePerS: 0, late: false, quietMs: 0 };
}

/** At half of what it could do: after a stop the producers all begin at once. */
function resume(before: RateState): RateState {
  const { capacityPerS } = before;
  const ratePerS = capacityPerS > 0 ? capacityPerS * RESUME_SHARE : Number.POSITIVE_INFINITY;
  return { ...before, ratePerS, beforePerS: ratePerS };
}

/** What is served in an interval with a backlog at both ends is all that could be; else it is no less. */
function capacityOf({ capacityPerS, late: wasLate }: RateState, seen: Seen, late: boolean): number {
  const servedPerS = (seen.served * 1000) / seen.intervalMs;
  if (late && servedPerS === 0) return capacityPerS;
  if (capacityPerS === 0) return late ? servedPerS : 0;
  const isMeasured = late && wasLate;
  if (!isMeasured && servedPerS <= capacityPerS) return capacityPerS;
  return capacityPerS + CAPACITY_WEIGHT * (servedPerS - capacityPerS);
}

/** This engine's part of what arrived, events/s: by what it served of all that was. */
function arrivedOf(seen: Seen): number {
  const servedPerS = (seen.served * 1000) / seen.intervalMs;
  const allPerS = servedPerS + seen.othersServedPerS;
  if (seen.arrivedPerS === null) return servedPerS;
  return allPerS === 0 ? seen.arrivedPerS : (seen.arrivedPerS * servedPerS) / allPerS;
}

/** The limit times `factor`, taking the one of the last two by which it changes less. */
function moved({ ratePerS, beforePerS }: RateState, factor: number): number {
  if (beforePerS === Number.POSITIVE_INFINITY) return ratePerS * factor;
  return factor * (factor < 1 ? Math.max(ratePerS, beforePerS) : Math.min(ratePerS, beforePerS));
}

/** There is a backlog: less than can be served. */
function slowed(before: RateState, seen: Seen): number {
  const { capacityPerS } = before;
  // It has only just begun: how much it can serve will be known in a second.
  if (capacityPerS === 0) return before.ratePerS;
  const allPerS = (seen.served * 1000) / seen.intervalMs + seen.othersServedPerS;
  const workS = allPerS > 0 ? (seen.backlog ?? 0) / allPerS : DRAIN_S;
  const wantedPerS = capacityPerS * (1 - clamp(workS / DRAIN_S, DRAIN_SHARE_MIN, DRAIN_SHARE_MAX));
  if (before.ratePerS === Number.POSITIVE_INFINITY) return wantedPerS;
  const arrivedPerS = arrivedOf(seen);
  const factor = arrivedPerS > 0 ? wantedPerS / arrivedPerS : RISE_MAX;
  const ratePerS = moved(before, clamp(factor, FALL_MAX, RISE_MAX));
  return clamp(ratePerS, Math.min(wantedPerS, FLOOR_SHARE * capacityPerS), wantedPerS);
}

/** There is none: up to what can be served, and then on. */
function quiet(
  next: RateState,
  before: RateState,
  seen: Seen,
): { readonly quietMs: number; readonly ratePerS: number } {
  const quietMs = before.late ? 0 : before.quietMs + seen.intervalMs;
  const { ratePerS } = before;
  if (ratePerS === Number.POSITIVE_INFINITY) return { quietMs, ratePerS };
  const arrivedPerS = arrivedOf(seen);
  if (quietMs >= UNUSED_MS && arrivedPerS < UNUSED_SHARE * ratePerS) {
    return { quietMs, ratePerS: Number.POSITIVE_INFINITY };
  }
  const seconds = seen.intervalMs / 1000;
  const load = next.capacityPerS > 0 ? arrivedPerS / next.capacityPerS : 1;
  const more = Math.max(0, quietMs - PROBE_MORE_AFTER_MS) / 1000;
  const probe = 1 + (PROBE + PROBE_MORE * more) * seconds;
  const rise = load > 0 ? Math.min(AIM_SHARE / load, RISE_MAX) : RISE_MAX;
  const probed = ratePerS * Math.min(probe, PROBE_MAX);
  return { quietMs, ratePerS: Math.max(1, probed, moved(before, rise)) };
}

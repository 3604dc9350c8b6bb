/**
 * Does an engine keep up? Pure: the judgement over a course of backlogs, and the search for the highest rate.
 */
import type { GeneratorReport } from '../generator.ts';
import { middle, slopeOf } from '../statistics.ts';

export type Sample = readonly [seconds: number, events: number];

/** The first part of a run settles: it is not judged. */
const SETTLE_SHARE = 0.25;
/** A backlog that grows by more than this share of the rate grows. */
const GROWTH_SHARE_MAX = 0.01;
/** What waits at the end, in seconds of the rate: a batch or a pause of the collector, no more. */
const WAITING_S_MAX = 0.25;
const END_SHARE = 0.2;
const SENT_SHARE_MIN = 0.99;

/** Null when the backlog stayed flat and everything due was sent; else what was wrong. */
export function whyNotFlat(
  samples: readonly Sample[],
  ratePerS: number,
  { due, sent }: Pick<GeneratorReport, 'due' | 'sent'>,
): string | null {
  if (sent < due * SENT_SHARE_MIN) return `only ${sent} of ${due} events could be sent in time`;
  const settled = samples.slice(Math.floor(samples.length * SETTLE_SHARE));
  if (settled.length < 4) return 'too few samples';
  const growth = slopeOf(settled) / ratePerS;
  if (growth > GROWTH_SHARE_MAX) return `the backlog grew by ${(growth * 100).toFixed(1)} % of the rate`;
  const end = samples.slice(Math.floor(samples.length * (1 - END_SHARE)));
  const waitingS = middle(end.map(([, events]) => events)) / ratePerS;
  return waitingS > WAITING_S_MAX ? `${waitingS.toFixed(2)} s of events were waiting at the end` : null;
}

/**
 * The highest rate between `low` and `high` that `holds`, to within (high - low) / 2 ** probes. When none of
 * the probes holds, `low` is asked too. Null: it does not hold either.
 */
export async function highest(
  low: number,
  high: number,
  probes: number,
  holds: (rate: number) => Promise<boolean>,
): Promise<number | null> {
  let [held, failed, proven] = [low, high, false];
  for (let probe = 0; probe < probes; probe++) {
    const rate = (held + failed) / 2;
    if (await holds(rate)) [held, proven] = [rate, true];
    else failed = rate;
  }
  return proven || (await holds(low)) ? held : null;
}

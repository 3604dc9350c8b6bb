/** One load run from options to report: the wiring. */

import { seededRandom } from '../random.ts';
import type { Interval, Watch } from './account.ts';
import { Account } from './account.ts';
import { drive, RunClock } from './drive.ts';
import { HttpWay, modelInputs } from './http-way.ts';
import type { LoadOptions } from './options.ts';
import { checkLoadOptions, eventsOf } from './options.ts';
import { PacedWay } from './paced-way.ts';
import { samples } from './payload.ts';
import { priorityPattern } from './priorities.ts';
import type { LoadReport } from './report.ts';
import { makeReport } from './report.ts';
import { arrivals, OpenLoop } from './schedule.ts';
import { StreamWay } from './stream-way.ts';
import type { Settle, Way } from './way.ts';
import { WebSocketWay } from './ws-way.ts';

/** Above this rate, half a millisecond more in the figures is worth the cores it leaves to the server. */
const FAST_PER_S = 5000;

/** Of this process, so far. */
let runs = 0;

/** Makes the way for one run. `fail` ends the run early with an error. */
export type MakeWay = (run: string, settle: Settle, fail: (error: Error) => void) => Way | Promise<Way>;

export interface LoadHooks {
  /** Ends the sending early; the run drains and reports. */
  readonly stop?: AbortSignal;
  readonly onTick?: (elapsedMs: number, interval: Interval, account: Account) => void;
  /** Another way than options.via says; the benchmark measures other engines so. */
  readonly makeWay?: MakeWay;
  /** Times of arrival (ms since the start, never decreasing) instead of those that rate and seed give. */
  readonly arrival?: () => number;
  readonly watch?: Watch;
}

/** Throws SubitoError for options that cannot be, or when the target cannot be reached. */
export async function runLoad(options: LoadOptions, hooks: LoadHooks = {}): Promise<LoadReport> {
  checkLoadOptions(options);
  const clock = new RunClock();
  const account = new Account({
    eventsMax: eventsOf(options),
    warmupMs: options.warmupS * 1000,
    timeoutMs: options.timeoutS * 1000,
    outstandingMax: options.outstandingMax,
    pattern: priorityPattern(options.priority),
    ...(hooks.watch === undefined ? {} : { watch: hooks.watch }),
  });
  // Answers to the events of an earlier run, or of one beside this, must not count for it.
  runs++;
  const run = `load${Date.now().toString(36)}${process.pid.toString(36)}x${runs.toString(36)}`;
  const abandon = new AbortController();
  let failure: string | null = null;
  const fail = (error: Error) => {
    failure ??= error.message;
    abandon.abort();
  };
  const settle: Settle = (seq, code, entryMs) => account.settle(seq, clock.now(), code, entryMs);
  const way = await (hooks.makeWay ?? wayOf(options))(run, settle, fail);
  const endMs = (options.warmupS + options.durationS) * 1000;
  const { ratePerS, seed } = options;
  const arrival = hooks.arrival ?? arrivals(options.arrivals, ratePerS, seededRandom(seed));
  const loop = new OpenLoop(arrival, endMs);
  let stoppedMs = endMs;
  const stopped = hooks.stop ?? new AbortController().signal;
  for (const signal of [stopped, abandon.signal]) {
    signal.addEventListener('abort', () => {
      stoppedMs = Math.min(stoppedMs, clock.now());
    });
  }
  await drive({
    loop,
    account,
    way,
    clock,
    stopped,
    abandoned: abandon.signal,
    gapMs: options.ratePerS > FAST_PER_S ? 0.5 : 0.25,
    onTick: (elapsedMs, interval) => hooks.onTick?.(elapsedMs, interval, account),
  });
  const sentMs = Math.max(0, stoppedMs - options.warmupS * 1000);
  return makeReport(options, account, sentMs, way.notes, failure, way.pacing?.());
}

function wayOf(options: LoadOptions): MakeWay {
  return async (run, settle, fail) => {
    const random = seededRandom(options.seed ^ 0x5eed);
    if (options.via === 'stream') {
      const way = new StreamWay(options, run, samples(options, 'features', random), settle, fail);
      return options.pace ? new PacedWay(way, options, settle) : way;
    }
    const inputs = options.model === '' ? [] : await modelInputs(options);
    const prepared = samples(options, inputs[0]?.name ?? 'features', random);
    if (options.via === 'ws') return new WebSocketWay(options, run, prepared, settle, fail);
    return new HttpWay(options, run, prepared, inputs, settle);
  };
}

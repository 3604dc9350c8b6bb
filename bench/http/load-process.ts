/** One run of load, told by load.ts over IPC: a closed loop by autocannon, or an open one. */
import type { EventEmitter } from 'node:events';
import { createRequire } from 'node:module';
import { build } from 'hdr-histogram-js';
import { messageOf } from '../../src/errors.ts';
import { loadDefaults } from '../../src/load/options.ts';
import { runLoad } from '../../src/load/run.ts';
import type { ClosedPlan, LoadFigures, LoadMessage, OpenPlan } from './load.ts';
import { SocketWay } from './socket-way.ts';

/** Of autocannon, which brings no types, what is used here. */
interface AutocannonOptions {
  readonly url: string;
  readonly connections: number;
  readonly duration: number;
  readonly timeout: number;
  readonly requests: readonly object[];
}
type Run = EventEmitter & { stop(): void };
type Autocannon = (options: AutocannonOptions, done: (error: Error | null) => void) => Run;

const TIMEOUT_S = 10;

/** After the last word the channel is closed; timers may still ring. */
function say(message: LoadMessage): void {
  if (process.connected) process.send!(message);
}

/**
 * Calls back when the warm-up is over and when the measured time is; gives the share of a core used between.
 */
class Watch {
  readonly #seconds: number;
  #cpuUs = 0;
  generatorShare = 0;

  constructor({ warmupS, seconds }: ClosedPlan | OpenPlan) {
    this.#seconds = seconds;
    setTimeout(() => this.#begin(), warmupS * 1000);
  }

  #begin(): void {
    this.#cpuUs = -cpuUs();
    say({ say: 'begun' });
    setTimeout(() => {
      this.generatorShare = (this.#cpuUs + cpuUs()) / 1e6 / this.#seconds;
      say({ say: 'ended' });
    }, this.#seconds * 1000);
  }
}

function cpuUs(): number {
  const { user, system } = process.cpuUsage();
  return user + system;
}

/** autocannon's own histogram knows whole milliseconds only, and no warm-up: both are done here. */
async function closed(plan: ClosedPlan): Promise<LoadFigures> {
  const { url, connections, warmupS, seconds } = plan;
  const autocannon = createRequire(import.meta.url)('autocannon') as Autocannon;
  const headers = { 'content-type': 'application/json' };
  const requests = plan.bodies.map((body) => ({ method: 'POST', headers, body }));
  const times = build({ highestTrackableValue: 60_000_000, numberOfSignificantValueDigits: 3 });
  let answered = 0;
  let errors = 0;
  const beginMs = performance.now() + warmupS * 1000;
  const endMs = beginMs + seconds * 1000;
  const isMeasured = () => performance.now() >= beginMs && performance.now() < endMs;
  const watch = new Watch(plan);
  await new Promise<void>((resolve, reject) => {
    const duration = warmupS + seconds + 1;
    const run = autocannon({ url, connections, duration, timeout: TIMEOUT_S, requests }, (error) =>
      error === null ? resolve() : reject(error),
    );
    run.on('response', (_client: unknown, status: number | string, _bytes: number, tookMs: number) => {
      if (!isMeasured()) return;
      if (Number(status) === 200) {
        answered += 1;
        times.recordValue(Math.max(1, Math.round(tookMs * 1000)));
      } else errors += 1;
    });
    run.on('reqError', () => {
      if (isMeasured()) errors += 1;
    });
    setTimeout(() => run.stop(), endMs + 100 - performance.now());
  });
  const at = (percent: number) => times.getValueAtPercentile(percent) / 1000;
  const { generatorShare } = watch;
  const max = times.maxValue / 1000;
  return { answered, perS: answered / seconds, p50: at(50), p99: at(99), max, errors, generatorShare };
}

async function open(plan: OpenPlan): Promise<LoadFigures> {
  const { url, connections, ratePerS, warmupS, seconds, seed } = plan;
  const options = {
    ...loadDefaults,
    via: 'http',
    model: 'mlp',
    url: new URL(url).origin,
    connections,
    ratePerS,
    warmupS,
    durationS: seconds,
    timeoutS: TIMEOUT_S,
    seed,
  } as const;
  const watch = new Watch(plan);
  const makeWay = (_run: string, settle: ConstructorParameters<typeof SocketWay>[1]) =>
    new SocketWay({ url, connections, bodies: plan.bodies }, settle);
  const { answered, errors, lost, latencyMs } = await runLoad(options, { makeWay });
  const bad = Object.values(errors).reduce((sum, count) => sum + count, lost);
  const { p50, p99, max } = latencyMs;
  const { generatorShare } = watch;
  return { answered, perS: answered / seconds, p50, p99, max, errors: bad, generatorShare };
}

process.once('message', (plan: ClosedPlan | OpenPlan) => {
  const done = plan.kind === 'closed' ? closed(plan) : open(plan);
  done
    .then(
      (figures) => say({ say: 'done', figures }),
      (error: unknown) => say({ say: 'failed', why: messageOf(error) }),
    )
    // Timers and sockets that are still there keep nobody.
    .finally(() => process.disconnect());
});

/** One engine under an open load: at a given rate, and at the highest that it sustains. */
import { setTimeout as sleep } from 'node:timers/promises';
import { type GeneratorReport, generate } from '../generator.ts';
import type { CpuTimes, Runner } from '../runner.ts';
import { redisCpuUs, type Site } from '../site.ts';
import { middle } from '../statistics.ts';
import { added } from '../streams.ts';
import { subito } from './contestants.ts';
import { type Engine, type EngineOptions, startEngine } from './engine.ts';
import { highest, type Sample, whyNotFlat } from './flat.ts';
import { allAnswered, drain, warm } from './warm.ts';

/** Of the drain rate: between these the sustained one is looked for. */
const SHARE_LOW = 0.3;
const SHARE_HIGH = 0.95;
const PROBES = 5;
/** A run at the rate that was found may show that it is a little too high. */
const STEP_DOWN = 0.96;
const STEPS_DOWN = 5;

export interface PaceSettings {
  readonly warmMs: number;
  readonly drains: number;
  readonly drainS: number;
  readonly probeS: number;
}

export const PACE: PaceSettings = { warmMs: 10_000, drains: 3, drainS: 2.5, probeS: 5 };
export const PACE_QUICK: PaceSettings = { warmMs: 1000, drains: 1, drainS: 0.7, probeS: 1.5 };

export interface Paced {
  readonly ratePerS: number;
  readonly report: GeneratorReport;
  /** Events that were added and had no prediction yet. */
  readonly backlog: readonly Sample[];
  /** Null: the backlog stayed flat. */
  readonly why: string | null;
  /** Processor time, microseconds per event. */
  readonly redisUs: number;
  readonly engineUs: number;
}

export interface Sustained {
  readonly drainPerS: number;
  readonly ratePerS: number;
  readonly probes: readonly { readonly ratePerS: number; readonly why: string | null }[];
}

export class PacedEngine {
  readonly site: Site;
  readonly runner: Runner;
  readonly #say: (line: string) => void;
  #batches = 0;

  /** Started and warm. */
  static async start(
    site: Site,
    settings: PaceSettings,
    say: (line: string) => void,
    options: EngineOptions = {},
  ): Promise<PacedEngine> {
    const engine: Engine = await startEngine(site, options);
    const paced = new PacedEngine(site, engine.runner, say);
    say('warming up');
    try {
      await warm(subito, site, engine.runner, settings.warmMs);
    } catch (error) {
      await engine.runner.stop();
      throw error;
    }
    return paced;
  }

  private constructor(site: Site, runner: Runner, say: (line: string) => void) {
    this.site = site;
    this.runner = runner;
    this.#say = say;
  }

  /** Events a second of a filled stream: the median of some drains. */
  async drainRate({ drains, drainS }: PaceSettings): Promise<number> {
    const rates: number[] = [];
    for (let i = 0; i < drains; i++) {
      const count = Math.ceil((rates.at(-1) ?? subito.guessPerS / 2) * drainS);
      const { perS } = await drain(subito, this.site, this.runner, `rate${i}`, count);
      await subito.forget(this.site);
      rates.push(perS);
    }
    return middle(rates);
  }

  /**
   * The highest rate at which the backlog stays flat, by probes. `observe`: with somebody who reads them all.
   */
  async sustained(settings: PaceSettings, observe: boolean): Promise<Sustained> {
    const drainPerS = await this.drainRate(settings);
    this.#say(`drains ${drainPerS.toFixed(0)}/s`);
    const probes: { ratePerS: number; why: string | null }[] = [];
    const ratePerS = await highest(drainPerS * SHARE_LOW, drainPerS * SHARE_HIGH, PROBES, async (rate) => {
      const { why } = await this.run(rate, settings.probeS, observe);
      probes.push({ ratePerS: rate, why });
      this.#say(`${rate.toFixed(0)}/s: ${why ?? 'the backlog stays flat'}`);
      return why === null;
    });
    if (ratePerS === null) throw new Error(`no rate from ${drainPerS * SHARE_LOW}/s on is sustained`);
    return { drainPerS, ratePerS, probes };
  }

  /** As `run`, at a lower rate as long as the backlog does not stay flat. Throws when it never does. */
  async runFlat(ratePerS: number, seconds: number, observe: boolean): Promise<Paced> {
    let rate = ratePerS;
    for (let step = 0; step < STEPS_DOWN; step++, rate *= STEP_DOWN) {
      const paced = await this.run(rate, seconds, observe);
      if (paced.why === null) return paced;
      this.#say(`not over ${seconds} s at ${rate.toFixed(0)}/s: ${paced.why}`);
    }
    throw new Error(`no rate from ${rate.toFixed(0)}/s to ${ratePerS.toFixed(0)}/s is sustained`);
  }

  /**
   * An open loop; then what is left is waited for. Rejects when there are not as many predictions as events.
   * `onSample` is called with the time since the start, some five times a second or more.
   */
  async run(
    ratePerS: number,
    seconds: number,
    observe: boolean,
    onSample: (seconds: number) => void = () => {},
  ): Promise<Paced> {
    const { site, runner } = this;
    const before = await this.#counts();
    const backlog: Sample[] = [];
    let started = 0;
    let running = true;
    let cpu: readonly [redisUs: number, times: CpuTimes] = [0, runner.cpu()];
    const begin = () => {
      started = Date.now();
    };
    const plan = openPlan(site, { batch: `run${this.#batches++}`, ratePerS, seconds, observe });
    const redisBefore = await redisCpuUs(site.wire);
    cpu = [redisBefore, runner.cpu()];
    const generating = generate(plan, begin).finally(() => {
      running = false;
    });
    const everyMs = seconds > 20 ? 200 : 50;
    // What ends it is awaited below.
    generating.catch(() => {});
    while (running) {
      await sleep(everyMs);
      const atS = (Date.now() - started) / 1000;
      if (started === 0 || atS > plan.warmupS + seconds) continue;
      const [events, predictions] = await this.#counts();
      backlog.push([atS, Math.max(0, events - before[0] - (predictions - before[1]))]);
      onSample(atS);
    }
    const report = await generating;
    const [events] = await this.#counts();
    await allAnswered(subito, site, runner, before[1] + (events - before[0]));
    const [redisAfter, after] = [await redisCpuUs(site.wire), runner.cpu()];
    await this.#checkCounts(before, report);
    const sum = (times: CpuTimes) => times.userUs + times.sysUs;
    return {
      ratePerS,
      report,
      backlog,
      why: whyNotFlat(backlog, ratePerS, report),
      redisUs: (redisAfter - cpu[0]) / report.due,
      engineUs: (sum(after) - sum(cpu[1])) / report.due,
    };
  }

  async stop(): Promise<void> {
    await this.runner.stop();
  }

  async #checkCounts(before: readonly [number, number], report: GeneratorReport): Promise<void> {
    const [events, predictions] = await this.#counts();
    const [addedEvents, answered] = [events - before[0], predictions - before[1]];
    if (addedEvents !== report.due || answered !== addedEvents) {
      throw new Error(`${report.due} events sent, ${addedEvents} added, ${answered} predictions`);
    }
    if (report.missing > 0 || report.duplicates > 0) {
      throw new Error(`${report.missing} events without a prediction, ${report.duplicates} with two`);
    }
  }

  async #counts(): Promise<readonly [events: number, predictions: number]> {
    const { wire } = this.site;
    const [predictions, events] = await Promise.all([added(wire, 'predictions'), added(wire, 'events')]);
    return [events, predictions];
  }
}

/** Waking more often costs more than it tells: half a millisecond is in all latencies alike. */
const GAP_MS_OBSERVED = 0.5;
const GAP_MS = 1;

interface OpenRun {
  readonly batch: string;
  readonly ratePerS: number;
  readonly seconds: number;
  readonly observe: boolean;
}

/** What all open loops have in common. */
export function openPlan(site: Site, run: OpenRun, prefix = '') {
  return {
    redisUrl: site.redisUrl,
    stream: `${prefix}events`,
    predictions: `${prefix}predictions`,
    // The generator's own code is new too.
    warmupS: Math.min(2, run.seconds / 2),
    gapMs: run.observe ? GAP_MS_OBSERVED : GAP_MS,
    seed: 1,
    ...run,
  };
}

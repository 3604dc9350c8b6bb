// A stream, its producers and its engines on a simulated clock, in steps of some milliseconds: what the hints
// make of them. Producers look at the hint about twice a second; engines look at the stream once a second.
import { type RateState, type Seen, suggestRate, UNLIMITED } from '../../src/ingest/suggest-rate.ts';
import type { Random } from '../support/random.ts';

const STEP_MS = 20;
const TICK_MS = 1000;
const POLL_MS = 500;

export interface SimulatedEngine {
  /** Events/s that it can serve at this time. */
  readonly capacityPerS: (ms: number) => number;
  /** From and until when it is there. */
  readonly fromMs?: number;
  readonly untilMs?: number;
  readonly refused?: (ms: number) => boolean;
}

export interface SimulatedProducer {
  /** Events/s that it would send. */
  readonly wantsPerS: (ms: number) => number;
  /** Null: it does not look at hints. Else its part of the rate. */
  readonly share: number | null;
}

export interface World {
  readonly engines: readonly SimulatedEngine[];
  readonly producers: readonly SimulatedProducer[];
  readonly deadlineMs: number;
  readonly seconds: number;
  readonly random: Random;
  /** Between what an engine suggests and what a producer can read. */
  readonly delayMs?: number;
}

/** One second of it. */
export interface Second {
  readonly second: number;
  readonly state: string;
  readonly ratePerS: number;
  readonly arrived: number;
  readonly served: number;
  readonly backlog: number;
  readonly oldestMs: number;
}

interface Field {
  readonly atMs: number;
  readonly state: RateState;
  readonly servedPerS: number;
}

/** What redis/lua/hints.lua makes of the engines' parts. */
export function addUp(fields: readonly { readonly state: string; readonly ratePerS: number }[]): {
  state: string;
  ratePerS: number;
} {
  const going = fields.filter(({ state }) => state !== 'stop');
  if (going.length === 0) return { state: 'stop', ratePerS: 0 };
  const state = fields.every((field) => field.state === 'ok') ? 'ok' : 'slow';
  const limited = going.filter(({ ratePerS }) => ratePerS !== Number.POSITIVE_INFINITY);
  if (limited.length === 0) return { state, ratePerS: Number.POSITIVE_INFINITY };
  const sum = limited.reduce((total, { ratePerS }) => total + Math.round(ratePerS), 0);
  return { state, ratePerS: Math.floor((sum * going.length) / limited.length) };
}

class Stream {
  readonly #queue: { atMs: number; count: number }[] = [];
  added = 0;
  backlog = 0;

  add(atMs: number, count: number): void {
    if (count <= 0) return;
    this.#queue.push({ atMs, count });
    this.added += count;
    this.backlog += count;
  }

  take(most: number): number {
    let left = Math.min(most, this.backlog);
    const taken = left;
    this.backlog -= taken;
    while (left > 1e-9 && this.#queue.length > 0) {
      const first = this.#queue[0] as { atMs: number; count: number };
      const part = Math.min(left, first.count);
      first.count -= part;
      left -= part;
      if (first.count <= 1e-9) this.#queue.shift();
    }
    return taken;
  }

  oldestMs(nowMs: number): number {
    return this.#queue.length === 0 ? 0 : nowMs - (this.#queue[0] as { atMs: number }).atMs;
  }
}

class EngineAtWork {
  readonly settings: SimulatedEngine;
  readonly phaseMs: number;
  field: Field | null = null;
  served = 0;
  #servedAt = 0;
  #added = 0;
  #memory: RateState = UNLIMITED;

  constructor(settings: SimulatedEngine, random: Random) {
    this.settings = settings;
    this.phaseMs = Math.floor(random.int(0, TICK_MS - 1) / STEP_MS) * STEP_MS;
  }

  isThere(ms: number): boolean {
    const { fromMs = 0, untilMs = Number.POSITIVE_INFINITY } = this.settings;
    return ms >= fromMs && ms < untilMs;
  }

  tick(ms: number, stream: Stream, others: readonly EngineAtWork[], deadlineMs: number): void {
    const served = this.served - this.#servedAt;
    const seen: Seen = {
      intervalMs: TICK_MS,
      served,
      shed: 0,
      othersServedPerS: others.reduce((sum, { field }) => sum + (field?.servedPerS ?? 0), 0),
      arrivedPerS: stream.added - this.#added,
      backlog: Math.round(stream.backlog),
      oldestMs: stream.oldestMs(ms),
      deadlineMs,
      refused: this.settings.refused?.(ms) ?? false,
    };
    this.#servedAt = this.served;
    this.#added = stream.added;
    this.#memory = suggestRate(this.#memory, seen);
    this.field = { atMs: ms, state: this.#memory, servedPerS: served };
  }
}

/** Runs it; one record for each second. */
export function simulate(world: World): Second[] {
  const { random, delayMs = 0 } = world;
  const stream = new Stream();
  const engines = world.engines.map((settings) => new EngineAtWork(settings, random));
  const polls = world.producers.map(() => random.int(0, POLL_MS));
  const rates = world.producers.map(() => Number.POSITIVE_INFINITY);
  const published: { atMs: number; ratePerS: number; state: string }[] = [];
  const seconds: Second[] = [];
  let [arrived, served] = [0, 0];
  for (let ms = 0; ms < world.seconds * 1000; ms += STEP_MS) {
    const there = engines.filter((engine) => engine.isThere(ms));
    for (const engine of there) {
      if (ms % TICK_MS !== engine.phaseMs) continue;
      engine.tick(
        ms,
        stream,
        there.filter((other) => other !== engine),
        world.deadlineMs,
      );
      const fields = there.filter(({ field }) => field !== null).map(({ field }) => (field as Field).state);
      published.push({ atMs: ms, ...addUp(fields) });
    }
    for (const [i, producer] of world.producers.entries()) {
      if (producer.share !== null && ms >= (polls[i] as number)) {
        polls[i] = ms + POLL_MS * (0.75 + random.int(0, 500) / 1000);
        const hint = published.findLast(({ atMs }) => atMs + delayMs <= ms);
        if (hint !== undefined) rates[i] = hint.ratePerS * producer.share;
      }
      const perS = Math.min(producer.wantsPerS(ms), rates[i] as number);
      // Not evenly: what comes in a step varies by half.
      const count = (perS * STEP_MS * (0.5 + random.int(0, 1000) / 1000)) / 1000;
      stream.add(ms, count);
      arrived += count;
    }
    for (const engine of there) {
      if (engine.settings.refused?.(ms)) continue;
      const done = stream.take((engine.settings.capacityPerS(ms) * STEP_MS) / 1000);
      engine.served += done;
      served += done;
    }
    if ((ms + STEP_MS) % 1000 !== 0) continue;
    const { ratePerS = Number.POSITIVE_INFINITY, state = 'ok' } = published.at(-1) ?? {};
    const oldestMs = stream.oldestMs(ms + STEP_MS);
    seconds.push({
      ...{ second: Math.round(ms / 1000), state, ratePerS, arrived, served },
      ...{ backlog: stream.backlog, oldestMs },
    });
    [arrived, served] = [0, 0];
  }
  return seconds;
}

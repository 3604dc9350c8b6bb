/**
 * One open load on the engine, every event of it accounted for, with what the engine looks like meanwhile.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Account, Interval, Watch } from '../../src/load/account.ts';
import type { LoadOptions, Via } from '../../src/load/options.ts';
import { loadDefaults } from '../../src/load/options.ts';
import { formatProgress } from '../../src/load/report.ts';
import { runLoad } from '../../src/load/run.ts';
import { seededRandom } from '../../src/random.ts';
import type { Sample } from '../e2e/flat.ts';
import type { StreamName } from './engine.ts';
import {
  deadlettersOf,
  EVENTS_PER_CONNECTION,
  type OverloadEngine,
  predictionsOf,
  STREAMS,
} from './engine.ts';
import { EventTable } from './events.ts';
import { type Phase, phasedArrivals } from './phases.ts';

/** So many requests may wait at once; in time every one of them is answered or refused. */
const HTTP_CONNECTIONS = 512;
const SAMPLE_MS = 200;
/** Seconds between lines of progress. */
const SAY_EVERY = 10;
/** What the model gets; it takes as long for all of them. */
const DATA = '{"level":0.5}';
const FAST_BYTES = 256;

export interface Offer {
  readonly via: Via;
  /** Over sockets: its model. */
  readonly stream: StreamName;
  readonly phases: readonly Phase[];
  readonly deadlineMs: number;
  readonly timeoutS: number;
  readonly priority?: string;
  readonly keyPrefix?: string;
  readonly keys?: number;
  readonly seed?: number;
  /** A line now and then, while it lasts. */
  readonly say?: (line: string) => void;
}

export interface Offered {
  readonly events: EventTable;
  /** Answered more than once: there must be none. */
  readonly duplicates: number;
  readonly notes: readonly string[];
}

/** What happens while events are sent: from then on, ms since the first of them could be due. */
export interface Step {
  readonly atMs: number;
  readonly act: () => void;
}

/** Rejects when the load cannot be driven to its end, or the engine ended. */
export async function offer(
  engine: OverloadEngine,
  what: Offer,
  script: readonly Step[] = [],
): Promise<Offered> {
  const options = optionsOf(engine, what);
  const mean = what.phases.reduce((sum, { seconds, ratePerS }) => sum + seconds * ratePerS, 0);
  const events = new EventTable(Math.ceil(mean + 6 * Math.sqrt(mean) + 16));
  const timers: NodeJS.Timeout[] = [];
  const watch: Watch = {
    due: (seq, dueMs, nowMs) => {
      events.due(seq, dueMs, nowMs);
      if (seq > 0) return;
      for (const { atMs, act } of script) timers.push(setTimeout(act, Math.max(0, atMs - nowMs)));
    },
    settled: (...outcome) => events.settled(...outcome),
  };
  const arrival = phasedArrivals(what.phases, seededRandom(what.seed ?? 1));
  let ticks = 0;
  const onTick = (elapsedMs: number, interval: Interval, account: Account) => {
    if (++ticks % SAY_EVERY === 0) what.say?.(formatProgress(elapsedMs, interval, account).trim());
  };
  const hooks = { arrival, watch, onTick };
  const report = await runLoad(options, hooks).finally(() => timers.forEach(clearTimeout));
  if (engine.runner.ended) throw new Error(`the engine ended:\n${engine.runner.output}`);
  const ended = report.warnings.find((warning) => warning.startsWith('the run ended early'));
  if (ended !== undefined) throw new Error(`${what.via}: ${ended}`);
  return { events, duplicates: report.duplicates, notes: report.notes };
}

function optionsOf(engine: OverloadEngine, what: Offer): LoadOptions {
  const { via, stream, phases, deadlineMs, timeoutS } = what;
  const model = STREAMS[stream];
  const payload = model === 'fast' ? { featuresBytes: FAST_BYTES } : { data: DATA };
  return {
    ...loadDefaults,
    ...payload,
    ...{ via, stream, deadlineMs, timeoutS },
    ratePerS: Math.max(...phases.map(({ ratePerS }) => ratePerS)),
    durationS: phases.reduce((sum, { seconds }) => sum + seconds, 0),
    warmupS: 0,
    connections: via === 'http' ? HTTP_CONNECTIONS : loadDefaults.connections,
    perConnectionPerS: EVENTS_PER_CONNECTION,
    model: via === 'stream' ? '' : model,
    redisUrl: engine.site.redisUrl,
    url: engine.url,
    predictions: predictionsOf(stream),
    deadletters: deadlettersOf(stream),
    priority: what.priority ?? '',
    keyPrefix: what.keyPrefix ?? loadDefaults.keyPrefix,
    keys: what.keys ?? loadDefaults.keys,
    outstandingMax: 1_000_000,
  };
}

export interface Watched {
  /** Bytes in memory. */
  readonly resident: readonly (readonly [seconds: number, bytes: number])[];
  /** Events that wait in Redis or in the engine, of the streams. */
  readonly backlog: readonly Sample[];
}

/** Looks five times a second, from the moment that it is told to until it is told to stop. */
export class EngineWatch {
  readonly #engine: OverloadEngine;
  readonly #streams: readonly StreamName[];
  readonly #resident: [number, number][] = [];
  readonly #backlog: Sample[] = [];
  #watching: Promise<void> | null = null;
  #running = true;

  constructor(engine: OverloadEngine, streams: readonly StreamName[]) {
    this.#engine = engine;
    this.#streams = streams;
  }

  begin(): void {
    this.#watching = this.#watch(performance.now());
    // What goes wrong is told to whoever stops it.
    this.#watching.catch(() => {});
  }

  async stop(): Promise<Watched> {
    this.#running = false;
    await this.#watching;
    return { resident: this.#resident, backlog: this.#backlog };
  }

  async #watch(beganMs: number): Promise<void> {
    while (this.#running && !this.#engine.runner.ended) {
      const atS = (performance.now() - beganMs) / 1000;
      this.#resident.push([atS, this.#engine.runner.residentBytes()]);
      this.#backlog.push([atS, await this.#engine.backlog(this.#streams)]);
      await sleep(SAMPLE_MS);
    }
  }
}

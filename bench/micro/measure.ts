/**
 * Time and memory of one case. Both need a process of its own (process.ts): what other pieces have run before
 * changes how V8 compiles this one, and the two want different settings of the collector.
 */
import { Session } from 'node:inspector';
import { GCProfiler, getHeapStatistics } from 'node:v8';
import { middle } from '../statistics.ts';
import { EVENTS_LARGE, EVENTS_SMALL, type MicroCase, VARIANTS, type Variant, type Work } from './case.ts';

export interface Timing {
  /** Nanoseconds per event, by the clock: middle and least of the rounds. */
  readonly nsMedian: number;
  readonly nsMin: number;
  /**
   * Of this thread's processor time, over all rounds: it counts less of what else the machine does, but some
   * systems count it in steps of milliseconds.
   */
  readonly cpuNs: number;
}

export interface CaseTime {
  readonly variants: Readonly<Record<Variant, Timing | null>>;
  /** The twin's processor time over the addon's; null without an addon. */
  readonly nativeSpeedup: number | null;
}

export interface TimePlan {
  readonly warmMs: number;
  readonly windowMs: number;
  readonly rounds: number;
}

/** Where something was allocated. What V8 has inlined counts for the function that it was inlined into. */
export interface Site {
  /** `function file:line` of the function. */
  readonly place: string;
  readonly allocationsPerEvent: number;
  readonly bytesPerEvent: number;
}

export interface Space {
  /** Growth of V8's heap with one more event in a batch. */
  readonly bytesPerEvent: number;
  /** Allocations likewise; objects that V8 allocates together count as one. */
  readonly allocationsPerEvent: number;
  /** Growth beside the heap: the memory behind buffers. */
  readonly outsideBytesPerEvent: number;
  /** What a batch costs beside its events. */
  readonly bytesPerBatch: number;
  readonly allocationsPerBatch: number;
  /** Of the events, most bytes first. */
  readonly sites: readonly Site[];
}

export interface SpacePlan {
  /**
   * Batches before anything is measured, small ones and a quarter as many large ones: V8 compiles what is
   * called often, and until it has, a batch costs more.
   */
  readonly warmBatches: number;
  /** The warm-up ends after this long in any case: some pieces take microseconds for each event. */
  readonly warmMsMax: number;
  readonly repeats: number;
}

/** Batches in one look at the heap; buffers come in pools of 8 KiB, which should not show. */
const CALLS = 256;
/** Batches of which every allocation is written down. */
const CALLS_PROFILED = 32;
/** A window into which a collection fell is tried again with half the batches. */
const TRIES_MAX = 8;
/** Sites with less are noise. */
const SITE_BYTES_MIN = 0.05;
/** What the measuring allocates, and V8 for itself. */
const FOREIGN_SITE = / node:inspector:|^\(COMPILER\)|^\(GC\)/;

async function repeat(work: Work, events: number, calls: number): Promise<void> {
  for (let call = 0; call < calls; call++) {
    const done = work(events);
    if (done !== undefined) await done;
  }
}

/** Interleaved: in each round every variant has its turn, so that all meet the same machine. */
export async function measureTime(micro: MicroCase, plan: TimePlan): Promise<CaseTime> {
  const present = VARIANTS.filter((variant) => micro.variants[variant] !== null);
  const calls = new Map<Variant, number>();
  for (const variant of present) {
    calls.set(variant, await callsFor(micro.variants[variant]!, plan));
  }
  const rounds = new Map<Variant, Round[]>(present.map((variant) => [variant, []]));
  for (let round = 0; round < plan.rounds; round++) {
    for (const variant of round % 2 === 0 ? present : present.toReversed()) {
      rounds.get(variant)!.push(await timed(micro.variants[variant]!, calls.get(variant)!));
    }
  }
  const [twin, native] = VARIANTS.map((variant) => timingOf(rounds.get(variant)));
  const nativeSpeedup = twin && native ? twin.cpuNs / native.cpuNs : null;
  return { variants: { twin: twin ?? null, native: native ?? null }, nativeSpeedup };
}

interface Round {
  readonly events: number;
  readonly ns: number;
  readonly cpuNs: number;
}

async function timed(work: Work, calls: number): Promise<Round> {
  const cpu = process.threadCpuUsage();
  const beganMs = performance.now();
  await repeat(work, EVENTS_LARGE, calls);
  const ns = (performance.now() - beganMs) * 1e6;
  const { user, system } = process.threadCpuUsage(cpu);
  return { events: calls * EVENTS_LARGE, ns, cpuNs: (user + system) * 1000 };
}

function timingOf(rounds: readonly Round[] = []): Timing | null {
  if (rounds.length === 0) return null;
  const each = rounds.map(({ ns, events }) => ns / events);
  const sum = (of: (round: Round) => number) => rounds.reduce((total, round) => total + of(round), 0);
  const cpuNs = sum((round) => round.cpuNs) / sum(({ events }) => events);
  return { nsMedian: middle(each), nsMin: Math.min(...each), cpuNs };
}

/** Warms up; returns how many batches fill a window. */
async function callsFor(work: Work, { warmMs, windowMs }: TimePlan): Promise<number> {
  let calls = 1;
  let lastMs = 0;
  for (let leftMs = warmMs; leftMs > 0; leftMs -= lastMs) {
    const beganMs = performance.now();
    await repeat(work, EVENTS_LARGE, calls);
    lastMs = Math.max(performance.now() - beganMs, 0.001);
    if (lastMs < windowMs / 4) calls *= 2;
  }
  return Math.max(1, Math.round((calls * windowMs) / lastMs));
}

/** Needs the settings of `SPACE_FLAGS`: no collection may fall into a window. */
export async function measureSpace(work: Work, plan: SpacePlan): Promise<Space> {
  const lateMs = performance.now() + plan.warmMsMax;
  for (let call = 0; call < plan.warmBatches && performance.now() < lateMs; call += 4) {
    await repeat(work, EVENTS_SMALL, 4);
    await repeat(work, EVENTS_LARGE, 1);
  }
  const windows: { readonly small: Growth; readonly large: Growth }[] = [];
  for (let i = 0; i < plan.repeats; i++) {
    // In turns: what still changes from window to window must not look like the price of an event.
    const first = await growth(work, i % 2 === 0 ? EVENTS_SMALL : EVENTS_LARGE);
    const second = await growth(work, i % 2 === 0 ? EVENTS_LARGE : EVENTS_SMALL);
    windows.push(i % 2 === 0 ? { small: first, large: second } : { small: second, large: first });
  }
  const slope = (of: (growth: Growth) => number) =>
    middle(windows.map(({ small, large }) => (of(large) - of(small)) / (EVENTS_LARGE - EVENTS_SMALL)));
  const bytesPerEvent = slope(({ heapBytes }) => heapBytes);
  const small = await allocations(work, EVENTS_SMALL);
  const large = await allocations(work, EVENTS_LARGE);
  const sites = sitesOf(small, large);
  const allocationsPerEvent = sites.reduce((sum, site) => sum + site.allocationsPerEvent, 0);
  const count = [...small.values()].reduce((sum, { times }) => sum + times, 0);
  return {
    bytesPerEvent,
    allocationsPerEvent,
    outsideBytesPerEvent: slope(({ outsideBytes }) => outsideBytes),
    bytesPerBatch:
      middle(windows.map((window) => window.small.heapBytes)) - bytesPerEvent * EVENTS_SMALL - idleBytes(),
    allocationsPerBatch: count - allocationsPerEvent * EVENTS_SMALL,
    sites,
  };
}

/** Per batch. */
interface Growth {
  readonly heapBytes: number;
  readonly outsideBytes: number;
}

async function growth(work: Work, events: number): Promise<Growth> {
  let calls = CALLS;
  for (let tries = 0; tries < TRIES_MAX; tries++) {
    // Twice: the memory of buffers is given back beside the work, and the second waits for that.
    globalThis.gc?.();
    globalThis.gc?.();
    // What a collection threw away of V8's own is there again.
    await repeat(work, events, 4);
    const collections = new GCProfiler();
    collections.start();
    const before = getHeapStatistics();
    await repeat(work, events, calls);
    const after = getHeapStatistics();
    if (collections.stop().statistics.length === 0) {
      return {
        heapBytes: (after.used_heap_size - before.used_heap_size) / calls,
        outsideBytes: (after.external_memory - before.external_memory) / calls,
      };
    }
    calls = Math.max(1, calls >> 1);
  }
  throw new Error(`${events} events allocate too much to be seen between two collections`);
}

/** What looking at the heap itself allocates, as a share of one batch. */
function idleBytes(): number {
  const before = getHeapStatistics();
  return (getHeapStatistics().used_heap_size - before.used_heap_size) / CALLS;
}

interface Allocated {
  readonly times: number;
  readonly bytes: number;
}

/** What the profiler answers; the types of Node leave out ids and samples. */
interface Profile {
  readonly head: ProfileNode;
  readonly samples: readonly { readonly size: number; readonly nodeId: number }[];
}

interface ProfileNode {
  readonly id: number;
  readonly callFrame: { readonly functionName: string; readonly url: string; readonly lineNumber: number };
  readonly children: readonly ProfileNode[];
}

function namePlaces({ id, callFrame, children }: ProfileNode, places: Map<number, string>): void {
  const { functionName, url, lineNumber } = callFrame;
  const file = url.replace(/^.*\/(?=(src|bench|node_modules)\/)/, '');
  places.set(id, `${functionName || '(anonymous)'} ${file}:${lineNumber + 1}`);
  for (const child of children) namePlaces(child, places);
}

/** Every allocation of a batch, by place: the sampling profiler with a sample for each byte. */
async function allocations(work: Work, events: number): Promise<Map<string, Allocated>> {
  const session = new Session();
  session.connect();
  session.post('HeapProfiler.startSampling', {
    samplingInterval: 1,
    includeObjectsCollectedByMajorGC: true,
    includeObjectsCollectedByMinorGC: true,
  });
  await repeat(work, events, CALLS_PROFILED);
  const found = new Map<string, Allocated>();
  session.post('HeapProfiler.stopSampling', (error, result) => {
    if (error !== null) throw error;
    const profile = result.profile as unknown as Profile;
    const places = new Map<number, string>();
    namePlaces(profile.head, places);
    for (const { nodeId, size } of profile.samples) {
      const place = places.get(nodeId) ?? '(unknown)';
      if (FOREIGN_SITE.test(place)) continue;
      const { times, bytes } = found.get(place) ?? { times: 0, bytes: 0 };
      found.set(place, { times: times + 1 / CALLS_PROFILED, bytes: bytes + size / CALLS_PROFILED });
    }
  });
  session.disconnect();
  return found;
}

function sitesOf(small: Map<string, Allocated>, large: Map<string, Allocated>): Site[] {
  const none: Allocated = { times: 0, bytes: 0 };
  const sites = [...new Set([...small.keys(), ...large.keys()])].map((place) => {
    const [few, many] = [small.get(place) ?? none, large.get(place) ?? none];
    const more = EVENTS_LARGE - EVENTS_SMALL;
    return {
      place,
      allocationsPerEvent: (many.times - few.times) / more,
      bytesPerEvent: (many.bytes - few.bytes) / more,
    };
  });
  return sites
    .filter(({ bytesPerEvent }) => bytesPerEvent >= SITE_BYTES_MIN)
    .sort((a, b) => b.bytesPerEvent - a.bytesPerEvent);
}

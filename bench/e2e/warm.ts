/** Warming up, and draining a stream that was filled while the process stood still. */
import { setTimeout as sleep } from 'node:timers/promises';
import { type GcFigures, gcBetween, type ProbeReport, runCpuUsBetween } from '../probe.ts';
import type { CpuTimes, Runner } from '../runner.ts';
import type { Site } from '../site.ts';
import { redisCpuUs } from '../site.ts';
import type { Contestant } from './contestants.ts';

const DRAIN_MS_MAX = 60_000;
const POLL_MS = 20;
/** A chunk of the warm-up should last about so long, and so it is not far over its time. */
const CHUNK_S = 0.7;
/** Acknowledgements may still be on their way when the last answer is there: they belong to the events. */
const SETTLE_MS = 50;

/** Microseconds of processor time per event, by kind of thread. */
export interface ThreadsPerEvent {
  readonly main: number;
  /** Worker threads of Node. */
  readonly workers: number;
  /** V8's and libuv's own threads: compiling, collecting garbage. */
  readonly others: number;
}

/** Microseconds of processor time per event. */
export interface CpuPerEvent {
  readonly total: number;
  readonly user: number;
  readonly sys: number;
  /** Null: it is not Node. */
  readonly threads: ThreadsPerEvent | null;
  /** In ONNX Runtime's `run`, contained in the above. Null: not seen. */
  readonly run: number | null;
}

export interface Drained {
  readonly events: number;
  readonly perS: number;
  readonly redisUs: number;
  readonly cpu: CpuPerEvent;
  /** Null: it is not Node. */
  readonly gc: GcFigures | null;
}

/**
 * Fills and drains until `warmMs` have passed: as long for everyone, however many events that is. V8 goes on
 * improving the engine's code over its first half million.
 */
export async function warm(
  contestant: Contestant,
  site: Site,
  runner: Runner,
  warmMs: number,
): Promise<void> {
  const startMs = Date.now();
  let count = contestant.guessPerS * CHUNK_S * 0.5;
  for (let chunk = 0; Date.now() - startMs < warmMs; chunk++) {
    const fromMs = Date.now();
    await fillAndWait(contestant, site, runner, `warm${chunk}`, Math.max(100, Math.round(count)));
    count *= Math.min(2, (CHUNK_S * 1000) / (Date.now() - fromMs));
  }
  await contestant.forget(site);
}

async function fillAndWait(
  contestant: Contestant,
  site: Site,
  runner: Runner,
  batch: string,
  count: number,
): Promise<void> {
  const before = await contestant.answered(site);
  await contestant.fill(site, batch, count);
  await allAnswered(contestant, site, runner, before + count);
}

/** The stream is filled with the process stopped, so that filling costs it nothing. */
export async function drain(
  contestant: Contestant,
  site: Site,
  runner: Runner,
  batch: string,
  count: number,
): Promise<Drained> {
  const answered = await contestant.answered(site);
  const probeBefore = await runner.probe();
  runner.pause();
  await contestant.fill(site, batch, count);
  const redisUs = await redisCpuUs(site.wire);
  const before = runner.cpu();
  const startMs = Date.now();
  runner.resume();
  await allAnswered(contestant, site, runner, answered + count);
  const endMs = await contestant.lastAnswerMs(site);
  await sleep(SETTLE_MS);
  const after = runner.cpu();
  const redisAfterUs = await redisCpuUs(site.wire);
  const probeAfter = await runner.probe();
  const probes = probeBefore === null || probeAfter === null ? null : ([probeBefore, probeAfter] as const);
  return {
    events: count,
    perS: (count * 1000) / (endMs - startMs),
    redisUs: (redisAfterUs - redisUs) / count,
    cpu: cpuPerEvent(before, after, probes, count),
    gc: probes === null ? null : gcBetween(...probes),
  };
}

/** Resolves when `target` events are answered in all; rejects when the process ends, or takes too long. */
export async function allAnswered(
  contestant: Contestant,
  site: Site,
  runner: Runner,
  target: number,
): Promise<void> {
  const endMs = Date.now() + DRAIN_MS_MAX;
  for (;;) {
    const answered = await contestant.answered(site);
    if (answered >= target) return;
    if (runner.ended) throw new Error('the process ended');
    if (Date.now() > endMs) throw new Error(`${answered} of ${target} events answered in 60 s`);
    await sleep(POLL_MS);
  }
}

function cpuPerEvent(
  before: CpuTimes,
  after: CpuTimes,
  probes: readonly [before: ProbeReport, after: ProbeReport] | null,
  count: number,
): CpuPerEvent {
  const user = (after.userUs - before.userUs) / count;
  const sys = (after.sysUs - before.sysUs) / count;
  const process = { total: user + sys, user, sys };
  if (probes === null) return { ...process, threads: null, run: null };
  const kinds = new Map(probes[1].threads.map(({ tid, main }) => [tid, main ? 'main' : 'workers'] as const));
  const threads = { main: 0, workers: 0, others: 0 };
  for (const [tid, us] of after.threadsUs) {
    threads[kinds.get(tid) ?? 'others'] += (us - (before.threadsUs.get(tid) ?? 0)) / count;
  }
  const run = runCpuUsBetween(...probes);
  return { ...process, threads, run: run === null ? null : run / count };
}

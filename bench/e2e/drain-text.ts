/** What `drain` found, as tables. */
import type { GcFigures } from '../probe.ts';
import type { Section } from '../suite.ts';
import { ms, percent, prose, whole } from '../text.ts';
import type { Latency } from './drain.ts';
import type { CpuPerEvent } from './warm.ts';

/** Of one contestant, over its rounds. */
export interface Median {
  readonly name: string;
  readonly what: string;
  readonly perS: number;
  readonly redisUs: number;
  /** What one core of Redis could carry at this cost per event. */
  readonly ceilingPerS: number;
  readonly ofCeiling: number;
  readonly cpu: CpuPerEvent;
  readonly gc: GcFigures | null;
  readonly drainS: number;
  readonly latency: Latency;
  readonly native: boolean | null;
}

/** `absent`: by name, why it has no figures. */
export function drainSections(
  medians: readonly Median[],
  absent: ReadonlyMap<string, string>,
  rounds: number,
  ratePerS: number,
): Section[] {
  const gone = [...absent].map(([name, why]) => `- **${name}** is not measured: ${why}`);
  return [
    ratesSection(medians, rounds),
    cpuSection(medians),
    collectionSection(medians),
    latencySection(medians, ratePerS),
    { title: 'Contestants', text: [...medians.map(contestantLine), ...gone], table: null },
  ];
}

function ratesSection(medians: readonly Median[], rounds: number): Section {
  const own = medians.find(({ name }) => name === 'subito');
  return {
    title: 'Drain of a filled stream',
    text: [
      prose(`A 64-256-128-1 perceptron, 256-byte float32 rows, one private redis-server without
        persistence. Medians of ${rounds} interleaved rounds, each warmed up equally long. Every event
        is answered exactly once, or the run fails. The ceiling is what one core of Redis could do at
        the processor time that it spent on each event of that contestant.`),
    ],
    table: {
      head: ['', 'events/s', 'Subito is', 'Redis us/event', 'ceiling/s', 'of the ceiling'],
      rows: medians.map(({ name, perS, redisUs, ceilingPerS, ofCeiling }) => [
        name,
        whole(perS),
        own === undefined || name === own.name ? '' : `${(own.perS / perS).toFixed(2)}x`,
        redisUs.toFixed(2),
        whole(ceilingPerS),
        percent(ofCeiling),
      ]),
    },
  };
}

function cpuSection(medians: readonly Median[]): Section {
  return {
    title: 'Processor time per event, us',
    text: [
      prose(`Of the process: by kind, by thread (main; workers; V8 and libuv beside them), and without
        ONNX Runtime's own \`run\`, which all of them have to pay for alike. Of what is not Node, only
        the process is seen.`),
    ],
    table: {
      head: ['', 'process', 'user', 'system', 'main', 'workers', 'others', 'of it run', 'without run'],
      rows: medians.map(({ name, cpu: { total, user, sys, threads, run } }) => {
        const kinds = [threads?.main, threads?.workers, threads?.others];
        const runs = run === null ? [undefined, undefined] : [run, total - run];
        return [name, ...[total, user, sys, ...kinds, ...runs].map((us) => us?.toFixed(2) ?? '-')];
      }),
    },
  };
}

function collectionSection(medians: readonly Median[]): Section {
  return {
    title: 'Garbage collection during the drain',
    text: [],
    table: {
      head: ['', 'pauses', 'ms in all', 'longest, ms', 'of the time'],
      rows: medians.map(({ name, gc, drainS }) => [
        name,
        ...(gc === null
          ? ['-', '-', '-', '-']
          : [whole(gc.count), gc.ms.toFixed(1), gc.maxMs.toFixed(1), percent(gc.ms / 1000 / drainS)]),
      ]),
    },
  };
}

function latencySection(medians: readonly Median[], ratePerS: number): Section {
  return {
    title: `Latency at ${whole(ratePerS)} events/s, ms`,
    text: [
      prose(`Open loop, Poisson arrivals; from the time an event was due to the time its answer was read
        from the stream. \`late\` is how late the generator itself was (p99), contained in the
        others.`),
    ],
    table: {
      head: ['', 'p50', 'p99', 'p99.9', 'late', 'lost, errors'],
      rows: medians.map(({ name, latency: { p50, p99, p999, late, bad } }) => [
        name,
        ...[p50, p99, p999, late].map(ms),
        `${bad}`,
      ]),
    },
  };
}

function contestantLine({ name, what, native }: Median): string {
  const addon =
    name === 'subito' && native === false ? '; without the native addon, which was not there' : '';
  return `- **${name}**: ${what}${addon}`;
}

/** The CPU against a GPU: what a batch takes on each, by its rows, and what several sessions do together. */
import { execFileSync } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { messageOf } from '../../src/errors.ts';
import type { ProviderName } from '../../src/infer/protocol.ts';
import type { Section, Suite, SuiteOptions, SuiteResult } from '../suite.ts';
import { ms, whole } from '../text.ts';
import { type BenchModel, MODELS, ROWS_MAX, type Timed, timeModel } from './compare.ts';
import { type Together, timeTogether } from './sessions.ts';

export const gpu: Suite = {
  name: 'gpu',
  what: 'The CPU against CUDA: a perceptron and a transformer encoder in batches of 1 to 1024 rows',
  run: async (options) => {
    const result = await runGpu('cuda', options);
    // What another machine measured is not replaced by this.
    if (result.raw === null) throw new Error(result.sections[0]!.text[0]);
    return result;
  },
};

interface Measured {
  readonly model: BenchModel;
  /** One thread, as in a worker; and all that there are. */
  readonly one: Timed;
  readonly all: Timed;
  readonly other: Timed;
  readonly together: readonly Together[];
}

/**
 * `provider` is CUDA, or another to try this on. Where it is not there, the result says why; `raw` is null.
 */
export async function runGpu(provider: ProviderName, options: SuiteOptions): Promise<SuiteResult> {
  const { quick, say } = options;
  const secondsPerSize = quick ? 0.05 : 0.5;
  const rowsMax = quick ? 64 : ROWS_MAX;
  const lacking = await whyNot(provider);
  if (lacking !== null) {
    say(`${provider} is not there: ${lacking}`);
    const text = [`Not measured: this machine has no ${provider}. ${lacking}`];
    return { sections: [{ title: 'Not measured', text, table: null }], ratios: {}, plots: [], raw: null };
  }
  const measured: Measured[] = [];
  for (const model of MODELS) {
    say(`${model.name} on one thread of the CPU`);
    const one = await timeModel(model, 'cpu', { secondsPerSize, rowsMax });
    say(`${model.name} on all threads of the CPU`);
    const all = await timeModel(model, 'cpu', { threads: availableParallelism(), secondsPerSize, rowsMax });
    say(`${model.name} on ${provider}`);
    const other = await timeModel(model, provider, { secondsPerSize, rowsMax });
    const together: Together[] = [];
    const best = other.timings.toSorted((a, b) => b.rowsPerSecond - a.rowsPerSecond)[0]!;
    for (const workers of [1, 2, 4]) {
      // There may be fewer than were asked for.
      if ((together.at(-1)?.workers ?? 1) * 2 < workers) break;
      say(`${model.name} on ${provider} in ${workers} workers`);
      const seconds = quick ? 0.2 : 2;
      together.push(await timeTogether(model, provider, { workers, rows: best.rows, seconds }));
    }
    measured.push({ model, one, all, other, together });
  }
  return {
    sections: [...measured.map(comparison), padding(measured), sessions(measured)],
    ratios: Object.fromEntries(measured.flatMap(ratiosOf)),
    plots: [],
    raw: { provider, devices: devices(), measured },
  };
}

/** Why the provider cannot be used; null when it can. */
async function whyNot(provider: ProviderName): Promise<string | null> {
  try {
    await timeModel(MODELS[0], provider, { secondsPerSize: 0, rowsMax: 1 });
    return null;
  } catch (error) {
    return messageOf(error);
  }
}

/** Name, driver and memory of each NVIDIA device. */
function devices(): string[] {
  try {
    const query = ['--query-gpu=name,driver_version,memory.total', '--format=csv,noheader'];
    return execFileSync('nvidia-smi', query, { encoding: 'utf8' }).trim().split('\n');
  } catch {
    return [];
  }
}

function comparison({ model, one, all, other }: Measured): Section {
  const rows = other.timings.map((timing) => {
    const at = (timed: Timed) => timed.timings.find(({ rows: n }) => n === timing.rows);
    const [single, many] = [at(one), at(all)];
    const gain = (than: typeof single) =>
      than === undefined ? '-' : `${(timing.rowsPerSecond / than.rowsPerSecond).toFixed(2)} x`;
    return [
      whole(timing.rows),
      ms(single?.p50Ms ?? Number.NaN),
      ms(many?.p50Ms ?? Number.NaN),
      ms(timing.p50Ms),
      ms(timing.p99Ms),
      whole(timing.rowsPerSecond),
      gain(single),
      gain(many),
    ];
  });
  const loads = [one, other].map(({ provider, loadMs }) => `${provider} ${whole(loadMs)} ms`).join(', ');
  return {
    title: `${model.name}: ${model.what}`,
    text: [
      'Milliseconds of a batch in a worker, median unless said; ' +
        `${all.threads} threads are all that there are. ` +
        `Opening the model and running each size once: ${loads}.`,
      ...devices().map((device) => `- ${device}`),
    ],
    table: {
      head: [
        'rows',
        'CPU, 1 thread',
        `CPU, ${all.threads} threads`,
        other.provider,
        'its p99',
        'its rows/s',
        'against 1 thread',
        `against ${all.threads}`,
      ],
      rows,
    },
  };
}

function padding(measured: readonly Measured[]): Section {
  const rows = measured.flatMap(({ model, other }) =>
    other.odd.map((timing) => {
      const padded = other.timings.find(({ rows: n }) => n >= timing.rows)!;
      const cost = timing.p50Ms / padded.p50Ms;
      return [
        model.name,
        whole(timing.rows),
        whole(padded.rows),
        ms(timing.p50Ms),
        ms(timing.p99Ms),
        cost.toFixed(2),
      ];
    }),
  );
  return {
    title: 'Sizes that are padded',
    text: ['Batches that are no size of those warmed run as the next one; copying them is what it costs.'],
    table: { head: ['model', 'rows', 'run as', 'p50 ms', 'p99 ms', 'against that size'], rows },
  };
}

function sessions(measured: readonly Measured[]): Section {
  const rows = measured.flatMap(({ model, together }) =>
    together.map(({ workers, rows: n, rowsPerSecond }) => [
      model.name,
      whole(workers),
      whole(n),
      whole(rowsPerSecond),
      (rowsPerSecond / together[0]!.rowsPerSecond).toFixed(2),
    ]),
  );
  return {
    title: 'Several sessions on one device',
    text: ['Workers side by side, each with a session of its own, with two batches each to do.'],
    table: { head: ['model', 'workers', 'rows a batch', 'rows/s', 'against one'], rows },
  };
}

/** Throughput against one thread of the CPU, at the largest size that both have. */
function ratiosOf({ model, one, other }: Measured): [string, number][] {
  const both = other.timings.findLast(({ rows }) => one.timings.some((timing) => timing.rows === rows));
  const single = one.timings.find(({ rows }) => rows === both?.rows);
  if (both === undefined || single === undefined) return [];
  const name = `${model.name}, ${other.provider} / one CPU thread, ${both.rows} rows`;
  return [[name, both.rowsPerSecond / single.rowsPerSecond]];
}

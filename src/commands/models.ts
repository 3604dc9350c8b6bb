/** `subito models`: what a directory of models holds, found out by loading it as the engine would. */
import { type Config, loadConfig } from '../config.ts';
import { guardModels } from '../engine/guarded.ts';
import { poolOptions } from '../engine/models.ts';
import type { FieldSpec } from '../infer/handler.ts';
import type { ModelPlan } from '../infer/plan.ts';
import { startPool } from '../infer/pool.ts';
import { choiceText, rowsPerSecond } from '../infer/profile.ts';
import type {
  BreakerSettings,
  BucketProfile,
  LoadedModel,
  ModelProblem,
  ModelSpec,
} from '../infer/protocol.ts';
import { configName } from '../limits.ts';
import { loadNative } from '../native.ts';
import { scanModels } from '../repository/repository.ts';

export interface ModelReport {
  readonly name: string;
  /** Null when the model did not get so far as to have one. */
  readonly version: number | null;
  readonly status: 'ok' | 'problem';
  /** '' for a model that is well. */
  readonly problem: string;
  readonly description: string;
  readonly inputs: readonly FieldSpec[];
  readonly outputs: readonly FieldSpec[];
  /** '' for a model that was not loaded. */
  readonly provider: string;
  /** Rows that the manifest allows in a batch; 0 for a model that was not loaded. */
  readonly rowsMax: number;
  /** Rows that a batch has at most, by what was measured. */
  readonly batchRows: number;
  /** What a batch may take, milliseconds. */
  readonly runMsMax: number;
  /** What batches take, by their rows. */
  readonly profile: readonly BucketProfile[];
  /** What answers when it cannot be asked, in order: `previous (m@1)`, `last_known`, `constant`. */
  readonly degrade: readonly string[];
  /** Settings of its circuit breaker; null where the manifest asks for neither that nor `degrade`. */
  readonly breaker: BreakerSettings | null;
  /** A provider that it does not run on, small batches, a rung that it lacks, and why. */
  readonly notes: readonly string[];
}

/** Exit code 0 when all models are well, 1 when there is none or one has a problem. */
export async function run(given: Readonly<Record<string, unknown>>): Promise<number> {
  const { models } = given;
  const config = loadConfig({ overrides: models === undefined ? {} : { models: { path: String(models) } } });
  const reports = await reportModels(config);
  const text =
    given['json'] === true ? `${JSON.stringify(reports)}\n` : formatModels(reports, config.models.path);
  process.stdout.write(text);
  return reports.length > 0 && reports.every(({ status }) => status === 'ok') ? 0 : 1;
}

export async function reportModels(config: Config): Promise<ModelReport[]> {
  const { specs, problems } = scanModels(config.models.path, config.limits);
  if (specs.length === 0) return problems.map(broken);
  const native = loadNative(config.native).native !== null;
  const pool = await startPool({ ...poolOptions(config), specs, native, threadsMin: 1, threads: 1 });
  const guarded = guardModels(specs, pool, config.limits);
  const reports = guarded.loaded.map((loaded): ModelReport => {
    const plan = pool.plans.find(({ slot }) => slot === loaded.slot)!;
    const small = choiceText(plan.profile, plan.choice, plan.runMsMax);
    const notes = [...pool.running.compromises(loaded.slot), small].filter((note) => note !== '');
    const { label, settings, enforced } = guarded.guarded.find(({ slot }) => slot === loaded.slot)!;
    notes.push(...guarded.lacking.filter((text) => text.startsWith(`${label} `)));
    return { ...report(specs[loaded.slot]!, loaded, plan), breaker: enforced ? settings : null, notes };
  });
  await pool.stop();
  reports.push(...[...problems, ...guarded.problems].map(broken));
  return reports.sort((a, b) => (a.name < b.name ? -1 : 1));
}

function report(spec: ModelSpec, loaded: LoadedModel, plan: ModelPlan): ModelReport {
  const { name, version, description, rowsMax } = spec;
  const { fields, predicts, provider } = loaded;
  const { rowsMax: batchRows, runMsMax, profile } = plan;
  const measured = { rowsMax, batchRows, runMsMax, profile: profile.buckets, notes: [] };
  const degrade = degradeText(spec);
  const found = { inputs: fields, outputs: predicts, provider, degrade, breaker: null, ...measured };
  return { name, version, status: 'ok', problem: '', description, ...found };
}

function degradeText({ name, version, degrade = [], previous }: ModelSpec): string[] {
  const before = previous === undefined ? `none below ${version}` : `${name}@${previous.version}`;
  return degrade.map(({ kind }) => (kind === 'previous' ? `previous (${before})` : kind));
}

/** `window_ms 5000, volume 10, ...`: in the manifest's names. */
function breakerText(settings: BreakerSettings): string {
  const named = Object.entries(settings).map(([name, value]) => `${configName(name)} ${value}`);
  return named.join(', ');
}

function broken({ model, message }: ModelProblem): ModelReport {
  const [name = model, version] = model.split('@');
  const unmeasured = { rowsMax: 0, batchRows: 0, runMsMax: 0, profile: [], notes: [] };
  const unguarded = { degrade: [], breaker: null };
  const nothing = { description: '', inputs: [], outputs: [], provider: '', ...unguarded, ...unmeasured };
  return {
    name,
    version: version === undefined ? null : Number(version),
    status: 'problem',
    problem: message,
    ...nothing,
  };
}

/** `tempo float32 = 120`, `songs string[*]`: shape after the type, the default after `=`. */
function fieldText(field: FieldSpec): string {
  const shape = field.shape.map((size) => `[${size === -1 ? '*' : size}]`).join('');
  const otherwise = field.default === undefined ? '' : ` = ${JSON.stringify(field.default)}`;
  return `${field.name} ${field.dtype}${shape}${otherwise}`;
}

/** `1 row 0.03 (p99 0.05, 200 runs), 2 0.03 (0.06, 200), ...` */
function profileText(profile: readonly BucketProfile[]): string {
  const [first, ...others] = profile.map(({ rows, runs, p50Ms, p99Ms }, at) =>
    at === 0
      ? `${rows} row ${millis(p50Ms)} (p99 ${millis(p99Ms)}, ${runs} runs)`
      : `${rows} ${millis(p50Ms)} (${millis(p99Ms)}, ${runs})`,
  );
  return [first, ...others].join(', ');
}

function millis(value: number): string {
  return value < 1 ? value.toFixed(3) : value.toFixed(2);
}

export function formatModels(reports: readonly ModelReport[], path: string): string {
  if (reports.length === 0) return `No model under ${path}: a model is a directory NAME/1/model.onnx\n`;
  const head = ['MODEL', 'STATUS', 'PROVIDER', 'BATCH', 'P50 MS', 'P99 MS', 'ROWS/S'];
  const rows = reports.map((one) => {
    const { name, version, status, provider, rowsMax, batchRows } = one;
    const label = version === null ? name : `${name}@${version}`;
    const bucket = one.profile.find(({ rows }) => rows === batchRows);
    if (bucket === undefined) return [label, status, provider || '-', '-', '-', '-', '-'];
    const batch = batchRows === rowsMax ? String(rowsMax) : `${batchRows} of ${rowsMax}`;
    const { p50Ms, p99Ms } = bucket;
    return [label, status, provider, batch, millis(p50Ms), millis(p99Ms), rowsPerSecond(bucket).toFixed(0)];
  });
  const widths = head.map((title, at) => Math.max(title.length, ...rows.map((row) => row[at]!.length)));
  const line = (cells: readonly string[]) =>
    cells
      .map((cell, at) => cell.padEnd(widths[at]!))
      .join('  ')
      .trimEnd();
  const parts = [line(head)];
  reports.forEach(({ description, inputs, outputs, problem, profile, degrade, breaker, notes }, at) => {
    parts.push(line(rows[at]!));
    if (description !== '') parts.push(`    ${description}`);
    if (inputs.length > 0) parts.push(`    in:  ${inputs.map(fieldText).join(', ')}`);
    if (outputs.length > 0) parts.push(`    out: ${outputs.map(fieldText).join(', ')}`);
    if (profile.length > 0) parts.push(`    ms:  ${profileText(profile)}`);
    if (degrade.length > 0) parts.push(`    degrade: ${degrade.join(', ')}`);
    if (breaker !== null) parts.push(`    breaker: ${breakerText(breaker)}`);
    for (const note of notes) parts.push(`    ${note}`);
    if (problem !== '') parts.push(`    ${problem}`);
  });
  return `${parts.join('\n')}\n`;
}

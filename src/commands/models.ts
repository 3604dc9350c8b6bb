/** `subito models`: what a directory of models holds, found out by loading it as the engine would. */
import { type Config, loadConfig } from '../config.ts';
import type { FieldSpec } from '../infer/handler.ts';
import { startPool } from '../infer/pool.ts';
import type { LoadedModel, ModelProblem, ModelSpec } from '../infer/protocol.ts';
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
  /** Rows of the largest batch; 0 for a model that was not loaded. */
  readonly rowsMax: number;
  /** Milliseconds of one run of that many rows, at warm-up. */
  readonly warmMs: number;
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
  const { limits, workers } = config;
  const { specs, problems } = scanModels(config.models.path, limits);
  if (specs.length === 0) return problems.map(broken);
  const pool = await startPool({
    specs,
    threads: 1,
    providers: workers.providers,
    slabArenaBytes: limits.slabArenaBytes,
    native: loadNative(config.native).native !== null,
    loadMsMax: limits.modelLoadMsMax,
    inferMsMax: limits.inferMsMax,
  });
  await pool.stop();
  const reports = pool.loaded.map((loaded) => report(specs[loaded.slot]!, loaded));
  reports.push(...[...problems, ...pool.problems].map(broken));
  return reports.sort((a, b) => (a.name < b.name ? -1 : 1));
}

function report(spec: ModelSpec, loaded: LoadedModel): ModelReport {
  const { name, version, description, rowsMax } = spec;
  const { fields, predicts, provider, warmMs } = loaded;
  const found = { inputs: fields, outputs: predicts, provider, rowsMax, warmMs };
  return { name, version, status: 'ok', problem: '', description, ...found };
}

function broken({ model, message }: ModelProblem): ModelReport {
  const [name = model, version] = model.split('@');
  const nothing = { description: '', inputs: [], outputs: [], provider: '', rowsMax: 0, warmMs: 0 };
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

export function formatModels(reports: readonly ModelReport[], path: string): string {
  if (reports.length === 0) return `No model under ${path}: a model is a directory NAME/1/model.onnx\n`;
  const head = ['MODEL', 'STATUS', 'PROVIDER', 'ROWS', 'RUN MS'];
  const rows = reports.map(({ name, version, status, provider, rowsMax, warmMs }) => [
    version === null ? name : `${name}@${version}`,
    status,
    provider || '-',
    rowsMax === 0 ? '-' : String(rowsMax),
    rowsMax === 0 ? '-' : warmMs.toFixed(2),
  ]);
  const widths = head.map((title, at) => Math.max(title.length, ...rows.map((row) => row[at]!.length)));
  const line = (cells: readonly string[]) =>
    cells
      .map((cell, at) => cell.padEnd(widths[at]!))
      .join('  ')
      .trimEnd();
  const parts = [line(head)];
  reports.forEach(({ description, inputs, outputs, problem }, at) => {
    parts.push(line(rows[at]!));
    if (description !== '') parts.push(`    ${description}`);
    if (inputs.length > 0) parts.push(`    in:  ${inputs.map(fieldText).join(', ')}`);
    if (outputs.length > 0) parts.push(`    out: ${outputs.map(fieldText).join(', ')}`);
    if (problem !== '') parts.push(`    ${problem}`);
  });
  return `${parts.join('\n')}\n`;
}

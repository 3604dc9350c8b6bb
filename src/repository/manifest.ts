/** model.yaml: what it may hold, and sentences for whoever has to correct it. */
import { readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { parseDocument } from 'yaml';
import { z } from 'zod';
import {
  type ProviderListChecked,
  providerFaults,
  providerList,
  resolveProviders,
} from '../config/providers.ts';
import { messageOf, SubitoError } from '../errors.ts';
import type {
  BreakerSettings,
  ManifestInput,
  ManifestOutput,
  ProviderEntry,
  RungSpec,
  SessionSettings,
} from '../infer/protocol.ts';
import { PROVIDERS, SESSION_DEFAULTS } from '../infer/providers.ts';
import { nearest } from '../nearest.ts';
import { DTYPE_BYTES, type Dtype } from '../schedule/slab.ts';
import { breakerSchema, degradeSchema, readBreaker, readDegrade } from './degrade.ts';

/** A model's and a version's names go into stream fields, metric labels and paths. */
export const MODEL_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

const dtype = z
  .enum(Object.keys(DTYPE_BYTES) as [Dtype, ...Dtype[]])
  .describe(`one of ${Object.keys(DTYPE_BYTES).join(', ')}`);
const tensorName = z.string().min(1).max(256).describe('the name of a tensor in model.onnx');
const fieldName = z.string().min(1).max(128).describe('a name of 1 to 128 characters');
const whole = (least: number, most: number) =>
  z.int().min(least).max(most).describe(`a whole number from ${least} to ${most}`);

const field = z
  .union([
    fieldName,
    z.strictObject({
      name: fieldName,
      dtype: dtype.optional(),
      default: z.union([z.number(), z.boolean(), z.string()]).optional(),
    }),
  ])
  .describe('a field name, or {name, dtype, default}');

const input = z.strictObject({
  name: tensorName,
  dtype: dtype.optional(),
  shape: z
    .array(whole(1, 1_000_000))
    .max(8)
    .optional()
    .describe('the whole numbers of one row, such as [12], without the batch dimension'),
  fields: z.array(field).min(1).max(65_536).optional().describe('a list of field names, one per element'),
  finite: z.boolean().optional().describe('true or false'),
});

const output = z.strictObject({
  name: tensorName,
  labels: z
    .union([z.array(z.string().min(1).max(256)).min(1), z.string().endsWith('.json')])
    .optional()
    .describe('a list of texts, or the name of a .json file beside model.yaml that holds one'),
});

const choice = (...values: readonly [string, ...string[]]) =>
  z.enum(values).describe(`one of ${values.join(', ')}`);
const flag = z.boolean().describe('true or false');

const session = z.strictObject({
  intra_op_threads: whole(1, 256).optional(),
  inter_op_threads: whole(1, 256).optional(),
  execution: choice('sequential', 'parallel').optional(),
  optimization: choice('disabled', 'basic', 'extended', 'layout', 'all').optional(),
  cpu_arena: flag.optional(),
  memory_pattern: flag.optional(),
  spinning: flag.optional(),
  affinity: z
    .string()
    .regex(/^\d+(-\d+)?(,\d+(-\d+)?)*(;\d+(-\d+)?(,\d+(-\d+)?)*)*$/)
    .optional()
    .describe('processors of each thread, counted from 1, such as "1;2" or "1-4;5-8"'),
  config: z
    .record(z.string(), z.string())
    .optional()
    .describe('a map of texts, such as {"session.set_denormal_as_zero": "1"}'),
});

const schema = z.strictObject({
  name: z
    .string()
    .regex(MODEL_NAME)
    .optional()
    .describe('the name of its directory: letters, digits, dot, underscore, hyphen; at most 64'),
  description: z.string().max(4096).optional().describe('text of at most 4096 characters'),
  inputs: z.array(input).max(256).optional().describe('a list of inputs'),
  outputs: z.array(output).max(256).optional().describe('a list of outputs'),
  batch: z
    .strictObject({
      max: whole(1, 65_536).optional(),
      run_ms: z.number().min(0.01).max(60_000).optional().describe('milliseconds, from 0.01 to 60000'),
    })
    .optional()
    .describe('{max: rows, run_ms: milliseconds}'),
  providers: providerList
    .optional()
    .describe(`a list of ${PROVIDERS.join(', ')}, or of maps such as {name: cuda, device_id: 0}`),
  session: session.optional().describe('a map of session settings'),
  deadline_ms: whole(1, 3_600_000).optional(),
  record: z.boolean().optional().describe('true or false'),
  latest_only: flag.optional(),
  serve: z
    .strictObject({
      stable: z.union([z.literal('latest'), whole(1, Number.MAX_SAFE_INTEGER)]).optional(),
      canary: z.unknown().optional(),
      shadow: z.unknown().optional(),
    })
    .optional()
    .describe('{stable: latest} or {stable: N}'),
  degrade: degradeSchema.optional(),
  breaker: breakerSchema.optional(),
});

export interface Manifest {
  readonly description: string;
  readonly inputs: readonly ManifestInput[];
  readonly outputs: readonly ManifestOutput[];
  /** null: the engine's own. */
  readonly rowsMax: number | null;
  /** null: the engine's share of its latency target. */
  readonly runMsMax: number | null;
  readonly providers: readonly ProviderEntry[] | null;
  readonly session: Partial<SessionSettings>;
  readonly deadlineMs: number | null;
  readonly record: boolean;
  readonly latestOnly: boolean;
  readonly stable: number | 'latest';
  /** null: nothing said. */
  readonly degrade: readonly RungSpec[] | null;
  readonly breaker: Partial<BreakerSettings> | null;
}

/** What a model without model.yaml has. */
export const EMPTY_MANIFEST: Manifest = {
  description: '',
  inputs: [],
  outputs: [],
  rowsMax: null,
  runMsMax: null,
  providers: null,
  session: {},
  deadlineMs: null,
  record: false,
  latestOnly: false,
  stable: 'latest',
  degrade: null,
  breaker: null,
};

/** Reads a model directory's model.yaml. Throws MODEL_INVALID that names file, key, value and fix. */
export function readManifest(dir: string): Manifest {
  const file = join(dir, 'model.yaml');
  const document = parseDocument(readFileSync(file, 'utf8'), { prettyErrors: true });
  const [broken] = document.errors;
  if (broken !== undefined) throw invalid(file, broken.message.trim().split('\n', 1)[0]!);
  // An empty file says as much as none.
  const raw: unknown = document.toJS({ maxAliasCount: 100 }) ?? {};
  const parsed = schema.safeParse(raw);
  if (!parsed.success)
    throw invalid(file, parsed.error.issues.map((issue) => explain(issue, raw)).join('\n'));
  const { name, description, inputs, outputs, batch, deadline_ms, record, serve } = parsed.data;
  const { latest_only: latestOnly = false } = parsed.data;
  const { providers, session: settings = {}, degrade, breaker } = parsed.data;
  if (name !== undefined && name !== basename(dir)) {
    throw invalid(file, `name = ${name}: the directory is ${basename(dir)}; give both the same name`);
  }
  // Silence would let an operator believe that it happens.
  const later = { 'serve.canary': serve?.canary, 'serve.shadow': serve?.shadow };
  for (const [key, value] of Object.entries(later)) {
    if (value !== undefined) throw invalid(file, `${key}: not supported by this version; remove it`);
  }
  return {
    description: description ?? '',
    inputs: (inputs ?? []).map(manifestInput),
    outputs: (outputs ?? []).map((entry) => ({ name: entry.name, labels: readLabels(dir, file, entry) })),
    rowsMax: batch?.max ?? null,
    runMsMax: batch?.run_ms ?? null,
    providers: providers === undefined ? null : readProviders(file, providers),
    session: readSession(file, settings),
    deadlineMs: deadline_ms ?? null,
    record: record ?? false,
    latestOnly,
    stable: serve?.stable ?? 'latest',
    degrade: degrade === undefined ? null : inFile(file, () => readDegrade(degrade)),
    breaker: breaker === undefined ? null : inFile(file, () => readBreaker(breaker)),
  };
}

/** Faults that a section's own reader finds, with the file's name. */
function inFile<T>(file: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw invalid(file, messageOf(error));
  }
}

function manifestInput(entry: z.infer<typeof input>): ManifestInput {
  return {
    name: entry.name,
    dtype: entry.dtype ?? null,
    shape: entry.shape ?? null,
    fields: (entry.fields ?? []).map((given) => {
      const about = typeof given === 'string' ? { name: given } : given;
      return { name: about.name, dtype: about.dtype ?? null, default: about.default };
    }),
    finite: entry.finite ?? false,
  };
}

function readProviders(file: string, list: ProviderListChecked): ProviderEntry[] {
  const faults = [...providerFaults(list)];
  if (faults.length === 0) return resolveProviders(list);
  const lines = faults.map(({ at, value, what, fix }) => {
    const key = at.reduce<string>(
      (text, part) => text + (typeof part === 'number' ? `[${part}]` : `.${part}`),
      'providers',
    );
    return `${key} = ${(JSON.stringify(value) ?? '').slice(0, 80)}: ${what}; ${fix}`;
  });
  throw invalid(file, lines.join('\n'));
}

function readSession(file: string, given: z.infer<typeof session>): Partial<SessionSettings> {
  const { intra_op_threads: threads = SESSION_DEFAULTS.intraOpThreads, affinity } = given;
  // ONNX Runtime says so only while it loads the model, and not in these words.
  if (affinity !== undefined && affinity.split(';').length !== threads - 1) {
    const has = `session.affinity = "${affinity}"`;
    const own = `${threads - 1} of session.intra_op_threads = ${threads} are ONNX Runtime's own threads`;
    throw invalid(
      file,
      `${has}: ${own}; give processors for each of these, separated by semicolons, or none`,
    );
  }
  const all = {
    intraOpThreads: given.intra_op_threads,
    interOpThreads: given.inter_op_threads,
    execution: given.execution as SessionSettings['execution'] | undefined,
    optimization: given.optimization as SessionSettings['optimization'] | undefined,
    cpuArena: given.cpu_arena,
    memoryPattern: given.memory_pattern,
    spinning: given.spinning,
    affinity,
    config: given.config,
  };
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined));
}

function readLabels(dir: string, file: string, { name, labels }: z.infer<typeof output>): readonly string[] {
  if (typeof labels !== 'string') return labels ?? [];
  const at = `outputs ${name}: labels = ${labels}`;
  if (basename(labels) !== labels) throw invalid(file, `${at}: must lie beside model.yaml`);
  let list: unknown;
  try {
    list = JSON.parse(readFileSync(join(dir, labels), 'utf8'));
  } catch (error) {
    throw invalid(file, `${at}: ${(error as Error).message}`);
  }
  if (Array.isArray(list) && list.length > 0 && list.every((label) => typeof label === 'string')) return list;
  throw invalid(file, `${at}: the file must hold a list of texts, such as ["rock", "pop"]`);
}

function invalid(file: string, message: string): SubitoError {
  return new SubitoError('MODEL_INVALID', `${file}: ${message}`);
}

/** One zod issue as `key = value: what; fix`. */
function explain(issue: z.core.$ZodIssue, raw: unknown): string {
  const inner = issue.code === 'invalid_union' ? deepest(issue) : undefined;
  if (inner !== undefined) {
    return explain({ ...inner, path: [...issue.path, ...inner.path] } as z.core.$ZodIssue, raw);
  }
  const key = issue.path.reduce<string>(
    (text, part) =>
      text + (typeof part === 'number' ? `[${part}]` : `${text === '' ? '' : '.'}${String(part)}`),
    '',
  );
  const nodes = nodesAt(schema, issue.path);
  if (issue.code === 'unrecognized_keys') {
    const known = nodes
      .flatMap(unwrapped)
      .flatMap((n) => (n instanceof z.ZodObject ? Object.keys(n.shape) : []));
    return issue.keys
      .map((unknown) => {
        const guess = nearest(unknown, known);
        const fix = guess ? `did you mean ${guess}?` : `remove it, or use one of ${known.join(', ')}`;
        return `${key === '' ? '' : `${key}.`}${unknown}: unknown key; ${fix}`;
      })
      .join('\n');
  }
  const value = issue.path.reduce<unknown>((at, part) => (at as Record<PropertyKey, unknown>)?.[part], raw);
  const shown = value === undefined ? 'missing' : (JSON.stringify(value) ?? '').slice(0, 80);
  const known = [...nodes, ...nodes.flatMap(unwrapped)].find((node) => node.description !== undefined);
  const expected = known?.description ?? issue.message;
  return `${key === '' ? 'the file' : key} = ${shown}: not a value it can take; use ${expected}`;
}

/** Of a union's branches, the issue of one that failed inside and not at its own root. */
function deepest(issue: z.core.$ZodIssueInvalidUnion): z.core.$ZodIssue | undefined {
  return issue.errors.flat().find((inner) => inner.path.length > 0 || inner.code === 'unrecognized_keys');
}

/** The schema's nodes at a path: several where it passes through a union. */
function nodesAt(root: z.ZodType, path: readonly PropertyKey[]): z.ZodType[] {
  let nodes: z.ZodType[] = [root];
  for (const part of path) {
    nodes = nodes.flatMap(unwrapped).flatMap((node) => {
      if (node instanceof z.ZodArray && typeof part === 'number') return [node.element as z.ZodType];
      const next =
        node instanceof z.ZodObject ? (node.shape as Record<PropertyKey, z.ZodType>)[part] : undefined;
      return next ? [next] : [];
    });
  }
  return nodes;
}

/** Through `optional` and into the branches of a union. */
function unwrapped(node: z.ZodType): z.ZodType[] {
  if (node instanceof z.ZodOptional) return unwrapped(node.unwrap() as z.ZodType);
  return node instanceof z.ZodUnion ? (node.options as z.ZodType[]).flatMap(unwrapped) : [node];
}

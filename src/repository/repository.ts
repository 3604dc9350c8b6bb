/** Finds the models under a directory: `<name>/<version>/model.onnx`, with what lies beside it. */
import { existsSync, readdirSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { messageOf, SubitoError } from '../errors.ts';
import type { ModelProblem, ModelSpec } from '../infer/protocol.ts';
import type { Limits } from '../limits.ts';
import { EMPTY_MANIFEST, MODEL_NAME, readManifest } from './manifest.ts';

/** Versions are whole numbers without leading zeros, as in Triton and TensorFlow Serving. */
const VERSION = /^[1-9]\d{0,14}$/;

export interface Repository {
  /**
   * The version to serve of each model, by name, and behind them those that are only fallen back to. A spec's
   * place is its slot.
   */
  readonly specs: readonly ModelSpec[];
  /** Models that cannot be served, and why. */
  readonly problems: readonly ModelProblem[];
}

/** Reads at start, so it may block. Throws MODEL_INVALID only when `path` itself is no directory. */
export function scanModels(path: string, limits: Pick<Limits, 'batchRowsMax'>): Repository {
  const root = resolve(path);
  if (!isDirectory(root)) {
    const fix = 'set models.path to a directory with one directory per model';
    throw new SubitoError('MODEL_INVALID', `${root}: not a directory`, { fix });
  }
  const specs: ModelSpec[] = [];
  const problems: ModelProblem[] = [];
  for (const name of readdirSync(root).sort()) {
    const dir = join(root, name);
    // Hidden directories are tools' own, such as the ..data of a Kubernetes volume.
    if (name.startsWith('.') || !isDirectory(dir)) continue;
    try {
      specs.push(readModel(name, dir, specs.length, limits.batchRowsMax));
    } catch (error) {
      // A broken model never stops the others.
      problems.push({ model: name, message: messageOf(error) });
    }
  }
  return { specs: withPrevious(specs), problems };
}

/** Adds the versions that the manifests' `degrade` asks for, and lets those who ask know their slots. */
function withPrevious(served: readonly ModelSpec[]): ModelSpec[] {
  const previous: ModelSpec[] = [];
  const asking = served.map((spec) => {
    if (spec.degrade?.some(({ kind }) => kind === 'previous') !== true) return spec;
    const version = versionsOf(spec.dir).findLast((one) => one < spec.version);
    // A first version may say what the second will want.
    if (version === undefined) return spec;
    const slot = served.length + previous.length;
    const { degrade: _its, breaker, ...same } = spec;
    const onnxPath = join(spec.dir, String(version), 'model.onnx');
    const own = breaker === undefined ? {} : { breaker };
    previous.push({ ...same, ...own, slot, version, onnxPath, previousOf: spec.slot });
    return { ...spec, previous: { slot, version } };
  });
  return [...asking, ...previous];
}

function readModel(name: string, dir: string, slot: number, batchRowsMax: number): ModelSpec {
  if (!MODEL_NAME.test(name)) {
    const rule = 'letters, digits, dot, underscore and hyphen, at most 64';
    throw new SubitoError(
      'MODEL_INVALID',
      `${dir}: ${JSON.stringify(name)} cannot name a model; use ${rule}`,
    );
  }
  const manifest = existsSync(join(dir, 'model.yaml')) ? readManifest(dir) : EMPTY_MANIFEST;
  const version = chooseVersion(dir, manifest.stable);
  const beside = (file: string) => (existsSync(join(dir, file)) ? join(dir, file) : null);
  return {
    slot,
    name,
    version,
    dir,
    onnxPath: join(dir, String(version), 'model.onnx'),
    handlerPath: beside('handler.ts') ?? beside('handler.js'),
    goldenPath: beside('golden.json'),
    rowsMax: Math.min(manifest.rowsMax ?? DEFAULT_ROWS, batchRowsMax),
    runMsMax: manifest.runMsMax,
    providers: manifest.providers,
    session: manifest.session,
    deadlineMs: manifest.deadlineMs,
    record: manifest.record,
    latestOnly: manifest.latestOnly,
    description: manifest.description,
    inputs: manifest.inputs,
    outputs: manifest.outputs,
    ...(manifest.degrade === null ? {} : { degrade: manifest.degrade }),
    ...(manifest.breaker === null ? {} : { breaker: manifest.breaker }),
  };
}

/**
 * Enough that ONNX Runtime's cost per call no longer shows (7 us against 0.5 us a row), small enough to be
 * quick.
 */
const DEFAULT_ROWS = 256;

/** Those that there are, in order. */
function versionsOf(dir: string): number[] {
  return readdirSync(dir)
    .filter((entry) => VERSION.test(entry) && existsSync(join(dir, entry, 'model.onnx')))
    .map(Number)
    .sort((a, b) => a - b);
}

function chooseVersion(dir: string, stable: number | 'latest'): number {
  const versions = versionsOf(dir);
  const latest = versions.at(-1);
  if (latest === undefined) {
    const fix = `put the model at ${join(dir, '1', 'model.onnx')}`;
    throw new SubitoError('MODEL_INVALID', `${dir}: no version; ${fix}`, { fix });
  }
  if (stable === 'latest') return latest;
  if (versions.includes(stable)) return stable;
  const file = join(dir, 'model.yaml');
  const known = versions.join(', ');
  throw new SubitoError('MODEL_INVALID', `${file}: serve.stable = ${stable}: no such version; use ${known}`);
}

function isDirectory(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
}

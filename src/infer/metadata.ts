/** The ONNX file's own metadata, joined with the manifest and checked one against the other. */
import type { InferenceSession } from 'onnxruntime-node';
import { nearest } from '../nearest.ts';
import { DTYPE_BYTES, type Dtype, type TensorSpec } from '../schedule/slab.ts';
import type { ManifestInput, ManifestOutput } from './protocol.ts';
import { specText, tensorSpec } from './tensors.ts';

type ValueMetadata = InferenceSession.ValueMetadata;

/** An input or output as the ONNX file declares it. */
export interface Declared {
  readonly name: string;
  readonly dtype: Dtype;
  /** A free dimension is its symbol, '' when it has none. */
  readonly dims: readonly (number | string)[];
}

export interface JoinedInputs {
  readonly inputs: readonly TensorSpec[];
  /** The graph's first dimension is free and left out of the rows' shapes. */
  readonly leading: boolean;
  /** Symbol of the batch dimension. */
  readonly batchSymbol: string | null;
}

export interface TrialOutput {
  /** What a run with 1 and with 2 rows gave; `two` is empty where only one row can run. */
  readonly one: readonly number[];
  readonly two: readonly number[];
}

/** Throws an Error when a declared value cannot be served. */
export function declared(metadata: readonly ValueMetadata[], kind: 'input' | 'output'): Declared[] {
  return metadata.flatMap((entry) => {
    if (!entry.isTensor) {
      // scikit-learn's exporters add a list of maps beside the probabilities; the tensors are what is served.
      if (kind === 'output') return [];
      throw new Error(`model.onnx: input ${entry.name} is a sequence or map; only tensors can be served`);
    }
    if (!(entry.type in DTYPE_BYTES)) {
      throw new Error(`model.onnx: ${kind} ${entry.name} is ${entry.type}, which cannot be served`);
    }
    return [{ name: entry.name, dtype: entry.type as Dtype, dims: entry.shape }];
  });
}

/** Every name the manifest gives must be one of the ONNX file's. */
function checkNames(given: readonly { name: string }[], known: readonly Declared[], key: string): void {
  const names = known.map((entry) => entry.name);
  for (const { name } of given) {
    if (names.includes(name)) continue;
    const guess = nearest(name, names);
    const fix = guess ? `did you mean ${guess}?` : `use one of ${names.join(', ')}`;
    throw new Error(`model.yaml: ${key} ${name}: model.onnx has no such ${key.slice(0, -1)}; ${fix}`);
  }
}

export function joinInputs(onnx: readonly Declared[], manifest: readonly ManifestInput[]): JoinedInputs {
  checkNames(manifest, onnx, 'inputs');
  const shapeOf = (name: string) => manifest.find((entry) => entry.name === name)?.shape ?? null;
  const leading =
    onnx.length > 0 &&
    onnx.every(({ name, dims }) => {
      // A shape in the manifest as long as the ONNX file's says that the first dimension is no batch.
      const shape = shapeOf(name);
      return typeof dims[0] === 'string' && (shape === null || shape.length === dims.length - 1);
    });
  const inputs = onnx.map((entry) => {
    const about = manifest.find(({ name }) => name === entry.name);
    if (about?.dtype && about.dtype !== entry.dtype) {
      throw new Error(
        `model.yaml: inputs ${entry.name}: dtype is ${about.dtype}, but model.onnx says ${entry.dtype}; ` +
          'correct the dtype or leave it out',
      );
    }
    const dims = leading ? entry.dims.slice(1) : entry.dims;
    const shape = about?.shape ? agreedShape(entry, dims, about.shape) : fixedShape(entry, dims);
    return tensorSpec(entry.name, entry.dtype, shape);
  });
  const first = onnx[0]?.dims[0];
  return {
    inputs,
    leading,
    batchSymbol: leading && typeof first === 'string' && first !== '' ? first : null,
  };
}

function fixedShape(entry: Declared, dims: readonly (number | string)[]): number[] {
  return dims.map((dim) => {
    if (typeof dim === 'number' && dim > 0) return dim;
    const has = specText(entry.dtype, entry.dims);
    throw new Error(
      `model.onnx: input ${entry.name} is ${has}, and the size of ${dim || 'a dimension'} is not known; ` +
        `give its shape per row in model.yaml (inputs: [{name: ${entry.name}, shape: [...]}])`,
    );
  });
}

function agreedShape(
  entry: Declared,
  dims: readonly (number | string)[],
  shape: readonly number[],
): readonly number[] {
  // `[4]` for a fixed [1,4]: people leave the batch out, as they should where it is free.
  const whole = dims[0] === 1 && shape.length === dims.length - 1 ? [1, ...shape] : shape;
  const same =
    whole.length === dims.length && whole.every((n, i) => typeof dims[i] === 'string' || dims[i] === n);
  if (same) return whole;
  throw new Error(
    `model.yaml: inputs ${entry.name}: shape is [${shape.join(',')}], but model.onnx says ` +
      `${specText(entry.dtype, entry.dims)}; give the shape of one row, without the batch dimension`,
  );
}

/** The outputs that are served, in the ONNX file's order: those the manifest lists, or all. */
export function servedOutputs(onnx: readonly Declared[], manifest: readonly ManifestOutput[]): Declared[] {
  if (onnx.length === 0) throw new Error('model.onnx: no output is a tensor, and only tensors can be served');
  checkNames(manifest, onnx, 'outputs');
  if (manifest.length === 0) return [...onnx];
  return onnx.filter((entry) => manifest.some(({ name }) => name === entry.name));
}

/**
 * Row shapes of the outputs, by what the file declares and what trial runs gave. `batched` holds when every
 * output's first dimension followed the number of rows; otherwise a row's output is the whole tensor of a run
 * with one row.
 */
export function joinOutputs(
  onnx: readonly Declared[],
  trials: readonly TrialOutput[],
  { leading, batchSymbol }: JoinedInputs,
): { outputs: TensorSpec[]; batched: boolean } {
  const batched = leading && trials.every(({ one, two }) => one[0] === 1 && two[0] === 2);
  const outputs = onnx.map(({ name, dtype, dims }, i) => {
    const { one } = trials[i]!;
    // An output of undeclared rank also reads as []: then only the run tells.
    const known = dims.length === one.length ? dims : one.map(() => '');
    const free = known.map((dim) => {
      if (typeof dim === 'number') return dim;
      return dim === batchSymbol && dim !== '' ? 1 : -1;
    });
    return tensorSpec(name, dtype, batched ? free.slice(1) : free);
  });
  return { outputs, batched };
}

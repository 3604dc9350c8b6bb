/** Loads a model's handler.ts, and checks what its types promise. */
import { pathToFileURL } from 'node:url';
import { messageOf } from '../errors.ts';
import { DTYPE_BYTES } from '../schedule/slab.ts';
import type { FieldSpec, Handler, RowCodec } from './handler.ts';
import { inNative } from './native.ts';
import type { ModelSpec } from './protocol.ts';

export interface LoadedHandler {
  readonly codec: RowCodec;
  readonly fields: Handler['fields'];
  readonly predicts: Handler['predicts'];
}

/** Rejects with an Error that begins with the file's name. */
export async function loadHandler(path: string, spec: ModelSpec): Promise<LoadedHandler> {
  const file = path.slice(path.lastIndexOf('/') + 1);
  try {
    const { handler } = (await inNative(() => import(pathToFileURL(path).href))) as { handler?: Handler };
    if (typeof handler?.create !== 'function') {
      throw new Error('it must export `handler` with fields, predicts and create');
    }
    const labels = Object.fromEntries(spec.outputs.map((output) => [output.name, output.labels]));
    checkFields(handler, 'fields');
    checkFields(handler, 'predicts');
    const codec = handler.create({ dir: spec.dir, labels }) as Partial<RowCodec> | undefined;
    if (typeof codec?.decode !== 'function' || typeof codec.encode !== 'function') {
      const missing = (['decode', 'encode'] as const).filter((name) => typeof codec?.[name] !== 'function');
      const promised = codec instanceof Promise ? '; it must not be async' : '';
      const detail = `what it returned has no ${missing.join(' and no ')}${promised}`;
      throw new Error(`create() must return an object with the functions decode and encode; ${detail}`);
    }
    return { codec: codec as RowCodec, fields: handler.fields, predicts: handler.predicts };
  } catch (error) {
    throw new Error(`${file}: ${messageOf(error)}`);
  }
}

/** What the types of handler.ts promise; nothing checks them before this. */
function checkFields(handler: Handler, list: 'fields' | 'predicts'): void {
  const specs: unknown = handler[list];
  const form = "{ name: 'tempo', dtype: 'float32', shape: [] }";
  if (!Array.isArray(specs)) throw new Error(`${list} must be a list of fields, such as ${form}`);
  specs.forEach((spec: Partial<FieldSpec> | null | undefined, i) => {
    const at = `${list}[${i}]`;
    if (typeof spec !== 'object' || spec === null) throw new Error(`${at} must be a field, such as ${form}`);
    const { name, dtype, shape } = spec;
    if (typeof name !== 'string' || name === '') throw new Error(`${at}.name must be text`);
    if (specs.findIndex((other: Partial<FieldSpec> | null) => other?.name === name) < i)
      throw new Error(`${at}.name: ${name} is given twice`);
    if (typeof dtype !== 'string' || !Object.hasOwn(DTYPE_BYTES, dtype)) {
      throw new Error(
        `${at}.dtype (${name}) must be one of ${Object.keys(DTYPE_BYTES).join(', ')}, got ${String(dtype)}`,
      );
    }
    const isShape = Array.isArray(shape) && shape.every((dim) => Number.isSafeInteger(dim) && dim >= -1);
    if (!isShape)
      throw new Error(`${at}.shape (${name}) must be a list of sizes: [] for a scalar, -1 if free`);
  });
}

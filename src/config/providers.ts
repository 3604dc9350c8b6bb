// Execution providers as people write them, in the configuration and in a model's manifest: a name, or a map
// of a name and what else that provider takes.
import { z } from 'zod';
import type { ProviderEntry, ProviderName } from '../infer/protocol.ts';
import { PROVIDERS } from '../infer/providers.ts';
import { nearest } from '../nearest.ts';

const device = z.int().min(0).max(1023);

/** Other keys are looked at by `providerFaults`, which knows why some cannot be. */
const provider = z.looseObject({
  name: z.enum(PROVIDERS).meta({ description: 'the provider' }),
  device_id: z
    .union([device, z.array(device).min(1).max(64)])
    .optional()
    .meta({ description: 'number of its device, or a list of them that workers take in turn' }),
  sessions: z
    .int()
    .min(1)
    .max(256)
    .optional()
    .meta({ description: 'workers that may hold a session of a model on one device' }),
  options: z
    .record(z.string(), z.unknown())
    .optional()
    .meta({ description: 'further options in onnxruntime-node’s own names' }),
});

export const providerList = z
  .array(z.union([z.enum(PROVIDERS), provider]))
  .min(1)
  .max(PROVIDERS.length);

type ProviderChecked = z.output<typeof provider>;
export type ProviderListChecked = z.output<typeof providerList>;

/** A name stays a name: in most configurations there is nothing else to say. */
export function resolveProviders(list: ProviderListChecked): ProviderEntry[] {
  return list.map((entry) => {
    if (typeof entry === 'string') return entry;
    const { name, device_id, sessions = null, options = {} } = entry;
    return { name, deviceIds: device_id === undefined ? [] : [device_id].flat(), sessions, options };
  });
}

export interface ProviderFault {
  /** Below the list. */
  readonly at: readonly (string | number)[];
  readonly value: unknown;
  readonly what: string;
  readonly fix: string;
}

const KEYS = ['name', 'device_id', 'sessions', 'options'];
/** Providers of which onnxruntime-node takes the number of a device. */
const WITH_DEVICES: readonly ProviderName[] = ['cuda', 'tensorrt'];

/**
 * What onnxruntime-node 1.30 takes besides; it hands WebGPU's on by name, and refuses those it does not know.
 */
const oneOf =
  (...values: readonly string[]) =>
  (value: unknown) =>
    values.includes(value as string) ? '' : `use one of ${values.join(', ')}`;
const cacheMode = oneOf('disabled', 'lazyRelease', 'simple', 'bucket');
const isFlag = (value: unknown) => (typeof value === 'boolean' ? '' : 'use true or false');
const isTexts = (value: unknown) =>
  Array.isArray(value) && value.every((one) => typeof one === 'string') ? '' : 'use a list of texts';
const isWhole = (value: unknown) =>
  Number.isSafeInteger(value) && Number(value) >= 0 ? '' : 'use a whole number';

const OPTIONS: Readonly<Record<ProviderName, Readonly<Record<string, (value: unknown) => string>>>> = {
  cpu: {},
  cuda: {},
  tensorrt: {},
  webgpu: {
    preferredLayout: oneOf('NCHW', 'NHWC'),
    validationMode: oneOf('disabled', 'wgpuOnly', 'basic', 'full'),
    enableRobustness: isFlag,
    enableMatmulFp32Accumulation: isFlag,
    forceCpuNodeNames: isTexts,
    storageBufferCacheMode: cacheMode,
    uniformBufferCacheMode: cacheMode,
    queryResolveBufferCacheMode: cacheMode,
    defaultBufferCacheMode: cacheMode,
  },
  coreml: { coreMlFlags: isWhole },
};

/** Options that these have elsewhere, and that people will look for. */
const NOT_PASSED = [
  /^(gpu_mem_limit(_mb)?|arena_extend_strategy|do_copy_in_default_stream|use_tf32|prefer_nhwc)$/,
  /^(enable_cuda_graph|cudnn_\w+|tunable_op_\w+|trt_\w+)$/,
];

/** What the form alone does not show. */
export function* providerFaults(list: ProviderListChecked): Generator<ProviderFault> {
  const names = new Set<string>();
  for (const [i, entry] of list.entries()) {
    const name = typeof entry === 'string' ? entry : entry.name;
    if (names.has(name)) {
      yield { at: [i], value: name, what: 'named twice', fix: 'name each once; device_id takes a list' };
    }
    names.add(name);
    if (typeof entry !== 'string') yield* entryFaults(entry, i);
  }
}

function* entryFaults(entry: ProviderChecked, i: number): Generator<ProviderFault> {
  const { name, device_id, options = {} } = entry;
  for (const key of Object.keys(entry)) {
    if (!KEYS.includes(key)) yield strange(name, [i, key], key, entry[key], KEYS);
  }
  if (device_id !== undefined && !WITH_DEVICES.includes(name)) {
    const fix = `remove it; ${WITH_DEVICES.join(' and ')} have it`;
    yield { at: [i, 'device_id'], value: device_id, what: `${name} has no choice of devices`, fix };
  }
  if (name === 'webgpu' && entry.sessions !== undefined && entry.sessions > 1) {
    const what = 'two threads that run on WebGPU at the same time end the process';
    yield { at: [i, 'sessions'], value: entry.sessions, what, fix: 'remove it; there will be one worker' };
  }
  const known = OPTIONS[name];
  for (const [key, value] of Object.entries(options)) {
    const check = known[key];
    if (check === undefined) yield strange(name, [i, 'options', key], key, value, Object.keys(known));
    else if (check(value) !== '') {
      yield { at: [i, 'options', key], value, what: 'not a value that it takes', fix: check(value) };
    }
  }
}

function strange(
  name: ProviderName,
  at: readonly (string | number)[],
  key: string,
  value: unknown,
  known: readonly string[],
): ProviderFault {
  if (NOT_PASSED.some((pattern) => pattern.test(key))) {
    const what = `onnxruntime-node 1.30 hands ${name} nothing but the number of its device`;
    return { at, value, what, fix: 'remove it; README.md, "GPUs", says what to do instead' };
  }
  const guess = nearest(key, [...known]);
  const uses = known.length === 0 ? `${name} takes none` : `use one of ${known.join(', ')}`;
  return { at, value, what: 'no such key', fix: guess ? `did you mean ${guess}?` : `remove it; ${uses}` };
}

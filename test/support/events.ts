/** Random models, and random events for them: right, odd, and broken, in every form that bytes allow. */
import { DTYPES } from '../../src/infer/native-codec.ts';
import type { ManifestField, ManifestInput } from '../../src/infer/protocol.ts';
import { isFloat, tensorSpec } from '../../src/infer/tensors.ts';
import type { Dtype, TensorSpec } from '../../src/schedule/slab.ts';
import type { Random } from './random.ts';

const SHAPES = [[], [1], [3], [12], [2, 2], [2, 1, 2], [1, 3]] as const;
/** Some of them have bytes of their own in UTF-8, some mean something to JavaScript. */
const NAMES = [
  'energy',
  'tempo',
  'a',
  'é',
  '日本',
  '__proto__',
  'constructor',
  '1',
  '0',
  'x"y',
  'b\\',
  'last one',
  'tab\tbed',
];

export interface AnyModel {
  readonly specs: readonly TensorSpec[];
  readonly manifest: readonly ManifestInput[];
}

function anyField(random: Random, name: string, dtype: Dtype): ManifestField {
  const own = random.chance(0.3)
    ? random.pick(DTYPES.filter((each) => isFloat(dtype) || !isFloat(each)))
    : null;
  const value = (own ?? dtype) === 'bool' ? random.chance(0.5) : random.int(0, 100);
  return { name, dtype: own, default: random.chance(0.3) ? value : undefined };
}

/** One to three inputs; some with a field for each element. */
export function anyModel(random: Random): AnyModel {
  let next = 0;
  const start = random.int(0, NAMES.length - 1);
  const name = () => {
    const at = next++;
    return at < NAMES.length ? (NAMES[(start + at) % NAMES.length] as string) : `field ${at}`;
  };
  const specs: TensorSpec[] = [];
  const manifest: ManifestInput[] = [];
  for (let i = random.int(1, 3); i > 0; i--) {
    const dtype = random.chance(0.4) ? 'float32' : random.pick(DTYPES);
    const named = random.chance(0.5);
    const spec = tensorSpec(named ? `input ${i}` : name(), dtype, random.pick(SHAPES));
    const finite = random.chance(0.5);
    const fields = named ? Array.from({ length: spec.elements }, () => anyField(random, name(), dtype)) : [];
    specs.push(spec);
    manifest.push({ name: spec.name, dtype: null, shape: null, fields, finite });
  }
  return { specs, manifest };
}

/** What an event may hold in place of the right value. */
const ODD: readonly unknown[] = [
  null,
  true,
  false,
  '1',
  '12345678901234567890',
  'text',
  Number.NaN,
  Number.POSITIVE_INFINITY,
  -0,
  0.1,
  1e39,
  1e-50,
  2 ** 53,
  2 ** 53 + 2,
  65519.99,
  65520,
  2 ** 63,
  -(2 ** 63),
  2n ** 60n,
  2n ** 53n + 257n,
  2n ** 63n,
  -(2n ** 63n),
  -1,
  128,
  256,
  -32769,
  65536,
  [],
  [1],
  [[1], 2],
  [[1, 2, 3, 4]],
  [[1], [2], [3], [4]],
  [
    [1, 2],
    [3, 4],
  ],
  [[1, 2, 3], [4]],
  [
    [[1], [2]],
    [[3], [4]],
  ],
  [null],
  {},
  Buffer.from('1234'),
];

const BITS: Partial<Record<Dtype, number>> = {
  int8: 7,
  int16: 15,
  int32: 31,
  int64: 53,
  uint8: 8,
  uint16: 16,
};

function rightScalar(random: Random, dtype: Dtype): unknown {
  if (dtype === 'bool') return random.pick([true, false, 0, 1]);
  if (isFloat(dtype)) {
    const value = (random.next() - 0.5) * 10 ** random.int(-12, 4);
    return random.chance(0.5) ? Math.fround(value) : random.chance(0.3) ? Math.round(value) : value;
  }
  const most = 2 ** random.int(0, BITS[dtype] ?? 32);
  const value = Math.floor(random.next() * most);
  return dtype.startsWith('u') || random.chance(0.5) ? value : -value;
}

function rightRow(random: Random, spec: TensorSpec, axis = 0): unknown {
  const { dtype, shape, elements } = spec;
  if (axis === 0 && elements === 1 && random.chance(0.3)) return rightScalar(random, dtype);
  if (axis === 0 && random.chance(0.3))
    return Array.from({ length: elements }, () => rightScalar(random, dtype));
  if (axis === shape.length) return rightScalar(random, dtype);
  return Array.from({ length: shape[axis] as number }, () => rightRow(random, spec, axis + 1));
}

export interface AnyEvent {
  readonly entries: readonly (readonly [string, unknown])[];
  /** All fields are there, each with a value that is right. */
  readonly isPlain: boolean;
}

/** `odd`: how likely each part of it is not what it should be. */
export function anyEvent(random: Random, { specs, manifest }: AnyModel, odd: number): AnyEvent {
  let isPlain = true;
  const strange = () => {
    const is = random.chance(odd);
    if (is) isPlain = false;
    return is;
  };
  const entries: [string, unknown][] = [];
  specs.forEach((spec, i) => {
    const fields = manifest[i]?.fields ?? [];
    if (fields.length === 0) entries.push([spec.name, strange() ? random.pick(ODD) : rightRow(random, spec)]);
    for (const { name, dtype } of fields) {
      entries.push([name, strange() ? random.pick(ODD) : rightScalar(random, dtype ?? spec.dtype)]);
    }
  });
  if (strange()) entries.splice(random.int(0, entries.length - 1), 1);
  if (strange()) entries.push([random.pick(NAMES), random.pick(ODD)]);
  if (strange() && entries.length > 0) entries.push([random.pick(entries)[0], random.pick(ODD)]);
  if (random.chance(0.2)) entries.sort(() => random.next() - 0.5);
  return { entries, isPlain };
}

/** Bytes changed, left out, put in, or cut off. */
export function broken(random: Random, bytes: Buffer): Buffer {
  let result = Buffer.from(bytes);
  for (let times = random.int(1, 3); times > 0 && result.length > 0; times--) {
    const at = random.int(0, result.length - 1);
    const kind = random.int(0, 5);
    if (kind === 0) result[at] = random.int(0, 255);
    else if (kind === 1) result[at] = (result[at] as number) ^ (1 << random.int(0, 7));
    else if (kind === 2) result = result.subarray(0, at);
    else if (kind === 3) result = Buffer.concat([result.subarray(0, at), result.subarray(at + 1)]);
    else {
      const place = kind === 4 ? at : result.length;
      const more = random.chance(0.5)
        ? random.bytes(random.int(1, 4))
        : Buffer.from(random.pick(['1', ' 1', '}', ',']));
      result = Buffer.concat([result.subarray(0, place), more, result.subarray(place)]);
    }
  }
  return Buffer.from(result);
}

/** What the events carry: samples, prepared once so that sending one costs a copy. */
import { readFileSync } from 'node:fs';
import { Packr } from 'msgpackr';
import { SubitoError } from '../errors.ts';
import type { Random } from '../random.ts';

const packr = new Packr({ useRecords: false });

/** Distinct payloads of random features: enough that no cache can answer for the model. */
const RANDOM_SAMPLES = 256;
const FILE_LINES_MAX = 100_000;

export interface Sample {
  /** Raw little-endian float32 row, or null for named fields. */
  readonly features: Buffer | null;
  /** Named fields; for random features one field, `input`. */
  readonly data: Readonly<Record<string, unknown>>;
  readonly json: Buffer;
  readonly msgpack: Buffer;
}

export interface PayloadOptions {
  readonly data: string;
  readonly dataFile: string;
  readonly featuresBytes: number;
}

/** `input` names the model's input that random features go to when they travel as named data. */
export function samples(options: PayloadOptions, input: string, random: Random): Sample[] {
  if (options.featuresBytes > 0) {
    return Array.from({ length: RANDOM_SAMPLES }, () => randomFeatures(options.featuresBytes, input, random));
  }
  if (options.data !== '') return [named(options.data, '--data')];
  if (options.dataFile !== '') return fromFile(options.dataFile);
  throw new SubitoError('USAGE', 'say what the events carry: --data, --data-file or --features-bytes', {
    fix: 'for example --features-bytes 256 for a model of 64 float32 values',
  });
}

function randomFeatures(bytes: number, input: string, random: Random): Sample {
  const row = Float32Array.from({ length: bytes / 4 }, () => random() * 2 - 1);
  return { ...encode({ [input]: Array.from(row) }), features: Buffer.from(row.buffer) };
}

function fromFile(path: string): Sample[] {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    throw new SubitoError('USAGE', `cannot read --data-file ${path}`, {
      cause,
      fix: 'give a readable file of JSON objects, one a line',
    });
  }
  const lines = text.split('\n').filter((line) => line.trim() !== '');
  if (lines.length === 0) throw new SubitoError('USAGE', `--data-file ${path} is empty`);
  return lines.slice(0, FILE_LINES_MAX).map((line, index) => named(line, `${path}, line ${index + 1}`));
}

function named(text: string, where: string): Sample {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new SubitoError('USAGE', `${where} is not JSON: ${(cause as Error).message}`, { cause });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new SubitoError('USAGE', `${where} must be a JSON object of named fields`);
  }
  return encode(value as Record<string, unknown>);
}

function encode(data: Record<string, unknown>): Sample {
  return { features: null, data, json: Buffer.from(JSON.stringify(data)), msgpack: packr.pack(data) };
}

/**
 * Finds the addon (native/README.md). Every piece of it has a twin in TypeScript, which is the reference and
 * runs where there is no addon. Each thread that uses the addon loads it for itself.
 */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { messageOf, SubitoError } from './errors.ts';
import type { Batch } from './schedule/batch.ts';

/** auto: the addon where there is one; off: never; on: the start fails without it. */
export type NativeMode = 'auto' | 'off' | 'on';

/** A batch as the addon knows it: its columns, its slab, and what an entry must be to have a row in it. */
export interface NativeBatch {
  readonly isNativeBatch: never;
}

/** What the addon reads and writes of a batch itself. */
type NativeColumns = Pick<
  Batch,
  | 'table'
  | 'memory'
  | 'ids'
  | 'idBytes'
  | 'keys'
  | 'keyBytes'
  | 'keyBytesMax'
  | 'events'
  | 'eventBytes'
  | 'eventIdBytesMax'
  | 'arrivedMs'
  | 'readMs'
  | 'deadlinesMs'
  | 'origin'
  | 'fences'
>;

/** Layout as in schedule/slab.ts, limits as in limits.ts. */
export interface NativeBatchOptions extends NativeColumns {
  /** What there is memory for; how many rows it may have now, a call is told. */
  readonly rowsMax: number;
  /** What an entry may say in `model`. */
  readonly names: readonly string[];
  /** 0: entries of this model cannot have `features`. */
  readonly featuresBytes: number;
  readonly inputOffsets: readonly number[];
  readonly inputRowBytes: readonly number[];
  readonly arenaOffset: number;
  readonly arenaBytes: number;
  readonly entryBytesMax: number;
  readonly payloadBytesMax: number;
  readonly traceBytesMax: number;
  readonly deadlineMsMax: number;
  readonly priorityMax: number;
}

/**
 * Cells of what `takeEntries` is told of a batch that is being filled. The first three are counted up by it.
 */
export const FILL = {
  rows: 0,
  arenaUsed: 1,
  /** The earliest of the rows' deadlines, Unix milliseconds. */
  deadlineMs: 2,
  /** Of all entries taken by this call: */
  origin: 3,
  mark: 4,
  encoding: 5,
  receivedMs: 6,
  /** Of an entry that names no deadline, from its id on; 0: it has none. */
  deadlineMsStated: 7,
  /** By when one that has none should be run, from its id on. */
  deadlineMsDefault: 8,
  /** Unix milliseconds: an entry whose deadline is earlier is left. */
  deadlineMsLeast: 9,
  /** 1: an entry that names no model is for another one. */
  modelNeeded: 10,
  /** An entry of another priority is left. */
  priority: 11,
  /** Of an entry that names none. */
  priorityDefault: 12,
  /** The engine's clock is ahead of the one that makes the ids by so much. */
  skewMs: 13,
  /** For those who pass this on: where the call stopped. */
  next: 14,
} as const;
export const FILL_CELLS = 15;

/** What the addon exports. Arguments of a wrong type or out of range throw. */
export interface Native {
  /** The version of this interface; it is counted up in native/src/abi.h too. */
  readonly abi: number;
  /** Subito's, when it was built. */
  readonly version: string;
  /**
   * Decodes whole batches by a plan (src/infer/native-codec.ts); null: the plan is of something that the twin
   * does.
   */
  createDecoder(plan: Uint8Array): NativeDecode | null;
  createEncoder(plan: Uint8Array): NativeEncode | null;
  /** Processor time of the calling thread, microseconds. For the benchmarks; it has no twin. */
  threadCpuUs(): number;
  openBatch(options: NativeBatchOptions): NativeBatch;
  /**
   * Takes at most `entriesMax` entries of an XREADGROUP reply that begin at `start` into rows of the batch;
   * returns where it stopped: in front of the first one that needs a closer look, or for which there is no
   * room. Twin: StreamReplyParser with Intake.take.
   */
  takeEntries(
    batch: NativeBatch,
    bytes: Buffer,
    start: number,
    end: number,
    entriesMax: number,
    fill: Float64Array,
  ): number;
  /**
   * Writes `count` rows of a batch at `at` of `target`, as an argument of the commit script. Returns how many
   * bytes it wrote; below zero, how many it would need, and nothing is written. Twin: publish/rows.ts.
   */
  writeRows(
    batch: NativeBatch,
    picked: Uint16Array,
    count: number,
    outputs: Buffer,
    dispatchedMs: number,
    target: Buffer,
    at: number,
  ): number;
}

/**
 * Decodes and checks rows `first` to `first + rows` of a slab, given as its bytes. Marks each in the row
 * table as ok or left to the twin, and returns how many are left. Throws when the slab is too small.
 */
export type NativeDecode = (slab: Uint8Array, first: number, rows: number) => number;

/**
 * Encodes the rows that are ok, behind the first `used` bytes of the output arena. Notes each in the row
 * table, and which are left; returns how many bytes are used then.
 */
export type NativeEncode = (slab: Uint8Array, first: number, rows: number, used: number) => number;

export interface NativeChoice {
  /** null: the twins run. */
  readonly native: Native | null;
  /** For the operator: which file it is, or why there is none. */
  readonly why: string;
}

export const NATIVE_ABI = 3;

const root = fileURLToPath(new URL('../', import.meta.url));

/** Where it is looked for, in this order. */
export function nativePaths(platform: string, arch: string): string[] {
  const prebuilt = `${root}native/prebuilds/${platform}-${arch}/subito.node`;
  return [prebuilt, `${root}native/build/Release/subito.node`];
}

/**
 * Loads the first file of `paths` that is there and fits. Throws NATIVE_UNAVAILABLE when none does and `mode`
 * is on.
 */
export function loadNative(
  mode: NativeMode,
  paths: readonly string[] = nativePaths(process.platform, process.arch),
): NativeChoice {
  if (mode === 'off') return { native: null, why: 'native is off' };
  const require = createRequire(import.meta.url);
  const reasons: string[] = [];
  for (const path of paths) {
    if (!existsSync(path)) continue;
    const shown = relative(root, path).startsWith('..') ? path : relative(root, path);
    try {
      const native = require(path) as Native;
      if (native.abi === NATIVE_ABI) return { native, why: `${shown}, version ${native.version}` };
      const built = `was built for interface ${native.abi}, not ${NATIVE_ABI}`;
      reasons.push(`${shown} ${built}: run deploy/setup.sh`);
    } catch (error) {
      const [first] = messageOf(error).split('\n');
      reasons.push(`${shown} cannot be loaded: ${first}`);
    }
  }
  const why = reasons.length > 0 ? reasons.join('; ') : 'it has not been built; deploy/setup.sh says why';
  if (mode === 'on') throw new SubitoError('NATIVE_UNAVAILABLE', `the native addon: ${why}`);
  return { native: null, why };
}

/** For the log: what runs, and why. */
export function nativeText({ native, why }: NativeChoice): string {
  return native === null ? `no native addon, TypeScript does its work: ${why}` : `the native addon: ${why}`;
}

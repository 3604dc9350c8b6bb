/**
 * Finds the addon (native/README.md). Every piece of it has a twin in TypeScript, which is the reference and
 * runs where there is no addon. Each thread that uses the addon loads it for itself.
 */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { messageOf, SubitoError } from './errors.ts';

/** auto: the addon where there is one; off: never; on: the start fails without it. */
export type NativeMode = 'auto' | 'off' | 'on';

/** What the addon exports. */
export interface Native {
  /** The version of this interface; it is counted up in native/src/abi.h too. */
  readonly abi: number;
  /** Subito's, when it was built. */
  readonly version: string;
}

export interface NativeChoice {
  /** null: the twins run. */
  readonly native: Native | null;
  /** For the operator: which file it is, or why there is none. */
  readonly why: string;
}

export const NATIVE_ABI = 1;

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

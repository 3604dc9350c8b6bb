/** The two models of this suite, put together in a directory of the site: the slow one and the fast one. */
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { messageOf } from '../../src/errors.ts';
import { readManifest } from '../../src/repository/manifest.ts';

export interface ModelsOptions {
  /** Of the slow model; null: the engine's. */
  readonly providers?: readonly string[] | null;
  /** The slow model has a ladder. */
  readonly ladder?: boolean;
}

export interface Models {
  readonly path: string;
  /** Why the slow model has no ladder although it should have; null: it has, or should have none. */
  readonly ladderMissing: string | null;
}

/** What answers in the slow model's place. */
const LADDER = ['last_known', { constant: { score: 0.5 } }];
/** One batch at a time is with the worker: the fast model waits for it. */
const ROWS_MAX = 16;
/** So many rows on slower machines too. */
const RUN_MS = 100;

const pathOf = (file: string) => new URL(file, import.meta.url).pathname;

/** Throws when the directory is there already. */
export function makeModels(path: string, { providers = null, ladder = false }: ModelsOptions = {}): Models {
  mkdirSync(path);
  const slow = join(path, 'slow');
  mkdirSync(slow);
  // Links: the handler finds what it imports where it really lies.
  symlinkSync(pathOf('./models/slow/1'), join(slow, '1'));
  symlinkSync(pathOf('./models/slow/handler.ts'), join(slow, 'handler.ts'));
  mkdirSync(join(path, 'fast'));
  symlinkSync(pathOf('../models/mlp/1'), join(path, 'fast', '1'));
  const manifest = {
    batch: { max: ROWS_MAX, run_ms: RUN_MS },
    ...(providers === null ? {} : { providers }),
  };
  // JSON is YAML.
  const write = (value: object) => writeFileSync(join(slow, 'model.yaml'), JSON.stringify(value));
  write(ladder ? { ...manifest, degrade: LADDER } : manifest);
  try {
    readManifest(slow);
    return { path, ladderMissing: null };
  } catch (error) {
    if (!ladder) throw error;
    // An engine that knows no ladders is measured too: nothing will be degraded.
    write(manifest);
    return { path, ladderMissing: messageOf(error).replace(/^.*model\.yaml: /, '') };
  }
}

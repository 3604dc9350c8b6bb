/** The suites by name. One is loaded only when it is asked for: some need what others do not. */
import { existsSync } from 'node:fs';
import type { Suite } from './suite.ts';

interface Place {
  readonly name: string;
  readonly path: string;
  /** Why it runs only when it is named; null: it runs with all. */
  readonly named: string | null;
}

const places: readonly Place[] = [
  { name: 'drain', path: './e2e/drain.ts', named: null },
  { name: 'sustained', path: './e2e/sustained.ts', named: null },
  { name: 'latency', path: './e2e/latency.ts', named: null },
  { name: 'push', path: './e2e/push.ts', named: null },
  { name: 'start', path: './e2e/start.ts', named: null },
  { name: 'ledger', path: './e2e/ledger.ts', named: null },
  { name: 'micro', path: './micro/suite.ts', named: null },
  { name: 'memory', path: './e2e/memory.ts', named: 'takes a quarter of an hour' },
  { name: 'http', path: './http/suite.ts', named: 'needs Python' },
  { name: 'gpu', path: './gpu/suite.ts', named: 'needs a GPU' },
  { name: 'overload', path: './overload/suite.ts', named: 'takes half an hour' },
];

/** Those that this checkout has. */
export const suitePlaces: readonly Place[] = places.filter(({ path }) =>
  existsSync(new URL(path, import.meta.url)),
);

/** Throws when the file has no suite of that name. */
export async function loadSuite(name: string): Promise<Suite> {
  const place = suitePlaces.find((one) => one.name === name)!;
  const module: Record<string, unknown> = await import(new URL(place.path, import.meta.url).href);
  const suite = Object.values(module).find((each) => isSuite(each) && each.name === name);
  if (suite === undefined) throw new Error(`bench/${place.path} exports no suite named ${name}`);
  return suite as Suite;
}

function isSuite(value: unknown): value is Suite {
  return typeof value === 'object' && value !== null && 'run' in value && 'name' in value;
}

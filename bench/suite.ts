/**
 * What a part of the benchmark is. Each suite stands in a directory of its own and is named in
 * `bench/run.ts`; what it returns is all that the command needs to print, write and compare it.
 */

/** One part of the benchmark: measures, and says what it found. */
export interface Suite {
  /** As given to `npm run bench -- <name>`: 'drain', 'micro', 'http' and so on. */
  readonly name: string;
  /** One line for --help. */
  readonly what: string;
  /** Throws when what it measures goes wrong (an event lost, a process ended): no figures without it. */
  run(options: SuiteOptions): Promise<SuiteResult>;
}

export interface SuiteOptions {
  /** A short form: does everything work, and roughly how fast? Its figures are not written. */
  readonly quick: boolean;
  /** Progress, one line. Goes to standard error. */
  say(line: string): void;
  /** Names of the contestants to run; null: all. */
  readonly only: readonly string[] | null;
  /** Interleaved rounds; null: as many as the suite finds right. */
  readonly rounds?: number | null;
  /** Only the ratios are wanted: fewer rounds will do, under the same conditions. */
  readonly check?: boolean;
}

export interface SuiteResult {
  readonly sections: readonly Section[];
  /**
   * What `--check` compares with the committed results: dimensionless, higher is better, each against
   * something measured in the same run, so that it means the same on another machine.
   */
  readonly ratios: Readonly<Record<string, number>>;
  readonly plots: readonly Plot[];
  /** Everything that was measured, for --json. */
  readonly raw: unknown;
}

export interface Section {
  readonly title: string;
  /** Paragraphs or list lines before the table, Markdown. */
  readonly text: readonly string[];
  readonly table: Table | null;
}

export interface Table {
  readonly head: readonly string[];
  /** As many cells as the head has. */
  readonly rows: readonly (readonly string[])[];
}

export interface Plot {
  /** Without extension; unique among the suite's plots. Written as `bench/results/<suite>-<name>.svg`. */
  readonly name: string;
  readonly svg: string;
}

/** Those that --only names, or all. Throws on a name that the suite does not have. */
export function contestantsOf<T extends { readonly name: string }>(
  all: readonly T[],
  only: readonly string[] | null,
): readonly T[] {
  const unknown = only?.find((name) => !all.some((one) => one.name === name));
  if (unknown !== undefined) {
    throw new Error(`no contestant ${unknown}; there are ${all.map(({ name }) => name).join(', ')}`);
  }
  return all.filter(({ name }) => only === null || only.includes(name));
}

export function roundsOf(rounds: number | null | undefined, usual: number): number {
  return rounds ?? usual;
}

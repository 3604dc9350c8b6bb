/**
 * `--check`: the ratios of this run against the committed ones. Absolute figures are not compared: they move
 * from machine to machine, and with what else the machine does.
 */

/** A ratio that fell below this share of its baseline is a regression; less is noise. */
export const QUOTIENT_MIN = 0.85;

export type Ratios = Readonly<Record<string, number>>;
export type Verdict = 'ok' | 'below' | 'missing' | 'new';

export interface Comparison {
  readonly suite: string;
  readonly name: string;
  /** NaN where it is missing. */
  readonly measured: number;
  readonly baseline: number;
  readonly quotient: number;
  /**
   * missing: the baseline has it, this run has not, or it is no number: what cannot be compared has not
   * passed. new: the other way round, which is no regression.
   */
  readonly verdict: Verdict;
}

/** In the order of the baseline, then what is new. */
export function compareRatios(suite: string, measured: Ratios, baseline: Ratios): Comparison[] {
  const names = [...new Set([...Object.keys(baseline), ...Object.keys(measured)])];
  return names.map((name) => {
    const now = measured[name] ?? Number.NaN;
    const then = baseline[name] ?? Number.NaN;
    const quotient = now / then;
    return { suite, name, measured: now, baseline: then, quotient, verdict: judge(then, quotient) };
  });
}

function judge(baseline: number, quotient: number): Verdict {
  if (Number.isNaN(baseline)) return 'new';
  if (Number.isNaN(quotient)) return 'missing';
  return quotient >= QUOTIENT_MIN ? 'ok' : 'below';
}

export function passed(comparisons: readonly Comparison[]): boolean {
  return comparisons.every(({ verdict }) => verdict === 'ok' || verdict === 'new');
}

/** Rows for a table: ratio, measured, baseline, quotient, verdict. */
export function comparisonRows(comparisons: readonly Comparison[]): string[][] {
  const figure = (value: number) => (Number.isNaN(value) ? '-' : value.toPrecision(3));
  return comparisons.map(({ suite, name, measured, baseline, quotient, verdict }) => [
    `${suite}: ${name}`,
    figure(measured),
    figure(baseline),
    figure(quotient),
    verdict === 'ok' ? '' : verdict.toUpperCase(),
  ]);
}

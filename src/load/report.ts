/** What a run found, as data (`--json`) and as text. */
import type { Account, Interval } from './account.ts';
import type { LoadOptions } from './options.ts';
import type { PacingReport } from './paced-way.ts';
import { STATUSES, type StatusCounts } from './status.ts';
import type { ClassFigures, Percentiles } from './tally.ts';

/**
 * The generator's own delay colours the figures when its p99 is more than this, and than this share of
 * theirs.
 */
const LATENESS_MS_MAX = 2;
const LATENESS_SHARE_MAX = 0.2;

export interface LoadReport {
  readonly via: string;
  readonly observe: string;
  readonly seed: number;
  readonly durationS: number;
  readonly rate: { readonly asked: number; readonly sent: number; readonly answered: number };
  readonly sent: number;
  readonly answered: number;
  /** What became of the events measured, in one word each; ok and degraded are answers. */
  readonly statuses: StatusCounts;
  /** By class of priority; empty where events name none. */
  readonly classes: readonly ClassFigures[];
  readonly errors: Readonly<Record<string, number>>;
  readonly lost: number;
  readonly late: number;
  readonly duplicates: number;
  /** Milliseconds, from the time each event was due. */
  readonly latencyMs: Percentiles;
  /** Milliseconds, from the entry id; count 0 where there is none. */
  readonly entryLatencyMs: Percentiles;
  /** Milliseconds that the generator was late. Contained in latencyMs. */
  readonly latenessMs: Percentiles;
  /** With --pace: of all events, those of the warm-up too. Its waiting is contained in latencyMs. */
  readonly pacing?: PacingReport;
  readonly notes: readonly string[];
  readonly warnings: readonly string[];
  readonly ok: boolean;
}

/** `sentMs`: from the end of the warm-up to the last scheduled event. */
export function makeReport(
  options: LoadOptions,
  account: Account,
  sentMs: number,
  notes: readonly string[],
  failure: string | null,
  pacing?: PacingReport,
): LoadReport {
  const latenessMs = account.lateness;
  const answeredMs = Math.max(sentMs, account.lastAnswerMs - options.warmupS * 1000);
  const bad = account.errorCount + account.lost;
  const warnings: string[] = [];
  if (failure !== null) warnings.push(`the run ended early: ${failure}`);
  if (account.answered === 0 && account.errorCount === 0 && failure === null) {
    const { stream, predictions } = options;
    warnings.push(
      options.via === 'stream'
        ? `nothing was answered: does an engine read "${stream}" and add to "${predictions}" on this Redis?`
        : 'nothing was answered',
    );
  }
  const judged = judgedPercentile(latenessMs.count);
  if (latenessMs[judged] > Math.max(LATENESS_MS_MAX, LATENESS_SHARE_MAX * account.latency[judged])) {
    warnings.push(
      `the generator itself was a bottleneck: it was ${ms(latenessMs[judged])} late (${judged}), which the` +
        ' latencies contain; lower --rate or give it a quieter machine',
    );
  }
  if (account.duplicates > 0) warnings.push(`${account.duplicates} events were answered more than once`);
  const perS = (count: number, overMs: number) => (overMs > 0 ? (count * 1000) / overMs : 0);
  return {
    via: options.via,
    observe: options.via === 'stream' ? options.observe : 'reply',
    seed: options.seed,
    durationS: sentMs / 1000,
    rate: {
      asked: options.ratePerS,
      sent: perS(account.sent, sentMs),
      answered: perS(account.answered, answeredMs),
    },
    sent: account.sent,
    answered: account.answered,
    statuses: account.statuses,
    classes: account.classes,
    errors: Object.fromEntries(account.errors),
    lost: account.lost,
    late: account.late,
    duplicates: account.duplicates,
    latencyMs: account.latency,
    entryLatencyMs: account.entryLatency,
    latenessMs,
    ...(pacing === undefined ? {} : { pacing }),
    notes,
    warnings,
    ok:
      failure === null &&
      account.answered > 0 &&
      account.duplicates === 0 &&
      bad <= options.errorsMax * (account.answered + bad),
  };
}

/** Of a few events the p99 is the worst one alone, and the first often is late: its code has not run yet. */
function judgedPercentile(count: number): 'p50' | 'p90' | 'p99' {
  if (count >= 100) return 'p99';
  return count >= 10 ? 'p90' : 'p50';
}

export function formatReport(report: LoadReport): string {
  const { rate } = report;
  const lines = [
    `via ${report.via} (${report.observe}), ${report.durationS.toFixed(1)} s, seed ${report.seed}`,
    ...report.notes.map((note) => `note: ${note}`),
    '',
    `rate      asked ${perS(rate.asked)}   sent ${perS(rate.sent)}   answered ${perS(rate.answered)}`,
    `events    sent ${report.sent}   answered ${report.answered}   lost ${report.lost}` +
      `   late ${report.late}   duplicates ${report.duplicates}`,
    `outcomes  ${statusText(report.statuses)}`,
    '',
    '                            p50        p90        p99      p99.9        max',
    row('latency, from due time', report.latencyMs),
    ...(report.entryLatencyMs.count > 0 ? [row('from entry id (whole ms)', report.entryLatencyMs)] : []),
    row('generator lateness', report.latenessMs),
    ...(report.pacing === undefined ? [] : ['', pacingLine(report.pacing)]),
    ...report.classes.flatMap(classLines),
  ];
  const errors = Object.entries(report.errors).sort((a, b) => b[1] - a[1]);
  if (errors.length > 0) lines.push('', 'errors', ...errors.map(([code, count]) => `  ${count} x ${code}`));
  for (const warning of report.warnings) lines.push('', `WARNING: ${warning}`);
  return `${lines.join('\n')}\n`;
}

function statusText(counts: StatusCounts): string {
  const known = STATUSES.filter((status) => counts[status] !== undefined);
  return known.map((status) => `${status} ${counts[status]}`).join('   ');
}

function classLines({ priority, sent, statuses, latencyMs }: ClassFigures): string[] {
  return [
    '',
    `priority ${priority}: sent ${sent}   ${statusText(statuses)}`,
    row('latency, from due time', latencyMs),
  ];
}

/** The line that is rewritten each second. */
export function formatProgress(elapsedMs: number, interval: Interval, account: Account): string {
  return (
    `${(elapsedMs / 1000).toFixed(0).padStart(4)} s  sent ${interval.sent}/s` +
    `  answered ${interval.answered}/s  p50 ${ms(interval.p50)}  p99 ${ms(interval.p99)}` +
    `  errors ${account.errorCount}  lost ${account.lost}  outstanding ${account.outstanding}`
  );
}

function row(name: string, { count, ...of }: Percentiles): string {
  if (count === 0) return `${name.padEnd(24)} (none)`;
  const cells = [of.p50, of.p90, of.p99, of.p999, of.max].map((value) => ms(value).padStart(10));
  return `${name.padEnd(24)}${cells.join(' ')}`;
}

function pacingLine({ hint, ratePerS, waited, waitMsMean, waitMsMax, givenUp }: PacingReport): string {
  const rate = ratePerS === null ? 'no limit' : perS(ratePerS);
  return (
    `pacing    hints ${hint}, ${rate}   waited ${waited} events, ${ms(waitMsMean)} on average, ` +
    `${ms(waitMsMax)} at most   given up ${givenUp}`
  );
}

const ms = (value: number) => `${value < 100 ? value.toFixed(2) : value.toFixed(0)} ms`;
const perS = (value: number) => `${value < 100 ? value.toFixed(1) : value.toFixed(0)}/s`;

/** The report of an audit, for people. */
import { OFFENCE_TEXTS, STATE_NAMES } from './offences.ts';
import { type AuditReport, OFFENCES, type State } from './report.ts';

/** `idsMax`: of each offence so many ids are shown. */
export function formatReport(report: AuditReport, idsMax: number): string {
  const { stream, group, horizon, exists, groupExists, entries, trimmedEntries } = report;
  if (!exists) return `${stream}: there is no such stream yet\n`;
  const lines = [`${stream}, group ${group}, up to ${horizon}`];
  const rows = [['STATE', 'ENTRIES', 'OLDEST', 'AGE']];
  for (const state of Object.keys(STATE_NAMES) as State[]) {
    const { count, oldest, ageMs } = report.states[state];
    const always = state === 'unread' || state === 'pending';
    if (count === 0 && !always) continue;
    rows.push([STATE_NAMES[state], grouped(count), oldest ?? '-', ageMs === null ? '-' : ageText(ageMs)]);
  }
  rows.push(['all', grouped(entries), '', '']);
  lines.push(...aligned(rows).map((line) => `  ${line}`));
  if (!groupExists) lines.push('  The group does not exist: what has no outcome counts as unread.');
  if (trimmedEntries > 0) {
    lines.push(`  ${grouped(trimmedEntries)} more have an outcome and were trimmed from the stream since.`);
  }
  if (report.states.trimmed.count > 0) {
    lines.push('  Some outcomes may have been trimmed: the results of their time are gone.');
  }
  for (const offence of OFFENCES) {
    const ids = report.offences[offence];
    if (ids.length === 0) continue;
    const { name, meaning } = OFFENCE_TEXTS[offence];
    lines.push(`  ${name.toUpperCase()}: ${grouped(ids.length)} (${meaning})`);
    lines.push(...ids.slice(0, idsMax).map((id) => `    ${id}`));
    if (ids.length > idsMax) lines.push(`    ... and ${grouped(ids.length - idsMax)} more: --ids shows all`);
  }
  if (report.clean) lines.push('  clean');
  return `${lines.join('\n')}\n`;
}

/** The second column to the right, for it holds numbers. */
function aligned(rows: readonly (readonly string[])[]): string[] {
  const widths = rows[0]!.map((_, at) => Math.max(...rows.map((row) => row[at]!.length)));
  const cell = (text: string, at: number) =>
    at === 1 ? text.padStart(widths[at]!) : text.padEnd(widths[at]!);
  return rows.map((row) => row.map(cell).join('  ').trimEnd());
}

/** 1234567 -> 1,234,567 */
export function grouped(count: number): string {
  return String(count).replace(/\B(?=(\d{3})+$)/g, ',');
}

const UNITS = [
  ['d', 86_400_000],
  ['h', 3_600_000],
  ['min', 60_000],
  ['s', 1000],
] as const;

/** In the largest unit of which there are two, so that it is off by less than a half. */
export function ageText(ageMs: number): string {
  for (const [unit, unitMs] of UNITS) {
    if (ageMs >= 2 * unitMs) return `${Math.floor(ageMs / unitMs)} ${unit}`;
  }
  return `${ageMs} ms`;
}

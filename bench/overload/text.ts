/** Rows of figures that all scenarios have in common. */
import { STATUSES, type Status } from '../../src/load/status.ts';
import type { Section } from '../suite.ts';
import { ms, percent, whole } from '../text.ts';
import type { Summary } from './events.ts';
import { type Target, verdict } from './targets.ts';

/** The others are shown together. */
const SHOWN = ['ok', 'degraded', 'expired', 'overloaded', 'superseded', 'failed', 'invalid', 'lost'] as const;

export const SUMMARY_HEAD = [
  '',
  'offered/s',
  'goodput/s',
  'of capacity',
  'p50, ms',
  'p99, ms',
  'p99 by its clock',
  'generator late',
] as const;

/** `capacityPerS`: null for what it is not about. */
export function summaryRow(name: string, summary: Summary, capacityPerS: number | null): string[] {
  const { sent, seconds, timelyPerS, p50, p99, p99Aged, p99Late } = summary;
  const share = capacityPerS === null ? '-' : percent(timelyPerS / capacityPerS);
  const rates = [whole(sent / seconds), whole(timelyPerS), share];
  return [name, ...rates, ...[p50, p99, p99Aged, p99Late].map(ms)];
}

export const COUNT_HEAD = ['', 'sent', ...SHOWN, 'others'] as const;

/** Every event sent is in exactly one of the columns. */
export function countRow(name: string, { sent, counts }: Pick<Summary, 'sent' | 'counts'>): string[] {
  const others = STATUSES.filter((status) => !(SHOWN as readonly Status[]).includes(status));
  const rest = others.reduce((sum, status) => sum + counts[status], 0);
  return [name, whole(sent), ...SHOWN.map((status) => whole(counts[status])), whole(rest)];
}

export function targetSection(targets: readonly Target[]): Section {
  const missed = targets.filter(({ reached }) => !reached).length;
  return {
    title: 'What was promised',
    text: [
      missed === 0
        ? `All of ${targets.length} are reached.`
        : `${targets.length - missed} of ${targets.length} are reached.`,
    ],
    table: {
      head: ['', 'wanted', 'measured', ''],
      rows: targets.map((target) => [target.name, target.wanted, target.measured, verdict(target)]),
    },
  };
}

export const mib = (bytes: number) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;

/** The deepest backlog, and what was left at the end. */
export function backlogText(backlog: readonly (readonly [number, number])[]): string {
  const most = Math.max(0, ...backlog.map(([, events]) => events));
  return `${whole(most)}, ${whole(backlog.at(-1)?.[1] ?? 0)}`;
}

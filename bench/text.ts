/** Figures and tables as text: Markdown, which also reads well in a terminal. */
import type { Section, Table } from './suite.ts';

/** A paragraph, however it is broken into lines in the source. */
export const prose = (text: string) => text.replace(/\s+/g, ' ').trim();

/** 1234567.8 -> 1,234,568 */
export const whole = (value: number) => Math.round(value).toLocaleString('en-US');

/** 0.5 -> 50 % */
export const percent = (share: number) => `${(share * 100).toFixed(share < 0.0995 ? 1 : 0)} %`;

/** Milliseconds with three digits that count; `-` for none. */
export function ms(value: number): string {
  if (Number.isNaN(value)) return '-';
  return value < 100 ? value.toFixed(2) : whole(value);
}

export function tableLines({ head, rows }: Table): string[] {
  const widths = head.map((text, i) => Math.max(text.length, ...rows.map((row) => (row[i] ?? '').length)));
  // Names to the left, figures to the right.
  const pad = (width: number, i: number, cell: string) =>
    i === 0 ? cell.padEnd(width) : cell.padStart(width);
  const line = (cells: readonly string[]) =>
    `| ${widths.map((width, i) => pad(width, i, cells[i] ?? '')).join(' | ')} |`;
  const rules = widths.map((width, i) => `${'-'.repeat(width + 1)}${i === 0 ? '-' : ':'}`);
  return [line(head), `|${rules.join('|')}|`, ...rows.map(line)];
}

/** `depth` is the heading's: 3 for ### */
export function sectionLines({ title, text, table }: Section, depth: number): string[] {
  const lines = [`${'#'.repeat(depth)} ${title}`, ''];
  let list = false;
  for (const one of text) {
    // Items of one list stand together, paragraphs apart.
    if (list && !one.startsWith('- ')) lines.push('');
    list = one.startsWith('- ');
    lines.push(one, ...(list ? [] : ['']));
  }
  if (list) lines.push('');
  return table === null ? lines : [...lines, ...tableLines(table), ''];
}

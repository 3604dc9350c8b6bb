/** What `subito deadletters` prints of many letters: as text and, the same, as JSON. */
import { type LetterSummary, modelOf, newestFirst } from '../ledger/deadletters.ts';
import type { Move, MoveAction } from '../ledger/deadletters-move.ts';
import { ageMs, ageText, printable } from '../ledger/deadletters-view.ts';

export interface ListStyle {
  /** Keys name users; they are shown only where they are asked for. */
  readonly keys: boolean;
  readonly nowMs: number;
}

/** The newest letters, and how many there are by reason. */
export class Listing {
  readonly #limit: number;
  readonly #counts = new Map<string, number>();
  #newest: LetterSummary[] = [];
  total = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Letters of one partition come newest first, page by page. */
  add(page: readonly LetterSummary[]): void {
    for (const { reason } of page) {
      const name = reason || 'other';
      this.#counts.set(name, (this.#counts.get(name) ?? 0) + 1);
    }
    this.total += page.length;
    if (page.length === 0 || this.#limit === 0) return;
    const oldest = this.#newest[this.#limit - 1];
    if (oldest !== undefined && newestFirst(oldest, page[0]!) <= 0) return;
    this.#newest = [...this.#newest, ...page].sort(newestFirst).slice(0, this.#limit);
  }

  get newest(): readonly LetterSummary[] {
    return this.#newest;
  }

  get counts(): Record<string, number> {
    return { invalid: 0, failed: 0, ...Object.fromEntries(this.#counts) };
  }

  /** `3 dead letters: 2 invalid, 1 failed`; `other` is what Subito did not write. */
  countsText(): string {
    const parts = Object.entries(this.counts).filter(([, count]) => count > 0);
    const total = `${this.total} dead letter${this.total === 1 ? '' : 's'}`;
    if (parts.length === 0) return total;
    return `${total}: ${parts.map(([reason, count]) => `${count} ${reason}`).join(', ')}`;
  }

  report({ keys, nowMs }: ListStyle): Record<string, unknown> {
    const letters = this.#newest.map((letter) => ({
      stream: letter.partition.name,
      id: letter.id,
      age_ms: Math.floor(ageMs(letter.id, nowMs)),
      reason: letter.reason,
      model: modelOf(letter),
      ...(keys ? { key: letter.key } : {}),
      deliveries: Number(letter.deliveries),
      detail: letter.detail,
      source: letter.source,
      bytes: letter.bytes,
    }));
    return { letters, counts: this.counts, total: this.total };
  }
}

export function formatList(listing: Listing, { keys, nowMs }: ListStyle): string {
  const letters = listing.newest;
  const streams = new Set(letters.map(({ partition }) => partition.name));
  // The stream is worth a column only where it tells letters apart.
  const head = [
    'ID',
    'AGE',
    ...(streams.size > 1 ? ['STREAM'] : []),
    'REASON',
    'MODEL',
    ...(keys ? ['KEY'] : []),
    'DELIVERIES',
    'DETAIL',
  ];
  const rows = letters.map((letter) =>
    [
      letter.id,
      ageText(ageMs(letter.id, nowMs)),
      ...(streams.size > 1 ? [letter.partition.name] : []),
      letter.reason || '-',
      modelOf(letter) || '-',
      ...(keys ? [letter.key || '-'] : []),
      letter.deliveries || '-',
      briefly(letter.detail) || '-',
    ].map(printable),
  );
  const widths = head.map((title, at) =>
    rows.reduce((width, row) => Math.max(width, row[at]!.length), title.length),
  );
  const line = (cells: readonly string[]) =>
    cells
      .map((cell, at) => (at === cells.length - 1 ? cell : cell.padEnd(widths[at]!)))
      .join('  ')
      .trimEnd();
  const table = rows.length === 0 ? [] : [line(head), ...rows.map(line)];
  const hidden = listing.total - letters.length;
  const older = hidden > 0 && rows.length > 0 ? [`... ${hidden} older; --limit shows more`] : [];
  return `${[...table, ...older, listing.countsText()].join('\n')}\n`;
}

const DETAIL_SHOWN_MAX = 160;

/** `show` has all of it. */
function briefly(detail: string): string {
  return detail.length > DETAIL_SHOWN_MAX ? `${detail.slice(0, DETAIL_SHOWN_MAX)}...` : detail;
}

/** Letters that are told one by one; of more there is only the number. */
const TOLD_MAX = 1000;
const SHOWN_MAX = 20;

export interface MoveReport {
  readonly action: MoveAction;
  readonly dry_run: boolean;
  readonly moved: number;
  /** Somebody else was faster. */
  readonly gone: number;
  readonly refused: number;
  readonly refusals: readonly { readonly stream: string; readonly id: string; readonly why: string }[];
  readonly unknown: readonly string[];
  /** Where letters went that were named one by one; `to` is '' where there is none. */
  readonly letters: readonly { readonly stream: string; readonly id: string; readonly to: string }[];
}

/** What became of letters. */
export class Moves {
  readonly #action: MoveAction;
  readonly #dryRun: boolean;
  readonly #named: boolean;
  readonly #letters: { stream: string; id: string; to: string }[] = [];
  readonly #refusals: { stream: string; id: string; why: string }[] = [];
  readonly #unknown: string[] = [];
  #moved = 0;
  #gone = 0;
  #refused = 0;

  constructor(action: MoveAction, dryRun: boolean, named: boolean) {
    this.#action = action;
    this.#dryRun = dryRun;
    this.#named = named;
  }

  get total(): number {
    return this.#moved + this.#gone + this.#refused;
  }

  unknown(id: string): void {
    this.#unknown.push(id);
  }

  add(moves: readonly Move[]): void {
    for (const { letter, outcome, to, why } of moves) {
      const place = { stream: letter.partition.name, id: letter.id };
      if (outcome === 'moved') {
        this.#moved += 1;
        if (this.#named && this.#letters.length < TOLD_MAX) this.#letters.push({ ...place, to });
      } else if (outcome === 'refused') {
        this.#refused += 1;
        if (this.#refusals.length < TOLD_MAX) this.#refusals.push({ ...place, why });
        // It was there when it was looked up, and somebody has been faster since.
      } else if (this.#named) this.#unknown.push(letter.id);
      else this.#gone += 1;
    }
  }

  report(): MoveReport {
    return {
      action: this.#action,
      dry_run: this.#dryRun,
      moved: this.#moved,
      gone: this.#gone,
      refused: this.#refused,
      refusals: this.#refusals,
      unknown: this.#unknown,
      letters: this.#letters,
    };
  }
}

export function formatMoves(report: MoveReport): string {
  const { refused, refusals, letters } = report;
  const lines = letters
    .filter(({ to }) => to !== '')
    .slice(0, SHOWN_MAX)
    .map(({ stream, id, to }) => `${id} -> ${to} in ${stream}`);
  for (const { stream, id, why } of refusals.slice(0, SHOWN_MAX))
    lines.push(`${id} of ${stream} refused: ${why}`);
  if (refused > SHOWN_MAX) lines.push(`... and ${refused - SHOWN_MAX} more refused; --json has more of them`);
  lines.push(summaryOf(report));
  return `${lines.join('\n')}\n`;
}

/** `3 requeued, 1 refused` */
export function summaryOf({ action, dry_run: dryRun, moved, refused, gone }: MoveReport): string {
  const done = action === 'requeue' ? 'requeued' : 'dropped';
  const parts = [`${moved} ${dryRun ? `would be ${done}` : done}`];
  if (refused > 0) parts.push(`${refused} refused`);
  if (gone > 0) parts.push(`${gone} gone meanwhile`);
  return parts.join(', ');
}

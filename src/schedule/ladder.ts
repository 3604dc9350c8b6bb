/**
 * The rungs that answer for a model that cannot be asked, in its manifest's order. A row gets the answer of
 * the first rung that has one:
 *
 *   previous     the version before, if it has run the batch and could take the row
 *   last_known   the last prediction of the row's key, in the encoding that the row wants
 *   constant     always the same
 *
 * The rows are as intake left them: with a rung that runs nothing, nobody has looked into them.
 */
import type { Batch } from './batch.ts';
import type { LastKnown } from './last-known.ts';
import { ENCODING, RESULT, ROW, ROW_COLUMNS, RUNG } from './slab.ts';

export type Rung =
  | { readonly kind: 'previous'; readonly slot: number; readonly label: string }
  | { readonly kind: 'last_known'; readonly known: LastKnown }
  | { readonly kind: 'constant'; readonly msgpack: Uint8Array; readonly json: Uint8Array };

export type RungName = Exclude<keyof typeof RUNG, 'none'>;

const RUNG_NAMES = ['', 'previous', 'last_known', 'constant'] as const;

/** The rung that answered this row; '' for none. */
export function rungOf(batch: Batch, row: number): RungName | '' {
  return RUNG_NAMES[batch.rungs[row] as number] ?? '';
}

export interface FillOptions {
  /** By row, 1: it needs an answer. The others stay as they are. */
  readonly wanted: Uint8Array;
  readonly nowMs: number;
  /** The previous version has run the batch: its results stand in the table. */
  readonly previousRan: boolean;
  /** Why a row that no rung answers has failed, in words; null: what the row says already. */
  readonly reason: string | null;
}

export class Ladder {
  readonly #rungs: readonly Rung[];
  readonly #known: LastKnown | null;

  constructor(rungs: readonly Rung[]) {
    this.#rungs = rungs;
    this.#known = rungs.find((rung) => rung.kind === 'last_known')?.known ?? null;
  }

  get isEmpty(): boolean {
    return this.#rungs.length === 0;
  }

  /** `previous (m@1), last_known`; '' without rungs. */
  get text(): string {
    return this.#rungs.map((rung) => (rung.kind === 'previous' ? rung.label : rung.kind)).join(', ');
  }

  /** Slot of the version before; null: there is no such rung. */
  get previous(): number | null {
    return this.#rungs.find((rung) => rung.kind === 'previous')?.slot ?? null;
  }

  /** The model was well: what it predicted for each key is remembered. */
  keep(batch: Batch, rows: number, nowMs: number): void {
    const known = this.#known;
    if (known === null) return;
    const { table, outputs } = batch;
    for (let row = 0; row < rows; row += 1) {
      const at = row * ROW_COLUMNS;
      if (table[at + ROW.result] !== RESULT.ok || batch.keyBytes[row] === 0) continue;
      const start = table[at + ROW.outOffset] as number;
      const end = start + (table[at + ROW.outLength] as number);
      known.keep(keyOf(batch, row), table[at + ROW.encoding] as number, outputs, start, end, nowMs);
    }
  }

  /** Some wanted row has no answer from the rungs above the previous version. */
  needsPrevious(batch: Batch, wanted: Uint8Array, nowMs: number): boolean {
    const above = this.#rungs.slice(
      0,
      this.#rungs.findIndex(({ kind }) => kind === 'previous'),
    );
    for (let row = 0; row < wanted.length; row += 1) {
      if (wanted[row] === 0) continue;
      if (above.every((rung) => answerOf(rung, batch, row, nowMs) === undefined)) return true;
    }
    return false;
  }

  /**
   * Writes the answers into the batch. Returns how many wanted rows no rung could answer: they have failed.
   */
  fill(batch: Batch, options: FillOptions): number {
    const { wanted, reason } = options;
    const { table } = batch;
    const parts: Uint8Array[] = [];
    const refusal = reason === null ? null : Buffer.from(reason);
    let bytes = 0;
    let unanswered = 0;
    for (let row = 0; row < wanted.length; row += 1) {
      const at = row * ROW_COLUMNS;
      let part = wanted[row] === 0 ? undefined : this.#answer(batch, row, options);
      if (part === undefined && wanted[row] !== 0) {
        unanswered += 1;
        if (refusal !== null) {
          table[at + ROW.result] = RESULT.failed;
          part = refusal;
        }
      }
      part ??= written(batch, at);
      table[at + ROW.outOffset] = bytes;
      table[at + ROW.outLength] = part.length;
      bytes += part.length;
      parts.push(part);
    }
    batch.outputs = Buffer.concat(parts, bytes);
    return unanswered;
  }

  #answer(batch: Batch, row: number, { previousRan, nowMs }: FillOptions): Uint8Array | undefined {
    const { table, rungs } = batch;
    const at = row * ROW_COLUMNS;
    // What is malformed has no prediction, whoever is asked.
    if (previousRan && table[at + ROW.result] === RESULT.invalid) return written(batch, at);
    for (const rung of this.#rungs) {
      let part: Uint8Array | undefined;
      if (rung.kind !== 'previous') part = answerOf(rung, batch, row, nowMs);
      else if (previousRan && table[at + ROW.result] === RESULT.ok) part = written(batch, at);
      if (part === undefined) continue;
      table[at + ROW.result] = RESULT.ok;
      rungs[row] = RUNG[rung.kind];
      return part;
    }
    return undefined;
  }
}

/** Of a rung that runs nothing. */
function answerOf(rung: Rung, batch: Batch, row: number, nowMs: number): Uint8Array | undefined {
  const encoding = batch.table[row * ROW_COLUMNS + ROW.encoding] as number;
  if (rung.kind === 'constant') return encoding === ENCODING.json ? rung.json : rung.msgpack;
  if (rung.kind === 'previous' || batch.keyBytes[row] === 0) return undefined;
  return rung.known.get(keyOf(batch, row), encoding, nowMs);
}

function keyOf({ keys, keyBytes, keyBytesMax }: Batch, row: number): string {
  const at = row * keyBytesMax;
  return keys.toString('latin1', at, at + (keyBytes[row] as number));
}

function written({ table, outputs }: Batch, at: number): Uint8Array {
  const start = table[at + ROW.outOffset] as number;
  return outputs.subarray(start, start + (table[at + ROW.outLength] as number));
}

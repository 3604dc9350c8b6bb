/**
 * The measuring, measured: work whose allocations are known. Where these figures are wrong, no other can be
 * believed.
 */
import { type MicroCase, twinOnly } from './case.ts';

/** An object with one field: map, properties, elements and the field, eight bytes each. */
export const OBJECT_BYTES = 32;

const column = new Float64Array(1024);
const kept: (object | null)[] = new Array<object | null>(1024).fill(null);

function columns(events: number): void {
  for (let event = 0; event < events; event++) column[event] = column[event]! + event;
}

function objects(events: number): void {
  for (let event = 0; event < events; event++) kept[event] = { event };
}

export const cases = (): readonly MicroCase[] => [
  { name: 'a number in a column', allocatesNothing: true, variants: twinOnly(columns) },
  { name: 'an object with one field', variants: twinOnly(objects) },
];

// Replies of the model and of a real server, made comparable.
import { ErrorReply, NIL_ARRAY, Status, type Value } from '../simulation/values.ts';
import { HOUR_MS } from './commands.ts';

/** Entry ids that a server made, and times in milliseconds: the two did not run at the same moment. */
const NOW_MS_MIN = 1e12;

const maskText = (text: string) => text.replace(/\b[12]\d{12}(-\d+)?\b/g, 'now');

/** Idle times and times to live to the hour; anything else as it is. */
function maskNumber(value: number): number | string {
  if (value > NOW_MS_MIN) return 'now';
  return value > HOUR_MS / 2 ? `${Math.round(value / HOUR_MS)} h` : value;
}

/** Idle times below this are "just now". */
const SOON_MS = 60_000;

export function comparable(value: Value, command: string): unknown {
  if (typeof value === 'string') return maskText(value);
  if (typeof value === 'number') return maskNumber(value);
  if (value === null) return 'nil';
  if (value === NIL_ARRAY) return 'nil array';
  if (value instanceof Status) return { ok: value.text };
  if (value instanceof ErrorReply) return { err: value.text };
  const items = value.map((item) => comparable(item, command));
  // A pending entry: id, consumer, idle, count.
  const isPending = command === 'XPENDING' && items.length === 4 && typeof value[2] === 'number';
  if (isPending && (value[2] as number) < SOON_MS) items[2] = 'soon';
  const idleAt = value.indexOf('idle');
  if (command === 'XINFO' && idleAt >= 0 && (value[idleAt + 1] as number) < SOON_MS)
    items[idleAt + 1] = 'soon';
  // How the radix tree is built inside is not part of the model.
  if (command === 'XINFO' && value[4] === 'radix-tree-nodes') items.splice(2, 4);
  if (command === 'XINFO' && items[0] === 'length') return items;
  return items;
}

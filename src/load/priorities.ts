/** `--priority`: which class each event of a run has. */
import { SubitoError } from '../errors.ts';
import { PRIORITY_MAX } from '../schedule/entry.ts';

const WEIGHT_MAX = 100;
const FORM = 'one class (0) or classes with shares (0:1,1:1,2:8)';

/** Classes in the order in which events get them, again and again; empty: events name none. */
export function priorityPattern(text: string): readonly number[] {
  if (text === '') return [];
  const shares = text.split(',').map((part) => {
    const [, priority, weight = '1'] = /^(\d+)(?::(\d+))?$/.exec(part.trim()) ?? [];
    const share = { priority: Number(priority), weight: Number(weight) };
    if (!(share.priority <= PRIORITY_MAX)) usage(`--priority is ${text}: classes are 0 to ${PRIORITY_MAX}`);
    if (!(share.weight >= 1 && share.weight <= WEIGHT_MAX)) {
      usage(`--priority is ${text}: shares are from 1 to ${WEIGHT_MAX}`);
    }
    return share;
  });
  if (new Set(shares.map(({ priority }) => priority)).size < shares.length) {
    usage(`--priority is ${text}: a class is given twice`);
  }
  return interleaved(shares);
}

/** As even as it gets: at each place the class that is furthest behind its share. */
function interleaved(shares: readonly { readonly priority: number; readonly weight: number }[]): number[] {
  const total = shares.reduce((sum, { weight }) => sum + weight, 0);
  const given = shares.map(() => 0);
  return Array.from({ length: total }, (_, place) => {
    const behind = shares.map(({ weight }, i) => (weight * (place + 1)) / total - given[i]!);
    const next = behind.indexOf(Math.max(...behind));
    given[next]!++;
    return shares[next]!.priority;
  });
}

function usage(message: string): never {
  throw new SubitoError('USAGE', message, { fix: `give ${FORM}` });
}

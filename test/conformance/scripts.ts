// Random calls of the engine's scripts, in the world of commands.ts.
import type { Random } from '../support/random.ts';
import { consumer, group, HOUR_MS, id, some, stream } from './commands.ts';

/** Name, keys, arguments. */
export type ScriptCall = readonly [string, readonly string[], readonly (string | number)[]];

const LEDGER = 'ledger';
const out = (random: Random) => (random.chance(0.05) ? 'hash' : 'out');
const dead = (random: Random) => (random.chance(0.05) ? 'text' : 'dead');
const realId = (random: Random) => `${random.int(1, 12)}-${random.int(0, 2)}`;

/** Rows as the commit script takes them: an array of MessagePack for each column. */
function columns(rows: readonly (readonly string[])[]): string {
  const column = (at: number) =>
    `\xdc\x00${String.fromCharCode(rows.length)}` +
    rows.map((row) => String.fromCharCode(0xa0 + row[at]!.length) + row[at]).join('');
  return [0, 1, 2, 3, 4].map(column).join('');
}

export const scriptCalls: Readonly<Record<string, (random: Random) => ScriptCall>> = {
  commit: (random) => {
    const rows = some(random, 5, (r) => [
      r.chance(0.1) ? '' : realId(r),
      'k',
      r.chance(0.3) ? 'e' : '',
      `${r.int(0, 99)}`,
      'outputs',
    ]);
    const isDirect = rows.some(([id]) => id === '');
    const epoch = isDirect || random.chance(0.5) ? 0 : random.int(1, 5);
    const head = [group(random), 'm@1', 5, random.int(0, 20), consumer(random), epoch];
    return ['commit', [stream(random), out(random), LEDGER], [...head, columns(rows)]];
  },
  outcome: (random) => {
    const rows = some(random, 4, (r) => {
      const [status, rung, outputs] = r.pick([
        ['expired', '', ''],
        ['degraded', 'constant', 'x'],
      ]);
      const id = r.chance(0.1) ? '' : realId(r);
      return [id, 'k', r.chance(0.3) ? 'e' : '', 'm@1', status!, `${r.int(0, 99)}`, 7, rung!, outputs!];
    });
    const head = [group(random), random.int(0, 20), consumer(random)];
    return ['outcome', [stream(random), out(random), LEDGER], [...head, ...rows.flat()]];
  },
  deadletter: (random) => {
    const rows = some(random, 4, (r) => [realId(r), r.pick(['invalid', 'failed']), 'why']);
    return ['deadletter', [stream(random), dead(random), LEDGER], [group(random), ...rows.flat()]];
  },
  claim: (random) => {
    const idle = () => (random.chance(0.6) ? 0 : HOUR_MS / 2);
    const after = random.chance(0.6) ? '' : realId(random);
    const limits = [random.int(0, 6), random.int(0, 3), random.int(0, 1), random.int(1, 5)];
    const argv = [group(random), consumer(random), idle(), idle(), after, ...limits, HOUR_MS / 2];
    return ['claim', [stream(random), LEDGER], argv];
  },
  arrive: (random) => ['arrive', [stream(random), LEDGER], [group(random)]],
  regroup: (random) => {
    const key = stream(random);
    if (random.chance(0.3)) return ['regroup', [key, LEDGER], [group(random), '', '', '', 0, '']];
    const read = random.chance(0.3) ? '' : random.int(0, 10);
    const epoch = random.chance(0.7) ? '' : random.int(1, 5);
    const last = random.chance(0.3) ? '0-0' : realId(random);
    const ids = random.chance(0.3) ? [] : some(random, 4, realId);
    return ['regroup', [key, LEDGER], [group(random), last, '0-0', read, random.int(0, 6), epoch, ...ids]];
  },
  release: (random) => [
    'release',
    [stream(random), 'text'],
    [group(random), consumer(random), random.int(0, 3), HOUR_MS, ...some(random, 3, realId)],
  ],
  reap: (random) => {
    if (random.chance(0.3)) return ['reap', [stream(random)], [group(random), 0]];
    return ['reap', [stream(random), 'text', 'none'], [group(random), 0, consumer(random), consumer(random)]];
  },
  occupy: (random) => ['occupy', [random.chance(0.9) ? 'text' : 's'], [random.int(0, 2), 50 * HOUR_MS, '1']],
  vacate: (random) => ['vacate', ['text'], [random.int(0, 2)]],
  trim: (random) => {
    const keepMs = random.chance(0.5) ? 0 : HOUR_MS;
    // Never of age now: whether an entry of this very millisecond is, the two would settle differently.
    const oldMs = random.chance(0.5) ? '' : random.pick([-HOUR_MS, HOUR_MS]);
    return ['trim', [stream(random), LEDGER, out(random)], [group(random), keepMs, oldMs, random.int(4, 20)]];
  },
  backlog: (random) => ['backlog', [stream(random), LEDGER], [group(random), random.int(1, 6)]],
  hints: (random) => {
    const keys = ['hints', random.chance(0.05) ? 'text' : 'parts', stream(random)];
    const rate = random.chance(0.4) ? '-' : random.int(0, 5000);
    const figures = [rate, random.int(0, 1000), random.int(0, 90), random.int(0, 900)];
    const state = random.pick(['ok', 'ok', 'slow', 'stop', 'gone']);
    // Below zero every part is stale.
    const staleMs = random.chance(0.9) ? HOUR_MS : -1;
    return ['hints', keys, [group(random), consumer(random), state, ...figures, staleMs]];
  },
  census: (random) => {
    const known = some(random, 3, consumer);
    return [
      'census',
      [stream(random), ...known.map(() => random.pick(['text', 'none']))],
      [group(random), ...known],
    ];
  },
  inspect: (random) => ['inspect', [stream(random)], [group(random)]],
  letters: (random) => [
    'letters',
    ['dead'],
    random.chance(0.5) ? ['+', '-', random.int(1, 9), 'newest'] : ['-', '+', random.int(1, 9), 'oldest'],
  ],
  requeue: (random) => [
    'requeue',
    [stream(random), dead(random), 'receipts'],
    [random.pick(['dry', 'wet']), 100, ...some(random, 2, id)],
  ],
  drop: (random) => [
    'drop',
    [dead(random), 'receipts'],
    [random.pick(['dry', 'wet']), 100, ...some(random, 2, id)],
  ],
};

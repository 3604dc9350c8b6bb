/**
 * Random faults, planned ahead by a seed: the same seed plans the same faults, whatever the engine does
 * meanwhile.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Random } from '../../support/random.ts';
import type { Direction } from './proxy.ts';
import type { World } from './world.ts';

const CONNECTIONS = ['subito:reader:events', 'subito:committer', 'subito:control', ''] as const;
const DIRECTIONS: readonly Direction[] = ['up', 'down', 'both'];

/** Shares of the kinds; connections fail more often than processes. */
const KINDS = [
  ...Array<'cut'>(4).fill('cut'),
  ...Array<'truncate'>(3).fill('truncate'),
  ...Array<'lose-reply'>(4).fill('lose-reply'),
  ...Array<'delay'>(2).fill('delay'),
  ...Array<'half-open'>(2).fill('half-open'),
  'outage',
  'kill',
  'kill',
  'pause',
  'stop',
  'redis-kill',
  'out-of-memory',
  'script-flush',
  'client-kill',
] as const;

export interface Fault {
  readonly atMs: number;
  readonly kind: (typeof KINDS)[number];
  readonly engine: number;
  /** Of the kinds that break connections; '' is all. */
  readonly connection: string;
  readonly direction: Direction;
  /** How long it lasts, where it lasts. */
  readonly forMs: number;
}

export function planStorm(random: Random, engines: number, durationMs: number): Fault[] {
  const faults: Fault[] = [];
  for (let atMs = random.int(100, 600); atMs < durationMs; atMs += random.int(50, 900)) {
    faults.push({
      atMs,
      kind: random.pick(KINDS),
      engine: random.int(0, engines - 1),
      connection: random.pick(CONNECTIONS),
      direction: random.pick(DIRECTIONS),
      forMs: random.int(10, random.chance(0.2) ? 4000 : 400),
    });
  }
  return faults;
}

export function describeFault({ atMs, kind, engine, connection, direction, forMs }: Fault): string {
  return `at ${atMs} ms ${kind}: engine ${engine}, '${connection}', ${direction}, ${forMs} ms`;
}

/** Carries the plan out. Resolves when every fault is over and every engine runs. */
export async function runStorm(world: World, plan: readonly Fault[]): Promise<void> {
  const beginMs = performance.now();
  const running: Promise<void>[] = [];
  const busy = new Set<object>();
  for (const fault of plan) {
    await sleep(Math.max(0, fault.atMs - (performance.now() - beginMs)));
    world.note(describeFault(fault));
    const carried = carryOut(world, fault, busy);
    // It is told at the end; until then it is nobody's.
    carried.catch(() => {});
    running.push(carried);
  }
  await Promise.all(running);
  for (const { proxy } of world.engines) proxy.heal();
}

/** One thing at a time with a process: a second signal waits for another fault. */
async function alone(busy: Set<object>, what: object, run: () => Promise<unknown>): Promise<void> {
  if (busy.has(what)) return;
  busy.add(what);
  await run().finally(() => busy.delete(what));
}

// tidy: one small case per kind of fault.
async function carryOut(world: World, fault: Fault, busy: Set<object>): Promise<void> {
  const { process, proxy } = world.engine(fault.engine);
  const { kind, connection, direction, forMs } = fault;
  const over = () => sleep(forMs);
  switch (kind) {
    case 'cut':
      proxy.cut(connection);
      return;
    case 'truncate':
      // It may never happen when nothing is said on this connection.
      void proxy.truncateReply(connection);
      return;
    case 'lose-reply':
      void proxy.loseReplyTo(connection.includes('reader') ? 'XREADGROUP' : 'EVALSHA', connection);
      return;
    case 'delay': {
      const end = proxy.delay(Math.min(forMs, 300), connection);
      await over();
      end();
      return;
    }
    case 'half-open': {
      const end = proxy.silence(direction, connection);
      await over();
      end();
      return;
    }
    case 'outage':
      proxy.refuse();
      await over();
      proxy.accept();
      return;
    case 'kill':
      return alone(busy, process, () =>
        process
          .kill()
          .then(over)
          .then(() => process.startAgain()),
      );
    case 'stop':
      return alone(busy, process, () =>
        process
          .terminate()
          .then(over)
          .then(() => process.startAgain()),
      );
    case 'pause':
      return alone(busy, process, async () => {
        process.pause();
        await over();
        process.resume();
      });
    case 'redis-kill':
      return alone(busy, world.redis, () =>
        world.redis
          .kill()
          .then(over)
          .then(() => world.redis.restart()),
      );
    case 'out-of-memory':
      await configure(world, 'maxmemory', '1');
      await over();
      await configure(world, 'maxmemory', '0');
      return;
    case 'script-flush':
      await world.client.script('FLUSH').catch(() => {});
      return;
    case 'client-kill':
      await world.client.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes').catch(() => {});
  }
}

/** The server may be away just now; then it starts as it was configured. */
async function configure(world: World, name: string, value: string): Promise<void> {
  await world.client.call('CONFIG', 'SET', name, value).catch(() => {});
}

// What goes wrong. Each fault ends by itself after a while; whatever has not ended at the end of the schedule
// is ended there.
import type { SimEngine } from './engine.ts';
import { ErrorReply } from './values.ts';
import type { World } from './world.ts';

type Fault = (world: World) => void;

const span = ({ random }: World): number => random.pick([5, 50, 500, 3_000]) * (0.2 + random.next());

function engineOf(world: World): SimEngine | undefined {
  const engines = [...world.engines].filter(({ isStopping }) => !isStopping);
  return engines.length === 0 ? undefined : world.random.pick(engines);
}

/** With one of the engines, if there is one. */
const withEngine =
  (run: (world: World, engine: SimEngine) => void): Fault =>
  (world) => {
    const engine = engineOf(world);
    if (engine !== undefined) run(world, engine);
  };

const cut = withEngine((world, engine) => {
  const { wires } = engine;
  if (wires.length === 0) return;
  world.note(`a connection of ${engine.process.name} is cut`);
  world.random.pick(wires).reset(world.random);
});

const silence = withEngine((world, engine) => {
  const { wires } = engine;
  if (wires.length === 0) return;
  world.note(`a connection of ${engine.process.name} falls silent`);
  world.disruptions += 1;
  world.random.pick(wires).silence();
});

const cutOff = withEngine((world, engine) => {
  const { process } = engine;
  const ms = span(world) * 3;
  world.note(`${process.name} reaches nobody for ${ms.toFixed(0)} ms`);
  world.disruptions += 1;
  world.cutOff.add(process);
  for (const wire of engine.wires) wire.silence();
  world.clock.later(ms, () => world.cutOff.delete(process), null);
});

const pause = withEngine((world, engine) => {
  const { process } = engine;
  if (process.isPaused) return;
  const ms = world.random.chance(0.5)
    ? span(world)
    : world.settings.claimIdleMs * (0.8 + world.random.next());
  world.note(`${process.name} stands still for ${ms.toFixed(0)} ms`);
  world.disruptions += 1;
  process.isPaused = true;
  world.clock.later(ms, () => process.isPaused && world.clock.resume(process), null);
});

const kill = withEngine((world, engine) => {
  world.note(`${engine.process.name} is killed`);
  world.disruptions += 1;
  world.kill(engine);
  if (world.random.chance(0.7)) world.clock.later(span(world), () => world.startEngine(), null);
});

const stop = withEngine((world, engine) => {
  if (engine.process.isPaused) return;
  world.note(`${engine.process.name} is stopped`);
  world.stop(engine);
  if (world.random.chance(0.7)) world.clock.later(span(world), () => world.startEngine(), null);
});

const stall: Fault = (world) => {
  const ms = span(world) * 2;
  world.note(`the server stands still for ${ms.toFixed(0)} ms`);
  world.server.stalledUntilMs = Math.max(world.server.stalledUntilMs, world.clock.nowMs + ms);
};

/** Comes back with all it had, or with what it had `lagMs` before. */
const restart =
  (loses: boolean): Fault =>
  (world) => {
    const before = loses ? world.snapshot() : null;
    const { server: dying } = world;
    const die = () => {
      if (world.server !== dying || dying.isDown || world.isHealed) return;
      const { server, random } = world;
      world.note(
        loses ? 'the server is restarted and has lost what it wrote last' : 'the server is restarted',
      );
      server.isDown = true;
      const snapshot = before ?? world.snapshot();
      for (const wire of [...server.wires]) wire.serverDied(random);
      const successor = world.newServer(world.restore(snapshot));
      successor.isDown = true;
      world.server = successor;
      const up = () => {
        successor.isDown = false;
      };
      world.clock.later(span(world), up, null);
    };
    if (loses) world.clock.later(span(world) / 3, die, null);
    else die();
  };

/**
 * A replica that lags behind takes over; the old server goes on for a while with those who know no better.
 */
const failover: Fault = (world) => {
  const snapshot = world.snapshot();
  const { server: old, random, clock } = world;
  clock.later(
    random.next() * 200,
    () => {
      if (world.server !== old || old.isDown || world.isHealed) return;
      world.note('a replica that lags behind takes over');
      const successor = world.newServer(world.restore(snapshot));
      world.server = successor;
      // It takes longer than the millisecond in which both would give out the same ids.
      successor.isDown = true;
      const promoted = () => {
        successor.isDown = false;
      };
      clock.later(2 + random.next() * 50, promoted, null);
      for (const wire of [...old.wires]) {
        const ms = random.chance(0.5) ? 0 : random.next() * 2_000;
        clock.later(ms, () => wire.serverDied(random), null);
      }
    },
    null,
  );
};

const serverOnly =
  (text: string, run: (world: World) => void): Fault =>
  (world) => {
    if (world.server.isDown) return;
    world.note(text);
    run(world);
  };

/** False where the server refuses it. */
const did = ({ server }: World, ...args: readonly string[]): boolean =>
  !(server.model.call(...args) instanceof ErrorReply);

const flush = serverOnly('FLUSHALL', (world) => {
  if (did(world, 'FLUSHALL')) world.ledger.flushed();
});

const destroyGroup = serverOnly('XGROUP DESTROY', (world) => {
  const { name, group } = world.random.pick(world.partitions);
  world.server.model.call('XGROUP', 'DESTROY', name, group);
});

const deleteStream = serverOnly('DEL of an input stream', (world) => {
  const { name } = world.random.pick(world.partitions);
  if (did(world, 'DEL', name)) world.ledger.deleted(world.server.model, name);
});

const deleteEntries = serverOnly('XDEL of some entries', (world) => {
  const { random, server } = world;
  const { name } = random.pick(world.partitions);
  if (server.model.store.typeOf(name) !== 'stream') return;
  const ids = server.model.store
    .stream(name)!
    .entries.map(({ text }) => text)
    .filter(() => random.chance(0.3));
  if (ids.length === 0) return;
  if (did(world, 'XDEL', name, ...ids)) world.ledger.deleted(server.model, name, ids);
});

const outOfMemory = serverOnly('memory is used up', ({ server, clock, random }) => {
  server.model.oom = true;
  const end = () => {
    server.model.oom = false;
  };
  clock.later(random.next() * 1_000, end, null);
});

const refuse = serverOnly('the server refuses', ({ server, clock, random }) => {
  server.model.refuses = random.pick([
    'LOADING Redis is loading the dataset in memory',
    'BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.',
  ]);
  const end = () => {
    server.model.refuses = '';
  };
  clock.later(random.next() * 1_000, end, null);
});

const readonly = serverOnly('the server is a replica for a while', ({ server, clock, random }) => {
  server.model.readonly = true;
  const end = () => {
    server.model.readonly = false;
  };
  clock.later(random.next() * 1_000, end, null);
});

const scriptFlush = serverOnly('SCRIPT FLUSH', ({ server }) => {
  server.model.call('SCRIPT', 'FLUSH');
});

const killClients = serverOnly('all connections are cut', ({ server, random }) => {
  server.dropAll(random);
});

export const FAULTS = {
  cut,
  silence,
  cutOff,
  pause,
  kill,
  stop,
  stall,
  restart: restart(false),
  restartWithLoss: restart(true),
  failover,
  flush,
  destroyGroup,
  deleteStream,
  deleteEntries,
  outOfMemory,
  refuse,
  readonly,
  scriptFlush,
  killClients,
} as const satisfies Record<string, Fault>;

export type FaultName = keyof typeof FAULTS;

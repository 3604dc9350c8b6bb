/** A server under test with all the processes that it starts, its own and those that they start. */
import type { ChildProcess } from 'node:child_process';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Launch } from './contestants.ts';

/** Ray starts a cluster first. */
const READY_MS_MAX = 90_000;
const STOP_MS_MAX = 10_000;
/** Linux reports process times in ticks of 10 ms on every architecture. */
const TICK_US = 10_000;

let started = 0;

export class Server {
  readonly url: string;
  readonly #child: ChildProcess;
  /** In the environment of all of them, however far they have gone from their parent. */
  readonly #mark: string;
  /**
   * The ticks of those seen so far; some write over their environment, but their parents are known then.
   * Those that are gone keep their last ones.
   */
  readonly #ticks = new Map<string, number>();
  /** Numbers of those that live. */
  readonly #pids = new Set<number>();
  #output = '';

  /** Resolves when `check` does; until then it is asked again. */
  static async start(launch: Launch, check: (url: string) => Promise<void>): Promise<Server> {
    const server = new Server(launch);
    // Whether there is such a program is known a moment later.
    await sleep(0);
    const endMs = Date.now() + READY_MS_MAX;
    for (;;) {
      server.#look();
      const trouble = await check(launch.url).then(
        () => '',
        (error: Error) => error.message,
      );
      if (trouble === '') return server;
      if (server.ended || Date.now() > endMs) {
        await server.stop();
        throw new Error(`it does not answer (${trouble}):\n${server.#output}`);
      }
      await sleep(250);
    }
  }

  private constructor({ argv: [program, ...args], env, cwd, url }: Launch) {
    this.url = url;
    this.#mark = `SUBITO_BENCH_SERVER=${process.pid}-${++started}`;
    const [name = '', value = ''] = this.#mark.split('=');
    this.#child = spawn(program, args, {
      cwd,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...env, [name]: value },
    });
    const collect = (chunk: Buffer) => {
      // The end of a long complaint is the part that tells.
      this.#output = (this.#output + chunk.toString()).slice(-5000);
    };
    this.#child.stdout!.on('data', collect);
    this.#child.stderr!.on('data', collect);
    this.#child.on('error', (error) => collect(Buffer.from(error.message)));
    // Servers must not outlive a benchmark that is broken off.
    process.on('exit', this.#kill);
  }

  get ended(): boolean {
    return this.#child.pid === undefined || this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  /** Of all its processes, as far as they have been seen. */
  get pids(): number[] {
    this.#look();
    return [...this.#pids];
  }

  /** Of all its processes so far, microseconds. */
  cpuUs(): number {
    this.#look();
    for (const pid of this.#pids) {
      const fields = statOf(pid);
      // A number may come again; with its start time it is one process.
      if (fields !== undefined)
        this.#ticks.set(`${pid} ${fields[19]}`, Number(fields[11]) + Number(fields[12]));
    }
    return [...this.#ticks.values()].reduce((sum, ticks) => sum + ticks, 0) * TICK_US;
  }

  async stop(): Promise<void> {
    this.#look();
    if (!this.ended) {
      const exit = once(this.#child, 'exit');
      this.#child.kill('SIGTERM');
      await Promise.race([exit, sleep(STOP_MS_MAX)]);
    }
    this.#kill();
    process.off('exit', this.#kill);
  }

  readonly #kill = (): void => {
    this.#look();
    for (const pid of this.#pids) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // Gone by itself.
      }
    }
  };

  /** Finds the processes that are there now; those that are gone are forgotten, for numbers come again. */
  #look(): void {
    if (this.#child.pid !== undefined) this.#pids.add(this.#child.pid);
    const parents = new Map<number, number>();
    for (const name of readdirSync('/proc')) {
      const pid = Number(name);
      const parent = Number.isInteger(pid) ? statOf(pid)?.[1] : undefined;
      if (parent !== undefined) parents.set(pid, Number(parent));
    }
    for (const pid of this.#pids) if (!parents.has(pid)) this.#pids.delete(pid);
    // Children may have lower numbers than their parents: until no more are found.
    for (let before = -1; before !== this.#pids.size; ) {
      before = this.#pids.size;
      for (const [pid, parent] of parents) {
        if (this.#pids.has(parent) || this.#isMarked(pid)) this.#pids.add(pid);
      }
    }
  }

  #isMarked(pid: number): boolean {
    return readText(`/proc/${pid}/environ`).split('\0').includes(this.#mark);
  }
}

/** The fields after the name; undefined when there is no such process. */
function statOf(pid: number): string[] | undefined {
  const stat = readText(`/proc/${pid}/stat`);
  // The name in parentheses may hold spaces.
  return stat === '' ? undefined : stat.slice(stat.lastIndexOf(')') + 2).split(' ');
}

/** Empty when it is gone, or not ours to read. */
function readText(path: string): string {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return '';
  }
}

/** `subito serve` as a process of its own, which can be killed, paused and started again. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const READY_MS_MAX = 100_000;
const STARTS_MAX = 20;
const LOG_LINES_MAX = 60;

export class EngineProcess {
  readonly name: string;
  readonly #dir = mkdtempSync(join(tmpdir(), 'subito-fault-engine-'));
  readonly #log: string[] = [];
  #child: ChildProcess | null = null;
  #url = '';
  /** Starts again whenever it ends by itself, as under any supervisor. */
  supervised = false;
  starts = 0;
  readonly #onExit = (): void => {
    this.#child?.kill('SIGKILL');
  };

  /** `config` is what subito.yaml would say. */
  constructor(name: string, config: object) {
    this.name = name;
    // YAML reads JSON.
    writeFileSync(join(this.#dir, 'subito.yaml'), JSON.stringify(config));
    process.on('exit', this.#onExit);
  }

  get url(): string {
    return this.#url;
  }

  get running(): boolean {
    return this.#child !== null && this.#child.exitCode === null && this.#child.signalCode === null;
  }

  get log(): readonly string[] {
    return this.#log;
  }

  /** Resolves when it serves. */
  async start(): Promise<void> {
    const args = ['src/main.ts', 'serve', '--json', '--config', join(this.#dir, 'subito.yaml')];
    this.#note('started');
    this.starts += 1;
    // Settings of the tests are none of the engine's.
    const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^SUBITO_/.test(name)));
    const child = spawn(process.execPath, args, { cwd: ROOT, env, stdio: ['ignore', 'pipe', 'pipe'] });
    this.#child = child;
    child.stderr.on('data', (bytes: Buffer) => this.#keep(bytes.toString()));
    child.once('exit', (code, signal) => {
      this.#note(`ended: ${signal ?? code}`);
      if (this.supervised && child === this.#child) void this.startAgain().catch(() => {});
    });
    const ready = new Promise<void>((resolve) => {
      child.stdout.on('data', (bytes: Buffer) => {
        const said = /"url":"([^"]+)"/.exec(bytes.toString());
        if (said === null) return;
        this.#url = said[1] as string;
        resolve();
      });
    });
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error(`${this.name} was not ready in time`)), READY_MS_MAX);
    });
    const ended = once(child, 'exit').then(([code, signal]) => {
      throw new Error(`${this.name} ended before it served: ${signal ?? code}\n${this.#log.join('\n')}`);
    });
    await Promise.race([ready, late, ended]).finally(() => clearTimeout(timer));
    ended.catch(() => {});
  }

  /** As a supervisor would: again and again, for an engine does not start while Redis is away. */
  async startAgain(): Promise<void> {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await this.start();
      } catch (error) {
        if (attempt === STARTS_MAX) throw error;
      }
    }
  }

  /** Resolves when the process is gone, with its exit code, or null when a signal ended it. */
  async #end(signal: NodeJS.Signals): Promise<number | null> {
    const child = this.#child;
    this.supervised = false;
    if (child === null || !this.running) return child?.exitCode ?? null;
    const exit = once(child, 'exit');
    this.#note(signal);
    child.kill(signal);
    const [code] = (await exit) as [number | null];
    return code;
  }

  kill(): Promise<number | null> {
    return this.#end('SIGKILL');
  }

  /** A graceful stop. */
  terminate(): Promise<number | null> {
    return this.#end('SIGTERM');
  }

  pause(): void {
    this.#note('SIGSTOP');
    this.#child?.kill('SIGSTOP');
  }

  resume(): void {
    this.#note('SIGCONT');
    this.#child?.kill('SIGCONT');
  }

  /** The value of a gauge or counter of /metrics, of the first series whose labels hold `labels`. */
  async metric(name: string, labels = ''): Promise<number | undefined> {
    const page = await (await fetch(`${this.#url}/metrics`)).text();
    for (const line of page.split('\n')) {
      if (!line.startsWith(`${name}{`) && !line.startsWith(`${name} `)) continue;
      if (line.includes(labels)) return Number(line.slice(line.lastIndexOf(' ')));
    }
    return undefined;
  }

  async stop(): Promise<void> {
    await this.kill();
    process.off('exit', this.#onExit);
    rmSync(this.#dir, { recursive: true, force: true });
  }

  #note(text: string): void {
    this.#keep(`--- ${new Date().toISOString().slice(11, 23)} ${text}\n`);
  }

  #keep(text: string): void {
    this.#log.push(...text.split('\n').filter((line) => line !== ''));
    if (this.#log.length > LOG_LINES_MAX) this.#log.splice(0, this.#log.length - LOG_LINES_MAX);
  }
}

/** The engine of a scenario: `subito serve` with both models and a stream for each kind of event. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { freePort } from '../../src/ports.ts';
import { engineConfig, SUBITO } from '../e2e/engine.ts';
import { Runner } from '../runner.ts';
import type { Site } from '../site.ts';
import { added } from '../streams.ts';
import { FAULT_FILE, FaultFile } from './fault.ts';
import { type Models, type ModelsOptions, makeModels } from './models.ts';

/** Streams of events, and which model each asks. */
export const STREAMS = { slow: 'slow', big: 'slow', small: 'slow', fast: 'fast' } as const;
export type StreamName = keyof typeof STREAMS;
export const predictionsOf = (stream: StreamName) => `${stream}:predictions`;
export const deadlettersOf = (stream: StreamName) => `${stream}:deadletters`;

/** A connection's events a second: few connections are to carry more than the engine can do. */
export const EVENTS_PER_CONNECTION = 2000;
const AUDIT_WAIT_S = 30;

export interface Health {
  /** No answer at all: false, with why. */
  readonly live: boolean;
  readonly ready: boolean;
  readonly reasons: readonly string[];
}

export interface Audit {
  readonly clean: boolean;
  /** What it says when it is not. */
  readonly text: string;
}

export class OverloadEngine {
  readonly site: Site;
  readonly url: string;
  readonly fault: FaultFile;
  readonly models: Models;
  readonly runner: Runner;
  readonly #config: string;

  /** Live; ready, unless a model cannot be had. */
  static async start(
    site: Site,
    deadlineMs: number,
    modelsOptions: ModelsOptions = {},
  ): Promise<OverloadEngine> {
    const port = await freePort();
    const place = (name: string) => join(site.directory, `${name}-${port}`);
    const models = makeModels(place('models'), modelsOptions);
    const fault = new FaultFile(place('fault'), true);
    const config = place('overload.yaml');
    writeFileSync(config, JSON.stringify(configOf(site, port, models.path, deadlineMs)));
    const url = `http://127.0.0.1:${port}`;
    const isUp = async () => {
      const { live, ready, reasons } = await healthOf(url);
      return live && (ready || reasons.some((reason) => reason.includes('slow')));
    };
    const env = { [FAULT_FILE]: fault.path };
    const runner = await Runner.start([...SUBITO, 'serve', '--config', config], isUp, { env });
    return new OverloadEngine(site, url, fault, models, runner, config);
  }

  private constructor(
    site: Site,
    url: string,
    fault: FaultFile,
    models: Models,
    runner: Runner,
    config: string,
  ) {
    this.site = site;
    this.url = url;
    this.fault = fault;
    this.models = models;
    this.runner = runner;
    this.#config = config;
  }

  health(): Promise<Health> {
    return healthOf(this.url);
  }

  /** Events of these streams that have neither a prediction nor a dead letter. */
  async backlog(streams: readonly StreamName[]): Promise<number> {
    const { wire } = this.site;
    const counts = await Promise.all(
      streams.map(async (stream) => {
        // Outcomes first: an event that comes in between may count as waiting, and none as below zero.
        const outcomes = await Promise.all(
          [predictionsOf, deadlettersOf].map((of) => added(wire, of(stream))),
        );
        return (await added(wire, stream)) - outcomes.reduce((sum, count) => sum + count, 0);
      }),
    );
    return counts.reduce((sum, count) => sum + count, 0);
  }

  /** `subito audit`, after what is left has had its time. */
  async audit(): Promise<Audit> {
    const args = [...SUBITO, 'audit', '--config', this.#config, '--quiet', '--wait', `${AUDIT_WAIT_S}`];
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    let text = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (chunk: Buffer) => {
        text = (text + chunk.toString()).slice(-5000);
      });
    }
    const [code] = await once(child, 'close');
    return { clean: code === 0, text };
  }

  /** All streams of its Redis are emptied too: the next engine begins anew. */
  async stop(): Promise<void> {
    await this.runner.stop();
    this.fault.close();
    await this.site.wire.call(['FLUSHALL']);
  }
}

function configOf(site: Site, port: number, models: string, deadlineMs: number): object {
  const streams = Object.entries(STREAMS).map(([name, model]) => ({
    name,
    model,
    group: 'subito',
    predictions: predictionsOf(name as StreamName),
    deadletters: deadlettersOf(name as StreamName),
    deadline_ms: deadlineMs,
    events_keep_ms: 1000,
  }));
  return {
    ...engineConfig(site, port),
    streams,
    models: { path: models },
    limits: { events_per_second_max: EVENTS_PER_CONNECTION },
  };
}

async function healthOf(url: string): Promise<Health> {
  const ask = async (which: 'live' | 'ready') => {
    const response = await fetch(`${url}/v2/health/${which}`, { signal: AbortSignal.timeout(5000) });
    const { reasons = [] } = (await response.json()) as { reasons?: readonly string[] };
    return { ok: response.ok, reasons };
  };
  try {
    const [live, ready] = [await ask('live'), await ask('ready')];
    return { live: live.ok, ready: ready.ok, reasons: [...new Set([...live.reasons, ...ready.reasons])] };
  } catch (error) {
    return { live: false, ready: false, reasons: [(error as Error).message] };
  }
}

export interface SeenHealth extends Health {
  /** Milliseconds since the watch began. */
  readonly atMs: number;
}

/** Looks every tenth of a second until it is told to stop; gives each state that differs from the last. */
export function watchHealth(engine: OverloadEngine): () => Promise<readonly SeenHealth[]> {
  const seen: SeenHealth[] = [];
  const beganMs = performance.now();
  let last = '';
  let running = true;
  const watching = (async () => {
    while (running) {
      const health = await engine.health();
      const text = JSON.stringify(health);
      if (text !== last) seen.push({ atMs: performance.now() - beganMs, ...health });
      last = text;
      await sleep(100);
    }
  })();
  return async () => {
    running = false;
    await watching;
    return seen;
  };
}

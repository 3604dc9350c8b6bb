/** autocannon in a process of its own; cannon-process.ts is the other side. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';

export interface CannonPlan {
  readonly url: string;
  readonly body: string;
  /** Each asks again as soon as it is answered. */
  readonly connections: number;
  readonly seconds: number;
}

export interface CannonReport {
  /** Answers, by status code. */
  readonly statuses: Readonly<Record<string, number>>;
  /** Answers 429 and 503: in all, and with Retry-After. */
  readonly refusals: number;
  readonly retryAfter: number;
  readonly seconds: number;
  /** Of all answers, milliseconds. */
  readonly p50: number;
  readonly p99: number;
  /** Connections that failed, requests without an answer. */
  readonly errors: number;
  readonly timeouts: number;
}

export type CannonMessage =
  | { readonly say: 'done'; readonly report: CannonReport }
  | { readonly say: 'failed'; readonly why: string };

const PROCESS = new URL('./cannon-process.ts', import.meta.url).pathname;

/** Rejects when the process fails. */
export async function cannon(plan: CannonPlan): Promise<CannonReport> {
  const child = spawn(process.execPath, [PROCESS, JSON.stringify(plan)], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  let last: CannonMessage | null = null;
  child.on('message', (message: CannonMessage) => {
    last = message;
  });
  await once(child, 'exit');
  const end = last as CannonMessage | null;
  if (end?.say === 'done') return end.report;
  throw new Error(`autocannon ${end?.say === 'failed' ? `failed: ${end.why}` : 'ended too early'}`);
}

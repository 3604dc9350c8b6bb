/** What became of an event in one word, the same for all ways. */

export const STATUSES = [
  'ok',
  'degraded',
  'expired',
  'overloaded',
  'superseded',
  'cancelled',
  'failed',
  'invalid',
  'unavailable',
  /** Anything else that somebody said: a rate limit, a lost connection, an error of Redis. */
  'refused',
  /** Nobody said anything in time. */
  'lost',
] as const;
export type Status = (typeof STATUSES)[number];
export type StatusCounts = Readonly<Partial<Record<Status, number>>>;

/** The gateway's names, where they are not those of the predictions stream. */
const NAMES: Readonly<Record<string, Status>> = {
  deadline_exceeded: 'expired',
  internal: 'failed',
  invalid_event: 'invalid',
  model_unavailable: 'unavailable',
};

/** Of a code as the ways give it: '' for a good answer; `expired`, `HTTP 429 overloaded: ...`, `113 ...`. */
export function statusOf(code: string): Status {
  if (code === '') return 'ok';
  const [, word = ''] = /^(?:dead letter |HTTP \d+ |\d+ )?(\w+)/.exec(code) ?? [];
  const known = STATUSES.find((status) => status === word) ?? NAMES[word];
  // Nobody who says something is silent, and nothing that is no answer is good.
  return known === undefined || known === 'lost' || known === 'ok' ? 'refused' : known;
}

/** It carries a prediction. */
export const isGood = (status: Status) => status === 'ok' || status === 'degraded';

/**
 * Reads what became of the events, from the streams themselves and with nothing of the engine: how many
 * outcomes each event has, and which.
 */
import type { Redis } from 'ioredis';

export interface Outcome {
  /** The producer's number. */
  readonly event: number;
  readonly source: string;
  /** `ok` and the like of a prediction; the `reason` of a dead letter. */
  readonly status: string;
  readonly detail: string;
  readonly deliveries: string;
  /** `predictions` or `deadletters`, and the entry's id there. */
  readonly stream: string;
  readonly id: string;
}

const PAGE = 2000;

export class Outcomes {
  readonly #redis: Redis;
  readonly #streams: readonly string[];
  /** Last entry seen of each stream. */
  readonly #last = new Map<string, string>();
  readonly #byEvent = new Map<number, Outcome[]>();
  readonly #sources = new Set<string>();

  constructor(redis: Redis, streams: readonly string[] = ['predictions', 'deadletters']) {
    this.#redis = redis;
    this.#streams = streams;
  }

  /** Reads what is new. */
  async read(): Promise<void> {
    for (const stream of this.#streams) {
      for (;;) {
        const after = this.#last.get(stream);
        const from = after === undefined ? '-' : `(${after}`;
        const entries = await this.#redis.xrange(stream, from, '+', 'COUNT', PAGE);
        for (const [id, values] of entries) this.#take(stream, id, values);
        const end = entries.at(-1);
        if (end !== undefined) this.#last.set(stream, end[0]);
        if (entries.length < PAGE) break;
      }
    }
  }

  /** Reads everything anew: outcomes may have been lost with the server. */
  async readAgain(): Promise<void> {
    this.#last.clear();
    this.#byEvent.clear();
    this.#sources.clear();
    await this.read();
  }

  of(event: number): readonly Outcome[] {
    return this.#byEvent.get(event) ?? [];
  }

  /** Whether the input entry has an outcome. */
  hasSource(id: string): boolean {
    return this.#sources.has(id);
  }

  events(): Iterable<number> {
    return this.#byEvent.keys();
  }

  all(): Outcome[] {
    return [...this.#byEvent.values()].flat();
  }

  #take(stream: string, id: string, values: readonly string[]): void {
    const field = (name: string) => {
      for (let i = 0; i < values.length; i += 2) if (values[i] === name) return values[i + 1] as string;
      return '';
    };
    const event = Number(field('event'));
    const outcome = {
      event,
      source: field('source'),
      status: field('status') || field('reason'),
      detail: field('detail'),
      deliveries: field('deliveries'),
      stream,
      id,
    };
    this.#sources.add(outcome.source);
    const others = this.#byEvent.get(event);
    if (others === undefined) this.#byEvent.set(event, [outcome]);
    else others.push(outcome);
  }
}

/**
 * Appends to the input stream, once per event id. A client that lost its connection before the `ack` sends
 * the event again, perhaps over another connection, perhaps while the first append is still on its way to
 * Redis. Within the window both end in one entry and the same `sid`.
 *
 * An id is, in this order: unknown; in flight, with everyone who asked for it since waiting for the one
 * answer; known, with its `sid`, until the window has passed or newer ids need the room. A failed append
 * makes it unknown again: the client is told, and its next try is a first try.
 *
 * The window belongs to this process. A client that reconnects to another replica may append a second time:
 * a consumer that must not see that compares `event` in the predictions.
 */
import type { StreamEvent } from './backend.ts';

export interface AppendOutcome {
  /** Entry id in the input stream; '' when the append failed. */
  readonly sid: string;
  /** The entry was already there, or on its way, when this was asked. */
  readonly dup: boolean;
  /** What the append was rejected with; undefined when it succeeded. */
  readonly error: unknown;
}

export interface AppendsOptions {
  readonly append: (event: StreamEvent) => Promise<string>;
  readonly windowMs: number;
  /** Ids remembered at most; the oldest known one goes first. */
  readonly idsMax: number;
}

type Done = (outcome: AppendOutcome) => void;

interface Entry {
  /** '' while in flight. */
  sid: string;
  readonly atMs: number;
  readonly waiting: Done[];
}

export class Appends {
  readonly #options: AppendsOptions;
  /** In order of arrival, so the oldest is first. */
  readonly #entries = new Map<string, Entry>();

  constructor(options: AppendsOptions) {
    this.#options = options;
  }

  get size(): number {
    return this.#entries.size;
  }

  /**
   * `done` is called exactly once, possibly before this returns. An event without an id is always appended.
   */
  append(event: StreamEvent, nowMs: number, done: Done): void {
    this.#forget(nowMs);
    const id = event.event === '' ? '' : identity(event);
    const entry = id === '' ? undefined : this.#entries.get(id);
    if (entry !== undefined) {
      if (entry.sid === '') entry.waiting.push(done);
      else done({ sid: entry.sid, dup: true, error: undefined });
      return;
    }
    const fresh: Entry = { sid: '', atMs: nowMs, waiting: [] };
    if (id !== '') this.#entries.set(id, fresh);
    // Inside a promise, so that one which throws at once fails like one which rejects.
    new Promise<string>((resolve) => resolve(this.#options.append(event))).then(
      (sid) => {
        fresh.sid = sid;
        done({ sid, dup: false, error: undefined });
        for (const wait of fresh.waiting.splice(0)) wait({ sid, dup: true, error: undefined });
      },
      (error: unknown) => {
        // It may have been evicted, and asked for anew, in the meantime: remove only what is ours.
        if (this.#entries.get(id) === fresh) this.#entries.delete(id);
        done({ sid: '', dup: false, error });
        for (const wait of fresh.waiting.splice(0)) wait({ sid: '', dup: false, error });
      },
    );
  }

  /** Drops what is older than the window, and the oldest beyond `idsMax`. */
  #forget(nowMs: number): void {
    for (const [id, entry] of this.#entries) {
      const old = nowMs - entry.atMs >= this.#options.windowMs;
      if (!old && this.#entries.size < this.#options.idsMax) return;
      this.#entries.delete(id);
    }
  }
}

/** Lengths in front, so that no choice of key can look like another key and id. */
function identity(event: StreamEvent): string {
  return `${event.key.length}:${event.model.length}:${event.key}${event.model}${event.event}`;
}

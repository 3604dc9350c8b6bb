/**
 * `--via stream`: XADD through one raw pipelined connection. The answers are seen by tailing the predictions
 * stream, or as pushed frames; dead letters are always followed, since they settle an event too.
 */
import { messageOf, SubitoError } from '../errors.ts';
import { RedisReplyError, type Reply } from '../redis/reply.ts';
import { encodeBulk } from '../redis/resp.ts';
import type { StreamTail } from '../redis/stream-tail.ts';
import { RedisWire } from '../redis/wire.ts';
import type { LoadOptions } from './options.ts';
import type { Sample } from './payload.ts';
import { priorityPattern } from './priorities.ts';
import { PushObserver } from './push.ts';
import type { Settle, Way } from './way.ts';
import { eventId, eventNumber, keyOf, statusCode } from './way.ts';

/** After the last answer, how long duplicates are waited for. */
const LINGER_MS = 300;

export class StreamWay implements Way {
  readonly notes: string[] = [];
  readonly #options: LoadOptions;
  readonly #run: string;
  readonly #settle: Settle;
  readonly #fail: (error: Error) => void;
  /** Up to and with the name of the field whose value differs by event: `key`. */
  readonly #head: Buffer;
  readonly #keys: Buffer[];
  /** From after the key's value to the end, less the event id. */
  readonly #bodies: Buffer[];
  /** Name and value of `priority`, in the order in which events have them; empty: they have none. */
  readonly #classes: Buffer[];
  #wire: RedisWire | null = null;
  readonly #tails: StreamTail[] = [];
  #push: PushObserver | null = null;
  #deadLetterSeen = false;
  #parts: Buffer[] = [];
  #seqs: number[] = [];
  /** Push only: milliseconds of each event's entry id; a pushed frame does not carry it. */
  readonly #entryMs = new Map<number, number>();

  constructor(
    options: LoadOptions,
    run: string,
    samples: readonly Sample[],
    settle: Settle,
    fail: (error: Error) => void,
  ) {
    this.#options = options;
    this.#run = run;
    this.#settle = settle;
    this.#fail = fail;
    const pattern = priorityPattern(options.priority);
    const more = [options.model !== '', options.deadlineMs > 0, pattern.length > 0].filter(Boolean);
    const fields = 3 + more.length;
    this.#head = Buffer.concat([
      Buffer.from(`*${3 + fields * 2}\r\n`),
      ...['XADD', options.stream, '*', 'key'].map(encodeBulk),
    ]);
    const keys = Math.min(options.keys, 100_000);
    this.#keys = Array.from({ length: keys }, (_, index) => encodeBulk(keyOf(index, { ...options, keys })));
    const model = options.model === '' ? [] : ['model', options.model];
    const deadline = options.deadlineMs === 0 ? [] : ['deadline_ms', `${options.deadlineMs}`];
    const named = [...model, ...deadline].map(encodeBulk);
    this.#classes = pattern.map((priority) => Buffer.concat(['priority', `${priority}`].map(encodeBulk)));
    this.#bodies = samples.map((sample) => {
      const data = options.encoding === 'json' ? sample.json : sample.msgpack;
      return Buffer.concat([
        ...named,
        encodeBulk(sample.features === null ? 'data' : 'features'),
        encodeBulk(sample.features ?? data),
        encodeBulk('event'),
      ]);
    });
  }

  async open(): Promise<void> {
    const { redisUrl, predictions, deadletters, observe } = this.#options;
    const wire = await RedisWire.connect(redisUrl);
    this.#wire = wire;
    await checkServes(wire, [this.#options.stream, predictions, deadletters]);
    wire.onLost = this.#fail;
    this.#tails.push(
      await wire.tail(deadletters, ['event', 'reason', 'detail'], (entry) =>
        this.#deadLetter(entry.text(0), entry.text(1), entry.text(2)),
      ),
    );
    if (observe === 'tail') {
      this.#tails.push(
        await wire.tail(predictions, ['event', 'source', 'status'], (entry) =>
          this.#predicted(entry.id, entry.text(0), entry.text(1), entry.text(2)),
        ),
      );
    }
    if (observe === 'push') {
      this.#push = new PushObserver(
        this.#options,
        (event, status) => this.#pushed(event, status),
        this.#fail,
      );
      await this.#push.open();
      this.notes.push(...this.#push.notes);
    }
  }

  send(seq: number): void {
    const id = eventId(this.#run, seq);
    this.#parts.push(
      this.#head,
      this.#keys[seq % this.#keys.length]!,
      ...(this.#classes.length === 0 ? [] : [this.#classes[seq % this.#classes.length]!]),
      this.#bodies[seq % this.#bodies.length]!,
      Buffer.from(`$${id.length}\r\n${id}\r\n`),
    );
    this.#seqs.push(seq);
  }

  flush(): void {
    if (this.#seqs.length === 0) return;
    const seqs = this.#seqs;
    const bytes = Buffer.concat(this.#parts);
    this.#parts = [];
    this.#seqs = [];
    let at = 0;
    this.#wire!.write(bytes, seqs.length, (reply) => this.#added(seqs[at++]!, reply));
  }

  async close(): Promise<void> {
    await new Promise((resolve) => setTimeout(resolve, LINGER_MS));
    this.#wire?.close();
    for (const tail of this.#tails) tail.close();
    await this.#push?.close();
  }

  #added(seq: number, reply: Reply): void {
    if (reply instanceof RedisReplyError) {
      // The first word is Redis's own error code: OOM, READONLY, LOADING ...
      this.#settle(seq, `redis ${reply.message.split(' ', 1)[0]}`);
    } else if (this.#push !== null) {
      this.#entryMs.set(seq, idMs(reply as string));
    }
  }

  #predicted(
    id: string,
    event: string | undefined,
    source: string | undefined,
    status: string | undefined,
  ): void {
    const seq = eventNumber(this.#run, event);
    if (seq === -1) return;
    // Both ids come from the server's clock.
    const entryMs = source === undefined ? -1 : Math.max(0, idMs(id) - idMs(source));
    this.#settle(seq, statusCode(status), entryMs);
  }

  #pushed(event: string, status: string | undefined): void {
    const seq = eventNumber(this.#run, event);
    if (seq === -1) return;
    const addedMs = this.#entryMs.get(seq);
    this.#entryMs.delete(seq);
    // The reply of the XADD can come after the frame: then there is no figure for this one.
    const entryMs = addedMs === undefined ? -1 : Math.max(0, Date.now() - addedMs);
    this.#settle(seq, statusCode(status), entryMs);
  }

  #deadLetter(event: string | undefined, reason = '', detail = ''): void {
    const seq = eventNumber(this.#run, event);
    if (seq === -1) return;
    if (!this.#deadLetterSeen) this.notes.push(`the first dead letter says: ${reason} ${detail}`.trimEnd());
    this.#deadLetterSeen = true;
    this.#settle(seq, `dead letter ${reason}`.trim());
  }
}

/** One connection, one server: of a cluster that is one partition's. */
async function checkServes(wire: RedisWire, streams: readonly string[]): Promise<void> {
  for (const stream of streams) {
    try {
      await wire.call(['XLEN', stream]);
    } catch (cause) {
      const [code, , place] = messageOf(cause).split(' ');
      // What else is wrong shows in the events themselves.
      if (code !== 'MOVED') continue;
      throw new SubitoError('REDIS_MODE', `${stream} is served by another node of the cluster, ${place}`, {
        fix:
          'send to one partition at a time, at its node: --redis redis://HOST:PORT --stream events:{0} ' +
          '--predictions predictions:{0} --deadletters deadletters:{0}',
      });
    }
  }
}

function idMs(id: string): number {
  return Number(id.slice(0, id.indexOf('-')));
}

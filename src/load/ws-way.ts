/** `--via ws`: event frames with `via: direct` on many connections; the answer comes back on the same one. */
import { Packr } from 'msgpackr';
import type { Frame } from './gateway-socket.ts';
import { GatewaySocket, openPaced } from './gateway-socket.ts';
import type { LoadOptions } from './options.ts';
import type { Sample } from './payload.ts';
import { priorityPattern } from './priorities.ts';
import type { Settle, Way } from './way.ts';
import { eventId, keyOf, statusCode } from './way.ts';

const packr = new Packr({ useRecords: false });
const LINGER_MS = 100;

export class WebSocketWay implements Way {
  readonly notes: string[] = [];
  readonly #options: LoadOptions;
  readonly #run: string;
  readonly #samples: readonly Sample[];
  readonly #settle: Settle;
  readonly #fail: (error: Error) => void;
  readonly #packedModel: Buffer;
  /** In the order in which events have them; empty: they name none. */
  readonly #classes: readonly number[];
  /** What is the same in every frame of a class. */
  readonly #frameHeads: readonly Buffer[];
  #sockets: GatewaySocket[] = [];

  constructor(
    options: LoadOptions,
    run: string,
    samples: readonly Sample[],
    settle: Settle,
    fail: (error: Error) => void,
  ) {
    this.#options = options;
    this.#run = run;
    this.#samples = samples;
    this.#settle = settle;
    this.#fail = fail;
    this.#packedModel = packPair('model', options.model);
    this.#classes = priorityPattern(options.priority);
    const deadline = options.deadlineMs === 0 ? {} : { deadline: options.deadlineMs };
    this.#frameHeads =
      this.#classes.length === 0
        ? [frameHead(deadline)]
        : this.#classes.map((priority) => frameHead({ ...deadline, priority }));
  }

  async open(): Promise<void> {
    const { connections, ratePerS, perConnectionPerS, url, encoding, token } = this.#options;
    // Poisson arrivals dealt round robin are nearly even on each connection; a fifth is kept in reserve.
    const needed = Math.ceil(ratePerS / (perConnectionPerS * 0.8));
    const count = Math.max(connections, needed);
    if (count > connections) {
      this.notes.push(
        `${count} connections instead of ${connections}: the server takes ${perConnectionPerS} events/s` +
          ' on each (--per-connection, if its configuration allows more)',
      );
    }
    this.#sockets = await openPaced(count, async () => {
      const socket = await GatewaySocket.open(url, encoding, token, (frame) => this.#frame(frame));
      socket.onLost = (code, reason) => this.#lost(code, reason);
      return socket;
    });
  }

  send(seq: number): void {
    const socket = this.#sockets[seq % this.#sockets.length]!;
    if (!socket.isOpen) {
      this.#settle(seq, 'connection closed');
      return;
    }
    const sample = this.#samples[seq % this.#samples.length]!;
    socket.sendBytes(
      this.#options.encoding === 'json' ? this.#json(seq, sample) : this.#msgpack(seq, sample),
    );
  }

  flush(): void {}

  async close(): Promise<void> {
    await new Promise((resolve) => setTimeout(resolve, LINGER_MS));
    for (const socket of this.#sockets) socket.close();
  }

  #json(seq: number, sample: Sample): string {
    const { model, deadlineMs } = this.#options;
    const priority = this.#classes[seq % this.#classes.length];
    const head = {
      t: 'event',
      id: seq + 1,
      key: keyOf(seq, this.#options),
      model,
      eid: eventId(this.#run, seq),
      via: 'direct',
      ...(deadlineMs === 0 ? {} : { deadline: deadlineMs }),
      ...(priority === undefined ? {} : { priority }),
    };
    return `${JSON.stringify(head).slice(0, -1)},"d":${sample.json.toString()}}`;
  }

  #msgpack(seq: number, sample: Sample): Buffer {
    return Buffer.concat([
      this.#frameHeads[seq % this.#frameHeads.length]!,
      packPair('id', seq + 1),
      packPair('key', keyOf(seq, this.#options)),
      packPair('eid', eventId(this.#run, seq)),
      this.#packedModel,
      DATA_NAME,
      sample.msgpack,
    ]);
  }

  #frame(frame: Frame): void {
    if (typeof frame['id'] !== 'number') return;
    const seq = frame['id'] - 1;
    if (frame['t'] === 'pred') this.#settle(seq, statusCode(frame['st'] as string | undefined));
    else if (frame['t'] === 'error') this.#settle(seq, `${frame['code']} ${frame['msg'] ?? ''}`.trim());
  }

  #lost(code: number, reason: string): void {
    const open = this.#sockets.filter((socket) => socket.isOpen).length;
    if (open === 0) this.#fail(new Error(`the last connection closed with ${code} ${reason}`.trim()));
  }
}

/** Name and value as they stand in a MessagePack map. */
function packPair(name: string, value: unknown): Buffer {
  return Buffer.concat([packr.pack(name), packr.pack(value)]);
}

/** A map's header and the entries that are the same in many frames; five more follow. */
function frameHead(more: Readonly<Record<string, number>>): Buffer {
  const pairs = Object.entries({ t: 'event', via: 'direct', ...more });
  const header = Buffer.from([0x80 + pairs.length + 5]);
  return Buffer.concat([header, ...pairs.map(([name, value]) => packPair(name, value))]);
}
const DATA_NAME = Buffer.from(packr.pack('d'));

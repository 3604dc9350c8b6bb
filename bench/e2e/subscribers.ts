/**
 * A process of subscribers: many WebSockets on bare TCP, each subscribed to one channel. A read costs a look
 * at the frame's head: what a client library does with each message would take longer than the engine's
 * sending.
 *
 * Argument: the plan, as JSON. Says `ready` when all are subscribed, then `shot` each time that every one of
 * them has been sent a prediction.
 */
import { connect, type Socket } from 'node:net';
import { messageOf } from '../../src/errors.ts';
import { monotonicMs, type SubscribersMessage, type SubscribersPlan } from './fan.ts';

/** Sockets that are being opened at the same time. */
const OPENING_MAX = 100;
const OPEN_MS_MAX = 60_000;
const HEAD_END = Buffer.from('\r\n\r\n');
const PREDICTION = Buffer.from('{"t":"pred"');
const SUBSCRIBED = Buffer.from('{"t":"subd"');
const PING_OF_PROTOCOL = Buffer.from('{"t":"ping"');
const OPCODE = { text: 1, close: 8, ping: 9, pong: 10 } as const;
const READ_BYTES = 65_536;

const plan = JSON.parse(process.argv[2]!) as SubscribersPlan;
const tell = (message: SubscribersMessage) => process.send!(message);

/** A whole frame of a client. The mask is there because it has to be; it hides nothing. */
function frame(opcode: number, text: string): Buffer {
  const length = Buffer.byteLength(text);
  if (length > 125) throw new Error('a longer head would be needed');
  return Buffer.concat([Buffer.from([0x80 | opcode, 0x80 | length, 0, 0, 0, 0]), Buffer.from(text)]);
}

const UPGRADE = Buffer.from(
  [
    'GET /ws HTTP/1.1',
    `Host: 127.0.0.1:${plan.port}`,
    'Upgrade: websocket',
    'Connection: Upgrade',
    'Sec-WebSocket-Version: 13',
    'Sec-WebSocket-Key: c3ViaXRvIGJlbmNobWFyaw==',
    'Sec-WebSocket-Protocol: subito.v1.json',
    '',
    '',
  ].join('\r\n'),
);
const HELLO = Buffer.concat([
  frame(OPCODE.text, '{"t":"hello","id":1}'),
  frame(OPCODE.text, `{"t":"sub","id":2,"ch":"${plan.channel}","mode":"all","credit":65536}`),
]);
const PONG = frame(OPCODE.text, '{"t":"pong"}');

/** Of the shot at hand. */
let frames = 0;
let firstMs = 0;
let frameBytes = 0;

function predicted(bytes: number): void {
  if (frames === 0) firstMs = monotonicMs();
  frames++;
  frameBytes = bytes;
  if (frames < plan.count) return;
  const { user, system } = process.cpuUsage();
  tell({ say: 'shot', firstMs, lastMs: monotonicMs(), frameBytes, cpuUs: user + system });
  frames = 0;
}

class Subscriber {
  readonly #socket: Socket;
  readonly #onSubscribed: () => void;
  /** Bytes of a frame, or of the answer to the upgrade, that is not complete yet. */
  #rest: Buffer | null = null;
  #upgraded = false;

  constructor(shared: Buffer, onSubscribed: () => void) {
    this.#onSubscribed = onSubscribed;
    this.#socket = connect({
      host: '127.0.0.1',
      port: plan.port,
      noDelay: true,
      onread: {
        buffer: shared,
        callback: (bytes: number) => {
          this.#take(shared.subarray(0, bytes));
          return true;
        },
      },
    });
    this.#socket.once('connect', () => this.#socket.write(UPGRADE));
    this.#socket.once('error', fail);
    this.#socket.once('close', () => fail(new Error('a subscriber was disconnected')));
  }

  #take(read: Buffer): void {
    const bytes = this.#rest === null ? read : Buffer.concat([this.#rest, read]);
    this.#rest = null;
    let at = this.#upgraded ? 0 : this.#upgrade(bytes);
    while (at < bytes.length) {
      const next = this.#frame(bytes, at);
      if (next === -1) break;
      at = next;
    }
    // The read buffer is shared: what is left over has to move.
    if (at < bytes.length) this.#rest = Buffer.from(bytes.subarray(at));
  }

  /** Where the frames begin; 0 while the answer is incomplete. */
  #upgrade(bytes: Buffer): number {
    const end = bytes.indexOf(HEAD_END);
    if (end === -1) return 0;
    const head = bytes.toString('latin1', 0, end);
    if (!head.startsWith('HTTP/1.1 101'))
      fail(new Error(`the upgrade was refused: ${head.split('\r\n')[0]}`));
    this.#upgraded = true;
    this.#socket.write(HELLO);
    return end + HEAD_END.length;
  }

  /** Takes the frame at `at`; where it ends, or -1 while it is incomplete. */
  #frame(bytes: Buffer, at: number): number {
    if (!this.#upgraded || at + 4 > bytes.length) return -1;
    const short = bytes[at + 1]! & 0x7f;
    if (short === 127) fail(new Error('a frame of more than 64 KiB'));
    const start = at + (short === 126 ? 4 : 2);
    const end = start + (short === 126 ? bytes.readUInt16BE(at + 2) : short);
    if (end > bytes.length) return -1;
    const opcode = bytes[at]! & 0x0f;
    if (opcode === OPCODE.text) this.#text(bytes, start, end);
    else if (opcode === OPCODE.ping) {
      this.#socket.write(frame(OPCODE.pong, bytes.toString('utf8', start, end)));
    } else if (opcode === OPCODE.close) {
      fail(new Error(`closed with ${bytes.readUInt16BE(start)} ${bytes.toString('utf8', start + 2, end)}`));
    }
    return end;
  }

  #text(bytes: Buffer, start: number, end: number): void {
    const begins = (text: Buffer) => bytes.compare(text, 0, text.length, start, start + text.length) === 0;
    if (begins(PREDICTION)) predicted(end - start);
    else if (begins(SUBSCRIBED)) this.#onSubscribed();
    else if (begins(PING_OF_PROTOCOL)) this.#socket.write(PONG);
    else if (!bytes.toString('utf8', start, end).startsWith('{"t":"welcome"')) {
      fail(new Error(`unexpected: ${bytes.toString('utf8', start, Math.min(end, start + 200))}`));
    }
  }
}

function openAll(): Promise<void> {
  return new Promise((resolve) => {
    const shared = Buffer.allocUnsafeSlow(READ_BYTES);
    let [opened, subscribed] = [0, 0];
    const onSubscribed = () => {
      subscribed++;
      if (subscribed === plan.count) resolve();
      else if (opened < plan.count) more();
    };
    const more = () => {
      opened++;
      new Subscriber(shared, onSubscribed);
    };
    for (let i = 0; i < Math.min(OPENING_MAX, plan.count); i++) more();
  });
}

function fail(error: Error): never {
  tell({ say: 'failed', why: messageOf(error) });
  process.exit(1);
}

process.once('disconnect', () => process.exit());
const late = setTimeout(() => fail(new Error('not all subscribed in 60 s')), OPEN_MS_MAX);
await openAll();
clearTimeout(late);
tell({ say: 'ready' });

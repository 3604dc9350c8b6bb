/**
 * The least that a loop over two streams can do, to measure the engine's latency against: XREADGROUP, and for
 * what came one XADD each and one XACK. No model, no checks, no promises. It reads as fast as it can and
 * takes whatever is there; entries are found by the engine's own columnar parser, and there is no object per
 * event.
 *
 * Arguments: Redis URL.
 */
import { parseEndpoint } from '../../src/redis/endpoint.ts';
import { CommandWriter, copyBytes, encodeCommand } from '../../src/redis/resp.ts';
import { RECEIVE_BYTES, RedisSocket } from '../../src/redis/socket.ts';
import { StreamReplyParser } from '../../src/redis/stream-reply.ts';
import { Replies } from '../replies.ts';

const EVENTS = 'bare:events';
const PREDICTIONS = 'bare:predictions';
const GROUP = 'bare';
const COUNT = 512;
const READ_BLOCK_MS = 1000;
/** As much as a prediction of the engine: MessagePack of {score: float32}, and two times. */
const OUTPUTS = '\x81\xa5score\xca\x3f\x00\x00\x00';
const TIMES_US = '1000';
const READ = encodeCommand([
  ...['XREADGROUP', 'GROUP', GROUP, 'one', 'COUNT', COUNT],
  ...['BLOCK', READ_BLOCK_MS, 'STREAMS', EVENTS, '>'],
]);

const endpoint = parseEndpoint(process.argv[2]!);
const fail = (why: string): never => {
  process.stderr.write(`${why}\n`);
  process.exit(1);
};

const additions = new CommandWriter(1_048_576);
const ids = new CommandWriter(65_536);
let entries = 0;

function putSlice(commands: CommandWriter, source: Uint8Array, start: number, end: number): void {
  const { buffer, at } = commands.bulk(end - start);
  copyBytes(source, start, end, buffer, at);
}

const parser = new StreamReplyParser({
  fields: ['event', 'key'],
  entryBytesMax: 131_072,
  onEntry(buffer, { idStart, idEnd, fields }) {
    additions.array(19);
    for (const part of ['XADD', PREDICTIONS, '*', 'source']) additions.ascii(part);
    putSlice(additions, buffer, idStart, idEnd);
    additions.ascii('event');
    putSlice(additions, buffer, fields[0]!, fields[1]!);
    additions.ascii('key');
    putSlice(additions, buffer, fields[2]!, fields[3]!);
    for (const part of ['model', 'mlp@1', 'status', 'ok', 'outputs', OUTPUTS]) additions.ascii(part);
    for (const part of ['wait_us', TIMES_US, 'infer_us', TIMES_US]) additions.ascii(part);
    putSlice(ids, buffer, idStart, idEnd);
    entries++;
    return true;
  },
  onOversize: (id) => fail(`${id} is too large`),
  onReplyEnd() {
    if (entries > 0) commit();
    reader.write(READ);
  },
  onError: fail,
});

function commit(): void {
  const acknowledge = Buffer.from(`*${entries + 3}\r\n$4\r\nXACK\r\n$11\r\n${EVENTS}\r\n$4\r\n${GROUP}\r\n`);
  // Copied: the writers begin anew before the socket has taken everything.
  writer.write(
    Buffer.concat([additions.subarray(0, additions.length), acknowledge, ids.subarray(0, ids.length)]),
  );
  additions.reset();
  ids.reset();
  entries = 0;
}

const replies = new Replies();
const writer = new RedisSocket({
  endpoint,
  name: 'bench:bare:writer',
  bufferBytes: RECEIVE_BYTES,
  greeting: [['XGROUP', 'CREATE', EVENTS, GROUP, '0', 'MKSTREAM']],
  onOpen: () => reader.open(),
  onBytes(buffer, start, end) {
    replies.take(buffer, start, end);
    return replies.error === '' ? end : fail(replies.error);
  },
  onClose: fail,
  answerDue: () => false,
});
const reader = new RedisSocket({
  endpoint,
  name: 'bench:bare:reader',
  bufferBytes: RECEIVE_BYTES,
  onOpen() {
    reader.write(READ);
    process.stdout.write('ready\n');
  },
  onBytes: (buffer, start, end) => parser.parse(buffer, start, end),
  onClose: fail,
  answerDue: () => false,
});
writer.open();

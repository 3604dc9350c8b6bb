// Commands as bytes, replies of one line, and replies of any form.
import { expect, test } from 'vitest';
import { type Reply, ReplyReader } from '../src/redis/reply.ts';
import { CommandWriter, copyBytes, encodeCommand, readLineReply } from '../src/redis/resp.ts';
import { forSeeds, type Random } from './support/random.ts';

type Arg =
  | { readonly kind: 'ascii'; readonly value: string }
  | { readonly kind: 'utf8'; readonly value: string }
  | { readonly kind: 'int'; readonly value: number }
  | { readonly kind: 'bulk'; readonly value: Buffer };

function naive(args: readonly Arg[]): Buffer {
  const parts: Buffer[] = [Buffer.from(`*${args.length}\r\n`)];
  for (const arg of args) {
    const value = arg.kind === 'bulk' ? arg.value : Buffer.from(String(arg.value));
    parts.push(Buffer.from(`$${value.length}\r\n`), value, Buffer.from('\r\n'));
  }
  return Buffer.concat(parts);
}

function write(writer: CommandWriter, args: readonly Arg[]): void {
  writer.array(args.length);
  for (const arg of args) {
    if (arg.kind === 'ascii') writer.ascii(arg.value);
    else if (arg.kind === 'utf8') writer.utf8(arg.value);
    else if (arg.kind === 'int') writer.int(arg.value);
    else {
      const { buffer, at } = writer.bulk(arg.value.length);
      arg.value.copy(buffer, at);
    }
  }
}

const LENGTHS = [0, 1, 9, 10, 47, 48, 49, 99, 100, 1022, 1023, 1024, 1025, 9999, 10_000, 70_000];
const INTS = [0, 1, 9, 10, 99, 100, 999_999_999, 1_000_000_000, 2 ** 31 - 1];

function randomArg(random: Random): Arg {
  const length = random.chance(0.3) ? random.pick(LENGTHS) : random.int(0, 60);
  switch (random.int(0, 3)) {
    case 0:
      return { kind: 'ascii', value: 'x'.repeat(length) };
    case 1:
      // A lone surrogate too: a detail cut off at a fixed length may end in one.
      return {
        kind: 'utf8',
        value: random.pick(['é', '日本', '🎵', 'plain', '\ud83c', '']).repeat(random.int(0, 400)),
      };
    case 2:
      return { kind: 'int', value: random.chance(0.5) ? random.pick(INTS) : random.int(0, 2 ** 31 - 1) };
    default:
      return { kind: 'bulk', value: random.bytes(length) };
  }
}

test('commands equal those of a naive encoder, whatever the arguments, and while the buffer grows', () => {
  forSeeds(400, (random) => {
    const writer = new CommandWriter(random.pick([1, 16, 64, 4096]));
    for (let round = 0; round < 3; round += 1) {
      writer.reset();
      const commands = Array.from({ length: random.int(1, 3) }, () =>
        Array.from({ length: random.int(0, 12) }, () => randomArg(random)),
      );
      const bounds: number[] = [0];
      for (const args of commands) {
        write(writer, args);
        bounds.push(writer.length);
      }
      commands.forEach((args, i) => {
        const bytes = writer.subarray(bounds[i] as number, bounds[i + 1] as number);
        if (!bytes.equals(naive(args))) expect(bytes.toString('latin1')).toBe(naive(args).toString('latin1'));
      });
    }
  });
});

test('numbers at the ends of their range', () => {
  for (const value of INTS) {
    const writer = new CommandWriter(8);
    writer.int(value);
    expect(writer.subarray(0, writer.length).toString()).toBe(`$${String(value).length}\r\n${value}\r\n`);
  }
});

test('encodeCommand counts bytes, not characters', () => {
  expect(encodeCommand(['SET', 'ключ', 7]).toString()).toBe('*3\r\n$3\r\nSET\r\n$8\r\nключ\r\n$1\r\n7\r\n');
});

test('copyBytes between buffers, plain arrays and shared memory', () => {
  forSeeds(200, (random) => {
    const length = random.int(0, 200);
    const bytes = random.bytes(length + 8);
    const source = random.pick([
      bytes,
      Buffer.from(new SharedArrayBuffer(length + 8)),
      new Uint8Array(length + 8),
    ]);
    source.set(bytes);
    const shared = Buffer.from(new SharedArrayBuffer(length + 16));
    const target = random.chance(0.5) ? shared : Buffer.alloc(length + 16);
    copyBytes(source, 3, 3 + length, target, 5);
    expect(target.subarray(5, 5 + length).equals(bytes.subarray(3, 3 + length))).toBe(true);
    expect(
      target.subarray(0, 5).every((b) => b === 0) && target.subarray(5 + length).every((b) => b === 0),
    ).toBe(true);
  });
});

test('a reply is read when its last byte is there, and not before', () => {
  const replies = [
    ['+OK\r\n', 'ok', 'OK'],
    ['-ERR no\r\n', 'error', 'ERR no'],
    [':-42\r\n', 'integer', '-42'],
    ['$-1\r\n', 'nil', ''],
    ['$0\r\n\r\n', 'ok', ''],
    ['$8\r\na\r\nbé\r\n\r\n', 'ok', 'a\r\nbé\r\n'],
    ['*-1\r\n', 'nil', ''],
  ] as const;
  for (const [text, kind, value] of replies) {
    const bytes = Buffer.from(`xx${text}:1\r\n`);
    const end = bytes.length - 4;
    for (let cut = 2; cut < end; cut += 1)
      expect(readLineReply(bytes, 2, cut), `${text} at ${cut}`).toBeNull();
    expect(readLineReply(bytes, 2, end)).toEqual({ kind, text: value, next: end });
  }
});

test('bytes that start no one-line reply throw', () => {
  for (const text of ['*2\r\n', 'HTTP/1.1 400\r\n', '\r\n', '$abc\r\n', '$1x\r\n']) {
    const bytes = Buffer.from(text);
    expect(() => readLineReply(bytes, 0, bytes.length), text).toThrow();
  }
});

test('a command takes text, numbers and bytes', () => {
  expect(encodeCommand(['SET', 'é', Buffer.from([0]), 7]).toString('latin1')).toBe(
    '*4\r\n$3\r\nSET\r\n$2\r\n\xc3\xa9\r\n$1\r\n\x00\r\n$1\r\n7\r\n',
  );
});

test('replies are parsed alike however they are cut', () => {
  const bytes = Buffer.from(
    '+OK\r\n:-12\r\n$-1\r\n*-1\r\n$4\r\na\r\nb\r\n*2\r\n$0\r\n\r\n*2\r\n:7\r\n+x\r\n-ERR no\r\n',
  );
  const whole = [
    'OK',
    -12,
    null,
    null,
    'a\r\nb',
    ['', [7, 'x']],
    expect.objectContaining({ message: 'ERR no' }),
  ];
  for (let size = 1; size <= bytes.length; size++) {
    const reader = new ReplyReader();
    const replies: Reply[] = [];
    let start = 0;
    for (let end = size; start < bytes.length; end = Math.min(end + size, bytes.length)) {
      for (let reply = reader.read(bytes, start, end); reply !== undefined && start < end; ) {
        replies.push(reply);
        start = reader.next;
        reply = reader.read(bytes, start, end);
      }
    }
    expect(replies, `pieces of ${size}`).toEqual(whole);
  }
});

/** A few commands on a connection made for them: how servers are asked who is who before one is chosen. */
import type { RedisEndpoint } from './endpoint.ts';
import { RedisReplyError, type Reply, ReplyReader } from './reply.ts';
import { encodeCommand } from './resp.ts';
import { RedisSocket } from './socket.ts';

/** Replies about slots of a large cluster; grows for larger ones. */
const BUFFER_BYTES = 32_768;

/**
 * Resolves with the replies in order; rejects with the first error reply, when there is no connection, or
 * when not all are there after `msMax`.
 */
export function ask(
  endpoint: RedisEndpoint,
  commands: readonly (readonly string[])[],
  msMax: number,
): Promise<Reply[]> {
  const { promise, resolve, reject } = Promise.withResolvers<Reply[]>();
  const reader = new ReplyReader();
  const replies: Reply[] = [];
  const end = () => {
    clearTimeout(timer);
    socket.close();
  };
  const fail = (reason: string) => {
    end();
    reject(new Error(reason));
  };
  const timer = setTimeout(() => fail('no answer'), msMax);
  const socket = new RedisSocket({
    endpoint,
    name: 'subito:ask',
    bufferBytes: BUFFER_BYTES,
    onOpen: () => {
      for (const command of commands) socket.write(encodeCommand(command));
    },
    onBytes: (buffer, start, bytesEnd) => {
      let at = start;
      while (replies.length < commands.length) {
        const reply = reader.read(buffer, at, bytesEnd);
        if (reply === undefined) return at;
        at = reader.next;
        if (reply instanceof RedisReplyError) {
          fail(reply.message);
          return at;
        }
        replies.push(reply);
      }
      end();
      resolve(replies);
      return at;
    },
    answerDue: () => true,
    onClose: fail,
  });
  socket.open();
  return promise;
}

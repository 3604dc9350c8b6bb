/**
 * The least that a fan-out from a stream can do, to measure the engine's against: one XREAD connection, one
 * topic of uWebSockets.js, the same frame to everyone. No credit, no numbering, no protocol.
 *
 * Arguments: Redis URL, stream, port.
 */
import * as uws from 'uWebSockets.js';
import { RedisWire } from '../../src/redis/wire.ts';

const [redisUrl = '', stream = '', port = ''] = process.argv.slice(2);
const TOPIC = 'all';
const WELCOME = '{"t":"welcome"}';
const SUBSCRIBED = '{"t":"subd"}';

const app = uws.App();
app.ws('/ws', {
  message(ws, message) {
    const isHello = Buffer.from(message).includes('"hello"');
    if (!isHello) ws.subscribe(TOPIC);
    ws.send(isHello ? WELCOME : SUBSCRIBED);
  },
});
app.listen('127.0.0.1', Number(port), (socket) => {
  if (socket === false) process.exit(1);
});
const wire = await RedisWire.connect(redisUrl);
await wire.tail(stream, ['frame'], (entry) => {
  app.publish(TOPIC, entry.text(0)!);
});
process.once('SIGTERM', () => process.exit());
process.stdout.write('ready\n');

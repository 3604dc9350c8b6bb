/** The client library against a real gateway, with nothing but Node's own WebSocket. */

import type { AddressInfo } from 'node:net';
import { afterEach, expect, test } from 'vitest';
import { WebSocketServer } from 'ws';
import type { Client, ClientOptions, ClientPrediction } from '../src/client/client.ts';
import { ClientError, connect } from '../src/client/client.ts';
import { startGateway } from '../src/gateway/server.ts';
import { limitsDefault } from '../src/limits.ts';
import { freePort } from '../src/ports.ts';
import type { Started } from './support/gateway.ts';
import { OK, prediction, start, stopGateways, until } from './support/gateway.ts';

const clients: Client[] = [];

afterEach(async () => {
  for (const client of clients.splice(0)) client.close();
  await stopGateways();
});

function join(started: Started, options: ClientOptions = {}): Client {
  const client = connect(started.gateway.url, options);
  clients.push(client);
  return client;
}

test('infer, before and after the connection is open', async () => {
  const started = await start();
  const client = join(started);
  const answer = await client.infer({ key: 'u42', model: 'genre', data: { energy: 0.5 }, deadlineMs: 50 });
  expect(client.state).toBe('open');
  expect(answer).toMatchObject({ model: 'genre@3', status: 'ok', waitMs: 0.4, inferMs: 0.2 });
  expect(answer.outputs).toEqual({ score: 0.5, probabilities: [0.25, 0.75] });
  expect(started.backend.direct[0]).toMatchObject({
    data: { energy: 0.5 },
    event: { deadlineMs: 50, key: 'u42' },
  });
  const many = await Promise.all(
    Array.from({ length: 20 }, (_, i) => client.infer({ key: `u${i}`, data: {} })),
  );
  expect(many.map(({ key }) => key)).toEqual(Array.from({ length: 20 }, (_, i) => `u${i}`));
});

test('errors say what and where, and whether to try again', async () => {
  const started = await start();
  const client = join(started);
  const failed = (event: Parameters<Client['infer']>[0]) =>
    client.infer(event).catch((error: unknown) => error);
  const unknown = await failed({ model: 'nope', data: {} });
  expect(unknown).toBeInstanceOf(ClientError);
  expect(unknown).toMatchObject({ code: 116, retryable: false });
  started.backend.answer = () => ({ ...OK, status: 'invalid', detail: 'energy: must be a number' });
  expect(await failed({ data: {} })).toMatchObject({ code: 107, path: 'energy' });
  started.backend.answer = () => ({ ...OK, status: 'overloaded', detail: '', retryMs: 70 });
  expect(await failed({ data: {} })).toMatchObject({ code: 113, retryable: true, afterMs: 70 });
  started.backend.answer = () => null;
  const impatient = join(started, { timeoutMs: 50 });
  await expect(impatient.infer({ data: {} })).rejects.toThrow('no answer within 50 ms');
});

test('credit goes back as callbacks finish: a slow one sees the newest, and never the past', async () => {
  const started = await start();
  const client = join(started);
  const seen: ClientPrediction[] = [];
  let finish: () => void = () => undefined;
  const slow = (one: ClientPrediction) => {
    seen.push(one);
    return new Promise<void>((resolve) => {
      finish = resolve;
    });
  };
  await client.subscribe('key:u42', { credit: 1 }, slow).ready;
  for (let n = 1; n <= 10; n++) started.gateway.publish(prediction(n));
  await until(() => seen.length === 1);
  finish();
  await until(() => seen.length === 2);
  finish();
  expect(seen.map(({ outputs }) => outputs['n'])).toEqual([1, 10]);
  expect(seen.map(({ conflated }) => conflated)).toEqual([0, 8]);
});

test('mode all: everything arrives, in order, over many rounds of credit', async () => {
  const started = await start();
  const errors: unknown[] = [];
  const client = join(started, { onError: (error) => errors.push(error) });
  const seen: unknown[] = [];
  const subscription = client.subscribe('model:genre', { mode: 'all', credit: 7 }, ({ outputs }) => {
    seen.push(outputs['n']);
    if (outputs['n'] === 3) throw new Error('a bug in the callback');
  });
  await subscription.ready;
  for (let n = 0; n < 500; n++) started.gateway.publish(prediction(n, { key: `u${n}` }));
  await until(() => seen.length === 500);
  expect(seen).toEqual(Array.from({ length: 500 }, (_, n) => n));
  expect(errors).toHaveLength(1);
  subscription.unsubscribe();
  await until(() => started.gateway.hub.subscriptions === 0);
});

test('a subscription that is refused says so', async () => {
  const started = await start();
  const errors: unknown[] = [];
  const client = join(started, { onError: (error) => errors.push(error) });
  await expect(client.subscribe('model:nope', {}, () => undefined).ready).rejects.toMatchObject({
    code: 116,
  });
  expect(errors).toHaveLength(1);
});

test('after a restart it is back, subscribed, and its unacknowledged event is sent again', async () => {
  // Chosen beforehand: the system gives a port that it picked itself (0) to nobody else for a minute.
  const port = await freePort();
  const first = await start({}, { port });
  first.backend.append = () => new Promise(() => undefined);
  const states: string[] = [];
  const client = join(first, { onState: (state) => states.push(state) });
  const seen: unknown[] = [];
  await client.subscribe('key:u42', {}, ({ outputs }) => seen.push(outputs['n'])).ready;
  first.gateway.publish(prediction(1));
  await until(() => seen.length === 1);
  first.backend.answer = () => null;
  const lost = client.infer({ data: {} }).catch((error: unknown) => error);
  const sent = client.send({ key: 'u42', data: { energy: 1 } });
  await until(() => first.backend.held.length === 1);
  await first.gateway.drain();
  expect(await lost).toMatchObject({ code: 0, retryable: true });
  const second = await start({}, { port });
  expect(await sent).toEqual({ sid: '1761-1', dup: false });
  expect(second.backend.appended).toHaveLength(1);
  expect(second.backend.appended[0]?.event).toMatch(/^[0-9a-f]{32}$/);
  await until(() => second.gateway.hub.subscriptions === 1);
  second.gateway.publish(prediction(2));
  await until(() => seen.length === 2);
  expect(states).toEqual(['connecting', 'open', 'waiting', ...states.slice(3)]);
  expect(states.at(-1)).toBe('open');
});

test('it waits for a gateway that is not there yet', async () => {
  const port = await freePort();
  const states: string[] = [];
  const client = connect(`ws://127.0.0.1:${port}`, { onState: (state) => states.push(state) });
  clients.push(client);
  const answer = client.infer({ data: {} });
  await until(() => states.filter((state) => state === 'waiting').length >= 2);
  await start({}, { port });
  expect(await answer).toMatchObject({ status: 'ok' });
});

test('a gateway that has fallen silent is left, whatever its socket says', async () => {
  const server = new WebSocketServer({ host: '127.0.0.1', port: 0, handleProtocols: () => 'subito.v1.json' });
  server.on('connection', (socket) => {
    socket.once('message', () => socket.send('{"t":"welcome","id":0,"ping":40}'));
  });
  await new Promise((resolve) => server.once('listening', resolve));
  try {
    const { port } = server.address() as AddressInfo;
    const states: string[] = [];
    const client = connect(`ws://127.0.0.1:${port}`, { onState: (state, why) => states.push(state + why) });
    clients.push(client);
    await until(() => states.some((state) => /^waiting.*silent/.test(state)));
    expect(states.slice(0, 2)).toEqual(['connecting', 'open']);
  } finally {
    server.close();
  }
});

test('a gateway that pings is not left', async () => {
  const { gateway } = await start({ pingMs: 400, helloMsMax: 400 });
  const states: string[] = [];
  const client = connect(gateway.url, { onState: (state, reason) => states.push(state + reason) });
  clients.push(client);
  await client.infer({ data: {} });
  // More than two and a half intervals pass, with a ping in each: it stays.
  await new Promise((resolve) => setTimeout(resolve, 1400));
  expect(states).toEqual(['connecting', 'open']);
});

test('a close code that says not to come back ends it', async () => {
  const started = await start({ connectionsMax: 1 });
  const first = join(started);
  await first.infer({ data: {} });
  const second = join(started);
  await expect(second.infer({ data: {} })).rejects.toThrow('4509');
  expect(second.state).toBe('closed');
  await expect(second.send({ data: {} })).rejects.toThrow('closed');
});

test('close rejects what is waiting, and nothing reconnects', async () => {
  const started = await start();
  started.backend.answer = () => null;
  const client = join(started);
  const pending = client.infer({ data: {} });
  await until(() => started.backend.held.length === 1);
  client.close();
  await expect(pending).rejects.toThrow('closed by the caller');
  await until(() => started.gateway.connections === 0);
  await new Promise((resolve) => setTimeout(resolve, 400));
  expect(started.gateway.connections).toBe(0);
});

test('what browsers get is plain JavaScript without imports', async () => {
  const gateway = await startGateway({
    host: '127.0.0.1',
    port: 0,
    backend: (await start()).backend,
    staticDir: null,
    origins: [],
    limits: limitsDefault,
  });
  try {
    const response = await fetch(`${gateway.url}/client.js`);
    expect(response.headers.get('access-control-allow-origin')).toBe('*');
    expect(response.headers.get('cross-origin-resource-policy')).toBe('cross-origin');
    expect(response.headers.get('content-type')).toBe('text/javascript; charset=utf-8');
    const source = await response.text();
    expect(source).not.toMatch(/^import /m);
    const url = `data:text/javascript;base64,${Buffer.from(source).toString('base64')}`;
    const library = (await import(url)) as { connect: typeof connect };
    const client = library.connect(gateway.url);
    expect(await client.infer({ data: {} })).toMatchObject({ status: 'ok' });
    client.close();
  } finally {
    await gateway.drain();
  }
});

/** What the client library does when the gateway wants less: retries, and events held back. */
import { afterEach, expect, test } from 'vitest';
import type { Client, ClientOptions } from '../src/client/client.ts';
import { ClientError, connect } from '../src/client/client.ts';
import type { Limits } from '../src/limits.ts';
import { freePort } from '../src/ports.ts';
import type { Started } from './support/gateway.ts';
import { OK, start, stopGateways, until } from './support/gateway.ts';

const clients: Client[] = [];

afterEach(async () => {
  for (const client of clients.splice(0)) client.close();
  await stopGateways();
});

async function join(options: ClientOptions = {}, limits: Partial<Limits> = {}) {
  const started = await start(limits);
  const client = connect(started.gateway.url, options);
  clients.push(client);
  return { ...started, client };
}

const BUSY = { ...OK, status: 'overloaded', detail: '', outputs: new Uint8Array(0), retryMs: 600 } as const;

/** When each event reached the engine. */
function arrivals({ backend }: Started, refusedFirst: number): number[] {
  const atMs: number[] = [];
  backend.answer = (_event, call) => {
    atMs.push(performance.now());
    return call <= refusedFirst ? BUSY : OK;
  };
  return atMs;
}

test('refused for now, it comes back when it is told to, at most half as much later', async () => {
  const started = await join({ retries: 3 });
  const atMs = arrivals(started, 2);
  expect(await started.client.infer({ data: {} })).toMatchObject({ status: 'ok' });
  expect(atMs.length).toBe(3);
  for (const at of [1, 2]) expect(atMs[at]! - atMs[at - 1]!).toBeGreaterThanOrEqual(599);
});

test('without being asked to it does not; and no oftener than it was', async () => {
  const once = await join();
  const first = arrivals(once, 1);
  await expect(once.client.infer({ data: {} })).rejects.toMatchObject({ code: 113, afterMs: 600 });
  expect(first.length).toBe(1);
  const thrice = await join({ retries: 2 });
  const atMs = arrivals(thrice, 9);
  await expect(thrice.client.infer({ data: {} })).rejects.toMatchObject({ code: 113 });
  expect(atMs.length).toBe(3);
});

test('what will not be otherwise, or is not for now, is not tried again', async () => {
  const { client, backend } = await join({ retries: 5, timeoutMs: 100 });
  backend.answer = () => ({ ...OK, status: 'invalid', detail: 'energy: must be a number' });
  await expect(client.infer({ data: {} })).rejects.toMatchObject({ code: 107 });
  backend.answer = () => ({ ...BUSY, retryMs: 3_600_000 });
  await expect(client.infer({ data: {} })).rejects.toMatchObject({ code: 113, afterMs: 3_600_000 });
  // No answer: it may have been carried out.
  backend.answer = () => null;
  await expect(client.infer({ data: {} })).rejects.toMatchObject({ code: 0 });
  expect(backend.direct.length).toBe(3);
});

test('an event that is sent again keeps its id', async () => {
  const { client, backend } = await join({ retries: 1 });
  const { append } = backend;
  const ids: string[] = [];
  backend.append = (event) => {
    ids.push(event.event);
    if (ids.length > 1) return append.call(backend, event);
    return Promise.reject(Object.assign(new Error('away'), { retryable: true, code: 'REDIS_UNREACHABLE' }));
  };
  expect(await client.send({ key: 'u', data: {} })).toMatchObject({ dup: false });
  expect(ids[0]).toMatch(/^[0-9a-f]{32}$/);
  expect(ids).toEqual([ids[0], ids[0]]);
});

test('closing ends the wait before a try', async () => {
  const { client, backend } = await join({ retries: 1 });
  backend.answer = () => ({ ...BUSY, retryMs: 50_000 });
  const asked = client.infer({ data: {} }).catch((error: unknown) => error);
  await until(() => backend.direct.length === 1);
  await new Promise((resolve) => setTimeout(resolve, 20));
  client.close();
  expect(await asked).toMatchObject({ code: 0, message: 'the client is closed' });
});

test.each([-1, 1.5, 21, Number.NaN])('retries: %s cannot be', (retries) => {
  expect(() => connect('ws://127.0.0.1:1', { retries })).toThrow(ClientError);
});

test('with room for four, ten are sent in turn and none is refused', async () => {
  const { client, backend } = await join({}, { eventsPerSecondMax: 2 });
  backend.answer = () => null;
  let most = 0;
  const seen = () => {
    most = Math.max(most, backend.held.length);
    return backend.held.length;
  };
  // Two a second and as many at once: refusals by rate are another matter, so this one is slow.
  const asked: Promise<unknown>[] = [];
  const add = (i: number) => asked.push(client.infer({ key: `k${i}`, data: {} }).catch((error) => error));
  for (let i = 0; i < 2; i += 1) add(i);
  await until(() => seen() === 2);
  await new Promise((resolve) => setTimeout(resolve, 1100));
  for (let i = 2; i < 4; i += 1) add(i);
  await until(() => seen() === 4);
  await new Promise((resolve) => setTimeout(resolve, 1100));
  for (let i = 4; i < 6; i += 1) add(i);
  await new Promise((resolve) => setTimeout(resolve, 100));
  expect(seen()).toBe(4);
  for (const answer of backend.held.splice(0)) answer(OK);
  await until(() => backend.held.length === 2);
  expect(backend.direct.map(({ event }) => event.key)).toEqual(['k0', 'k1', 'k2', 'k3', 'k4', 'k5']);
  for (const answer of backend.held.splice(0)) answer(OK);
  expect((await Promise.all(asked)).filter((answer) => answer instanceof Error)).toEqual([]);
  expect(most).toBe(4);
});

test('what has no answer when the connection is lost goes out on the next one', async () => {
  const port = await freePort();
  const first = await start({ eventsPerSecondMax: 4 }, { port });
  let appending = 0;
  first.backend.append = () => {
    appending += 1;
    return new Promise(() => undefined);
  };
  const client = connect(first.gateway.url, { retries: 10 });
  clients.push(client);
  const keys = Array.from({ length: 10 }, (_, i) => `k${i}`);
  const send = (from: number, to: number) =>
    keys.slice(from, to).map((key) => client.send({ key, data: {} }));
  const sent = send(0, 4);
  await until(() => appending === 4);
  await new Promise((resolve) => setTimeout(resolve, 1100));
  // All eight places are taken; the last two wait on this side.
  sent.push(...send(4, 10));
  await until(() => appending === 8);
  await first.gateway.drain();
  const second = await start({ eventsPerSecondMax: 4 }, { port });
  expect((await Promise.all(sent)).length).toBe(10);
  expect(second.backend.appended.map(({ key }) => key).sort()).toEqual(keys);
});

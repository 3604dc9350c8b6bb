/** Inference over HTTP, and everything a client can do to a request. */
import { createConnection } from 'node:net';
import { pack } from 'msgpackr';
import { afterEach, expect, test } from 'vitest';
import { tensorsOf } from '../src/gateway/routes/tensors.ts';
import type { Started } from './support/gateway.ts';
import { OK, start, stopGateways, until } from './support/gateway.ts';

afterEach(stopGateways);

async function post(started: Started, path: string, body: unknown, headers = {}): Promise<Response> {
  return fetch(started.gateway.url + path, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  });
}

async function get(started: Started, path: string, headers = {}): Promise<Response> {
  return fetch(started.gateway.url + path, { headers });
}

const ENERGY = { name: 'energy', shape: [2], datatype: 'FP32', data: [0.1, 0.2] };
const INFER = '/v2/models/genre/infer';

test('server, health and model metadata', async () => {
  const started = await start({}, { version: '1.2.3' });
  expect(await (await get(started, '/v2')).json()).toEqual({
    name: 'subito',
    version: '1.2.3',
    extensions: ['binary_tensor_data'],
  });
  expect(await (await get(started, '/v2/health/live')).json()).toEqual({ live: true });
  expect(await (await get(started, '/v2/health/ready')).json()).toEqual({ ready: true });
  const metadata = {
    name: 'genre',
    versions: ['3'],
    platform: 'onnxruntime_onnx',
    inputs: [
      { name: 'energy', datatype: 'FP32', shape: [-1] },
      { name: 'plays', datatype: 'INT64', shape: [-1] },
      { name: 'embedding', datatype: 'FP32', shape: [-1, 2, 2] },
    ],
    outputs: [
      { name: 'score', datatype: 'FP32', shape: [-1] },
      { name: 'probabilities', datatype: 'FP32', shape: [-1, 2] },
    ],
    parameters: { description: 'Genre of a track', provider: 'cpu', rows_max: 8 },
  };
  expect(await (await get(started, '/v2/models/genre')).json()).toEqual(metadata);
  expect(await (await get(started, '/v2/models/genre/versions/3')).json()).toEqual(metadata);
  expect(await (await get(started, '/v2/models/genre/ready')).json()).toEqual({ name: 'genre', ready: true });
  started.backend.ready = false;
  const ready = await get(started, '/v2/health/ready');
  expect([ready.status, await ready.json()]).toEqual([
    503,
    { ready: false, reasons: ['no model is loaded'] },
  ]);
  const modelReady = await get(started, '/v2/models/genre/versions/3/ready');
  expect([ready, modelReady].map(({ headers }) => headers.get('retry-after'))).toEqual(['1', '1']);
  expect(modelReady.status).toBe(503);
  expect((await get(started, '/v2/health/live')).status).toBe(200);
});

test('rows go in as events and come out as tensors', async () => {
  const started = await start();
  started.backend.answer = (_event, call) => ({
    ...OK,
    outputs: pack({ score: call, probabilities: [call, 0.5], label: `l${call}`, by: { rap: call } }),
  });
  const inputs = [
    { name: 'energy', shape: [2, 1], datatype: 'FP32', data: [0.1, 0.2] },
    { name: 'plays', shape: [2], datatype: 'INT64', data: [7, 8] },
    { name: 'embedding', shape: [2, 2, 2], datatype: 'FP32', data: [1, 2, 3, 4, [5, 6, 7, 8]] },
  ];
  const parameters = { key: 'u42', deadline_ms: 50 };
  const response = await post(started, '/v2/models/genre/versions/3/infer', { id: 'r1', parameters, inputs });
  expect(await response.json()).toEqual({
    model_name: 'genre',
    model_version: '3',
    id: 'r1',
    parameters: { status: 'ok' },
    outputs: [
      { name: 'score', datatype: 'FP32', shape: [2], data: [1, 2] },
      { name: 'probabilities', datatype: 'FP32', shape: [2, 2], data: [1, 0.5, 2, 0.5] },
      { name: 'label', datatype: 'BYTES', shape: [2], data: ['l1', 'l2'] },
      {
        name: 'by',
        datatype: 'BYTES',
        shape: [2],
        data: ['{"rap":1}', '{"rap":2}'],
        parameters: { encoding: 'json' },
      },
    ],
  });
  expect(started.backend.direct.map(({ data }) => data)).toEqual([
    {
      energy: 0.1,
      plays: 7,
      embedding: [
        [1, 2],
        [3, 4],
      ],
    },
    {
      energy: 0.2,
      plays: 8,
      embedding: [
        [5, 6],
        [7, 8],
      ],
    },
  ]);
  expect(started.backend.direct[0]?.event).toMatchObject({ model: 'genre@3', key: 'u42', deadlineMs: 50 });
});

test('a body that is not UTF-8 is a 400', async () => {
  const started = await start();
  const body = Buffer.from('{"data":{"energy":"\xe9"}}', 'latin1');
  const response = await fetch(started.gateway.url + INFER, { method: 'POST', body });
  expect([response.status, await response.json()]).toEqual([
    400,
    { error: 'the body is not taken: not UTF-8', code: 'malformed' },
  ]);
});

test('64-bit integers that a JSON number would round travel as text, and stay INT64', async () => {
  const started = await start();
  started.backend.answer = () => ({ ...OK, outputs: pack({ score: 1 }) });
  const [exact, rounded] = ['9007199254740993', 9007199254740992];
  const plays = (data: unknown[]) => ({
    inputs: [{ name: 'plays', shape: [data.length], datatype: 'INT64', data }],
  });
  expect((await post(started, INFER, plays([1, exact]))).status).toBe(200);
  expect(started.backend.direct.map(({ data }) => data)).toEqual([{ plays: 1 }, { plays: exact }]);
  const refused = await post(started, INFER, plays([1, rounded]));
  expect([refused.status, await refused.json()]).toEqual([
    400,
    {
      error: 'inputs[0].data[1]: a number beyond 2^53 - 1 is not exact: give it as a string',
      code: 'invalid_request',
    },
  ]);
  for (const dtype of ['int64', 'uint64'] as const) {
    const rows = [{ y: [1, exact] }, { y: [2, 3] }];
    expect(tensorsOf(rows, [{ name: 'y', dtype, shape: [2] }])).toEqual([
      { name: 'y', datatype: dtype.toUpperCase(), shape: [2, 2], data: [1, exact, 2, 3] },
    ]);
  }
  // Text of a text output stays text, whatever it looks like.
  expect(tensorsOf([{ y: '1' }], [{ name: 'y', dtype: 'string', shape: [] }])).toMatchObject([
    { datatype: 'BYTES', data: ['1'] },
  ]);
});

test('outputs can be chosen, and one that is not there is an error', async () => {
  const started = await start();
  const some = await post(started, INFER, { inputs: [ENERGY], outputs: [{ name: 'score' }] });
  expect(((await some.json()) as { outputs: unknown[] }).outputs).toHaveLength(1);
  const none = await post(started, INFER, { inputs: [ENERGY], outputs: [{ name: 'nope' }] });
  expect([none.status, await none.json()]).toEqual([
    400,
    { error: 'outputs: genre has no output nope', code: 'invalid_request' },
  ]);
});

test('a thousand rows are in flight a few at a time, answered at once or later', async () => {
  const started = await start();
  const data = Array.from({ length: 1000 }, (_, i) => i);
  const body = { inputs: [{ name: 'plays', shape: [1000], datatype: 'INT64', data }] };
  const echo = (n: number) => ({ ...OK, outputs: Buffer.from(JSON.stringify({ score: n })) });
  started.backend.answer = (_event, call) => echo(call);
  const at = async (response: Response) =>
    ((await response.json()) as { outputs: { data: unknown }[] }).outputs;
  expect((await at(await post(started, INFER, body)))[0]?.data).toEqual(data.map((n) => n + 1));
  started.backend.direct.length = 0;
  started.backend.answer = () => null;
  const pending = post(started, INFER, body);
  let answered = 0;
  while (answered < 1000) {
    await until(() => started.backend.held.length > 0);
    expect(started.backend.held.length).toBeLessThanOrEqual(8);
    for (const answer of started.backend.held.splice(0)) answer(echo(answered++));
  }
  expect((await at(await pending))[0]?.data).toEqual(data);
});

test('the short form: one event, one prediction', async () => {
  const started = await start();
  const body = { key: 'u42', event: 'e1', deadline_ms: 20, data: { energy: 0.5 } };
  expect(await (await post(started, INFER, body)).json()).toEqual({
    model: 'genre@3',
    status: 'ok',
    outputs: { score: 0.5, probabilities: [0.25, 0.75] },
    wait_us: 400,
    infer_us: 200,
    event: 'e1',
  });
  expect(started.backend.direct[0]).toMatchObject({
    data: { energy: 0.5 },
    event: { key: 'u42', event: 'e1' },
  });
});

const input = (more: object) => ({ inputs: [{ ...ENERGY, ...more }] });
const bad: readonly (readonly [string, unknown, RegExp])[] = [
  ['no inputs', {}, /^inputs: /],
  ['not JSON', '{"inputs":', /the body is not taken/],
  ['a list', [], /not a JSON object/],
  ['deep nesting', `{"data":{"a":${'['.repeat(100_000)}${']'.repeat(100_000)}}}`, /nest deeper/],
  ['data of no kind', { data: 7 }, /^data: /],
  ['too little data', input({ data: [0.1] }), /^inputs\[0\]\.data: has 1 elements, its shape asks for 2/],
  ['a false shape', input({ shape: [-1] }), /^inputs\[0\]\.shape: /],
  ['no shape', input({ shape: [] }), /^inputs\[0\]\.shape: /],
  ['a huge shape', input({ shape: [1, 1_000_000_000, 0], data: [] }), /^inputs\[0\]\.shape: /],
  ['no rows', input({ shape: [0], data: [] }), /has 0 rows/],
  ['too many rows', input({ shape: [5000], data: Array(5000).fill(0) }), /has 5000 rows/],
  ['a datatype of no kind', input({ datatype: 'FLOAT' }), /^inputs\[0\]\.datatype: FLOAT/],
  [
    'another datatype than the model',
    input({ datatype: 'BYTES', data: ['a', 'b'] }),
    /takes FP32, not BYTES/,
  ],
  ['values of another datatype', input({ data: [0.1, 'x'] }), /^inputs\[0\]\.data\[1\]: /],
  ['a fraction as INT64', input({ name: 'plays', datatype: 'INT64', data: [1, 1.5] }), /data\[1\]: /],
  ['an input twice', { inputs: [ENERGY, ENERGY] }, /^inputs\[1\]\.name: energy is given twice/],
  [
    'uneven rows',
    { inputs: [ENERGY, { name: 'plays', shape: [1], datatype: 'INT64', data: [1] }] },
    /^inputs\[1\]\.shape: has 1 rows/,
  ],
  ['a long key', { data: {}, key: 'x'.repeat(129) }, /^key: /],
];
test.each(bad)('%s is a 400 that says where', async (_name, body, message) => {
  const started = await start();
  const response = await post(started, INFER, body);
  expect(response.status).toBe(400);
  expect(((await response.json()) as { error: string }).error).toMatch(message);
  expect(started.backend.direct).toEqual([]);
});

const failures = [
  [{ status: 'invalid', detail: 'energy: must be finite' }, 400, 'invalid_event', null, undefined],
  [{ status: 'overloaded', retryMs: 1200 }, 429, 'overloaded', '2', 1200],
  [{ status: 'overloaded', retryMs: 0.25 }, 429, 'overloaded', '1', 1],
  [{ status: 'overloaded', retryMs: 1000 }, 429, 'overloaded', '1', 1000],
  [{ status: 'unavailable', retryMs: 3000.5 }, 503, 'model_unavailable', '4', 3001],
  [{ status: 'unavailable', retryMs: 0 }, 503, 'model_unavailable', '1', 1000],
  [{ status: 'unknown_model' }, 404, 'unknown_model', null, undefined],
  [{ status: 'expired' }, 504, 'deadline_exceeded', null, undefined],
  [{ status: 'failed' }, 500, 'internal', null, undefined],
] as const;
test.each(failures)('%j is answered with %i %s', async (answer, status, code, retryAfter, retryMs) => {
  const started = await start();
  started.backend.answer = (_event, call) => (call === 1 ? OK : { ...OK, detail: '', ...answer });
  const response = await post(started, INFER, { inputs: [ENERGY] });
  expect(response.status).toBe(status);
  expect(response.headers.get('retry-after')).toBe(retryAfter);
  const body = (await response.json()) as { error: string; code: string; retry_ms?: number };
  expect([body.code, body.retry_ms]).toEqual([code, retryMs]);
  expect(body.error).toMatch(/^row 1: ./);
  const short = await post(started, INFER, { data: {} });
  expect([short.status, ((await short.json()) as { error: string }).error]).toEqual([
    status,
    expect.not.stringContaining('row'),
  ]);
});

function thrower(): never {
  throw new Error('a bug');
}

test('an engine that throws, or answers nonsense, is a 500 and stays inside', async () => {
  const started = await start();
  const nonsense = { ...OK, outputs: Buffer.from('{"score":') };
  for (const answer of [() => nonsense, thrower]) {
    started.backend.answer = answer;
    for (const body of [{ data: {} }, { inputs: [ENERGY] }]) {
      const response = await post(started, INFER, body);
      expect([response.status, await response.json()]).toEqual([
        500,
        { error: 'the engine failed on this request', code: 'internal' },
      ]);
    }
  }
  // Later, from the engine's own stack.
  started.backend.answer = () => null;
  const late = post(started, INFER, { inputs: [ENERGY] });
  await until(() => started.backend.held.length === 2);
  for (const answer of started.backend.held) expect(() => answer(nonsense)).not.toThrow();
  expect((await late).status).toBe(500);
});

test('unknown paths, models and methods', async () => {
  const started = await start();
  for (const path of ['/v2/models/nope', '/v2/models/genre/versions/9', '/v2/nope', '/nope', '/v2/models']) {
    expect((await get(started, path)).status, path).toBe(404);
  }
  expect((await get(started, '/v2/models/genre/versions/3/infer/more')).status).toBe(404);
  expect((await get(started, '/v2/models/%zz')).status).toBe(400);
  const wrong = await get(started, INFER);
  expect([wrong.status, wrong.headers.get('allow')]).toEqual([405, 'POST']);
  expect((await post(started, '/v2/models/genre', {})).status).toBe(405);
  expect((await post(started, '/metrics', {})).status).toBe(405);
  expect((await post(started, '/v2/models/nope/infer', {})).status).toBe(404);
  const head = await fetch(`${started.gateway.url}/v2/health/live`, { method: 'HEAD' });
  expect([head.status, await head.text()]).toEqual([200, '']);
});

test('bodies too large, announced or not, and bodies of another type', async () => {
  const started = await start({ httpBodyBytesMax: 100_000 });
  expect((await post(started, INFER, `{"data":{},"pad":"${'x'.repeat(90_000)}"}`)).status).toBe(200);
  const large = await post(started, INFER, 'x'.repeat(100_001));
  expect([large.status, ((await large.json()) as { code: string }).code]).toEqual([413, 'too_large']);
  const chunked = await new Promise<string>((resolve) => {
    const socket = createConnection(started.gateway.port, '127.0.0.1');
    let answer = '';
    socket.on('data', (data) => {
      answer += data.toString();
    });
    socket.on('error', () => undefined);
    socket.on('close', () => resolve(answer));
    socket.write(`POST ${INFER} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n`);
    socket.write(`${(101_000).toString(16)}\r\n${'x'.repeat(101_000)}\r\n`);
  });
  expect(chunked).toMatch(/^HTTP\/1.1 413 /);
  const binary = { 'content-type': 'application/octet-stream' };
  expect((await post(started, INFER, '{}', binary)).status).toBe(415);
  const xml = { 'content-type': 'text/xml', 'inference-header-content-length': '2' };
  expect((await post(started, INFER, '{}', xml)).status).toBe(415);
  // What curl -d sends.
  const form = { 'content-type': 'application/x-www-form-urlencoded' };
  expect((await post(started, INFER, { data: {} }, form)).status).toBe(200);
});

test('pages of other origins may not post', async () => {
  const started = await start({}, { origins: ['https://player.example.com'] });
  const from = async (origin: string) => (await post(started, INFER, { data: {} }, { origin })).status;
  expect(await from('https://evil.example')).toBe(403);
  expect(await from('https://player.example.com')).toBe(200);
  expect(await from(started.gateway.url)).toBe(200);
});

test('clients that leave mid-request, before, during and after their body', async () => {
  const started = await start();
  const { backend, gateway } = started;
  backend.answer = () => null;
  const open = (text: string) => {
    const socket = createConnection(gateway.port, '127.0.0.1');
    socket.on('error', () => undefined);
    socket.write(text);
    return socket;
  };
  const body = JSON.stringify({ inputs: [ENERGY] });
  const head = `POST ${INFER} HTTP/1.1\r\nhost: localhost\r\ncontent-length: ${body.length}\r\n\r\n`;
  const sockets = [open(head), open(head + body.slice(0, 20)), open('POST /v2/mod')];
  for (let i = 0; i < 20; i++) sockets.push(open(head + body));
  await until(() => backend.held.length === 40);
  for (const socket of sockets) socket.resetAndDestroy();
  await new Promise((resolve) => setTimeout(resolve, 50));
  for (const answer of backend.held) answer(OK);
  backend.answer = () => OK;
  expect((await post(started, INFER, { data: {} })).status).toBe(200);
});

test('a request in hand is answered while draining', async () => {
  const started = await start();
  started.backend.answer = () => null;
  const pending = post(started, INFER, { data: {} });
  await until(() => started.backend.held.length === 1);
  const drained = started.gateway.drain();
  await new Promise((resolve) => setTimeout(resolve, 150));
  started.backend.held[0]?.(OK);
  expect((await pending).status).toBe(200);
  await drained;
});

test('a name that was made to point at loopback is not answered', async () => {
  const { gateway } = await start({}, { origins: ['https://player.example'] });
  // fetch sets Host itself, so the request is written by hand.
  const statusOf = (host: string) =>
    new Promise<string>((resolve, reject) => {
      const socket = createConnection(gateway.port, '127.0.0.1');
      socket.setEncoding('utf8');
      socket.once('data', (text) => {
        socket.destroy();
        resolve(String(text).split('\r\n')[0]?.slice(9) ?? '');
      });
      socket.once('error', reject);
      socket.write(`GET /v2 HTTP/1.1\r\nHost: ${host}\r\n\r\n`);
    });
  expect(await statusOf(`evil.example:${gateway.port}`)).toBe('421 Misdirected Request');
  expect(await statusOf(`localhost:${gateway.port}`)).toBe('200 OK');
  expect(await statusOf(`[::1]:${gateway.port}`)).toBe('200 OK');
  expect(await statusOf('player.example')).toBe('200 OK');
  expect(await statusOf(`evil.example:${gateway.port}`)).toBe('421 Misdirected Request');
});

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { environmentVariables } from '../src/config/environment.ts';
import { type Config, configJsonSchema, loadConfig, redact } from '../src/config.ts';
import { SubitoError } from '../src/errors.ts';

const dir = mkdtempSync(join(tmpdir(), 'subito-config-'));
afterAll(() => rmSync(dir, { recursive: true }));

let files = 0;
function fromYaml(text: string, env: Record<string, string> = {}): Config {
  const file = join(dir, `${files++}.yaml`);
  writeFileSync(file, text);
  return loadConfig({ file, env });
}

function failure(load: () => unknown): SubitoError {
  try {
    load();
  } catch (error) {
    if (error instanceof SubitoError) return error;
    throw error;
  }
  throw new Error('it was accepted');
}

test('no file and no environment give a configuration that listens on loopback', () => {
  const config = loadConfig({ env: {} });
  expect(config.redis).toEqual({ kind: 'url', url: 'redis://127.0.0.1:6379' });
  expect(config.streams).toHaveLength(1);
  expect(config.streams[0]).toMatchObject({
    name: 'events',
    predictions: 'predictions',
    encoding: 'msgpack',
  });
  expect(config.gateway).toMatchObject({ host: '127.0.0.1', port: 8080, auth: 'off', insecure: false });
  expect(config.workers.max).toBeGreaterThanOrEqual(config.workers.min);
});

test('the example file says exactly the defaults', () => {
  const defaults = loadConfig({ env: {} });
  expect(loadConfig({ file: 'deploy/subito.yaml', env: {} })).toEqual(defaults);
});

test('options win over the environment, which wins over the file', () => {
  const file = join(dir, 'order.yaml');
  writeFileSync(
    file,
    'gateway: {port: 1, origins: [https://a.example]}\nlatency: {target_ms: 1}\nlog: {level: warn}',
  );
  const env = { SUBITO_GATEWAY_PORT: '2', SUBITO_LATENCY_TARGET_MS: '2.5' };
  const config = loadConfig({ file, env, overrides: { gateway: { port: 3 } } });
  expect(config.gateway).toMatchObject({ port: 3, origins: ['https://a.example'] });
  expect(config.latency.targetMs).toBe(2.5);
  expect(config.log.level).toBe('warn');
  // SUBITO_CONFIG names the file where no option does.
  expect(loadConfig({ env: { SUBITO_CONFIG: file } }).gateway.port).toBe(1);
});

test('lists, sections and limits come from the environment too', () => {
  const env = {
    SUBITO_STREAMS: '[{"name": "plays", "deadline_ms": 50, "predictions_max": 7, "predictions_keep_ms": 9}]',
    SUBITO_WORKERS_PROVIDERS: '[cuda, cpu]',
    SUBITO_LIMITS_PAYLOAD_BYTES_MAX: '1000',
    SUBITO_REDIS: 'embedded',
  };
  const config = loadConfig({ env });
  expect(config.streams[0]).toMatchObject({
    name: 'plays',
    deadlineMs: 50,
    predictionsMax: 7,
    predictionsKeepMs: 9,
    eventsKeepMs: 10_000,
  });
  expect(config.workers.providers).toEqual(['cuda', 'cpu']);
  expect(config.limits.payloadBytesMax).toBe(1000);
  expect(config.redis).toEqual({ kind: 'embedded', port: 0, dir: './data/redis' });
});

test('every key has a variable of its own', () => {
  // environmentVariables throws if two keys share one, such as a.b_c and a_b.c.
  const names = environmentVariables();
  for (const name of ['SUBITO_REDIS_TLS_CA', 'SUBITO_GATEWAY_AUTH_JWT_JWKS_URL', 'SUBITO_LIMITS_PING_MS']) {
    expect(names.has(name), name).toBe(true);
  }
});

test('a text variable is taken as it stands: a password may look like a number', () => {
  const env = { SUBITO_REDIS_PASSWORD: '0123', SUBITO_REDIS_URL: 'redis://default:other@db.example:7000/2' };
  const { redis } = loadConfig({ env });
  expect(redis).toEqual({
    kind: 'url',
    url: 'redis://default@db.example:7000/2',
    password: '0123',
  });
});

test('a password alone goes to the default server', () => {
  const { redis } = loadConfig({ env: { SUBITO_REDIS_PASSWORD: 'pw' } });
  expect(redis).toEqual({ kind: 'url', url: 'redis://127.0.0.1:6379', password: 'pw' });
});

test('the password leaves the URL, decoded', () => {
  const { redis } = loadConfig({ env: { SUBITO_REDIS_URL: 'rediss://me:p%40ss@db.example:7000' } });
  expect(redis).toMatchObject({ password: 'p@ss', tls: {} });
  expect((redis as { url: string }).url).toBe('rediss://me@db.example:7000');
});

test('a variable that names another way to Redis puts the file’s aside', () => {
  const url = { SUBITO_REDIS_URL: 'redis://other:1' };
  expect(fromYaml('redis: {embedded: {port: 7}}', url).redis).toMatchObject({
    kind: 'url',
    url: 'redis://other:1',
  });
  const embedded = { SUBITO_REDIS_EMBEDDED_PORT: '7' };
  expect(fromYaml('redis: {url: "redis://file:1"}', embedded).redis).toMatchObject({
    kind: 'embedded',
    port: 7,
  });
});

test('the variables that Kubernetes makes of Services are not ours', () => {
  const env = {
    SUBITO_SERVICE_HOST: '10.0.0.1',
    SUBITO_SERVICE_PORT_HTTP: '8080',
    SUBITO_PORT: 'tcp://10.0.0.1:8080',
    SUBITO_PORT_8080_TCP_ADDR: '10.0.0.1',
    // A Service named subito-gateway: the worst case, since the name is one of ours.
    SUBITO_GATEWAY_PORT: 'tcp://10.0.0.1:8080',
  };
  expect(loadConfig({ env })).toEqual(loadConfig({ env: {} }));
});

/** As a cluster needs it. */
const PARTED = 'streams: [{name: events, partitions: 2}]';

test('a cluster, and sentinels', () => {
  const cluster = fromYaml(
    `redis: {cluster: ["redis://a:7000", "redis://b"], username: u, password: pw}\n${PARTED}`,
  );
  expect(cluster.redis).toEqual({
    kind: 'cluster',
    urls: ['redis://a:7000', 'redis://b'],
    username: 'u',
    password: 'pw',
  });
  const sentinel = fromYaml(
    'redis: {sentinels: ["rediss://a/2"], master: m, sentinel_username: s, sentinel_password: spw, tls: {ca: f}}',
  );
  expect(sentinel.redis).toEqual({
    kind: 'sentinel',
    urls: ['rediss://a/2'],
    master: 'm',
    sentinelUsername: 's',
    sentinelPassword: 'spw',
    tls: { ca: 'f' },
  });
  expect(JSON.stringify(redact(sentinel))).not.toContain('spw');
});

test('cluster and sentinels come from the environment too, and put another way aside', () => {
  const env = { SUBITO_REDIS_CLUSTER: '[redis://a:7000, "redis://[::1]:7001"]' };
  expect(fromYaml(`redis: {sentinels: ["redis://s"], master: m}\n${PARTED}`, env).redis).toEqual({
    kind: 'cluster',
    urls: ['redis://a:7000', 'redis://[::1]:7001'],
  });
  const sentinels = { SUBITO_REDIS_SENTINELS: '[redis://s]', SUBITO_REDIS_MASTER: 'm' };
  expect(fromYaml('redis: {url: "redis://file"}', sentinels).redis).toMatchObject({ master: 'm' });
  const url = { SUBITO_REDIS_URL: 'redis://other:1' };
  expect(fromYaml('redis: {sentinels: ["redis://s"], master: m}', url).redis).toEqual({
    kind: 'url',
    url: 'redis://other:1',
  });
  expect(fromYaml('redis: {sentinels: ["redis://s"]}', { SUBITO_REDIS_MASTER: 'm' }).redis).toMatchObject({
    kind: 'sentinel',
    master: 'm',
  });
});

// Each: YAML, then what the message must hold: the key, the value, and what to do.
const bad: [yaml: string, ...expected: string[]][] = [
  ['gateway: {port: 70000}', 'gateway.port = 70000', 'whole number from 0 to 65535'],
  ['gateway: {port: "x"}', 'gateway.port = "x"', 'whole number'],
  ['gateway: {prot: 1}', 'gateway.prot = ***', 'did you mean port?'],
  ['gatway: {port: 1}', 'gatway = {"port":1}', 'did you mean gateway?'],
  ['zzz: 1', 'zzz = 1', 'use one of redis, streams'],
  ['gateway: {host: 0.0.0.0}', 'gateway.host = "0.0.0.0"', 'gateway.insecure: true', '127.0.0.1'],
  ['gateway: {host: "::"}', 'gateway.host = "::"', 'gateway.insecure: true'],
  // Begins like loopback, but is a name that anyone can point anywhere.
  ['gateway: {host: 127.evil.example}', 'gateway.host', 'others can reach'],
  [
    'gateway: {auth: {jwt: {jwks_url: "https://id.example/k", issuer: i, audience: a}}}',
    'gateway.auth',
    'not verified yet',
    'say off',
  ],
  ['models: {watch: true}', 'models.watch = true', 'not watched yet', 'restart'],
  ['gateway: {auth: on}', 'gateway.auth = "on"', 'off'],
  ['gateway: {origins: ["https://a.example/"]}', 'gateway.origins[0]', 'did you mean https://a.example?'],
  ['redis: {password: p, embedded: {}}', 'redis = {"password":"***"', 'takes no credentials', 'redis.url'],
  ['redis: {url: "redis://a", embedded: {}}', 'names two servers', 'either'],
  [
    `redis: {url: "redis://a", cluster: ["redis://b"]}\n${PARTED}`,
    'names two servers (url, cluster)',
    'either',
  ],
  ['redis: {sentinels: ["redis://a"], embedded: {}, master: m}', '(embedded, sentinels)', 'either'],
  ['redis: {cluster: []}', 'redis.cluster = []', 'from 1 to 100 items'],
  [`redis: {cluster: ["unix:///a"]}\n${PARTED}`, 'redis.cluster[0] = "unix:///a"', 'redis://10.0.0.1:6379'],
  [`redis: {cluster: ["redis://a", "redis://"]}\n${PARTED}`, 'redis.cluster[1]', 'redis://10.0.0.1:6379'],
  [`redis: {cluster: ["redis://a?b"]}\n${PARTED}`, 'redis.cluster[0]', 'not the URL of a server'],
  [`redis: {cluster: ["redis://a/1"]}\n${PARTED}`, '"redis://a/1"', 'database 0 only', 'redis://a'],
  [`redis: {cluster: ["redis://u:pw@a"]}\n${PARTED}`, '"redis://***@a"', 'give redis.username'],
  [`redis: {cluster: ["redis://a", "rediss://b"]}\n${PARTED}`, 'redis.cluster[1]', 'all of them alike'],
  [`redis: {cluster: ["redis://a"], tls: {ca: f}}\n${PARTED}`, 'redis.cluster[0]', 'rediss://'],
  [
    'redis: {cluster: ["redis://a"]}',
    'streams[0].partitions = 1',
    'events and predictions would lie in different slots',
    '2 or more',
  ],
  ['redis: {sentinels: ["redis://a"]}', 'redis.master = missing', 'sentinel monitor NAME'],
  ['redis: {sentinels: ["redis://a/1", "redis://b"], master: m}', 'redis.sentinels[1]', 'alike'],
  ['redis: {master: m}', 'redis.master = "m"', 'without redis.sentinels'],
  ['redis: {url: "redis://a", sentinel_password: pw}', 'redis.sentinel_password = ***', 'remove it'],
  ['redis: {url: "http://a"}', 'redis.url = "http://a"', 'redis://127.0.0.1:6379'],
  ['redis: {url: "redis://a/x"}', 'redis.url = "redis://a/x"', '/N for database N'],
  ['redis: {url: "unix://"}', 'redis.url = "unix://"'],
  ['redis: {url: "redis://a", tls: {ca: f}}', 'redis.url = "redis://a"', 'rediss://'],
  ['redis: {url: "rediss://a", tls: {cert: f}}', 'redis.tls', 'cert and key, or neither'],
  ['redis: embeded', 'redis = "embeded"', 'embedded, or a section with url'],
  ['streams: []', 'streams = []', 'a list from 1 to 64 items'],
  ['streams: [{}]', 'streams[0].name = missing', 'it is required'],
  ['streams: [{name: a}, {name: a}]', 'streams[1].name = "a"', 'an earlier stream has this name'],
  [
    'streams: [{name: a, predictions: b}, {name: b, deadletters: d}]',
    'streams[0].predictions = "b"',
    'a would write there, and b is also a stream of events',
  ],
  [
    'streams: [{name: a}, {name: b, deadletters: dead}]',
    'streams[1].predictions = "predictions"',
    'b and a would both write there; give each its own',
  ],
  [
    'streams: [{name: a, predictions: x}, {name: b, predictions: y, deadletters: x}]',
    'streams[1].deadletters = "x"',
    'b and a would both write there',
  ],
  ['streams: [{name: a, events_keep_ms: -1}]', 'streams[0].events_keep_ms = -1', '0'],
  ['streams: [{name: a, deadletters: predictions}]', 'streams[0].deadletters', 'two different streams'],
  [
    'streams: [{name: a, deadline_ms: 9999999999}]',
    'streams[0].deadline_ms',
    'limits.deadline_ms_max (3600000)',
  ],
  ['streams: [{name: a, encoding: xml}]', 'streams[0].encoding = "xml"', 'one of msgpack, json'],
  ['streams: [{name: a, model: "g@0"}]', 'streams[0].model = "g@0"', '`name@version`'],
  ['workers: {min: 3, max: 2}', 'workers.min = 3', 'workers.max (2)'],
  ['workers: {providers: [cpu, cpu]}', 'workers.providers[1] = "cpu"', 'named twice; name each once'],
  [
    'workers: {providers: []}',
    'workers.providers',
    'a list of cpu, cuda, tensorrt, webgpu, coreml, or of maps',
  ],
  ['workers: {providers: [dml]}', 'workers.providers[0]', 'cuda'],
  ['workers: {providers: [{name: cuda, device_id: -1}]}', 'workers.providers[0].device_id', 'from 0 to 1023'],
  ['workers: {providers: [{name: cuda, sessions: 0}]}', 'workers.providers[0].sessions = 0', 'from 1 to 256'],
  ['workers: {providers: [{name: cuda, devcie_id: 1}]}', 'workers.providers[0].devcie_id', 'mean device_id?'],
  [
    'workers: {providers: [{name: cpu, device_id: 1}]}',
    'cpu has no choice of devices',
    'cuda and tensorrt have it',
  ],
  [
    'workers: {providers: [{name: cuda, gpu_mem_limit: 1000}]}',
    'workers.providers[0].gpu_mem_limit = 1000',
    'onnxruntime-node 1.30 hands cuda nothing but the number of its device',
  ],
  [
    'workers: {providers: [{name: cuda, options: {cudnn_conv_algo_search: HEURISTIC}}]}',
    'workers.providers[0].options.cudnn_conv_algo_search = "HEURISTIC"',
    'README.md, "GPUs"',
  ],
  [
    'workers: {providers: [{name: webgpu, options: {preferredLayout: NWHC}}]}',
    'workers.providers[0].options.preferredLayout = "NWHC"',
    'use one of NCHW, NHWC',
  ],
  [
    'workers: {providers: [{name: webgpu, options: {prefferedLayout: NHWC}}]}',
    'prefferedLayout',
    'mean preferredLayout?',
  ],
  [
    'workers: {providers: [{name: webgpu, sessions: 2}]}',
    'providers[0].sessions = 2',
    'there will be one worker',
  ],
  ['workers: {providers: [{name: cpu, options: {useArena: true}}]}', 'useArena', 'remove it; cpu takes none'],
  ['latency: {infer_share: 1.5}', 'latency.infer_share = 1.5', 'a number from 0.01 to 1'],
  ['workers: 4', 'workers = 4', 'a section with min, max, providers'],
  ['latency: {target_ms: 0}', 'latency.target_ms = 0', 'a number from 0.1'],
  ['limits: {payload_byte_max: 1}', 'limits.payload_byte_max = 1', 'did you mean payload_bytes_max?'],
  ['limits: {slab_arena_bytes: 10}', 'limits.slab_arena_bytes (10)', 'limits.payload_bytes_max (65536)'],
];

describe('a file that is wrong', () => {
  test.each(bad)('%s', (yaml, ...expected) => {
    const error = failure(() => fromYaml(yaml));
    expect(error.code).toBe('CONFIG_INVALID');
    for (const text of expected) expect(error.message).toContain(text);
    // One mistake, one complaint: nothing is reported twice or as a consequence of another.
    expect(error.detail).toHaveLength(1);
  });

  test('all mistakes come at once, those between keys too', () => {
    const yaml = 'gateway: {port: -1, host: 0.0.0.0}\nlog: {levl: info}\nstreams: [{name: a b}]';
    const env = { SUBITO_WORKERS_MINN: '1', SUBITO_LATENCY_TARGET_MS: 'soon' };
    const { message } = failure(() => fromYaml(yaml, env));
    for (const key of [
      'gateway.port',
      'gateway.host',
      'log.levl',
      'streams[0].name',
      'SUBITO_WORKERS_MIN?',
    ]) {
      expect(message).toContain(key);
    }
    expect(message).toContain('latency.target_ms = "soon" (SUBITO_LATENCY_TARGET_MS)');
  });

  test('is not YAML: line and column, and none of its text', () => {
    const error = failure(() => fromYaml('redis:\n  password: "geheim\n'));
    expect(error.code).toBe('CONFIG_INVALID');
    expect(error.message).toMatch(/line 3|line 2/);
    expect(error.message).not.toContain('geheim');
  });

  test('is not there', () => {
    const error = failure(() => loadConfig({ file: join(dir, 'absent.yaml'), env: {} }));
    expect(error).toMatchObject({
      code: 'CONFIG_NOT_FOUND',
      message: expect.stringContaining('absent.yaml'),
    });
  });
});

test('no secret is ever shown, in errors or by redact', () => {
  const env = {
    SUBITO_REDIS_URL: 'redis://u:geheim@h/x',
    SUBITO_REDIS_TLS_CA: 'f',
    SUBITO_GATEWAY_AUTH_JWT_SECRET: 'geheim',
    SUBITO_REDIS_PASWORD: 'geheim',
    SUBITO_LOG_LEVEL: 'redis://u:geheim@h',
  };
  const error = failure(() => loadConfig({ env }));
  expect(error.detail).toHaveLength(5);
  expect(JSON.stringify(error)).not.toContain('geheim');
  // A whole section of the wrong shape is quoted too.
  expect(failure(() => fromYaml('redis: [{password: geheim}]')).message).not.toContain('geheim');
  const secret = 'geheim-geheim-geheim-geheim-geheim';
  const token = { SUBITO_GATEWAY_AUTH: `{jwt: {secret: ${secret}, issuer: i, audience: a}}` };
  expect(failure(() => loadConfig({ env: token })).message).not.toContain('geheim');
  // Nor under a key that was meant to hold one, or where secrets live.
  for (const text of [
    'redis: {passwrd: geheim}',
    'redis: {pasword: geheim, url: redis://h, embedded: {}}',
    'redis: {auth: {word: [geheim]}}',
    'redis: [{auth: geheim}]',
    'redis: {tls: {phrase: geheim}}',
    'gateway: {auth: {jwt: {secrt: geheim}}}',
    'gateway: {auth: {jwtt: {key: geheim}}}',
    'gateway: {kee: geheim}',
    'redsi: {word: geheim}',
    'log: {tokn: geheim}',
    'sceret: geheim',
    'streams: [{name: a, pwd: geheim}]',
  ]) {
    const error = failure(() => fromYaml(text));
    expect(error.message, text).toContain('***');
    expect(error.message + JSON.stringify(error.detail), text).not.toContain('geheim');
  }
  // What cannot be one is shown: it helps.
  expect(failure(() => fromYaml('log: {levl: debug}')).message).toContain('log.levl = "debug"');
  expect(failure(() => fromYaml('gateway: {port: x1}')).message).toContain('gateway.port = "x1"');
  const given = { SUBITO_REDIS_PASSWORD: 'geheim', SUBITO_REDIS_URL: 'redis://h' };
  const config = loadConfig({ env: given });
  expect(JSON.stringify(config)).toContain('geheim');
  expect(JSON.stringify(redact(config))).not.toContain('geheim');
});

test('deploy/subito.schema.json is what `subito config schema` prints', () => {
  const committed: unknown = JSON.parse(readFileSync('deploy/subito.schema.json', 'utf8'));
  expect(committed, 'run: npm run -s subito -- config schema > deploy/subito.schema.json').toEqual(
    JSON.parse(JSON.stringify(configJsonSchema())),
  );
});

// A Redis that asks for client certificates, and a user with exactly the rights that the README names.
import { execFileSync } from 'node:child_process';
import { globSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Cluster, Redis } from 'ioredis';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from 'vitest';
import { loadConfig } from '../src/config.ts';
import { type Engine, startEngine } from '../src/engine.ts';
import { freePort } from '../src/ports.ts';
import { startCluster } from './support/cluster.ts';
import { until } from './support/core.ts';
import { MLP, modelsDir } from './support/engine.ts';
import { startRedis, type TestRedis } from './support/redis.ts';
import { MASTER_NAME, Sentinel } from './support/sentinel.ts';
import { eachOnce, flows, Producer, partsOf } from './support/survive.ts';

// Servers agree among themselves in seconds; a busy machine takes its time.
vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 });

const dir = mkdtempSync(join(tmpdir(), 'subito-tls-'));
const file = (name: string) => join(dir, name);
const parts = partsOf(1);
let models: string;
let server: TestRedis;
let admin: Redis;
let tlsPort: number;
let engine: Engine | undefined;

function openssl(...args: string[]): void {
  execFileSync('openssl', args, { stdio: 'pipe' });
}

const KEY = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];

function makeAuthority(name: string): void {
  openssl(
    ...['req', '-x509', ...KEY, '-days', '2', '-subj', `/CN=${name}`],
    ...['-keyout', file(`${name}.key`), '-out', file(`${name}.pem`)],
  );
}

function makeCertificate(name: string, authority: string, names: string): void {
  const [request, extensions] = [file(`${name}.csr`), file(`${name}.ext`)];
  writeFileSync(extensions, `subjectAltName=${names}\n`);
  openssl('req', ...KEY, '-subj', `/CN=${name}`, '-keyout', file(`${name}.key`), '-out', request);
  openssl(
    ...['x509', '-req', '-in', request, '-days', '2', '-extfile', extensions, '-CAcreateserial'],
    ...['-CA', file(`${authority}.pem`), '-CAkey', file(`${authority}.key`), '-out', file(`${name}.pem`)],
  );
}

/** For a server beside whose TLS port a plain one stays open for the test. */
const tlsSettings = () => ({
  'tls-cert-file': file('server.pem'),
  'tls-key-file': file('server.key'),
  'tls-ca-cert-file': file('authority.pem'),
  'tls-auth-clients': 'yes',
});

/** The rules of `ACL SETUSER subito ...` in the README, without the password. */
function documentedRules(): string[] {
  const readme = readFileSync('README.md', 'utf8');
  const [, rules = ''] = /^redis-cli ACL SETUSER subito ((?:.*\\\n)*.*)$/m.exec(readme) ?? [];
  const words = rules
    .replaceAll(/\\\n|['"]/g, ' ')
    .trim()
    .split(/\s+/);
  expect(words.length).toBeGreaterThan(10);
  return words.filter((word) => !word.startsWith('>'));
}

beforeAll(async () => {
  models = modelsDir({ mlp: { from: MLP } });
  makeAuthority('authority');
  makeAuthority('stranger');
  makeCertificate('server', 'authority', 'IP:127.0.0.1');
  makeCertificate('client', 'authority', 'DNS:subito');
  makeCertificate('outsider', 'stranger', 'DNS:subito');
  tlsPort = await freePort();
  server = await startRedis({
    config: {
      ...tlsSettings(),
      'tls-port': String(tlsPort),
    },
  });
  admin = server.connect();
});
afterAll(async () => {
  await server?.stop();
  rmSync(dir, { recursive: true });
  rmSync(models, { recursive: true });
});
beforeEach(async () => {
  await admin.flushall();
  await admin.acl('SETUSER', 'subito', 'reset', '>secret', ...documentedRules());
  await admin.acl('LOG', 'RESET');
});
afterEach(async () => {
  await engine?.stop();
  engine = undefined;
});

interface Access {
  readonly cert?: string;
  readonly ca?: string;
  readonly password?: string;
  readonly servername?: string;
}

async function start({
  cert = 'client',
  ca = 'authority',
  password,
  servername,
}: Access = {}): Promise<Engine> {
  const pair = cert === '' ? {} : { cert: file(`${cert}.pem`), key: file(`${cert}.key`) };
  engine = await startEngine(
    loadConfig({
      env: { SUBITO_REDIS_PASSWORD: password ?? 'secret' },
      overrides: {
        redis: {
          url: `rediss://127.0.0.1:${tlsPort}`,
          username: 'subito',
          tls: { ca: file(`${ca}.pem`), ...pair, ...(servername === undefined ? {} : { servername }) },
        },
        models: { path: models },
        gateway: { port: 0 },
        workers: { max: 1 },
      },
    }),
  );
  return engine;
}

/** A row of the README's table of further rights. */
function furtherRights(what: string): string[] {
  const row =
    readFileSync('README.md', 'utf8')
      .split('\n')
      .find((line) => line.startsWith(`| ${what}`)) ?? '';
  const rights = row.replaceAll('\\|', '|').match(/\+[a-z|-]+/g) ?? [];
  expect(rights.length).toBeGreaterThan(0);
  return rights;
}

async function serveThrough(redis: object, partitions: number, client: Redis | Cluster): Promise<void> {
  const pair = { ca: file('authority.pem'), cert: file('client.pem'), key: file('client.key') };
  engine = await startEngine(
    loadConfig({
      env: { SUBITO_REDIS_PASSWORD: 'secret', SUBITO_REDIS_USERNAME: 'subito' },
      overrides: {
        redis: { ...redis, tls: pair },
        streams: [{ name: 'events', partitions }],
        models: { path: models },
        gateway: { port: 0 },
        workers: { max: 1 },
      },
    }),
  );
  const names = partsOf(partitions);
  const producer = new Producer(client, names, Buffer.alloc(256));
  producer.start();
  await flows(client, names);
  await producer.stop();
  expect(await eachOnce(client, names, producer)).toEqual([]);
  await engine.stop();
}

test('a cluster that speaks TLS, with the rights that it needs besides', async () => {
  const tlsPorts: number[] = [];
  const config = async () => {
    const port = await freePort();
    tlsPorts.push(port);
    return { ...tlsSettings(), 'tls-port': String(port), 'tls-cluster': 'yes' };
  };
  const cluster = await startCluster({ config });
  try {
    const rights = [...documentedRules(), ...furtherRights('Redis Cluster')];
    for (const { client } of cluster.nodes) await client.acl('SETUSER', 'subito', '>secret', ...rights);
    const urls = tlsPorts.slice(0, 1).map((port) => `rediss://127.0.0.1:${port}`);
    await serveThrough({ cluster: urls }, 4, cluster.connect());
    for (const { client } of cluster.nodes) expect(await client.acl('LOG')).toEqual([]);
  } finally {
    await cluster.stop();
  }
});

test('a Sentinel that speaks TLS and has users of its own', async () => {
  const port = await freePort();
  const settings = Object.entries({ ...tlsSettings(), 'tls-port': String(port), 'tls-replication': 'yes' });
  const guard = new Sentinel(await freePort(), { ...server, port: tlsPort } as TestRedis, [
    ...settings.map(([name, value]) => `${name} ${value}`),
    `user subito on >guard -@all ${furtherRights('on the Sentinels').join(' ')}`,
  ]);
  try {
    const master = async () => String(await guard.client.call('SENTINEL', 'MASTER', MASTER_NAME));
    await until('the sentinel sees the master', async () => /flags[,\s]+master,/.test(await master()));
    await admin.acl('SETUSER', 'subito', ...furtherRights('behind Sentinel'));
    const sentinel = { sentinel_username: 'subito', sentinel_password: 'guard', master: MASTER_NAME };
    await serveThrough({ sentinels: [`rediss://127.0.0.1:${port}`], ...sentinel }, 1, admin);
    expect(await admin.acl('LOG')).toEqual([]);
    const log = (await guard.client.acl('LOG')) as unknown[];
    expect(log).toEqual([]);
  } finally {
    await guard.stop();
  }
});

const code = (error: unknown) => (error as { code: string }).code;

test('events are served with mutual TLS and the documented rights, and none more are asked for', async () => {
  const { backend } = await start();
  const producer = new Producer(admin, parts, Buffer.alloc(256));
  producer.start();
  await flows(admin, parts);
  // A group that is made again, and consumers that come and go.
  await admin.xgroup('DESTROY', 'events', 'subito');
  await flows(admin, parts);
  await engine?.stop();
  await start();
  await flows(admin, parts);
  await producer.stop();
  await admin.xadd('events', '*', 'key', 'k', 'data', '{"wrong":1}');
  await until('a dead letter', async () => (await admin.xlen('deadletters')) === 1);
  await until('ready', () => backend.health().ready || engine?.backend.health().ready);
  await engine?.stop();
  const denied = (await admin.acl('LOG')) as unknown[];
  expect(denied).toEqual([]);
  await admin.del('deadletters');
  const letter = (await admin.xrevrange('events', '+', '-', 'COUNT', 1))[0]?.[0] as string;
  await admin.xdel('events', letter);
  await eachOnce(admin, parts, producer);
});

test('every command of the scripts is among the documented rights', async () => {
  const allowed = new Set<string>();
  for (const rule of documentedRules()) {
    const category = /^\+@(.*)$/.exec(rule)?.[1];
    if (category === undefined) allowed.add(rule.slice(1));
    else for (const name of (await admin.acl('CAT', category)) as string[]) allowed.add(name);
  }
  const missing = new Set<string>();
  for (const script of globSync('src/redis/lua/*.lua')) {
    const text = readFileSync(script, 'utf8');
    for (const [, name = ''] of text.matchAll(/\bp?call\(\s*'([A-Z]+)'/g)) {
      const isAllowed = [...allowed].some((each) => each.split('|')[0] === name.toLowerCase());
      if (!isAllowed) missing.add(`${script}: ${name}`);
    }
  }
  expect([...missing]).toEqual([]);
});

test.each([
  ['no certificate of its own', { cert: '' }, /it may want a client certificate/],
  ['one that the server does not trust', { cert: 'outsider' }, /it may want a client certificate/],
  ['an authority that did not sign the server', { ca: 'stranger' }, /certificate/],
  ['a name that is not the server’s', { servername: 'redis.internal' }, /does not match|redis\.internal/],
  ['a wrong password', { password: 'wrong' }, /WRONGPASS/],
])('%s: the start fails and says why', async (_, access, reason) => {
  const error = await start(access).catch((thrown: unknown) => thrown as Error);
  expect(code(error)).toBe('REDIS_UNREACHABLE');
  expect((error as Error).message).toMatch(reason);
  expect((error as Error).message).not.toMatch(/secret|wrong|may not speak TLS/);
});

test('a right that is missing at the start is named', async () => {
  await admin.acl('SETUSER', 'subito', '-xgroup');
  await expect(start()).rejects.toMatchObject({
    code: 'STREAM_UNUSABLE',
    message: expect.stringMatching(/events: .*(NOPERM|can't run)/),
  });
  await admin.acl('SETUSER', 'subito', '+xgroup', '-info');
  await expect(start()).rejects.toMatchObject({ message: expect.stringMatching(/NOPERM .*info/) });
});

test.each([
  ['to read', ['-xreadgroup'], ['+xreadgroup'], /xreadgroup/],
  ['to write predictions', ['-xadd'], ['+xadd'], /refuses settlements: .*(xadd|can't run)/],
  [
    'to the predictions',
    ['resetkeys', '~events*', '~{events}*', '~deadletters*'],
    ['~*'],
    /refuses settlements/,
  ],
])(
  'a right %s that goes missing is said by readiness, and all goes on once it is back',
  async (_, wrong, right, reason) => {
    const { backend } = await start();
    const producer = new Producer(admin, parts, Buffer.alloc(256));
    producer.start();
    await flows(admin, parts);
    await admin.acl('SETUSER', 'subito', ...wrong);
    await until('not ready', () => backend.health().reasons.some((each) => reason.test(each)));
    await admin.acl('SETUSER', 'subito', ...right);
    await flows(admin, parts);
    await producer.stop();
    expect(await eachOnce(admin, parts, producer)).toEqual([]);
  },
);

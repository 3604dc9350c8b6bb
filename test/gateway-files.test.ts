/** What else the gateway's port serves: metrics, figures, the embedding program's routes, files. */
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import type { Started } from './support/gateway.ts';
import { start, stopGateways } from './support/gateway.ts';

afterEach(stopGateways);

async function get(started: Started, path: string, headers = {}): Promise<Response> {
  return fetch(started.gateway.url + path, { headers });
}

/** A path as it is, which fetch would tidy up first. */
async function getRaw(started: Started, path: string): Promise<{ status: number; body: string }> {
  return new Promise((resolve, reject) => {
    const req = request({ host: '127.0.0.1', port: started.gateway.port, path }, (res) => {
      let body = '';
      res.on('data', (chunk) => {
        body += chunk;
      });
      res.on('end', () => resolve({ status: res.statusCode ?? 0, body }));
    });
    req.on('error', reject).end();
  });
}

test('metrics, figures and the routes of the embedding program', async () => {
  const routes = {
    '/autoscale': () => ({ replicas: 2 }),
    '/slow': () => Promise.resolve([1]),
    '/broken': () => {
      throw new Error('why');
    },
  };
  const started = await start({}, { routes });
  const metrics = await get(started, '/metrics');
  expect(metrics.headers.get('content-type')).toMatch(/^text\/plain; version=0\.0\.4/);
  expect(await metrics.text()).toBe('subito_connections 1\n');
  expect(await (await get(started, '/stats')).json()).toEqual({ events: 7 });
  expect(await (await get(started, '/autoscale?x=1')).json()).toEqual({ replicas: 2 });
  expect(await (await get(started, '/slow')).json()).toEqual([1]);
  expect((await get(started, '/broken')).status).toBe(500);
  expect((await get(started, '/constructor')).status).toBe(404);
});

test('files: types, caching, no way out, nothing that is not on the list', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'gateway-'));
  try {
    await mkdir(join(dir, 'site/sub'), { recursive: true });
    await mkdir(join(dir, 'vendor'));
    await writeFile(join(dir, 'secret.txt'), 'hidden');
    await writeFile(join(dir, 'site/index.html'), '<h1>é</h1>');
    await writeFile(
      join(dir, 'site/sub/page.ts'),
      "import { a } from './b.ts';\nexport const x: number = a;\n",
    );
    await writeFile(join(dir, 'site/.env'), 'hidden');
    await writeFile(join(dir, 'site/run.sh'), 'hidden');
    await writeFile(join(dir, 'vendor/lib.css'), 'body{}');
    await symlink(join(dir, 'secret.txt'), join(dir, 'site/link.txt'));
    const started = await start(
      {},
      { staticDir: join(dir, 'site'), mounts: { '/vendor/': join(dir, 'vendor') } },
    );
    const page = await get(started, '/');
    expect(await page.text()).toBe('<h1>é</h1>');
    expect(page.headers.get('content-type')).toBe('text/html; charset=utf-8');
    expect(page.headers.get('content-security-policy')).toContain("default-src 'self'");
    expect(page.headers.get('x-content-type-options')).toBe('nosniff');
    const again = await get(started, '/index.html', { 'if-none-match': page.headers.get('etag') ?? '' });
    expect([again.status, await again.text()]).toEqual([304, '']);
    expect(await (await get(started, '/vendor/lib.css')).text()).toBe('body{}');
    const script = await get(started, '/sub/page.js');
    expect(script.headers.get('content-type')).toBe('text/javascript; charset=utf-8');
    expect(await script.text()).toMatch(/from '\.\/b\.js';\nexport const x\s+= a;/);
    const closed = [
      '/.env',
      '/run.sh',
      '/link.txt',
      '/sub/',
      '/../secret.txt',
      '/%2e%2e/secret.txt',
      '/sub/page.ts',
    ];
    for (const path of [...closed, '/vendor/../../secret.txt', '//etc/passwd', '/..%2fsecret.txt']) {
      const { status, body } = await getRaw(started, path);
      expect([path, status, body.includes('hidden')]).toEqual([path, 404, false]);
    }
  } finally {
    await rm(dir, { recursive: true });
  }
});

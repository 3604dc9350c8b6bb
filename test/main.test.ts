import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';

const dir = mkdtempSync(join(tmpdir(), 'subito-main-'));
afterAll(() => rmSync(dir, { recursive: true }));

interface Ran {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** The real command line, in an environment without SUBITO_ variables but those given. */
function subito(args: readonly string[], env: Record<string, string> = {}): Promise<Ran> {
  const { promise, resolve } = Promise.withResolvers<Ran>();
  const options = { env: { PATH: process.env['PATH'] ?? '', ...env } };
  execFile(process.execPath, ['src/main.ts', ...args], options, (error, out, err) => {
    resolve({ code: error === null ? 0 : Number(error.code), out, err });
  });
  return promise;
}

test('config show prints what results, as a file that loads again, without secrets', async () => {
  const env = { SUBITO_REDIS_PASSWORD: 'geheim', SUBITO_LATENCY_TARGET_MS: '7' };
  const shown = await subito(['config', 'show', '--json'], env);
  expect(shown).toMatchObject({ code: 0, err: '' });
  const config = JSON.parse(shown.out) as { redis: unknown; latency: unknown };
  expect(config.latency).toEqual({ target_ms: 7, infer_share: 0.35 });
  expect(config.redis).toEqual({ url: 'redis://127.0.0.1:6379', password: '***' });
  // Every key that is shown is one that a file takes.
  const file = join(dir, 'shown.yaml');
  writeFileSync(file, (await subito(['config', 'show'], env)).out);
  const again = await subito(['config', 'show', '--json', '--config', file]);
  expect(JSON.parse(again.out)).toEqual(config);
});

test('an error is one line with its code and what to do, and no stack', async () => {
  const { code, out, err } = await subito(['config', 'check'], { SUBITO_GATEWAY_PORT: '70000' });
  expect({ code, out }).toEqual({ code: 2, out: '' });
  expect(err).toMatch(/^subito: CONFIG_INVALID: gateway\.port = 70000 \(SUBITO_GATEWAY_PORT\).*\n$/);
});

test('--json makes errors JSON, wherever it stands', async () => {
  for (const args of [
    ['--json', 'config', 'check'],
    ['config', 'check', '--json'],
  ]) {
    const { code, err } = await subito(args, { SUBITO_GATEWAY_HOST: '0.0.0.0' });
    expect(code).toBe(2);
    const { error } = JSON.parse(err) as { error: { code: string; detail: { key: string }[] } };
    expect([error.code, error.detail[0]?.key]).toEqual(['CONFIG_INVALID', 'gateway.host']);
  }
});

test.each([
  [['serve', '--prot', '1'], 'Did you mean --port?'],
  [['serve', '--port', '1.5'], 'whole number from 0 to 65535'],
  [['sevre'], 'Did you mean serve?'],
  [[], 'no command was given'],
])('%j is a usage error that helps', async (args, text) => {
  const { code, err } = await subito(args);
  expect(code).toBe(2);
  expect(err).toContain('subito: USAGE: ');
  expect(err).toContain(text);
});

test.each(['serve', 'demo', 'load', 'models', 'audit', 'deadletters', 'config'])(
  '%s --help explains itself',
  async (command) => {
    const { code, out, err } = await subito([command, '--help']);
    expect({ code, err }).toEqual({ code: 0, err: '' });
    expect(out).toContain(`Usage: subito ${command}`);
    expect(out).toContain('--json');
  },
);

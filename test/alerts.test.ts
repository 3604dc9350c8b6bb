// The alert rules, by Prometheus's own tool; and that they, and the dashboard, speak of what is exported.
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, expect, test } from 'vitest';
import { parse, stringify } from 'yaml';
import { dashboard } from '../deploy/grafana/dashboard.ts';
import { channels } from '../src/observe/channels.ts';
import { createMetrics } from '../src/observe/metrics.ts';
import { Totals } from '../src/observe/totals.ts';
import { engineSources, settleReport } from './support/observed.ts';

const run = promisify(execFile);
const RULES = 'deploy/prometheus/alerts.yml';
const RULE_TESTS = 'deploy/prometheus/alerts.test.yml';

interface Rule {
  readonly alert: string;
  readonly expr: string;
  readonly labels: { readonly severity: string };
  readonly annotations: Readonly<Record<string, string>>;
}

const { groups } = parse(readFileSync(RULES, 'utf8')) as { groups: { rules: Rule[] }[] };
const rules = groups.flatMap((group) => group.rules);
const panelExprs = dashboard()
  .panels.flatMap((panel) => panel.targets ?? [])
  .map(({ expr }) => expr);

let totals: Totals | undefined;
afterEach(() => totals?.stop());

const whereIsPromtool = async (): Promise<string> => {
  const { stdout } = await run('bash', ['deploy/promtool.sh', '--find']).catch(() => ({ stdout: '' }));
  return stdout.trim();
};
const promtool = await whereIsPromtool();
// `npm test` brings it; on macOS only where there is Homebrew.
const isExcused = promtool === '' && process.platform === 'darwin';

test.skipIf(isExcused)('the rules do what their tests say', async () => {
  expect(promtool, 'promtool is missing: bash deploy/setup.sh --tests').not.toBe('');
  const answer = await run(promtool, ['test', 'rules', RULE_TESTS]).catch((error: unknown) => error);
  expect(answer).toMatchObject({ stdout: expect.stringContaining('SUCCESS') });
});

test.skipIf(isExcused)("the dashboard's expressions are PromQL", async () => {
  const exprs = panelExprs.map((expr) =>
    expr.replaceAll('$__rate_interval', '5m').replaceAll('$stream', '.*'),
  );
  const recorded = exprs.map((expr, i) => ({ record: `panel:${i}`, expr }));
  const dir = mkdtempSync(join(tmpdir(), 'subito-promql-'));
  try {
    const file = join(dir, 'panels.yml');
    writeFileSync(file, stringify({ groups: [{ name: 'panels', rules: recorded }] }));
    const answer = await run(promtool, ['check', 'rules', file]).catch((error: unknown) => error);
    expect(answer).toMatchObject({ stdout: expect.stringContaining(`${exprs.length} rules found`) });
  } finally {
    rmSync(dir, { recursive: true });
  }
});

test('each alert has a severity, says what it is about and what to do, and has a test', () => {
  const tests = readFileSync(RULE_TESTS, 'utf8');
  for (const { alert, labels, annotations } of rules) {
    expect(['warning', 'critical'], alert).toContain(labels.severity);
    expect(Object.keys(annotations), alert).toEqual(['summary', 'description', 'action']);
    for (const text of Object.values(annotations)) expect(text.length, alert).toBeGreaterThan(20);
    expect(tests, `no test has ${alert} fire`).toContain(`alertname="${alert}"`);
  }
});

/** Metrics that an engine exports, with what a histogram makes of its name; and its labels. */
async function exported(): Promise<Map<string, Set<string>>> {
  totals = new Totals();
  const metrics = createMetrics({ totals, sources: engineSources, now: Date.now });
  channels.read.publish({ stream: 'events', rows: 1, bytes: 1 });
  channels.settle.publish(settleReport('events', 'm@1', { ok: 1 }));
  channels.notice.publish({ level: 'warn', code: 'COMMIT_REFUSED', message: '' });
  const found = new Map<string, Set<string>>();
  for (const line of (await metrics.render()).split('\n')) {
    const [, name, labels = ''] = /^(\w+)(?:\{(.*)\})? \S+$/.exec(line) ?? [];
    if (name === undefined) continue;
    const names = [...labels.matchAll(/(\w+)="/g)].map(([, label]) => label as string);
    found.set(name, new Set([...(found.get(name) ?? []), ...names]));
  }
  return found;
}

/** What Prometheus makes of a target itself. */
const TARGET_LABELS = ['job', 'instance'];

/** Metrics that an expression names, with the labels that it picks by. */
function named(expr: string): { name: string; labels: string[] }[] {
  const plain = expr.replace(/\$\{?\w+\}?/g, 'x');
  return [...plain.matchAll(/\b((?:subito|nodejs|process)_\w+)(?:\{([^}]*)\})?/g)].map(
    ([, name, picked]) => ({
      name: name as string,
      labels: [...(picked ?? '').matchAll(/(\w+)\s*(?:=~|!=|!~|=)\s*"/g)].map(([, label]) => label as string),
    }),
  );
}

test('every metric and label that a rule or the dashboard names is exported', async () => {
  const page = await exported();
  const exprs = [...rules.map(({ expr }) => expr), ...panelExprs];
  expect(exprs.length).toBeGreaterThan(30);
  for (const expr of exprs) {
    for (const { name, labels } of named(expr)) {
      const known = page.get(name);
      expect(known, `${name} in ${expr}`).toBeDefined();
      const strange = labels.filter((label) => !known?.has(label) && !TARGET_LABELS.includes(label));
      expect(strange, `${name} in ${expr}`).toEqual([]);
    }
  }
});

test('the dashboard in deploy/grafana is what its generator makes', () => {
  const text = readFileSync('deploy/grafana/subito.json', 'utf8');
  expect(text, 'run: node deploy/grafana/dashboard.ts').toBe(`${JSON.stringify(dashboard(), null, 2)}\n`);
});

test('panels stand beside one another, have distinct ids, and say what they show', () => {
  const { panels } = dashboard();
  expect(new Set(panels.map(({ id }) => id)).size).toBe(panels.length);
  for (const [i, { gridPos: a, title, type, description }] of panels.entries()) {
    expect(a.x + a.w, title).toBeLessThanOrEqual(24);
    if (type !== 'row') expect(description?.length, title).toBeGreaterThan(10);
    for (const { gridPos: b, title: other } of panels.slice(i + 1)) {
      const isApart = a.x + a.w <= b.x || b.x + b.w <= a.x || a.y + a.h <= b.y || b.y + b.h <= a.y;
      expect(isApart, `${title} and ${other}`).toBe(true);
    }
  }
  expect(panels.filter(({ type }) => type === 'row').map(({ title }) => title)).toEqual([
    'Traffic and outcomes',
    'Latency by stage',
    'Backlog and age',
    'Workers and batches',
    'Limit and breakers',
    'Push',
  ]);
});

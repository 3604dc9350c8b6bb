// The README against the code: what can be compared is compared, so that it stays true.
import { execFile } from 'node:child_process';
import {
  existsSync,
  globSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { parseSync } from 'vite';
import { expect, test } from 'vitest';
import { parse as parseYaml } from 'yaml';
import { environmentVariables } from '../src/config/environment.ts';
import { redisUrlDefault, type SchemaNode } from '../src/config/schema.ts';
import { configJsonSchema, loadConfig } from '../src/config.ts';
import { limitsDefault } from '../src/limits.ts';
import { readManifest } from '../src/repository/manifest.ts';

const run = promisify(execFile);
const columnsMax = 110;
const pictureBytesMax = 150_000;

const readme = readFileSync('README.md', 'utf8');
const code = globSync('src/**/*.ts').map((path) => ({ path, text: readFileSync(path, 'utf8') }));

interface Block {
  readonly language: string;
  readonly text: string;
}

const blocks: Block[] = [...readme.matchAll(/^```(\w*)\n(.*?)^```$/gms)].map(([, language, text]) => ({
  language: language as string,
  text: text as string,
}));
const prose = readme.replaceAll(/^```.*?^```$/gms, '');

const snakeCase = (name: string): string => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
const plain = (cell: string): string => cell.replace(/^`(.*)`$/, '$1');

/** The rows of all tables whose first cell is code, by that cell. */
const rows = new Map<string, string[]>();
for (const line of prose.split('\n').filter((each) => each.startsWith('| `'))) {
  const cells = line.split('|').slice(1, -1);
  const [first = '', ...rest] = cells.map((cell) => cell.trim());
  rows.set(plain(first), rest);
}

interface Key {
  /** streams[].name for what stands in a list. */
  readonly key: string;
  readonly node: SchemaNode & { readonly default?: unknown };
}

const branches = (node: SchemaNode): readonly SchemaNode[] => node.anyOf ?? [node];

/** Every key that takes a value of its own: no mere sections. */
function* valueKeys(node: SchemaNode, prefix = ''): Generator<Key> {
  for (const [name, child] of branches(node).flatMap((each) => Object.entries(each.properties ?? {}))) {
    const key = prefix + name;
    if (key === 'limits') continue;
    const isSection = branches(child).every(({ properties }) => properties !== undefined);
    if (!isSection) yield { key, node: child };
    yield* valueKeys(child, `${key}.`);
    if (child.items?.properties !== undefined) yield* valueKeys(child.items, `${key}[].`);
  }
}

const configKeys = [...valueKeys(configJsonSchema())];

test('every key of the configuration is there, with its default and its variable', () => {
  const variables = new Map([...environmentVariables()].map(([name, { path }]) => [path.join('.'), name]));
  for (const { key, node } of configKeys) {
    const row = rows.get(key);
    expect(row, `README.md, Configuration: no row for ${key}`).toBeDefined();
    const [value = '', variable = ''] = row as string[];
    expect(plain(variable), `variable of ${key}`).toBe(variables.get(key) ?? '');
    // The defaults of sections stand at the keys in them.
    if (['redis', 'streams'].includes(key)) continue;
    const shown: unknown = value === '' ? undefined : parseYaml(plain(value));
    expect(shown, `default of ${key}`).toEqual(key === 'redis.url' ? redisUrlDefault : node.default);
  }
  const known = configKeys.map(({ key }) => key);
  const named = [...rows].filter(([, cells]) => /^`?SUBITO_/.test(cells[1] ?? '')).map(([key]) => key);
  expect(named.filter((key) => !known.includes(key))).toEqual([]);
});

test('every limit is there, with its default; the ones that nothing reads are marked', () => {
  const others = code.filter(({ path }) => path !== 'src/limits.ts').map(({ text }) => text);
  for (const [name, value] of Object.entries(limitsDefault)) {
    const limit = snakeCase(name);
    const [shown = '', meaning = ''] = rows.get(limit) ?? [];
    expect(plain(shown), `README.md, limits: ${limit}`).toBe(String(value));
    const used = others.some((text) => new RegExp(`\\b${name}\\b`).test(text));
    expect(!meaning.includes('no effect yet'), `${limit} has an effect`).toBe(used);
  }
  const named = [...rows].filter(([, cells]) => cells.length === 2 && /^`\d+`$/.test(cells[0] as string));
  const known = Object.keys(limitsDefault).map(snakeCase);
  expect(named.map(([name]) => name).filter((name) => !known.includes(name))).toEqual([]);
});

/** Commands that `--help` lists, with those below them. */
async function commandsOf(path: readonly string[]): Promise<{ command: string; help: string }[]> {
  const { stdout } = await run(process.execPath, ['src/main.ts', ...path, '--help']);
  const listed = /^Commands:\n(.*)/ms.exec(stdout)?.[1] ?? '';
  const names = [...listed.matchAll(/^ {2}([a-z]+)/gm)].map(([, name]) => name as string);
  const below = names.filter((name) => name !== 'help').map((name) => commandsOf([...path, name]));
  const inner = (await Promise.all(below)).flat();
  return inner.length > 0 ? inner : [{ command: ['subito', ...path].join(' '), help: stdout }];
}

test('every command is there; the options named with it exist', { timeout: 60_000 }, async () => {
  const commands = await commandsOf([]);
  expect([...rows.keys()].filter((name) => name.startsWith('subito ')).sort()).toEqual(
    commands.map(({ command }) => command).sort(),
  );
  for (const { command, help } of commands) {
    const options = (rows.get(command) as string[]).join(' ').match(/--[a-z-]+/g) ?? [];
    for (const option of options) expect(help, `${command} ${option}`).toContain(option);
  }
});

test('every metric is there, and no other', () => {
  const inCode = code.find(({ path }) => path === 'src/observe/metrics.ts')?.text ?? '';
  const names = (text: string) => [...new Set(text.match(/\bsubito_[a-z_]+/g))].sort();
  expect(names(prose)).toEqual(names(inCode));
});

test('links lead somewhere', () => {
  const slug = (heading: string) =>
    heading
      .toLowerCase()
      .replace(/[^\w\s-]/g, '')
      .trim()
      .replaceAll(' ', '-');
  const anchors = [...prose.matchAll(/^#+ (.*)$/gm)].map(([, heading]) => `#${slug(heading as string)}`);
  for (const [, target = ''] of prose.matchAll(/\]\(([^)]+)\)/g)) {
    if (/^https:/.test(target)) continue;
    const exists = target.startsWith('#') ? anchors.includes(target) : existsSync(target);
    expect(exists, `README.md links to ${target}`).toBe(true);
    if (target.endsWith('.png')) expect(statSync(target).size, target).toBeLessThan(pictureBytesMax);
  }
});

test('npm scripts, errors and notices that are named exist', () => {
  const { scripts } = JSON.parse(readFileSync('package.json', 'utf8')) as { scripts: Record<string, string> };
  for (const [, name = ''] of readme.matchAll(/\bnpm (?:run )?(?!install|packages)([a-z]+)\b/g)) {
    if (name !== 'run') expect(Object.keys(scripts)).toContain(name);
  }
  for (const name of Object.keys(scripts))
    expect(readme, `npm script ${name}`).toMatch(new RegExp(`npm (run )?${name}\\b`));
  const codes = [...prose.matchAll(/`([A-Z]+(?:_[A-Z]+)+)`/g)].map(([, name]) => name as string);
  const missing = codes.filter(
    (name) => !name.startsWith('SUBITO_') && !code.some(({ text }) => text.includes(name)),
  );
  expect(missing).toEqual([]);
});

test('examples can be parsed, and configurations are good', () => {
  for (const { language, text } of blocks) {
    if (language !== 'js' && language !== 'ts') continue;
    expect(parseSync(`example.${language}`, text).errors, text).toEqual([]);
  }
  const yaml = (head: string) => blocks.find(({ text }) => text.startsWith(head))?.text as string;
  const dir = mkdtempSync(join(tmpdir(), 'subito-readme-'));
  try {
    writeFileSync(join(dir, 'subito.yaml'), yaml('# subito.yaml'));
    expect(loadConfig({ file: join(dir, 'subito.yaml'), env: {} }).log.format).toBe('json');
    mkdirSync(join(dir, 'skip'));
    writeFileSync(join(dir, 'skip', 'model.yaml'), yaml('# model.yaml'));
    expect(readManifest(join(dir, 'skip')).inputs[0]?.fields).toHaveLength(3);
  } finally {
    rmSync(dir, { recursive: true });
  }
});

test(`lines have at most ${columnsMax} columns, tables and examples apart`, () => {
  const long = prose.split('\n').filter((line) => !line.startsWith('|') && [...line].length > columnsMax);
  expect(long).toEqual([]);
});

test('files that the architecture names exist', () => {
  const text = readFileSync('src/ARCHITECTURE.md', 'utf8');
  const named = [...text.matchAll(/`([\w/.-]+(?:\/|\.(?:ts|md|lua)))`/g)].map(([, path]) => path as string);
  const exists = (path: string) => existsSync(join('src', path)) || existsSync(path);
  // `server.ts` within a sentence about `gateway/`.
  const beside = (path: string) => globSync(`src/*/${path}`).length > 0;
  expect(named.filter((path) => !exists(path) && !beside(path))).toEqual([]);
  const places = globSync('src/*/').map((path) => `${path.slice('src/'.length).replace(/\/$/, '')}/`);
  expect(places.filter((place) => !text.includes(`\`${place}\``))).toEqual([]);
});

// The rules of the house that neither the type checker nor the linter knows. Where a rule must be broken, the
// reason stands in a comment that holds `tidy: REASON`: above the first statement for a file, above or in its
// first line for a function.
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { promisify } from 'node:util';
import { type ESTree, parseSync, Visitor } from 'vite';
import { expect, test } from 'vitest';
import { missingEntries } from '../deploy/lock.ts';
import { errorTable } from '../src/errors.ts';

const run = promisify(execFile);
const fileLinesMax = 400;
const functionLinesMax = 70;
const columnsMax = 110;

const stages = ['ingest', 'schedule', 'infer', 'publish'];
/**
 * The contracts between two stages, each a file without behaviour of its own: memory that both sides lay out
 * alike, messages that cross a thread, the types of a row. Anything else is handed over by engine.ts.
 */
const contracts = [
  'src/schedule/slab.ts',
  'src/schedule/batch.ts',
  'src/schedule/direct.ts',
  'src/infer/protocol.ts',
  'src/infer/handler.ts',
];
/** Tools that take their settings from a default export. */
const defaultExports = /(^|\/)[^/]+\.config\.ts$|^test\/support\/reporter\.ts$/;
/**
 * Words of the place where this was written, not of Subito. Put together here so that this file does not hold
 * them.
 */
const foreignWords = [
  ['/wo', 'rk/'],
  ['the br', 'ief'],
  ['STYLE', '.md'],
  ['FACTS', '.md'],
  ['DESIGN', '.md'],
];

interface Source {
  readonly path: string;
  readonly text: string;
  readonly lines: readonly string[];
}

interface Parsed extends Source {
  readonly program: ESTree.Program;
}

async function listFiles(): Promise<string[]> {
  // Files that are new and not yet committed count too; those that are ignored or deleted do not.
  const listing = ['ls-files', '--cached', '--others', '--exclude-standard', '--deduplicate'];
  const [all, deleted] = await Promise.all([run('git', listing), run('git', ['ls-files', '--deleted'])]);
  const gone = new Set(deleted.stdout.split('\n'));
  return all.stdout.split('\n').filter((path) => path !== '' && !gone.has(path));
}

function read(path: string): Source {
  const text = readFileSync(path, 'utf8');
  return { path, text, lines: text.replace(/\n$/, '').split('\n') };
}

const paths = await listFiles();
const sources = paths.filter((path) => /\.(ts|js|mjs|lua|sh|py|cc|h)$/.test(path)).map(read);
const parsed: Parsed[] = sources
  .filter(({ path }) => /\.(ts|js|mjs)$/.test(path))
  .map((source) => {
    const { program } = parseSync(source.path, source.text);
    return { ...source, program };
  });
const engine = parsed.filter(({ path }) => path.startsWith('src/'));

function lineOf(text: string, offset: number): number {
  let line = 1;
  for (let i = text.indexOf('\n'); i !== -1 && i < offset; i = text.indexOf('\n', i + 1)) line++;
  return line;
}

const givesReason = (text: string): boolean => /\btidy: \S+/.test(text);

/** Every node of the program, with its line, that a visitor names. */
function violations(
  files: readonly Parsed[],
  visitor: (report: (node: ESTree.Node) => void) => object,
): string[] {
  const found: string[] = [];
  for (const { path, text, program } of files) {
    new Visitor(visitor((node) => found.push(`${path}:${lineOf(text, node.start)}`))).visit(program);
  }
  return found;
}

/** What a file imports, types too: repository paths for its own files, names for packages. */
function importsOf({ path, program }: Parsed): string[] {
  const found: string[] = [];
  const add = (source: ESTree.Node | null): void => {
    if (source?.type !== 'Literal' || typeof source.value !== 'string') return;
    const own = source.value.startsWith('.');
    found.push(own ? normalize(join(dirname(path), source.value)) : source.value);
  };
  new Visitor({
    ImportDeclaration: (node) => add(node.source),
    ExportNamedDeclaration: (node) => add(node.source),
    ExportAllDeclaration: (node) => add(node.source),
    ImportExpression: (node) => add(node.source),
  }).visit(program);
  return found;
}

test('files are short enough to read in one sitting, or give the reason', () => {
  const long = sources.filter(({ lines }) => lines.length > fileLinesMax);
  const without = long.filter(({ lines }) => !givesReason(lines.slice(0, 15).join('\n')));
  expect(without.map(({ path, lines }) => `${path}: ${lines.length} lines`)).toEqual([]);
});

test('functions fit on a screen, or give the reason', () => {
  const found: string[] = [];
  for (const { path, text, lines, program } of parsed) {
    const check = (node: ESTree.Node): void => {
      const first = lineOf(text, node.start);
      const count = lineOf(text, node.end) - first + 1;
      if (count <= functionLinesMax) return;
      if (!givesReason(lines.slice(Math.max(0, first - 6), first).join('\n')))
        found.push(`${path}:${first}: ${count} lines`);
    };
    // A describe() is a heading, not a function; the tests in it are.
    const headings = new Set<ESTree.Node>();
    new Visitor({
      CallExpression: (node) => {
        if (/^describe\b/.test(text.slice(node.start, node.end)))
          for (const each of node.arguments) headings.add(each);
      },
      FunctionDeclaration: check,
      FunctionExpression: check,
      ArrowFunctionExpression: (node) => {
        if (!headings.has(node)) check(node);
      },
    }).visit(program);
  }
  expect(found).toEqual([]);
});

test(`lines have at most ${columnsMax} columns`, () => {
  const found: string[] = [];
  for (const { path, lines } of sources) {
    for (const [i, line] of lines.entries()) {
      // A URL cannot be broken.
      if ([...line].length > columnsMax && !line.includes('://'))
        found.push(`${path}:${i + 1}: ${line.length}`);
    }
  }
  expect(found).toEqual([]);
});

test('only src/config.ts reads the environment', () => {
  const files = engine.filter(({ path }) => path !== 'src/config.ts');
  const found = violations(files, (report) => ({
    MemberExpression: (node: ESTree.MemberExpression) => {
      const { object, property } = node;
      if (object.type === 'Identifier' && object.name === 'process' && property.type === 'Identifier') {
        if (property.name === 'env') report(node);
      }
    },
    ImportSpecifier: (node: ESTree.ImportSpecifier) => {
      if (node.imported.type === 'Identifier' && node.imported.name === 'env') report(node);
    },
  }));
  expect(found).toEqual([]);
});

test('the stages do not import one another, nor the engine that wires them', () => {
  const found: string[] = [];
  for (const file of engine) {
    const stage = stages.find((name) => file.path.startsWith(`src/${name}/`));
    if (stage === undefined) continue;
    for (const target of importsOf(file)) {
      const other = stages.find((name) => target.startsWith(`src/${name}/`));
      const crosses = other !== undefined && other !== stage && !contracts.includes(target);
      if (crosses || /^src\/engine[./]/.test(target)) found.push(`${file.path} imports ${target}`);
    }
  }
  expect(found).toEqual([]);
});

test('contracts between stages import no stage but each other', () => {
  const found: string[] = [];
  for (const file of engine.filter(({ path }) => contracts.includes(path))) {
    for (const target of importsOf(file)) {
      const isStage = stages.some((name) => target.startsWith(`src/${name}/`));
      if (isStage && !contracts.includes(target)) found.push(`${file.path} imports ${target}`);
    }
  }
  expect(found).toEqual([]);
});

test('the core knows no gateway: the gateway comes to it', () => {
  const core = [...stages, 'redis', 'repository', 'observe'];
  const found: string[] = [];
  for (const file of engine) {
    if (!core.some((name) => file.path.startsWith(`src/${name}/`))) continue;
    for (const target of importsOf(file))
      if (target.startsWith('src/gateway/')) found.push(`${file.path} imports ${target}`);
  }
  expect(found).toEqual([]);
});

test('prom-client stays with the metrics, and the client SDK on its own', () => {
  const found: string[] = [];
  for (const file of engine) {
    for (const target of importsOf(file)) {
      if (target === 'prom-client' && !file.path.startsWith('src/observe/'))
        found.push(`${file.path}: ${target}`);
      const leavesClient = target.startsWith('src/') && !target.startsWith('src/client/');
      if (file.path.startsWith('src/client/') && leavesClient) found.push(`${file.path}: ${target}`);
    }
  }
  expect(found).toEqual([]);
});

test('exports are named, one by one; there are no enums and no namespaces', () => {
  const found = violations(parsed, (report) => ({
    ExportAllDeclaration: report,
    TSEnumDeclaration: report,
    TSModuleDeclaration: (node: ESTree.TSModuleDeclaration) => {
      // `declare module 'name'` gives types to a package that has none.
      if (node.id.type !== 'Literal') report(node);
    },
  }));
  const named = parsed.filter(({ path }) => !defaultExports.test(path));
  found.push(...violations(named, (report) => ({ ExportDefaultDeclaration: report })));
  expect(found).toEqual([]);
});

test('Lua lives in .lua files, whose header names KEYS and ARGV', () => {
  const found: string[] = [];
  for (const { path, lines } of sources.filter((source) => source.path.endsWith('.lua'))) {
    // `#!lua` stands above a header.
    const code = lines.findIndex((line) => !/^\s*(--|#!|$)/.test(line));
    const header = lines.slice(0, code === -1 ? lines.length : code).join('\n');
    if (!header.includes('KEYS') || !header.includes('ARGV')) found.push(`${path}: no header`);
  }
  for (const { path, lines } of engine) {
    for (const [i, line] of lines.entries())
      if (/\bredis\.p?call\s*\(\s*['"]/.test(line)) found.push(`${path}:${i + 1}`);
  }
  expect(found).toEqual([]);
});

test('every error code is raised somewhere', () => {
  const text = engine.filter(({ path }) => path !== 'src/errors.ts').map((file) => file.text);
  // INTERNAL is what toSubitoError gives to all that has no code.
  const codes = Object.keys(errorTable).filter((code) => code !== 'INTERNAL');
  expect(codes.filter((code) => !text.some((each) => each.includes(`'${code}'`)))).toEqual([]);
});

test('the text speaks of Subito alone', () => {
  const found: string[] = [];
  for (const path of paths.filter((each) =>
    /\.(ts|js|mjs|lua|sh|py|cc|h|md|ya?ml|json|html|css)$/.test(each),
  )) {
    if (path === 'package-lock.json') continue;
    const text = readFileSync(path, 'utf8');
    for (const word of foreignWords.map((parts) => parts.join(''))) {
      const at = text.indexOf(word);
      if (at !== -1) found.push(`${path}:${lineOf(text, at)}: ${word}`);
    }
  }
  expect(found).toEqual([]);
});

test('dependencies are exact, and the lock serves every platform', () => {
  const manifest = JSON.parse(readFileSync('package.json', 'utf8')) as Record<string, Record<string, string>>;
  const kinds = ['dependencies', 'devDependencies', 'optionalDependencies'];
  const versions = kinds.flatMap((kind) => Object.entries(manifest[kind] ?? {}));
  const loose = versions.filter(
    ([, version]) => !/^(npm:@?[\w./-]+@)?\d+\.\d+\.\d+(-[\w.]+)?$/.test(version),
  );
  expect(loose).toEqual([]);
  const lock = JSON.parse(readFileSync('package-lock.json', 'utf8')) as Parameters<typeof missingEntries>[0];
  const missing = missingEntries((lock as unknown as { packages: typeof lock }).packages);
  expect(Object.keys(missing), 'run: node deploy/lock.ts').toEqual([]);
});

/** The output of a command that has to end well; its complaints are the failure's text. */
async function complaints(command: string, args: readonly string[]): Promise<string> {
  try {
    await run(`node_modules/.bin/${command}`, args, { maxBuffer: 64 << 20 });
    return '';
  } catch (error) {
    const { stdout, stderr } = error as { stdout?: string; stderr?: string };
    return `${stdout ?? ''}${stderr ?? String(error)}`;
  }
}

test('types hold, for Node and for browsers', { timeout: 120_000 }, async () => {
  expect(await complaints('tsc', ['--pretty', 'false'])).toBe('');
  expect(await complaints('tsc', ['--pretty', 'false', '-p', 'src/console'])).toBe('');
});

test('the linter and the formatter have nothing to say', { timeout: 120_000 }, async () => {
  expect(await complaints('biome', ['check', '--error-on-warnings', '--max-diagnostics=50'])).toBe('');
});

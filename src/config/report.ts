// Turns what zod and the cross-checks found into sentences for whoever has to correct it: key, value, what is
// expected, and where the value came from. No secret ever leaves this file.
import type { z } from 'zod';
import { nearest } from '../nearest.ts';
import { configJsonSchema, type SchemaNode } from './schema.ts';

export type Path = readonly (string | number)[];

/** One thing wrong with the configuration. `message` says it all; the other fields are for programs. */
export interface ConfigProblem {
  readonly key: string;
  readonly value: string;
  readonly fix: string;
  readonly message: string;
}

/** streams, 0, name -> streams[0].name */
export function keyText(path: Path): string {
  let key = '';
  for (const part of path) key += typeof part === 'number' ? `[${part}]` : key === '' ? part : `.${part}`;
  return key === '' ? 'the configuration' : key;
}

const secretKey = /password|secret|token/i;
/** What a key that hides its value in an error may have been meant to be. */
const secretWords = [
  'password',
  'passwd',
  'passphrase',
  'pass',
  'pwd',
  'secret',
  'token',
  'credentials',
  'api_key',
];

/** Hides the credentials of a URL: redis://user:pw@host -> redis://***@host. The last @ ends them. */
function redactText(value: string): string {
  return value.replace(/^([a-z][a-z0-9+.-]*:\/\/)[^/]*@/i, '$1***@');
}

/** A deep copy in which passwords, secrets and the credentials in URLs are `***`. */
export function redact(value: unknown): unknown {
  if (typeof value === 'string') return redactText(value);
  if (Array.isArray(value)) return value.map(redact);
  if (typeof value !== 'object' || value === null) return value;
  const copy: Record<string, unknown> = {};
  for (const [key, inner] of Object.entries(value)) {
    copy[key] = secretKey.test(key) && inner !== undefined ? '***' : redact(inner);
  }
  return copy;
}

/** Sections that hold secrets: what stands under a key there that does not exist may be one. */
const guarded = ['redis', 'gateway'];

/** Whether a value in this place may be a secret, also one whose key is misspelt. */
function isHidden(path: Path): boolean {
  const [head, ...rest] = path;
  const isSecret = (part: string | number) =>
    typeof part === 'string' && (secretKey.test(part) || nearest(part, secretWords) !== undefined);
  if (path.some(isSecret)) return true;
  const section = typeof head === 'string' ? nearest(head, guarded) : undefined;
  return section !== undefined && nodeAt(configJsonSchema(), [section, ...rest]) === undefined;
}

/** `redact`, and without what may be a secret for its place. */
function conceal(path: Path, value: unknown): unknown {
  if (isHidden(path)) return '***';
  if (Array.isArray(value)) return value.map((inner, i) => conceal([...path, i], inner));
  if (typeof value !== 'object' || value === null) return redact(value);
  const entries = Object.entries(value).filter(([, inner]) => inner !== undefined);
  return Object.fromEntries(entries.map(([key, inner]) => [key, conceal([...path, key], inner)]));
}

function valueText(path: Path, value: unknown): string {
  if (value === undefined) return 'missing';
  const concealed = conceal(path, value);
  if (concealed === '***') return '***';
  const shown = JSON.stringify(concealed) ?? String(value);
  return shown.length > 80 ? `${shown.slice(0, 77)}...` : shown;
}

function valueAt(root: unknown, path: Path): unknown {
  let value = root;
  for (const part of path) {
    if (typeof value !== 'object' || value === null) return undefined;
    value = (value as Record<string | number, unknown>)[part];
  }
  return value;
}

/** The schema's node at a path; through a union it looks in each branch. */
function nodeAt(node: SchemaNode, path: Path): SchemaNode | undefined {
  const [head, ...rest] = path;
  if (head === undefined) return node;
  for (const branch of node.anyOf ?? [node]) {
    const next = typeof head === 'number' ? branch.items : branch.properties?.[head];
    const found = next && nodeAt(next, rest);
    if (found) return found;
  }
  return undefined;
}

function rangeText(least: number | undefined, most: number | undefined, unit: string): string {
  // zod writes the safe integers' own bounds into the schema: they say nothing to a reader.
  const top = most === undefined || most === Number.MAX_SAFE_INTEGER ? undefined : most;
  if (least !== undefined && top !== undefined) return ` from ${least} to ${top}${unit}`;
  return least !== undefined ? ` of at least ${least}${unit}` : '';
}

/** What a node takes, in words. */
function expectedText(node: SchemaNode): string {
  if (node.expected !== undefined) return node.expected;
  if (node.enum) return `one of ${node.enum.join(', ')}`;
  if (node.const !== undefined) return node.const;
  if (node.anyOf) return node.anyOf.map(expectedText).join(', or ');
  switch (node.type) {
    case 'integer':
      return `a whole number${rangeText(node.minimum, node.maximum, '')}`;
    case 'number':
      return `a number${rangeText(node.minimum, node.maximum, '')}`;
    case 'boolean':
      return 'true or false';
    case 'string':
      return `text${rangeText(node.minLength, node.maxLength, ' characters')}`;
    case 'array': {
      const item = node.items ? `, each ${expectedText(node.items)}` : '';
      return `a list${rangeText(node.minItems, node.maxItems, ' items')}${item}`;
    }
    default:
      return `a section with ${Object.keys(node.properties ?? {}).join(', ')}`;
  }
}

export function problem(
  path: Path,
  value: unknown,
  what: string,
  fix: string,
  origin: string,
): ConfigProblem {
  const key = keyText(path);
  const shown = valueText(path, value);
  return { key, value: shown, fix, message: `${key} = ${shown}${origin}: ${what}; ${fix}` };
}

/** zod reports a union as the list of its branches' issues: keep those of the branch that was meant. */
function* flatten(
  issues: readonly z.core.$ZodIssue[],
  prefix: Path,
): Generator<z.core.$ZodIssue & { at: Path }> {
  for (const issue of issues) {
    const at: Path = [...prefix, ...(issue.path as (string | number)[])];
    // A branch that fails at its own root is of another type altogether.
    const meant =
      issue.code === 'invalid_union'
        ? issue.errors.find((branch) =>
            branch.every((inner) => inner.path.length > 0 || inner.code === 'unrecognized_keys'),
          )
        : undefined;
    if (meant) yield* flatten(meant, at);
    else yield { ...issue, at };
  }
}

/** Problems of a parse. `originOf` says where a key's value came from, such as ` (SUBITO_GATEWAY_PORT)`. */
export function explainIssues(
  issues: readonly z.core.$ZodIssue[],
  input: unknown,
  originOf: (path: Path) => string,
): { at: Path; problem: ConfigProblem }[] {
  const found: { at: Path; problem: ConfigProblem }[] = [];
  for (const issue of flatten(issues, [])) {
    const node = nodeAt(configJsonSchema(), issue.at);
    if (issue.code === 'unrecognized_keys') {
      const known = (node?.anyOf ?? [node]).flatMap((branch) => Object.keys(branch?.properties ?? {}));
      for (const unknown of issue.keys) {
        const at = [...issue.at, unknown];
        const guess = nearest(unknown, known);
        const fix = guess ? `did you mean ${guess}?` : `remove it, or use one of ${known.join(', ')}`;
        found.push({ at, problem: problem(at, valueAt(input, at), 'unknown key', fix, originOf(at)) });
      }
      continue;
    }
    const value = valueAt(input, issue.at);
    const what = value === undefined ? 'it is required' : 'not a value it can take';
    const about = node?.description ? ` (${node.description})` : '';
    const fix = `use ${node ? expectedText(node) : 'another value'}${about}`;
    found.push({ at: issue.at, problem: problem(issue.at, value, what, fix, originOf(issue.at)) });
  }
  return found;
}

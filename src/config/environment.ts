// The environment's part of the configuration. The rule for names stands at the top of src/config.ts.
import { parse as parseYaml } from 'yaml';
import { nearest } from '../nearest.ts';
import type { ConfigProblem } from './report.ts';
import { configJsonSchema, type SchemaNode } from './schema.ts';

export type Environment = Readonly<Record<string, string | undefined>>;
type Tree = Record<string, unknown>;

interface Variable {
  readonly path: readonly string[];
  /** The key's value is text and nothing else, so the variable is not parsed. */
  readonly isText: boolean;
}

/** Every variable by name: one for each key and one for each section. */
export function environmentVariables(): Map<string, Variable> {
  const variables = new Map<string, Variable>();
  const visit = (node: SchemaNode, path: readonly string[]): void => {
    for (const branch of node.anyOf ?? [node]) {
      for (const [key, child] of Object.entries(branch.properties ?? {})) {
        const name = `SUBITO_${[...path, key].join('_').toUpperCase()}`;
        const isText = child.type === 'string';
        const known = variables.get(name);
        if (known && known.path.join('.') !== [...path, key].join('.')) {
          throw new Error(`${name} would stand for two keys: rename one of them in the schema`);
        }
        variables.set(name, { path: [...path, key], isText });
        visit(child, [...path, key]);
      }
    }
  };
  visit(configJsonSchema(), []);
  return variables;
}

/**
 * Kubernetes gives every container variables for each Service of its namespace. Services named subito and
 * subito-gateway yield SUBITO_PORT, SUBITO_SERVICE_HOST, SUBITO_GATEWAY_PORT=tcp://10.0.0.1:8080.
 */
function isServiceLink(name: string, value: string): boolean {
  if (/^(tcp|udp|sctp):\/\//.test(value)) return true;
  return /_SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$/.test(name);
}

const reserved = /^SUBITO_(CONFIG$|TEST_|BENCH_)/;

export interface EnvironmentApplied {
  readonly input: Tree;
  /** Key text -> the variable that gave it. */
  readonly variables: ReadonlyMap<string, string>;
  readonly problems: readonly ConfigProblem[];
}

/** Lays the SUBITO_ variables on `input`, sections before the keys in them. */
export function applyEnvironment(
  input: Tree,
  env: Environment,
  merge: (base: Tree, over: Tree) => Tree,
): EnvironmentApplied {
  const known = environmentVariables();
  const applied = new Map<string, string>();
  const problems: ConfigProblem[] = [];
  const given: { name: string; value: string; variable: Variable }[] = [];
  for (const [name, value] of Object.entries(env)) {
    if (!name.startsWith('SUBITO_') || value === undefined || reserved.test(name)) continue;
    if (isServiceLink(name, value)) continue;
    const variable = known.get(name);
    if (variable) {
      given.push({ name, value, variable });
      continue;
    }
    const guess = nearest(name, [...known.keys()]);
    const fix = guess ? `did you mean ${guess}?` : 'unset it; `subito config schema` lists all keys';
    // Its value is left out: nobody knows whether it is a secret.
    problems.push({
      key: name,
      value: '***',
      fix,
      message: `${name} is set, but no key has this name; ${fix}`,
    });
  }
  given.sort((left, right) => left.variable.path.length - right.variable.path.length);

  let result = input;
  for (const { name, value, variable } of given) {
    let parsed: unknown = value;
    try {
      if (!variable.isText) parsed = parseYaml(value);
    } catch {
      const key = variable.path.join('.');
      const fix = "write it as YAML or JSON, such as '[cuda, cpu]'";
      problems.push({ key, value: '***', fix, message: `${key} (${name}): its text is not YAML; ${fix}` });
      continue;
    }
    const over = variable.path.reduceRight<unknown>((inner, part) => ({ [part]: inner }), parsed);
    result = merge(result, over as Tree);
    applied.set(variable.path.join('.'), name);
  }
  return { input: result, variables: applied, problems };
}

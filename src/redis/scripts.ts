/** The Lua scripts of lua/, by name. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';

export interface Script {
  readonly name: string;
  readonly text: string;
  /** What EVALSHA calls it by. */
  readonly sha: string;
}

const loaded = new Map<string, Script>();

export function loadScript(name: string): Script {
  let script = loaded.get(name);
  if (script === undefined) {
    const text = readFileSync(new URL(`./lua/${name}.lua`, import.meta.url), 'utf8');
    script = { name, text, sha: createHash('sha1').update(text).digest('hex') };
    loaded.set(name, script);
  }
  return script;
}

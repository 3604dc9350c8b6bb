/** The Lua scripts of lua/, by name. A line `-- include NAME` stands for lua/shared/NAME.lua. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';

export interface Script {
  readonly name: string;
  readonly text: string;
  /** What EVALSHA calls it by. */
  readonly sha: string;
}

const INCLUDE = /^-- include (\w+)\n/gm;

const read = (name: string) => readFileSync(new URL(`./lua/${name}.lua`, import.meta.url), 'utf8');

const loaded = new Map<string, Script>();

export function loadScript(name: string): Script {
  let script = loaded.get(name);
  if (script === undefined) {
    const text = read(name).replace(INCLUDE, (_, part: string) => read(`shared/${part}`));
    script = { name, text, sha: createHash('sha1').update(text).digest('hex') };
    loaded.set(name, script);
  }
  return script;
}

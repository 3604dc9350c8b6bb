/**
 * Where the Python peers are: their programs in python/, their virtual environments as its setup.sh made
 * them.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';

export const PYTHON = new URL('./python', import.meta.url).pathname;
const VENVS = new URL('../../build/python', import.meta.url).pathname;

export const programOf = (venv: string, program: string) => join(VENVS, venv, 'bin', program);

/** Null, or why a peer cannot be measured here. `venv` null: it is not Python. */
export function missing({ venv }: { readonly venv: string | null }): string | null {
  // setup.sh leaves it when all is installed.
  if (venv === null || existsSync(join(VENVS, venv, '.subito-setup'))) return null;
  return `not installed: run bash bench/peers/python/setup.sh ${venv}`;
}

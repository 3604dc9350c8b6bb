// Wraps comments that run past the line width, which the formatter leaves alone: node test/support/wrap.ts
// [FILE...] What does not fit moves to the front of the comment's next line, or to a line of its own.
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';

const columnsMax = 110;
const comment = /^(\s*(?:\/\/|\*|--|#)\s+)(\S.*)$/;
/** A list item, a table row, a tag or a drawing begins its own line. */
const ownLine = /^([-*|+<>@=]|\d+\.|[A-Z]+\[|.*\s{3})/;

/** `/** one line *\/` on three lines. */
function expand(line: string): string[] {
  const match = /^(\s*)\/\*\* (.*) \*\/$/.exec(line);
  if (match === null || line.length <= columnsMax) return [line];
  const [, indent = '', text = ''] = match;
  return [`${indent}/**`, `${indent} * ${text}`, `${indent} */`];
}

export function wrapComments(source: string): string {
  const lines = source.split('\n').flatMap(expand);
  for (let i = 0; i < lines.length; i++) {
    const line = lines[i] ?? '';
    const match = comment.exec(line);
    if (match === null || line.length <= columnsMax || line.includes('://')) continue;
    const prefix = match[1] ?? '';
    const cut = line.lastIndexOf(' ', columnsMax);
    if (cut <= prefix.length) continue;
    const rest = line.slice(cut + 1);
    lines[i] = line.slice(0, cut);
    const next = comment.exec(lines[i + 1] ?? '');
    if (next !== null && next[1] === prefix && !ownLine.test(next[2] ?? ''))
      lines[i + 1] = `${prefix}${rest} ${next[2]}`;
    else lines.splice(i + 1, 0, `${prefix}${rest}`);
  }
  return lines.join('\n');
}

if (process.argv[1] === import.meta.filename) {
  const given = process.argv.slice(2);
  const listed = () =>
    execFileSync('git', ['ls-files', '*.ts', '*.js', '*.lua', '*.sh', '*.py', '*.cc'], { encoding: 'utf8' });
  for (const path of given.length > 0 ? given : listed().split('\n').filter(Boolean)) {
    const source = readFileSync(path, 'utf8');
    const wrapped = wrapComments(source);
    if (wrapped !== source) writeFileSync(path, wrapped);
  }
}

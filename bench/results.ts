/**
 * What was measured, kept beside the code: bench/results/<suite>.json and its plots, and bench/RESULTS.md,
 * which is rendered from those files, so that running one suite replaces that suite's part alone.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Ratios } from './baseline.ts';
import { type Machine, machineText } from './machine.ts';
import type { Section, SuiteResult } from './suite.ts';
import { sectionLines } from './text.ts';

export const BENCH = import.meta.dirname;

export interface StoredResult {
  readonly suite: string;
  readonly what: string;
  readonly machine: Machine;
  readonly sections: readonly Section[];
  readonly ratios: Ratios;
  /** Names of the plots; the files are `<suite>-<name>.svg`. */
  readonly plots: readonly string[];
  readonly raw: unknown;
}

/** Writes one suite's files into `directory`/results; plots that it has no more are removed. */
export function storeResult(
  directory: string,
  suite: { readonly name: string; readonly what: string },
  machine: Machine,
  result: SuiteResult,
): void {
  const results = join(directory, 'results');
  mkdirSync(results, { recursive: true });
  const before = readResult(directory, suite.name);
  for (const plot of before?.plots ?? []) rmSync(join(results, plotFile(suite.name, plot)), { force: true });
  for (const { name, svg } of result.plots) writeFileSync(join(results, plotFile(suite.name, name)), svg);
  const { sections, ratios, raw } = result;
  const plots = result.plots.map(({ name }) => name);
  const stored: StoredResult = { suite: suite.name, what: suite.what, machine, sections, ratios, plots, raw };
  writeFileSync(join(results, `${suite.name}.json`), jsonText(stored));
}

/** Six digits of each number, lists of numbers on one line: what is committed should be read and compared. */
function jsonText(value: unknown): string {
  const short = (_: string, each: unknown) => (typeof each === 'number' ? Number(each.toPrecision(6)) : each);
  const text = JSON.stringify(value, short, 1);
  const lines = text.replace(
    /\[\s+([-\d.eE+,\s]+?)\s+\]/g,
    (_, list: string) => `[${list.replace(/\s+/g, ' ')}]`,
  );
  return `${lines}\n`;
}

/** Null when there is none. */
export function readResult(directory: string, suite: string): StoredResult | null {
  const path = join(directory, 'results', `${suite}.json`);
  return existsSync(path) ? (JSON.parse(readFileSync(path, 'utf8')) as StoredResult) : null;
}

/** Of all suites that have results; those in `order` first. */
export function readResults(directory: string, order: readonly string[]): StoredResult[] {
  const results = join(directory, 'results');
  const files = existsSync(results) ? readdirSync(results).filter((name) => name.endsWith('.json')) : [];
  const suites = files.map((name) => name.slice(0, -'.json'.length)).sort();
  const place = (suite: string) => (order.includes(suite) ? order.indexOf(suite) : order.length);
  suites.sort((a, b) => place(a) - place(b));
  return suites.map((suite) => readResult(directory, suite)!);
}

export function writeReport(directory: string, order: readonly string[]): void {
  writeFileSync(join(directory, 'RESULTS.md'), reportText(readResults(directory, order)));
}

/** The whole of RESULTS.md. */
export function reportText(results: readonly StoredResult[]): string {
  const lines = [
    '# Benchmark results',
    '',
    'Written by `npm run bench`; `npm run bench -- --help` says what each part measures. Figures of one',
    'machine, on which everything shares the cores: trust the ratios. Each part says when, where and at',
    'which commit it was measured; the files in [results](results) hold every figure.',
    '',
  ];
  for (const { suite, what, machine, sections, ratios, plots } of results) {
    lines.push(`## ${suite}`, '', `${what}.`, '', machineText(machine), '');
    for (const section of sections) lines.push(...sectionLines(section, 3));
    for (const plot of plots) lines.push(`![${suite}: ${plot}](results/${plotFile(suite, plot)})`, '');
    lines.push(...ratioLines(ratios));
  }
  return `${lines.join('\n').trimEnd()}\n`;
}

/** One suite for the terminal. */
export function resultText(suite: string, result: SuiteResult): string {
  const lines = [`## ${suite}`, ''];
  for (const section of result.sections) lines.push(...sectionLines(section, 3));
  return [...lines, ...ratioLines(result.ratios)].join('\n');
}

function ratioLines(ratios: Ratios): string[] {
  const names = Object.entries(ratios);
  if (names.length === 0) return [];
  const list = names.map(([name, value]) => `- ${name}: ${value.toPrecision(3)}`);
  return ['Ratios that `--check` compares, higher is better:', '', ...list, ''];
}

function plotFile(suite: string, plot: string): string {
  return `${suite}-${plot}.svg`;
}

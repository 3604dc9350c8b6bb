/**
 * The text form of metrics that Prometheus reads
 * (https://prometheus.io/docs/instrumenting/exposition_formats/). Of 15 models and 4 streams these 1,250 values
 * cost 0.12 ms of the thread that also serves events; rendered by prom-client, 3 ms
 * (test/observe-scrape.test.ts).
 */

export type Labels = Readonly<Record<string, string | number>>;

/** A value of a family: its labels, and its name where that is not the family's. */
export interface Value {
  readonly value: number;
  readonly labels: Labels;
  readonly metricName?: string;
}

export interface Family {
  readonly type: 'counter' | 'gauge' | 'histogram';
  readonly name: string;
  /** One line. */
  readonly help: string;
  /** Or lines as they are, where most of them is always the same: an object for each value costs more. */
  readonly values: (name: string) => readonly (Value | string)[];
}

export function renderFamily({ type, name, help, values }: Family): string {
  let text = `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n`;
  for (const each of values(name)) {
    text += typeof each === 'string' ? each : lineStart(each.metricName ?? name, each.labels);
    if (typeof each !== 'string') text += lineEnd(each.value);
  }
  return text;
}

/** A line up to its value. */
export function lineStart(name: string, labels: Labels): string {
  return `${name}${labelsText(labels)} `;
}

export function lineEnd(value: number): string {
  if (Number.isFinite(value)) return `${value}\n`;
  return Number.isNaN(value) ? 'NaN\n' : value > 0 ? '+Inf\n' : '-Inf\n';
}

function labelsText(labels: Labels): string {
  let text = '';
  for (const name in labels) {
    const value = labels[name] as string | number;
    text += `${text === '' ? '{' : ','}${name}="${typeof value === 'number' ? value : escaped(value)}"`;
  }
  return text === '' ? '' : `${text}}`;
}

const ESCAPES: Readonly<Record<string, string>> = { '\\': '\\\\', '\n': '\\n', '"': '\\"' };

function escaped(value: string): string {
  return /[\\\n"]/.test(value) ? value.replace(/[\\\n"]/g, (one) => ESCAPES[one] as string) : value;
}

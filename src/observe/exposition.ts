/**
 * The text form of metrics that Prometheus reads
 * (https://prometheus.io/docs/instrumenting/exposition_formats/). prom-client's own way to it costs several
 * times as much for each value, on the thread that also serves events (test/observe-scrape.test.ts).
 */

export type Labels = Readonly<Record<string, string | number>>;

/** A value of a family: its labels, and its name where that is not the family's. */
export interface Value {
  readonly value: number;
  /** As text where they are always the same: that is most of what a value costs. */
  readonly labels: Labels | string;
  readonly metricName?: string;
}

export interface Family {
  readonly type: 'counter' | 'gauge' | 'histogram';
  readonly name: string;
  /** One line. */
  readonly help: string;
  readonly values: (name: string) => readonly Value[];
}

export function renderFamily({ type, name, help, values }: Family): string {
  let text = `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n`;
  for (const { metricName, labels, value } of values(name)) {
    const which = typeof labels === 'string' ? labels : labelsText(labels);
    text += `${metricName ?? name}${which} ${numberText(value)}\n`;
  }
  return text;
}

export function labelsText(labels: Labels): string {
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

function numberText(value: number): string {
  if (Number.isFinite(value)) return String(value);
  return Number.isNaN(value) ? 'NaN' : value > 0 ? '+Inf' : '-Inf';
}

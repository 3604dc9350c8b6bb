/**
 * Line plots as SVG, without a DOM: axes with units, ticks at round numbers, a legend. The colours follow the
 * reader's light or dark scheme, on a background of their own, so that a plot can be read wherever it is
 * shown.
 */

export interface Axis {
  /** With its unit: 'latency, ms'. */
  readonly label: string;
  /** Logarithmic: points at 0 and below are left out. */
  readonly log?: boolean;
  /** Instead of round numbers. */
  readonly ticks?: readonly Tick[];
  /** False: need not reach down to 0. A logarithmic axis never does. */
  readonly fromZero?: boolean;
}

export interface Tick {
  readonly at: number;
  readonly text: string;
}

export interface Line {
  readonly name: string;
  readonly points: readonly (readonly [x: number, y: number])[];
  /** For what is measured against. */
  readonly dashed?: boolean;
  /** Shares the colour of the line of this number, from 0; by default its own. */
  readonly colour?: number;
}

export interface PlotOptions {
  readonly title: string;
  readonly x: Axis;
  readonly y: Axis;
  readonly lines: readonly Line[];
}

const [WIDTH, HEIGHT] = [760, 400];
const FRAME = { left: 76, right: 20, top: 40, bottom: 56 };
const LEGEND_LINE = 18;
/** Told apart by people who see colours differently, on white and on black. */
const COLOURS_LIGHT = [
  '#0b62b8',
  '#c2410c',
  '#15803d',
  '#7e22ce',
  '#a16207',
  '#0e7490',
  '#be185d',
  '#475569',
];
const COLOURS_DARK = ['#6cb2ff', '#fb923c', '#4ade80', '#c084fc', '#facc15', '#22d3ee', '#f472b6', '#cbd5e1'];

export function linePlot(options: PlotOptions): string {
  const { title, lines } = options;
  const legendRows = lines.length > 1 ? Math.ceil(lines.length / 3) : 0;
  const height = HEIGHT + (legendRows > 0 ? LEGEND_LINE / 2 + legendRows * LEGEND_LINE : 0);
  const drawn = lines.map(({ points }) =>
    points.filter(([x, y]) => fits(options.x, x) && fits(options.y, y)),
  );
  const all = drawn.flat();
  const x = new Scale(
    options.x,
    all.map(([at]) => at),
    FRAME.left,
    WIDTH - FRAME.right,
  );
  const y = new Scale(
    options.y,
    all.map(([, at]) => at),
    HEIGHT - FRAME.bottom,
    FRAME.top,
  );
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" role="img" ` +
      `width="${WIDTH}" height="${height}" font-family="system-ui, sans-serif" font-size="12">`,
    `<title>${escaped(title)}</title>`,
    `<style>${styleText()}</style>`,
    `<rect class="back" width="${WIDTH}" height="${height}"/>`,
    textAt(WIDTH / 2, 22, 'middle', title, 'font-size="15" font-weight="600"'),
    ...axisParts(x, y, options),
    ...lines.map((line, i) => pathOf(line, i, drawn[i]!, x, y)),
    ...(legendRows > 0 ? legendParts(lines) : []),
    '</svg>',
  ];
  return `${parts.join('\n')}\n`;
}

/** Percentiles so that 90, 99 and 99.9 are as far apart: for the x of a `Line`; 0 to 100, 100 left out. */
export function percentilePlace(percent: number): number {
  return -Math.log10(1 - percent / 100);
}

export const PERCENTILE_TICKS: readonly Tick[] = [0, 50, 90, 99, 99.9, 99.99].map((percent) => ({
  at: percentilePlace(percent),
  text: `${percent}`,
}));

class Scale {
  readonly ticks: readonly Tick[];
  readonly #log: boolean;
  readonly #low: number;
  readonly #high: number;
  readonly #from: number;
  readonly #to: number;

  /** From values to places between `from` and `to`. */
  constructor(axis: Axis, values: readonly number[], from: number, to: number) {
    this.#log = axis.log ?? false;
    this.#from = from;
    this.#to = to;
    const places = [...values, ...(axis.ticks ?? []).map(({ at }) => at)];
    const [least, most] = places.length === 0 ? [1, 2] : [Math.min(...places), Math.max(...places)];
    const ticks = this.#log
      ? logTicks(least, most)
      : roundTicks((axis.fromZero ?? true) ? Math.min(0, least) : least, most);
    this.ticks = axis.ticks ?? ticks.map((at) => ({ at, text: numberText(at) }));
    this.#low = this.#map(Math.min(least, this.ticks[0]!.at));
    this.#high = this.#map(Math.max(most, this.ticks.at(-1)!.at));
  }

  place(value: number): number {
    const span = this.#high - this.#low || 1;
    return this.#from + ((this.#map(value) - this.#low) / span) * (this.#to - this.#from);
  }

  #map(value: number): number {
    return this.#log ? Math.log10(value) : value;
  }
}

/** Some five round numbers from at most `low` to at least `high`. */
export function roundTicks(low: number, high: number): number[] {
  const rough = (high - low || Math.abs(high) || 1) / 5;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * unit).find((each) => each >= rough * 0.999)!;
  const [first, last] = [Math.floor(low / step), Math.ceil(high / step)];
  return Array.from({ length: Math.max(1, last - first) + 1 }, (_, i) => (first + i) * step);
}

/** 1, 2, 5 of every power of ten, or the powers alone when they are many. */
export function logTicks(low: number, high: number): number[] {
  const [first, last] = [Math.floor(Math.log10(low)), Math.floor(Math.log10(high))];
  const factors = last - first >= 4 ? [1] : [1, 2, 5];
  const ticks: number[] = [];
  for (let power = first; power <= last + 1; power++) {
    for (const factor of factors) ticks.push(factor * 10 ** power);
  }
  const from = ticks.findLastIndex((at) => at <= low * 1.0001);
  const to = ticks.findIndex((at) => at >= high * 0.9999);
  return ticks.slice(Math.max(0, from), Math.max(from + 2, to + 1));
}

function fits(axis: Axis, value: number): boolean {
  return Number.isFinite(value) && (!axis.log || value > 0);
}

function axisParts(x: Scale, y: Scale, options: PlotOptions): string[] {
  const [left, right] = [FRAME.left, WIDTH - FRAME.right];
  const [top, bottom] = [FRAME.top, HEIGHT - FRAME.bottom];
  const middleY = (top + bottom) / 2;
  return [
    ...x.ticks.map(({ at }) => gridLine(x.place(at), top, x.place(at), bottom)),
    ...y.ticks.map(({ at }) => gridLine(left, y.place(at), right, y.place(at))),
    `<path class="axis" d="M${left} ${top}V${bottom}H${right}"/>`,
    ...x.ticks.map(({ at, text }) => textAt(x.place(at), bottom + 18, 'middle', text)),
    ...y.ticks.map(({ at, text }) => textAt(left - 8, y.place(at) + 4, 'end', text)),
    textAt((left + right) / 2, bottom + 42, 'middle', options.x.label),
    textAt(18, middleY, 'middle', options.y.label, `transform="rotate(-90 18 ${round(middleY)})"`),
  ];
}

function pathOf(line: Line, index: number, points: Line['points'], x: Scale, y: Scale): string {
  const places = points.map(([atX, atY]) => [round(x.place(atX)), round(y.place(atY))] as const);
  const path = places.map(([placeX, placeY], i) => `${i === 0 ? 'M' : 'L'}${placeX} ${placeY}`).join('');
  // Few points are measurements of their own; many are a course.
  const dots = places.length <= 12 ? places.map(([cx, cy]) => `<circle cx="${cx}" cy="${cy}" r="3"/>`) : [];
  return `<g class="${classOf(line, index)}"><path d="${path}"/>${dots.join('')}</g>`;
}

function legendParts(lines: readonly Line[]): string[] {
  const column = (WIDTH - FRAME.left - FRAME.right) / 3;
  return lines.map((line, i) => {
    const left = FRAME.left + (i % 3) * column;
    const at = HEIGHT + LEGEND_LINE / 2 + Math.floor(i / 3) * LEGEND_LINE;
    const sample = `<g class="${classOf(line, i)}"><path d="M${round(left)} ${at - 4}h26"/></g>`;
    return sample + textAt(left + 34, at, 'start', line.name);
  });
}

function classOf({ colour, dashed }: Line, index: number): string {
  return `line c${(colour ?? index) % COLOURS_LIGHT.length}${dashed === true ? ' dashed' : ''}`;
}

function styleText(): string {
  const scheme = (back: string, ink: string, grid: string, colours: readonly string[]) =>
    `.back{fill:${back}}text{fill:${ink}}.grid{stroke:${grid}}.axis{stroke:${ink};fill:none}` +
    colours.map((colour, i) => `.c${i}{stroke:${colour};fill:${colour}}`).join('');
  return (
    scheme('#ffffff', '#1f2328', '#e3e6ea', COLOURS_LIGHT) +
    `.line path{fill:none;stroke-width:2}.dashed path{stroke-dasharray:6 4}` +
    `@media (prefers-color-scheme: dark){${scheme('#0d1117', '#e6edf3', '#272e38', COLOURS_DARK)}}`
  );
}

function gridLine(x1: number, y1: number, x2: number, y2: number): string {
  return `<line class="grid" x1="${round(x1)}" y1="${round(y1)}" x2="${round(x2)}" y2="${round(y2)}"/>`;
}

function textAt(x: number, y: number, anchor: string, text: string, more = ''): string {
  return `<text x="${round(x)}" y="${round(y)}" text-anchor="${anchor}" ${more}>${escaped(text)}</text>`;
}

function numberText(value: number): string {
  if (Math.abs(value) >= 1000) return Math.round(value).toLocaleString('en-US');
  return `${Number(value.toPrecision(3))}`;
}

const round = (value: number) => Math.round(value * 10) / 10;
const escaped = (text: string) =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');

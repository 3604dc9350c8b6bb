/** Live line plots: uPlot with the page's colours, two minutes wide, "now" at the right edge. */
import uPlot from '/vendor/uplot/uPlot.esm.js';

/**
 * @typedef {object} Line
 * @property {string} name in the legend
 * @property {string} colour name of a custom property of style.css
 * @property {boolean} [fill]
 *
 * @typedef {(number | null)[]} Column
 *
 * @typedef {object} PlotOptions
 * @property {readonly Line[]} lines
 * @property {(value: number | null) => string} format
 * @property {() => number | undefined} [target] a dashed line at this value
 */

const HEIGHT = 220;
const SECONDS = 120;

/**
 * The colour that a custom property has now, in this theme.
 * @param {string} name @param {number} [alpha]
 */
function colour(name, alpha = 1) {
  const probe = document.createElement('span');
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return alpha === 1 ? value : value.replace(/rgba?\(([^)]+)\)/, `rgba($1, ${alpha})`);
}

/**
 * Labels of the value axis: round numbers, so no more digits than they need.
 * @param {number} value
 */
function axisLabel(value) {
  const [scaled, unit] = value >= 1e6 ? [value / 1e6, 'M'] : value >= 1e4 ? [value / 1e3, 'k'] : [value, ''];
  return `${scaled.toLocaleString('en', { maximumSignificantDigits: 4 })}${unit}`;
}

/** @param {number} seconds */
function ago(seconds) {
  return seconds === 0 ? 'now' : `−${-seconds} s`;
}

/**
 * What the legend shows while nobody points at the plot.
 * @param {ArrayLike<number | null | undefined> | undefined} column
 */
function lastOf(column) {
  return column?.[column.length - 1] ?? null;
}

/**
 * @param {PlotOptions} options
 * @param {number} width
 * @returns {import('uplot').Options}
 */
function uplotOptions({ lines, format, target }, width) {
  const axis = {
    stroke: colour('--muted'),
    grid: { stroke: colour('--line'), width: 1 },
    ticks: { show: false },
    font: '12px system-ui, sans-serif',
  };
  const drawTarget = (/** @type {import('uplot')} */ plot) => {
    const { ctx, bbox } = plot;
    const y = plot.valToPos(target?.() ?? 0, 'y', true);
    if (target?.() === undefined || y < bbox.top) return;
    ctx.save();
    ctx.strokeStyle = colour('--muted');
    ctx.setLineDash([6, 6]);
    ctx.beginPath();
    ctx.moveTo(bbox.left, y);
    ctx.lineTo(bbox.left + bbox.width, y);
    ctx.stroke();
    ctx.restore();
  };
  return {
    width,
    height: HEIGHT,
    padding: [12, 12, 0, 0],
    scales: {
      x: { time: false, range: [-SECONDS + 1, 0] },
      // From zero, and with the target in sight: how far below it a line runs is the point.
      y: { range: (_plot, _min, max) => [0, Math.max((max ?? 0) * 1.12, (target?.() ?? 0) * 1.15) || 1] },
    },
    axes: [
      { ...axis, grid: { show: false }, values: (_plot, splits) => splits.map(ago), space: 60, size: 30 },
      { ...axis, values: (_plot, splits) => splits.map(axisLabel), size: 52 },
    ],
    series: [
      { label: 'Time', value: (_plot, value) => (value === null ? '–' : ago(value)) },
      ...lines.map((line) => ({
        label: line.name,
        stroke: colour(line.colour),
        width: 2,
        ...(line.fill ? { fill: colour(line.colour, 0.12) } : {}),
        points: { show: false },
        value: (
          /** @type {import('uplot')} */ plot,
          /** @type {number | null} */ value,
          /** @type {number} */ at,
        ) => format(plot.cursor.idx == null ? lastOf(plot.data[at]) : value),
      })),
    ],
    cursor: { y: false, points: { size: 7 } },
    legend: { live: true },
    hooks: { draw: [drawTarget] },
  };
}

export class LivePlot {
  /** @type {import('uplot') | null} */
  #plot = null;
  /** @type {Column[]} */
  #columns = [];
  #host;
  #options;

  /** @param {HTMLElement} host @param {PlotOptions} options */
  constructor(host, options) {
    this.#host = host;
    this.#options = options;
    document.addEventListener('subito-theme', () => this.#rebuild());
    new ResizeObserver(() => {
      const width = this.#host.clientWidth;
      if (this.#plot !== null && width > 0) this.#plot.setSize({ width, height: HEIGHT });
    }).observe(host);
  }

  /** Other lines from now on; what was shown is gone. @param {PlotOptions} options */
  setOptions(options) {
    this.#options = options;
    this.#columns = [];
    this.#rebuild();
  }

  /**
   * @param {readonly (readonly (number | null)[])[]} columns one per line, a value a second, the last is now
   */
  show(columns) {
    this.#columns = columns.map((column) => [...column]);
    if (this.#plot === null) this.#rebuild();
    else this.#plot.setData(this.#data());
  }

  /** What is drawn, for tests. */
  get columns() {
    return this.#columns;
  }

  #data() {
    const length = this.#columns[0]?.length ?? 0;
    const time = Array.from({ length }, (_, at) => at - length + 1);
    return /** @type {import('uplot').AlignedData} */ ([time, ...this.#columns]);
  }

  #rebuild() {
    this.#plot?.destroy();
    this.#plot = null;
    if (this.#columns.length === 0) return;
    this.#host.replaceChildren();
    const options = uplotOptions(this.#options, this.#host.clientWidth);
    this.#plot = new uPlot(options, this.#data(), this.#host);
  }
}

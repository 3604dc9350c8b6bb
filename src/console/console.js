/** The operator's page: asks for /stats every second and shows it. */
import { byId, count, make, millis, percent, startTheme, text } from './dom.js';
import { LivePlot } from './plots.js';

/**
 * @typedef {import('../observe/figures.ts').Stats} Stats
 * @typedef {import('../observe/figures.ts').Span} Span
 *
 * @typedef {object} Demo what the demo crowd adds to the figures
 * @property {number} [listeners]
 * @property {number} [guesses]
 * @property {number | null} [hitAt10] share of songs that were among the model's ten guesses
 * @property {number | null} [baselineHitAt10] the same for the most played songs
 * @property {{ guesses: number, hitAt10: number | null }} [setOpeners] first songs of a set, counted apart
 * @property {string} [shows] how the shows come about
 */

const POLL_MS = 1000;
const POLL_MS_MAX = 4000;

/** @type {readonly { span: Span, colour: string, means: string }[]} */
const STAGES = [
  { span: 'wait', colour: '--wait', means: 'in Redis, until read' },
  { span: 'queue', colour: '--queue', means: 'for a free worker' },
  { span: 'infer', colour: '--infer', means: 'in a worker' },
  { span: 'commit', colour: '--commit', means: 'until Redis has it' },
  { span: 'total', colour: '--total', means: 'all of these' },
  { span: 'push', colour: '--push', means: 'prediction to socket' },
];

/** @type {Record<string, string>} */
const STATE_TEXT = {
  starting: 'The engine is starting: models are loading and warming up.',
  reconnecting: 'The engine is not ready. It keeps trying; no event is lost, they wait in the stream.',
  draining: 'The engine is draining: it finishes what is in hand and takes nothing new.',
  stopped: 'The engine has stopped.',
};

const throughput = new LivePlot(byId('plot-throughput'), {
  format: count,
  lines: [
    { name: 'Events in', colour: '--total' },
    { name: 'Predictions', colour: '--infer', fill: true },
    { name: 'Pushed', colour: '--push' },
    { name: 'Rejected', colour: '--bad' },
  ],
});
const latencyBy = {
  percentile: {
    format: millis,
    target: () => stats?.targetMs,
    lines: [
      { name: 'p50', colour: '--muted' },
      { name: 'p90', colour: '--total' },
      { name: 'p99', colour: '--accent' },
    ],
  },
  stage: {
    format: millis,
    target: () => stats?.targetMs,
    lines: STAGES.filter(({ span }) => span !== 'total').map(({ span, colour }) => ({ name: span, colour })),
  },
};
const latency = new LivePlot(byId('plot-latency'), latencyBy.percentile);
const backlog = new LivePlot(byId('plot-backlog'), {
  format: count,
  lines: [
    { name: 'Unread', colour: '--wait', fill: true },
    { name: 'Pending', colour: '--queue' },
    { name: 'In hand', colour: '--infer' },
  ],
});

/** @type {Stats | null} */
let stats = null;

/** @param {Stats} now */
function showTiles({ series, latency, workers, connections, targetMs }) {
  text('tile-in', count(series.in.at(-1)));
  text('tile-ok', count(series.ok.at(-1)));
  text('tile-p99', millis(latency.total?.p99));
  byId('tile-p99').toggleAttribute('data-late', (latency.total?.p99 ?? 0) > targetMs);
  text('tile-unread', count(series.unread.at(-1)));
  text('tile-busy', percent(series.busy.at(-1)));
  text('tile-workers', `of the time, ${workers} ${workers === 1 ? 'worker' : 'workers'}`);
  text('tile-connections', count(connections));
}

/** @param {Stats} now */
function showPlots({ series }) {
  const sum = (/** @type {readonly (readonly (number | null)[])[]} */ columns) =>
    series.in.map((_, at) => columns.reduce((total, column) => total + (column[at] ?? 0), 0));
  const { ok, degraded, invalid, failed, expired, overloaded, superseded, cancelled } = series;
  const rejected = sum([invalid, failed, expired, overloaded, superseded, cancelled]);
  throughput.show([series.in, sum([ok, degraded]), series.pushed, rejected]);
  const byStage = latencyChoice() === 'stage';
  latency.show(
    byStage
      ? [series.wait, series.queue, series.infer, series.commit, series.push]
      : [series.p50, series.p90, series.p99],
  );
  backlog.show([series.unread, series.pending, series.inflight]);
}

/** @param {Stats} now */
function showStages({ latency, windowSeconds }) {
  text('stages-hint', `Milliseconds, last ${windowSeconds} seconds`);
  const cells = (/** @type {Span} */ span) => {
    const figures = latency[span];
    return [figures?.p50, figures?.p90, figures?.p99, figures?.max].map((value) =>
      make('td', {}, millis(value)),
    );
  };
  const rows = STAGES.map(({ span, colour, means }) => {
    const dot = make('span', { class: 'dot', 'aria-hidden': 'true' });
    dot.style.setProperty('--dot', `var(${colour})`);
    const name = make('th', { scope: 'row' }, dot, span, make('small', {}, means));
    return make('tr', span === 'total' ? { class: 'sum' } : {}, name, ...cells(span));
  });
  byId('stages').replaceChildren(...rows);
}

/** @param {Stats} now */
function showBatches({ batches, windowSeconds }) {
  const total = batches.counts.reduce((sum, n) => sum + n, 0);
  const host = byId('batches');
  if (total === 0) {
    host.setAttribute('aria-label', 'No batches');
    host.replaceChildren(make('p', { class: 'empty' }, `No batch in the last ${windowSeconds} seconds.`));
    return;
  }
  const most = Math.max(...batches.counts);
  const bars = batches.counts.map((n, at) => {
    const above = at === batches.counts.length - 1;
    const bar = make('span', { class: 'col', title: `${n} batches` });
    bar.style.setProperty('--share', String(n / most));
    const edge = batches.rows[above ? at - 1 : at] ?? 0;
    const label = (above ? '>' : '') + (edge < 1024 ? edge : `${edge / 1024}k`);
    return make('span', { class: 'bin' }, bar, make('span', { class: 'tick' }, label));
  });
  host.replaceChildren(...bars);
  const usual = batches.rows[batches.counts.indexOf(most)];
  host.setAttribute('aria-label', `${total} batches; most often up to ${usual} rows`);
  text('batches-hint', `Rows that a worker ran at once: ${count(total)} batches in ${windowSeconds} seconds`);
}

/** @param {Stats} now */
function showStreams({ streams, totals, notices }) {
  const rows = streams.map(({ stream, unread, pending }) =>
    make(
      'tr',
      {},
      make('th', { scope: 'row' }, stream),
      make('td', {}, count(unread)),
      make('td', {}, count(pending)),
    ),
  );
  const none = make('tr', {}, make('td', { class: 'empty', colspan: '3' }, 'No input stream is configured.'));
  byId('streams').replaceChildren(...(rows.length > 0 ? rows : [none]));
  /** @type {[string, number][]} */
  const rare = [
    ['Degraded', totals.degraded],
    ['Expired', totals.expired],
    ['Overloaded', totals.overloaded],
    ['Superseded', totals.superseded],
    ['Cancelled', totals.cancelled],
  ];
  /** @type {[string, number][]} */
  const sums = [
    ['Predicted', totals.ok],
    ['Invalid', totals.invalid],
    ['Failed', totals.failed],
    ...rare.filter(([, value]) => value > 0),
    ['Settled elsewhere', totals.duplicate],
    ['Pushes dropped', totals.dropped],
  ];
  byId('totals').replaceChildren(
    ...sums.map(([name, value]) => make('div', {}, make('dt', {}, name), make('dd', {}, count(value)))),
  );
  byId('notices').replaceChildren(
    ...notices
      .slice(-6)
      .map(({ level, code, count: n }) => make('li', { 'data-level': level }, `${code} × ${count(n)}`)),
  );
}

/**
 * What batches took when they were measured: one row, the most that they may have, and the largest measured.
 *
 * @param {Stats['models'][number]} model
 */
function profileText({ profile, batchRows, runMsMax }) {
  const largest = profile.at(-1);
  if (largest === undefined) return '';
  const shown = profile.filter(({ rows }) => [1, batchRows, largest.rows].includes(rows));
  const each = shown.map(
    ({ rows, p50Ms, p99Ms }) =>
      `${rows} ${rows === 1 ? 'row' : 'rows'} ${millis(p50Ms)} ms, p99 ${millis(p99Ms)} ms`,
  );
  return `At the start: ${each.join('; ')}. A batch may take ${millis(runMsMax)} ms.`;
}

/** @param {Stats} now */
function showModels({ models }) {
  const rows = models.map((model) =>
    make(
      'tr',
      {},
      make(
        'th',
        { scope: 'row' },
        `${model.name}@${model.version}`,
        make('small', {}, model.description),
        make('small', { class: 'profile' }, profileText(model)),
      ),
      make('td', {}, model.provider),
      make('td', {}, count(model.eventsPerSecond)),
      make('td', {}, count(model.batchRowsMean)),
      make('td', {}, count(model.batchRows)),
      make('td', {}, count(model.runUsPerRow)),
    ),
  );
  const none = make('tr', {}, make('td', { class: 'empty', colspan: '6' }, 'No model is loaded yet.'));
  byId('models').replaceChildren(...(rows.length > 0 ? rows : [none]));
}

/** @param {Stats} now */
function showDemo({ sections }) {
  const demo = /** @type {Demo | undefined} */ (sections['demo']);
  byId('demo').hidden = demo === undefined;
  if (demo === undefined) return;
  const { guesses = 0, listeners = 0, hitAt10 = null, baselineHitAt10 = null, setOpeners, shows = '' } = demo;
  text('demo-hit', percent(hitAt10, 1));
  text('demo-base', percent(baselineHitAt10, 1));
  byId('demo-hit-bar').style.setProperty('--share', String(hitAt10 ?? 0));
  byId('demo-base-bar').style.setProperty('--share', String(baselineHitAt10 ?? 0));
  const so =
    guesses === 0
      ? 'No song has been guessed yet.'
      : `How often the next song of a set was among the ten guesses, of ${count(guesses)}:`;
  text('demo-hint', `${count(listeners)} simulated listeners. ${shows} ${so}`);
  const openers = setOpeners?.guesses
    ? `The first song of a set is harder and counted apart: ${percent(setOpeners.hitAt10, 1)}. `
    : '';
  text('demo-openers', openers);
}

/** @param {string} state @param {readonly string[]} reasons @param {string} [said] */
function showState(state, reasons, said = STATE_TEXT[state] ?? '') {
  const pill = byId('state');
  pill.dataset['state'] = state;
  text('state', state);
  const banner = byId('banner');
  const why = reasons.filter((reason) => reason !== `the engine is ${state}`).join('; ');
  const message = why === '' ? said : `${said} (${why})`.trim();
  if (banner.textContent !== message) banner.textContent = message;
  banner.hidden = message === '';
  banner.dataset['state'] = state;
}

/** @param {Stats} now */
function show(now) {
  stats = now;
  showState(now.state, now.reasons);
  showTiles(now);
  showPlots(now);
  showStages(now);
  showBatches(now);
  showStreams(now);
  showModels(now);
  showDemo(now);
  const minutes = Math.floor(now.uptimeMs / 60_000);
  text(
    'foot',
    `Up ${minutes < 1 ? 'less than a minute' : `${count(minutes)} min`}. Figures refresh every second.`,
  );
}

function latencyChoice() {
  const chosen = /** @type {HTMLInputElement | null} */ (
    document.querySelector('input[name="latency-by"]:checked')
  );
  return chosen?.value === 'stage' ? 'stage' : 'percentile';
}

async function poll() {
  let wait = POLL_MS;
  try {
    const answer = await fetch('/stats', { signal: AbortSignal.timeout(POLL_MS_MAX), cache: 'no-store' });
    if (!answer.ok) throw new Error(`it answered ${answer.status}`);
    show(await answer.json());
    document.body.classList.remove('stale');
  } catch (error) {
    wait = POLL_MS_MAX;
    document.body.classList.add('stale');
    const reason = error instanceof Error ? error.message : String(error);
    showState('unreachable', [], `No answer from the engine (${reason}). Trying again every few seconds.`);
  }
  setTimeout(poll, wait);
}

startTheme();
for (const input of document.querySelectorAll('input[name="latency-by"]')) {
  input.addEventListener('change', () => {
    latency.setOptions(latencyBy[latencyChoice()]);
    if (stats !== null) showPlots(stats);
  });
}
// For tests and the curious: what the plots hold.
Object.assign(window, { subitoPlots: { throughput, latency, backlog } });
void poll();

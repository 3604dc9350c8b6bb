// The dashboard for Grafana 10 or newer: node deploy/grafana/dashboard.ts writes subito.json, which is
// imported there ("Dashboards", "New", "Import"). Panels are listed below in the order in which they stand;
// each says what a person should make of it.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** Columns of Grafana's grid, and what a panel takes of it. */
const GRID_COLUMNS = 24;
const PANEL = { w: 8, h: 8 };

interface Target {
  readonly expr: string;
  readonly legendFormat: string;
  readonly refId: string;
  readonly format?: 'heatmap';
}

interface Panel {
  readonly id: number;
  readonly type: 'row' | 'timeseries' | 'heatmap';
  readonly title: string;
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number };
  readonly description?: string;
  readonly targets?: readonly Target[];
  readonly [more: string]: unknown;
}

/** An expression, and how its series are called. */
type Query = readonly [expr: string, legend: string];

interface Graph {
  readonly title: string;
  readonly means: string;
  /** As Grafana names units. */
  readonly unit: 'ops' | 's' | 'short' | 'percentunit' | 'bytes';
  readonly queries: readonly Query[];
  readonly stacked?: boolean;
  readonly kind?: 'heatmap';
}

interface Row {
  readonly title: string;
  readonly graphs: readonly Graph[];
}

const STREAM = 'stream=~"$stream"';
const rate = (series: string) => `rate(${series}[$__rate_interval])`;
const quantile = (q: number, by: string, histogram: string) =>
  `histogram_quantile(${q}, sum by (${by}) (${rate(`${histogram}_bucket`)}))`;
const mean = (by: string, histogram: string, picked = '') => {
  const sum = (part: string) => `sum by (${by}) (${rate(`${histogram}_${part}${picked}`)})`;
  return `${sum('sum')} / ${sum('count')}`;
};
const UNANSWERED = 'status=~"invalid|failed|expired|overloaded"';

const rows: readonly Row[] = [
  {
    title: 'Traffic and outcomes',
    graphs: [
      {
        title: 'Events by outcome',
        means: 'Settled per second. ok and degraded are predictions; all others have none.',
        unit: 'ops',
        queries: [[`sum by (status) (${rate(`subito_events_total{${STREAM}}`)})`, '{{status}}']],
        stacked: true,
      },
      {
        title: 'Events by model',
        means: 'Settled per second. Without a name: refused before their model was known.',
        unit: 'ops',
        queries: [[`sum by (model) (${rate(`subito_events_total{${STREAM}}`)})`, '{{model}}']],
        stacked: true,
      },
      {
        title: 'Share without a prediction',
        means:
          'invalid and failed are dead letters; expired and overloaded came too late, or too many at once.',
        unit: 'percentunit',
        queries: [
          [
            `sum by (stream) (${rate(`subito_events_total{${STREAM},${UNANSWERED}}`)})` +
              ` / sum by (stream) (${rate(`subito_events_total{${STREAM}}`)})`,
            '{{stream}}',
          ],
        ],
      },
    ],
  },
  {
    title: 'Latency by stage',
    graphs: [
      {
        title: 'Entry id to settlement',
        means: 'Of all streams together. The 99th percentile should stay below the target.',
        unit: 's',
        queries: [
          [quantile(0.5, 'le', 'subito_event_seconds'), 'median'],
          [quantile(0.99, 'le', 'subito_event_seconds'), 'p99'],
          ['max(subito_latency_target_seconds)', 'target'],
        ],
      },
      {
        title: 'p99 of each stage',
        means: 'wait and queue: too few workers. infer: a slow model. commit: a slow Redis.',
        unit: 's',
        queries: [[quantile(0.99, 'stage, le', 'subito_stage_seconds'), '{{stage}}']],
      },
      {
        title: 'Mean of each stage',
        means: 'Where an event spends its time: together they are its latency.',
        unit: 's',
        queries: [[mean('stage', 'subito_stage_seconds', '{stage!="push"}'), '{{stage}}']],
        stacked: true,
      },
      {
        title: 'Latencies',
        means: 'How many events took how long; a second band is a second kind of event, or a stall.',
        unit: 's',
        queries: [[`sum by (le) (${rate('subito_event_seconds_bucket')})`, '{{le}}']],
        kind: 'heatmap',
      },
    ],
  },
  {
    title: 'Backlog and age',
    graphs: [
      {
        title: 'Unread events',
        means: 'What waits in Redis. Growing means too few engines or workers.',
        unit: 'short',
        queries: [[`max by (stream) (subito_backlog_events{${STREAM}})`, '{{stream}}']],
      },
      {
        title: 'Age of the oldest unread event',
        means: 'At the deadline events begin to expire.',
        unit: 's',
        queries: [
          [`max by (stream) (subito_oldest_unread_seconds{${STREAM}})`, '{{stream}}'],
          [`max by (stream) (subito_deadline_seconds{${STREAM}})`, 'deadline of {{stream}}'],
        ],
      },
      {
        title: 'Read and not settled',
        means: 'Over all engines: what is in their hands, or was in those of one that has died.',
        unit: 'short',
        queries: [[`max by (stream) (subito_pending_events{${STREAM}})`, '{{stream}}']],
      },
      {
        title: 'Age of the oldest one read and not settled',
        means: 'Beyond claim_idle_ms something hangs.',
        unit: 's',
        queries: [[`max by (stream) (subito_oldest_pending_seconds{${STREAM}})`, '{{stream}}']],
      },
    ],
  },
  {
    title: 'Workers and batches',
    graphs: [
      {
        title: 'Busy workers',
        means: 'Share of their time spent on batches. Near 1 there is no room left.',
        unit: 'percentunit',
        queries: [['subito_worker_busy_ratio', '{{instance}}']],
      },
      {
        title: 'Warm workers',
        means: 'Threads that take batches.',
        unit: 'short',
        queries: [['subito_workers', '{{instance}}']],
      },
      {
        title: 'Rows of a batch',
        means: 'Small while there is time, larger under load.',
        unit: 'short',
        queries: [
          [mean('instance', 'subito_batch_rows'), 'mean, {{instance}}'],
          [quantile(0.9, 'le', 'subito_batch_rows'), 'p90'],
        ],
      },
      {
        title: 'Batches',
        means: 'Per second, of each engine.',
        unit: 'ops',
        queries: [[`sum by (instance) (${rate('subito_batch_rows_count')})`, '{{instance}}']],
      },
      {
        title: 'Workers by provider',
        means: 'A fallback shows as one that has none left.',
        unit: 'short',
        queries: [['sum by (model, provider) (subito_provider_sessions)', '{{model}} on {{provider}}']],
      },
      {
        title: 'Main thread: delay of its event loop',
        means: 'It reads, commits and serves sockets: all wait when it is late.',
        unit: 's',
        queries: [['nodejs_eventloop_lag_p99_seconds', '{{instance}}']],
      },
      {
        title: 'Memory',
        means: 'Resident, of each engine. It does not follow the backlog.',
        unit: 'bytes',
        queries: [['process_resident_memory_bytes', '{{instance}}']],
      },
    ],
  },
  {
    title: 'Limit and breakers',
    graphs: [
      {
        title: 'Rows in flight, and their limits',
        means: 'At its limit a model is given no more, and events are refused.',
        unit: 'short',
        queries: [
          ['sum(subito_inflight_rows)', 'in flight'],
          ['sum by (model) (subito_limit_rows)', 'limit of {{model}}'],
        ],
      },
      {
        title: 'Breakers that are not closed',
        means: 'Open: the model is not asked. Half open: it is being tried.',
        unit: 'short',
        queries: [
          [
            'max by (model, provider, state) (subito_breaker_state{state!="closed"})',
            '{{model}} on {{provider}}: {{state}}',
          ],
        ],
      },
      {
        title: 'Notices',
        means: 'Warnings and errors of the log by code, per second; README.md says what each asks for.',
        unit: 'ops',
        queries: [[`sum by (code) (${rate('subito_notices_total{level!="info"}')})`, '{{code}}']],
      },
    ],
  },
  {
    title: 'Push',
    graphs: [
      {
        title: 'Predictions to subscribers',
        means: 'Per second: sent, held for lack of credit, dropped for newer ones.',
        unit: 'ops',
        queries: [[`sum by (result) (${rate('subito_push_total')})`, '{{result}}']],
      },
      {
        title: 'p99 from a prediction to its sockets',
        means: 'From its entry id until its frames were handed over.',
        unit: 's',
        queries: [
          [
            `histogram_quantile(0.99, sum by (le) (${rate('subito_stage_seconds_bucket{stage="push"}')}))`,
            'p99',
          ],
        ],
      },
      {
        title: 'Connections',
        means: 'Open WebSockets of each engine.',
        unit: 'short',
        queries: [['subito_connections', '{{instance}}']],
      },
    ],
  },
];

const datasource = { type: 'prometheus', uid: '$datasource' };

function panelOf(graph: Graph, id: number, x: number, y: number): Panel {
  const { title, means, unit, queries, stacked = false, kind } = graph;
  const isHeatmap = kind === 'heatmap';
  const custom = stacked ? { fillOpacity: 40, stacking: { mode: 'normal' } } : { fillOpacity: 5 };
  const heatmap = { calculate: false, yAxis: { unit }, cellGap: 0 };
  return {
    id,
    type: isHeatmap ? 'heatmap' : 'timeseries',
    title,
    description: means,
    datasource,
    gridPos: { x, y, ...PANEL },
    targets: queries.map(([expr, legendFormat], i) => {
      const refId = String.fromCharCode('A'.charCodeAt(0) + i);
      return { expr, legendFormat, refId, ...(isHeatmap ? { format: 'heatmap' as const } : {}) };
    }),
    fieldConfig: { defaults: { unit, min: 0, ...(isHeatmap ? {} : { custom }) }, overrides: [] },
    options: isHeatmap ? heatmap : { legend: { displayMode: 'list' }, tooltip: { mode: 'multi' } },
  };
}

/** Rows from top to bottom, in each as many panels beside one another as fit. */
function panels(): Panel[] {
  const placed: Panel[] = [];
  let y = 0;
  for (const { title, graphs } of rows) {
    placed.push({
      id: placed.length + 1,
      type: 'row',
      title,
      collapsed: false,
      gridPos: { x: 0, y, w: GRID_COLUMNS, h: 1 },
    });
    y += 1;
    const across = GRID_COLUMNS / PANEL.w;
    for (const [i, graph] of graphs.entries()) {
      const [column, line] = [i % across, Math.floor(i / across)];
      placed.push(panelOf(graph, placed.length + 1, column * PANEL.w, y + line * PANEL.h));
    }
    y += Math.ceil(graphs.length / across) * PANEL.h;
  }
  return placed;
}

/** The JSON of the dashboard. */
export function dashboard() {
  return {
    title: 'Subito',
    uid: 'subito',
    description: 'Real-time streaming inference: what comes in, what becomes of it, and how soon.',
    tags: ['subito'],
    schemaVersion: 39,
    refresh: '10s',
    time: { from: 'now-1h', to: 'now' },
    templating: {
      list: [
        { name: 'datasource', label: 'Data source', type: 'datasource', query: 'prometheus' },
        {
          name: 'stream',
          label: 'Stream',
          type: 'query',
          datasource,
          query: 'label_values(subito_events_total, stream)',
          refresh: 2,
          multi: true,
          includeAll: true,
          allValue: '.*',
          current: { text: 'All', value: '$__all' },
        },
      ],
    },
    panels: panels(),
  };
}

if (process.argv[1] === import.meta.filename) {
  writeFileSync(join(import.meta.dirname, 'subito.json'), `${JSON.stringify(dashboard(), null, 2)}\n`);
}

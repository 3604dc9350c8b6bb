/** Who serves the model over HTTP, and how each is started. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { freePort } from '../../src/ports.ts';
import { engineConfig, SUBITO } from '../e2e/engine.ts';
import { PYTHON, programOf } from '../peers/python.ts';
import type { Site } from '../site.ts';
import { MODEL_PATH } from '../site.ts';
import type { Form } from './bodies.ts';

export interface Launch {
  readonly argv: readonly [program: string, ...args: string[]];
  readonly env: Readonly<Record<string, string>>;
  readonly cwd: string;
  /** Where it answers. */
  readonly url: string;
}

export interface HttpContestant {
  readonly name: string;
  /** What it does, for the results. */
  readonly what: string;
  readonly form: Form;
  /** Its virtual environment; null: not Python. */
  readonly venv: string | null;
  launch(site: Site): Promise<Launch>;
}

const V2_PATH = '/v2/models/mlp/infer';
const BATCH = 64;
/** As short as the batchers take it: they wait so long for a batch to fill. */
const BATCH_WAIT_S = 0.001;

type PythonLaunch = (site: Site, port: number) => Promise<{ argv: string[]; env?: Record<string, string> }>;

/**
 * A program of the virtual environment, in a directory of its own; modules are those of bench/peers/python.
 */
function python(venv: string, path: string, launch: PythonLaunch): Pick<HttpContestant, 'venv' | 'launch'> {
  return {
    venv,
    async launch(site) {
      const port = await freePort();
      const cwd = join(site.directory, `${venv}-${port}`);
      mkdirSync(cwd);
      const { argv, env } = await launch(site, port);
      const [program = '', ...args] = argv;
      return {
        argv: [programOf(venv, program), ...args],
        env: { PYTHONPATH: PYTHON, PYTHONDONTWRITEBYTECODE: '1', MODEL: MODEL_PATH, ...env },
        cwd,
        url: `http://127.0.0.1:${port}${path}`,
      };
    },
  };
}

const subito: HttpContestant = {
  name: 'subito',
  what: '`subito serve`, one worker thread, the gateway on, a Redis beside it that has nothing to do',
  form: 'v2',
  venv: null,
  async launch(site) {
    const port = await freePort();
    const file = join(site.directory, `subito-http-${port}.yaml`);
    // JSON is YAML.
    writeFileSync(file, JSON.stringify(engineConfig(site, port)));
    return {
      argv: [process.execPath, ...SUBITO, 'serve', '--config', file],
      env: {},
      cwd: site.directory,
      url: `http://127.0.0.1:${port}${V2_PATH}`,
    };
  },
};

const mlserver: HttpContestant = {
  name: 'mlserver',
  what:
    `MLServer 1.7, a custom runtime, adaptive batching (${BATCH}, ${BATCH_WAIT_S * 1000} ms), the model ` +
    "in the server's own process; the same protocol",
  form: 'v2',
  ...python('mlserver', V2_PATH, async ({ directory }, port) => {
    const models = join(directory, `mlserver-${port}`);
    const settings = {
      host: '127.0.0.1',
      http_port: port,
      grpc_port: await freePort(),
      metrics_port: await freePort(),
      // In the server's own process: with one or two for the model it was no faster.
      parallel_workers: 0,
      // No access log.
      debug: false,
    };
    const model = {
      name: 'mlp',
      implementation: 'mlserver_runtime.Scores',
      max_batch_size: BATCH,
      max_batch_time: BATCH_WAIT_S,
      parameters: { uri: MODEL_PATH, version: '1' },
    };
    writeFileSync(join(models, 'settings.json'), JSON.stringify(settings));
    writeFileSync(join(models, 'model-settings.json'), JSON.stringify(model));
    return { argv: ['mlserver', 'start', '.'] };
  }),
};

const litserve: HttpContestant = {
  name: 'litserve',
  what: `LitServe 0.2, batching (${BATCH}, ${BATCH_WAIT_S * 1000} ms), its fast queue`,
  form: 'rows',
  ...python('litserve', '/predict', async (_site, port) => ({
    argv: ['python', join(PYTHON, 'litserve_server.py'), `${port}`, MODEL_PATH],
  })),
};

const bentoml: HttpContestant = {
  name: 'bentoml',
  what: `BentoML 1.4, adaptive batching (${BATCH})`,
  form: 'rows',
  ...python('bentoml', '/predict', async (_site, port) => ({
    argv: ['bentoml', 'serve', 'bentoml_server:Scores', '--host', '127.0.0.1', '--port', `${port}`],
    env: { BENTOML_DO_NOT_TRACK: 'True' },
  })),
};

const ray: HttpContestant = {
  name: 'ray',
  what: `Ray Serve 2.60, @serve.batch (${BATCH}, ${BATCH_WAIT_S * 1000} ms), its mode for high throughput`,
  form: 'rows',
  ...python('ray', '/predict', async ({ directory }, port) => ({
    argv: ['python', join(PYTHON, 'ray_server.py'), `${port}`, MODEL_PATH],
    env: {
      RAY_TMPDIR: directory,
      RAY_USAGE_STATS_ENABLED: '0',
      // It would run them at 15 and so behind the load.
      RAY_worker_niceness: '0',
      RAY_SERVE_THROUGHPUT_OPTIMIZED: '1',
      RAY_SERVE_ENABLE_HA_PROXY: '1',
      RAY_SERVE_HAPROXY_CONFIG_FILE_LOC: join(directory, 'haproxy.cfg'),
      RAY_SERVE_HAPROXY_SOCKET_PATH: join(directory, 'haproxy.sock'),
      RAY_SERVE_HAPROXY_SERVER_STATE_BASE: directory,
      RAY_SERVE_HAPROXY_SERVER_STATE_FILE: join(directory, 'haproxy.state'),
      RAY_SERVE_HAPROXY_METRICS_PORT: `${await freePort()}`,
      RAY_SERVE_HAPROXY_STATS_PORT: `${await freePort()}`,
    },
  })),
};

const uvicorn = (workers: number) =>
  python('fastapi', '/predict', async (_site, port) => {
    const quiet = ['--no-access-log', '--log-level', 'warning'];
    return {
      argv: ['uvicorn', 'fastapi_server:app', '--port', `${port}`, '--workers', `${workers}`, ...quiet],
    };
  });

const fastapi: HttpContestant = {
  name: 'fastapi',
  what: 'FastAPI on uvicorn with uvloop, httptools and orjson, by hand: the model runs in the event loop',
  form: 'rows',
  ...uvicorn(1),
};

const fastapiCores: HttpContestant = {
  name: 'fastapi-cores',
  what: 'the same, one process for each core',
  form: 'rows',
  ...uvicorn(availableParallelism()),
};

export const httpContestants: readonly HttpContestant[] = [
  subito,
  mlserver,
  litserve,
  bentoml,
  ray,
  fastapi,
  fastapiCores,
];

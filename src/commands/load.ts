/** `subito load`: the open-loop load generator on the command line. */
import { readFileSync } from 'node:fs';
import { SubitoError } from '../errors.ts';
import type { LoadOptions } from '../load/options.ts';
import { loadDefaults } from '../load/options.ts';
import { formatProgress, formatReport } from '../load/report.ts';
import { runLoad } from '../load/run.ts';

/** One option as commander wants it: flags and what they mean. Defaults are shown, and filled in by `run`. */
export const loadFlags: readonly (readonly [flags: string, description: string])[] = [
  ['--via <way>', 'stream (XADD), ws (event frames, answered directly) or http (POST .../infer)'],
  ['--observe <how>', 'for --via stream: tail (read the predictions) or push (subscribe over WebSocket)'],
  ['--rate <n>', `events per second, whatever the server does (${loadDefaults.ratePerS})`],
  ['--arrivals <kind>', `poisson or uniform (${loadDefaults.arrivals})`],
  ['--duration <s>', `seconds measured (${loadDefaults.durationS})`],
  ['--warmup <s>', `seconds before that are sent but not measured (${loadDefaults.warmupS})`],
  ['--timeout <s>', `an event without answer for so long is lost (${loadDefaults.timeoutS})`],
  ['--connections <n>', `for ws, http and push (${loadDefaults.connections}; raised where needed, and said)`],
  ['--per-connection <n>', `events/s the server takes on one WebSocket (${loadDefaults.perConnectionPerS})`],
  ['--keys <n>', `distinct keys (${loadDefaults.keys})`],
  ['--key-prefix <text>', `what they begin with (${loadDefaults.keyPrefix})`],
  ['--deadline <ms>', 'of every event; without it the stream, the model or the engine decides'],
  ['--priority <mix>', 'a class (0) or classes with shares (0:1,1:1,2:8); counted apart'],
  ['--model <name>', 'name or name@version; for --via stream the stream decides unless given'],
  ['--data <json>', 'the named fields of every event'],
  ['--data-file <path>', 'JSON objects, one a line, sent in turn'],
  ['--features-bytes <n>', 'random float32 values instead, so many bytes'],
  ['--encoding <name>', `msgpack or json: of --data in the stream, and of frames (${loadDefaults.encoding})`],
  ['--redis <url>', `the engine's Redis (${loadDefaults.redisUrl})`],
  ['--url <url>', `the gateway (${loadDefaults.url})`],
  ['--stream <name>', `stream to send to (${loadDefaults.stream})`],
  ['--predictions <name>', `where its predictions appear (${loadDefaults.predictions})`],
  ['--deadletters <name>', `where its dead letters appear (${loadDefaults.deadletters})`],
  ['--token-file <path>', 'a file that holds the bearer token for a gateway with auth'],
  ['--seed <n>', `for arrival times and payloads (${loadDefaults.seed})`],
  ['--errors-max <share>', `exit 1 when more fails or is lost (${loadDefaults.errorsMax})`],
  [
    '--outstanding-max <n>',
    `unanswered events before new ones count as errors (${loadDefaults.outstandingMax})`,
  ],
  [
    '--pace',
    'for --via stream: wait for turns at the rate that the engines suggest; the waiting is reported',
  ],
  ['--allow-remote', 'allow targets other than this machine'],
  ['--json', 'print the report as JSON'],
];

export const loadExamples = `
Examples, for the demo:
  1000 events a second for ten seconds into the stream \`events\`, answers read from \`predictions\`:
    subito load --data '{"songs":["Bertha"]}'
  2000 a second, and how long until a subscribed player has the prediction:
    subito load --rate 2000 --observe push --keys 200 --data '{"songs":["Bertha"]}'
  Over WebSocket, answered on the same connection:
    subito load --via ws --rate 300 --data '{"songs":["Bertha"],"set":1,"position":2}'
  More than it can do, in three classes, each event of use for 250 ms:
    subito load --rate 5000 --priority 0:1,1:1,2:1 --deadline 250 --data '{"songs":["Bertha"]}'
  Real lines over HTTP, as JSON for a script:
    subito load --via http --model next-track --data-file sessions.jsonl --json
And for a model of 12 float32 values that takes rows as they are:
    subito load --rate 20000 --features-bytes 48

Latency runs from the time at which each event was due, so a stalled server (or generator) shows in full.
Exit code: 0; 1 if nothing was answered, an event was answered twice, or more than --errors-max failed.
`;

/** Options as commander gives them: camelCase names, values still text. Resolves with the exit code. */
export async function run(given: Readonly<Record<string, unknown>>): Promise<number> {
  const options = loadOptions(given);
  const json = given['json'] === true;
  const stop = new AbortController();
  const onInterrupt = () => stop.abort();
  // Once: the first interrupt drains and reports, a second one kills.
  process.once('SIGINT', onInterrupt);
  const live = process.stderr.isTTY === true;
  try {
    const report = await runLoad(options, {
      stop: stop.signal,
      onTick: (elapsedMs, interval, account) => {
        if (live) process.stderr.write(`\r\x1b[K${formatProgress(elapsedMs, interval, account)}`);
      },
    });
    if (live) process.stderr.write('\r\x1b[K');
    process.stdout.write(json ? `${JSON.stringify(report)}\n` : formatReport(report));
    return report.ok ? 0 : 1;
  } finally {
    process.off('SIGINT', onInterrupt);
  }
}

export function loadOptions(given: Readonly<Record<string, unknown>>): LoadOptions {
  const text = (name: string, fallback: string) =>
    given[name] === undefined ? fallback : String(given[name]);
  const number = (name: string, fallback: number) => {
    const value = given[name];
    if (value === undefined) return fallback;
    const parsed = String(value).trim() === '' ? Number.NaN : Number(value);
    if (Number.isNaN(parsed)) throw new SubitoError('USAGE', `--${dashed(name)} is not a number: ${value}`);
    return parsed;
  };
  const whole = (name: string, fallback: number) => {
    const value = number(name, fallback);
    if (!Number.isInteger(value)) throw new SubitoError('USAGE', `--${dashed(name)} must be a whole number`);
    return value;
  };
  const d = loadDefaults;
  return {
    via: text('via', d.via) as LoadOptions['via'],
    observe: text('observe', d.observe) as LoadOptions['observe'],
    ratePerS: number('rate', d.ratePerS),
    arrivals: text('arrivals', d.arrivals) as LoadOptions['arrivals'],
    durationS: number('duration', d.durationS),
    warmupS: number('warmup', d.warmupS),
    timeoutS: number('timeout', d.timeoutS),
    connections: whole('connections', d.connections),
    perConnectionPerS: number('perConnection', d.perConnectionPerS),
    keys: whole('keys', d.keys),
    keyPrefix: text('keyPrefix', d.keyPrefix),
    deadlineMs: whole('deadline', d.deadlineMs),
    priority: text('priority', d.priority),
    model: text('model', d.model),
    data: text('data', d.data),
    dataFile: text('dataFile', d.dataFile),
    featuresBytes: whole('featuresBytes', d.featuresBytes),
    encoding: text('encoding', d.encoding) as LoadOptions['encoding'],
    redisUrl: text('redis', d.redisUrl),
    url: text('url', d.url),
    stream: text('stream', d.stream),
    predictions: text('predictions', d.predictions),
    deadletters: text('deadletters', d.deadletters),
    token: token(text('tokenFile', '')),
    seed: number('seed', d.seed),
    errorsMax: number('errorsMax', d.errorsMax),
    outstandingMax: whole('outstandingMax', d.outstandingMax),
    pace: given['pace'] === true,
    allowRemote: given['allowRemote'] === true,
  };
}

/** In a file, because arguments show in process lists. */
function token(path: string): string {
  if (path === '') return '';
  try {
    return readFileSync(path, 'utf8').trim();
  } catch (cause) {
    throw new SubitoError('USAGE', `cannot read --token-file ${path}`, { cause });
  }
}

const dashed = (name: string) => name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);

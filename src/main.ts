#!/usr/bin/env -S node --min-semi-space-size=8 --max-semi-space-size=8
// The flags keep the size of V8's young generation as it is; else a heap would wander by 30 MB.
//
// The command line: subito serve | demo | load | models | audit | deadletters | autoscale | config. Commands
// are loaded when they are called, so --help is quick and a broken command breaks no other.
import { realpathSync } from 'node:fs';
import { Command, CommanderError, InvalidArgumentError } from 'commander';
import { stringify } from 'yaml';
import { configJsonSchema, loadConfig, redact } from './config.ts';
import { SubitoError, toSubitoError } from './errors.ts';
import { configName } from './limits.ts';

type Options = Readonly<Record<string, unknown>> & { readonly json: boolean; readonly verbose: boolean };

/** What src/commands/NAME.ts exports. */
interface CommandModule {
  /** Resolves with the exit code. Options are commander's: camelCase; port and listeners are numbers. */
  run(options: Options): Promise<number>;
}

interface CommandSpec {
  readonly name: string;
  /** Words after the options, as commander writes them; the command gets them as `args`. */
  readonly words?: readonly [name: string, description: string];
  readonly description: string;
  readonly flags: readonly (readonly [flags: string, description: string])[];
  readonly examples: string;
}

const specs: readonly CommandSpec[] = [
  {
    name: 'serve',
    description: 'run the engine',
    flags: [
      ['--config <file>', 'YAML file; without one: SUBITO_CONFIG, else defaults'],
      ['--host <address>', 'address to listen on (gateway.host)'],
      ['--port <n>', 'port to listen on, 0 for any free one (gateway.port)'],
      ['--redis <url>', 'server to use, or `embedded` for a private one (redis)'],
      ['--models <dir>', 'directory of models (models.path)'],
      ['--insecure', 'listen beyond loopback although auth is off (gateway.insecure)'],
    ],
    examples: `
Examples:
  subito serve --config subito.yaml
  subito serve --redis embedded --models ./models --port 9000
`,
  },
  {
    name: 'demo',
    description: 'run the engine with a private Redis, the models at hand and simulated listeners',
    flags: [
      ['--listeners <n>', 'simulated listeners (300)'],
      ['--song-seconds <n>', 'how long a song plays (2)'],
      ['--port <n>', 'port of the console, 0 for any free one (8080)'],
      ['--data <dir>', 'where the private Redis keeps its data (./data)'],
      ['--quiet', 'print the address and nothing else'],
    ],
    examples: '\nExample:\n  subito demo --listeners 1000 --port 9000\n',
  },
  {
    name: 'models',
    description: 'list the models of a directory: versions, inputs, outputs, what is wrong with them',
    flags: [['--models <dir>', 'directory of models (./models)']],
    examples: '\nExample:\n  subito models --models ./models --json\n',
  },
  {
    name: 'audit',
    words: ['[streams...]', 'input streams or partitions to look at; without any: all that are configured'],
    description: 'check on live streams that every event is in exactly one state; changes nothing',
    flags: [
      ['--config <file>', 'YAML file; without one: SUBITO_CONFIG, else defaults'],
      ['--redis <url>', 'server to ask (redis.url)'],
      ['--wait <seconds>', 'first wait so long until nothing is unread or pending'],
      ['--ids', 'print all ids that something is off about, not the first 20 of each kind'],
      ['--quiet', 'no progress on stderr'],
    ],
    examples: `
Looked at is what is in the stream at the start; engines and producers may go on. What can be off:
  lost                  delivered, not pending, without outcome
  settled twice         more than one prediction or dead letter
  orphans               an outcome, but no such event in the stream
  ghosts                pending, but deleted from the stream
  settled, yet pending  or unread: it would be settled again
An outcome that may have been trimmed from the predictions is not called lost.

Examples:
  subito audit --config subito.yaml
  One stream, and all partitions of another:
    subito audit 'events:{3}' plays
  In a script, once the producers have stopped: exit code 0 when all of it has been settled, once:
    subito audit --wait 60 --quiet --json > audit.json

Exit code: 0 when clean; 1 when something is off, or left after --wait; 2 for a wrong command line.
`,
  },
];

const isText = (value: unknown): value is string => typeof value === 'string';

function wholeNumber(least: number, most: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (/^\d+$/.test(text) && value >= least && value <= most) return value;
    throw new InvalidArgumentError(`It must be a whole number from ${least} to ${most}.`);
  };
}

const parsers: Readonly<Record<string, (text: string) => number>> = {
  '--port <n>': wholeNumber(0, 65_535),
  '--listeners <n>': wholeNumber(0, 100_000),
  '--wait <seconds>': wholeNumber(1, 86_400),
};

/** Adds a command that runs src/commands/NAME.ts. */
function addCommand(program: Command, spec: CommandSpec, finish: (exitCode: number) => void): void {
  const command = program.command(spec.name).description(spec.description);
  if (spec.words) command.argument(...spec.words);
  for (const [flags, description] of spec.flags) {
    const parse = parsers[flags];
    if (parse && spec.name !== 'load') command.option(flags, description, parse);
    else if (flags !== '--json') command.option(flags, description);
  }
  command.addHelpText('after', spec.examples);
  command.action(async () => {
    const { run } = (await import(`./commands/${spec.name}.ts`)) as CommandModule;
    finish(await run({ ...commonOptions(command), args: command.args }));
  });
}

function commonOptions(command: Command): Options {
  const options = command.optsWithGlobals();
  return { ...options, json: options['json'] === true, verbose: options['verbose'] === true };
}

function print(value: string): void {
  process.stdout.write(`${value}\n`);
}

/** targetMs -> target_ms, for a configuration that can be pasted into a file. */
function snakeKeys(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(snakeKeys);
  if (typeof value !== 'object' || value === null) return value;
  const entries = Object.entries(value).map(([key, inner]) => [configName(key), snakeKeys(inner)]);
  return Object.fromEntries(entries) as unknown;
}

function addConfigCommand(program: Command): void {
  const config = program.command('config').description('check or show the configuration');
  const file = ['--config <file>', 'YAML file; without one: SUBITO_CONFIG, else defaults'] as const;
  const load = (command: Command) => {
    const { config: path } = command.opts();
    return loadConfig({ file: isText(path) ? path : undefined });
  };
  config
    .command('check')
    .description('name everything that is wrong with the configuration')
    .option(...file)
    .action((_options, command: Command) => {
      load(command);
      print(commonOptions(command).json ? '{"ok":true}' : 'the configuration is good');
    });
  config
    .command('show')
    .description('print the configuration that results from defaults, file and environment, without secrets')
    .option(...file)
    .action((_options, command: Command) => {
      const { redis, ...rest } = redact(load(command)) as { redis: Record<string, unknown> };
      const { kind, ...place } = redis;
      const shown = snakeKeys({ redis: kind === 'embedded' ? { embedded: place } : place, ...rest });
      print(commonOptions(command).json ? JSON.stringify(shown) : stringify(shown).trimEnd());
    });
  config
    .command('schema')
    .description('print the JSON Schema of the configuration file, for editors')
    .action(() => print(JSON.stringify(configJsonSchema(), null, 2)));
}

/** `load` describes its own options; they are read only where they are needed. */
async function loadSpec(argv: readonly string[]): Promise<CommandSpec> {
  const spec = { name: 'load', description: 'send events at a fixed rate and measure the answers' };
  if (argv.find((word) => !word.startsWith('-')) !== 'load') return { ...spec, flags: [], examples: '' };
  const { loadFlags, loadExamples } = await import('./commands/load.ts');
  return { ...spec, flags: loadFlags, examples: loadExamples };
}

/** Adds the commands below `deadletters`; what they are is read only where it is needed, as for `load`. */
async function addDeadlettersCommand(
  program: Command,
  argv: readonly string[],
  finish: (exitCode: number) => void,
): Promise<void> {
  const group = program.command('deadletters').description('events that could not be predicted');
  if (argv.find((word) => !word.startsWith('-')) !== 'deadletters') return;
  const { deadletterSpecs } = await import('./commands/deadletters-spec.ts');
  for (const { name, usage, description, flags, examples } of deadletterSpecs) {
    const command = group.command(usage).description(description).addHelpText('after', examples);
    for (const [option, meaning] of flags) command.option(option, meaning);
    command.action(async () => {
      const { runDeadletters } = await import('./commands/deadletters.ts');
      finish(await runDeadletters(name, command.args, commonOptions(command)));
    });
  }
}

/** Adds the command below `autoscale`, read only where it is needed, as for `load`. */
async function addAutoscaleCommand(
  program: Command,
  argv: readonly string[],
  finish: (exitCode: number) => void,
): Promise<void> {
  const group = program.command('autoscale').description('how many engines there should be');
  if (argv.find((word) => !word.startsWith('-')) !== 'autoscale') return;
  const { runSimulate, simulateExamples, simulateFlags } = await import('./commands/autoscale.ts');
  const command = group
    .command('simulate')
    .description('replay a course of arrivals against the autoscaling policy')
    .addHelpText('after', simulateExamples);
  for (const [option, meaning] of simulateFlags) command.option(option, meaning);
  command.action(async () => finish(await runSimulate(commonOptions(command))));
}

/** Runs a command line, without `node` and the script. Resolves with the exit code; never rejects. */
export async function main(argv: readonly string[]): Promise<number> {
  const isJson = argv.includes('--json');
  try {
    let exitCode = 0;
    const program = new Command('subito')
      .description(
        'Real-time streaming inference: events in from Redis Streams, predictions out in milliseconds.',
      )
      .option('--json', 'print for programs: results as JSON on stdout, errors as JSON on stderr')
      .option('--verbose', 'print where an error came from')
      .configureHelp({ showGlobalOptions: true })
      // Errors are printed below, in one form for all.
      .configureOutput({ outputError: () => undefined })
      .exitOverride();
    const finish = (code: number): void => {
      exitCode = code;
    };
    for (const spec of specs) addCommand(program, spec, finish);
    addCommand(program, await loadSpec(argv), finish);
    await addDeadlettersCommand(program, argv, finish);
    await addAutoscaleCommand(program, argv, finish);
    addConfigCommand(program);
    await program.parseAsync([...argv], { from: 'user' });
    return exitCode;
  } catch (thrown) {
    if (thrown instanceof CommanderError && thrown.exitCode === 0) return 0;
    const error = thrown instanceof CommanderError ? usageError(thrown) : toSubitoError(thrown);
    process.stderr.write(isJson ? `${JSON.stringify({ error })}\n` : `subito: ${error.describe()}\n`);
    if (argv.includes('--verbose') || error.code === 'INTERNAL') printStacks(thrown);
    return error.exitCode;
  }
}

function usageError(thrown: CommanderError): SubitoError {
  // Without a command, commander has printed its help already.
  const isHelp = thrown.code === 'commander.help';
  const message = isHelp
    ? 'no command was given'
    : thrown.message.replace(/^error: /, '').replaceAll('\n', ' ');
  return new SubitoError('USAGE', message);
}

function printStacks(thrown: unknown): void {
  for (let error: unknown = thrown; error instanceof Error; error = error.cause) {
    process.stderr.write(`${error.stack ?? error.message}\n`);
  }
}

function isEntry(): boolean {
  const entry = process.argv[1];
  // npm links `subito` in node_modules/.bin to this file.
  return entry !== undefined && realpathSync(entry) === import.meta.filename;
}

if (isEntry()) {
  // `subito load | head`: the reader has seen enough, which is no error.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(0);
    throw error;
  });
  process.exitCode = await main(process.argv.slice(2));
}

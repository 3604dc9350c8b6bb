/** The options of `subito deadletters`, apart from what they do, so that --help is quick. */
import type { LetterAction } from './deadletters.ts';

interface ActionSpec {
  readonly name: LetterAction;
  /** As commander has it: `show <id...>`. */
  readonly usage: string;
  readonly description: string;
  readonly flags: readonly (readonly [flags: string, description: string])[];
  readonly examples: string;
}

const place = [
  ['--config <file>', 'YAML file; without one: SUBITO_CONFIG, else defaults'],
  ['--redis <url>', 'server to use instead of the configured one'],
  ['--stream <name>', 'one stream or partition (all that are configured)'],
] as const;
const reason = ['--reason <name>', '`invalid`: the event is at fault, or `failed`: the model is'] as const;
const model = [
  '--model <name>',
  '`name` or `name@version`; events that name none are their stream’s',
] as const;
const since = ['--since <when>', 'from this entry id or ISO time on'] as const;
const until = ['--until <when>', 'up to this entry id or ISO time'] as const;
const choice = [
  reason,
  model,
  ['--all', 'all that are there now; those that die meanwhile are left alone'],
  ['--dry-run', 'say what would happen, and change nothing'],
  ['--yes', 'do not ask; needed for --all and --reason without a terminal'],
] as const;

export const deadletterSpecs: readonly ActionSpec[] = [
  {
    name: 'list',
    usage: 'list',
    description: 'newest first, with counts by reason',
    flags: [
      ...place,
      reason,
      model,
      since,
      until,
      ['--limit <n>', 'lines at most (50); all are counted'],
      ['--keys', 'show the events’ keys, which may name users'],
    ],
    examples: `
Examples:
  subito deadletters list --reason failed --limit 20
  subito deadletters list --stream events --since 2026-11-22T09:00:00Z --json
`,
  },
  {
    name: 'show',
    usage: 'show <id...>',
    description: 'everything about single letters: fields, decoded payload, the whole reason',
    flags: [...place],
    examples: '\nExample:\n  subito deadletters show 1795343095350-0\n',
  },
  {
    name: 'requeue',
    usage: 'requeue [id...]',
    description: 'put events back into their stream, as they came and with a new id',
    flags: [...place, ...choice],
    examples: `
Examples:
  subito deadletters requeue 1795343095350-0
  subito deadletters requeue --reason failed --model skip --dry-run
  subito deadletters requeue --reason failed --model skip --yes

Each letter becomes one event, also when this is repeated, ended half-way or run twice at once. Letters of
which no payload was kept are refused. Exit code 1 when any was refused or unknown.
`,
  },
  {
    name: 'drop',
    usage: 'drop [id...]',
    description: 'delete letters for good; receipts of them are kept',
    flags: [...place, ...choice],
    examples: `
Examples:
  subito deadletters drop 1795343095350-0
  subito deadletters export > letters.ndjson && subito deadletters drop --all --yes
`,
  },
  {
    name: 'export',
    usage: 'export',
    description: 'all letters as lines of JSON, oldest first',
    flags: [...place, reason, model, since, until],
    examples: `
Examples:
  subito deadletters export --reason invalid > letters.ndjson
  subito deadletters export | jq -r .detail | sort | uniq -c

\`data\` is decoded; \`data_base64\` is there too where the bytes would not be the same again.
`,
  },
];

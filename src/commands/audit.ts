/** `subito audit`: is every event of the input streams in exactly one state? It never writes to Redis. */
import { setTimeout as sleep } from 'node:timers/promises';
import { partitionStreams, type StreamPartition } from '../engine/streams.ts';
import { SubitoError } from '../errors.ts';
import { type AuditProgress, auditStream } from '../ledger/audit.ts';
import { idText } from '../ledger/ids.ts';
import { OFFENCE_TEXTS } from '../ledger/offences.ts';
import { Progress } from '../ledger/progress.ts';
import { type AuditReport, OFFENCES } from '../ledger/report.ts';
import { Scan } from '../ledger/scan.ts';
import { formatReport, grouped } from '../ledger/table.ts';
import { nearest } from '../nearest.ts';
import type { Control } from '../redis/control.ts';
import { openControl, operatorConfig } from './control.ts';

type Given = Readonly<Record<string, unknown>>;

/** Of each offence, unless --ids asks for all. */
const IDS_SHOWN = 20;
/** How often --wait looks whether there is something left. */
const POLL_MS = 250;

/**
 * Options as commander gives them; `args` names streams. Resolves with 0 when all is clean; rejects with
 * LEDGER_BROKEN when something is off, with LEDGER_UNFINISHED when --wait has waited in vain.
 */
export async function run(given: Given): Promise<number> {
  const { wait, ids, json, quiet, args } = given;
  const config = operatorConfig(given);
  const partitions = select(partitionStreams(config.streams), (args ?? []) as string[]);
  const progress = new Progress({
    write: (text) => quiet !== true && process.stderr.write(text),
    live: process.stderr.isTTY === true,
    now: () => performance.now(),
  });
  const idsMax = ids === true ? Number.POSITIVE_INFINITY : IDS_SHOWN;
  const control = await openControl(config);
  try {
    const giveUpMs = wait === undefined ? null : performance.now() + Number(wait) * 1000;
    const reports: AuditReport[] = [];
    for (const { partition, horizon } of await horizonsOf(control, partitions)) {
      const report = await auditWhenSettled({ control, partition, horizon, giveUpMs, progress });
      progress.clear();
      reports.push(report);
      if (json !== true) process.stdout.write(formatReport(report, idsMax));
    }
    if (json === true) process.stdout.write(`${JSON.stringify(asJson(reports, idsMax))}\n`);
    refuseBroken(reports, idsMax);
    if (giveUpMs !== null) refuseUnfinished(reports, Number(wait));
    return 0;
  } finally {
    progress.clear();
    control.close();
  }
}

/** A name is that of a partition, or of a configured stream with all its partitions. */
function select(partitions: readonly StreamPartition[], names: readonly string[]): StreamPartition[] {
  if (names.length === 0) return [...partitions];
  const known = [...new Set(partitions.flatMap(({ name, stream }) => [stream, name]))];
  for (const name of names) {
    if (known.includes(name)) continue;
    const guess = nearest(name, known);
    throw new SubitoError(
      'USAGE',
      `${name} is no configured input stream${guess === undefined ? '' : `; did you mean ${guess}?`}`,
      { fix: `name one of ${known.slice(0, IDS_SHOWN).join(', ')}; --config names the configuration` },
    );
  }
  return partitions.filter(({ name, stream }) => names.includes(name) || names.includes(stream));
}

interface Horizon {
  readonly partition: StreamPartition;
  /** Undefined: there is no such stream yet. */
  readonly horizon: string | undefined;
}

/** All at the start, so that the first stream's audit does not move the horizon of the last. */
async function horizonsOf(control: Control, partitions: readonly StreamPartition[]): Promise<Horizon[]> {
  const scan = new Scan(control, undefined, () => {});
  const horizons: Horizon[] = [];
  for (const partition of partitions) {
    const info = await scan.info(partition.name);
    horizons.push({ partition, horizon: info === null ? undefined : idText(info.last) });
  }
  return horizons;
}

interface AuditWork extends Horizon {
  readonly control: Control;
  /** By the clock of the process; null: nothing is waited for. */
  readonly giveUpMs: number | null;
  readonly progress: Progress;
}

/** Looks cheaply until nothing seems left, then audits; and again, should that find something left. */
async function auditWhenSettled(work: AuditWork): Promise<AuditReport> {
  const { control, partition, horizon, giveUpMs, progress } = work;
  const { name: stream, group, predictions, deadletters } = partition;
  const scan = new Scan(control, undefined, () => {});
  const mayWait = () => giveUpMs !== null && performance.now() < giveUpMs;
  for (;;) {
    while (mayWait() && !(await scan.isSettled(stream, group, horizon))) {
      progress.say(() => `${stream}: waiting for what is unread or pending up to ${horizon}`);
      await sleep(POLL_MS);
    }
    const report = await auditStream(control, {
      ...{ stream, group, predictions, deadletters },
      ...(horizon === undefined ? {} : { horizon }),
      onProgress: (at) => progress.say(() => progressText(at)),
    });
    if (left(report) === 0 || !mayWait()) return report;
    await sleep(POLL_MS);
  }
}

const STAGES: Readonly<Record<AuditProgress['stage'], string>> = {
  pending: 'what is pending',
  outcomes: 'outcomes',
  entries: 'events',
  again: 'what looks wrong, again',
};

function progressText({ stream, stage, done, total }: AuditProgress): string {
  const percent = total === 0 ? 100 : Math.floor((100 * done) / total);
  return `${stream}: reading ${STAGES[stage]}, ${grouped(done)} of ${grouped(total)} entries (${percent}%)`;
}

const left = ({ states }: AuditReport) => states.unread.count + states.pending.count;

function refuseBroken(reports: readonly AuditReport[], idsMax: number): void {
  const broken = reports.filter(({ clean }) => !clean);
  if (broken.length === 0) return;
  const found = broken.map((report) => {
    const parts = OFFENCES.filter((offence) => report.offences[offence].length > 0).map((offence) => {
      const ids = report.offences[offence];
      const shown = ids.slice(0, idsMax).join(', ') + (ids.length > idsMax ? ', ...' : '');
      return `${grouped(ids.length)} ${OFFENCE_TEXTS[offence].name}: ${shown}`;
    });
    return `${report.stream} has ${parts.join('; ')}`;
  });
  const fixes = broken.flatMap((report) =>
    OFFENCES.filter((offence) => report.offences[offence].length > 0).map((offence) =>
      OFFENCE_TEXTS[offence].fix(report),
    ),
  );
  throw new SubitoError('LEDGER_BROKEN', found.join('. '), {
    fix: [...new Set(fixes)].join('. '),
    detail: broken.map(({ stream, offences }) => ({ stream, offences: cut(offences, idsMax) })),
  });
}

function refuseUnfinished(reports: readonly AuditReport[], waitS: number): void {
  const unfinished = reports.filter((report) => left(report) > 0);
  if (unfinished.length === 0) return;
  const rest = unfinished.map(({ stream, states: { unread, pending } }) => ({
    stream,
    unread: unread.count,
    pending: pending.count,
  }));
  const texts = rest.map(
    ({ stream, unread, pending }) =>
      `${stream} has ${grouped(unread)} unread and ${grouped(pending)} pending`,
  );
  throw new SubitoError('LEDGER_UNFINISHED', `after ${waitS} s ${texts.join('; ')}`, { detail: rest });
}

/** Counts and the first ids, where an array of all might be millions. */
function cut(offences: AuditReport['offences'], idsMax: number) {
  return Object.fromEntries(
    OFFENCES.map((name) => [name, { count: offences[name].length, ids: offences[name].slice(0, idsMax) }]),
  );
}

function asJson(reports: readonly AuditReport[], idsMax: number) {
  return {
    clean: reports.every(({ clean }) => clean),
    streams: reports.map((report) => ({ ...report, offences: cut(report.offences, idsMax) })),
  };
}

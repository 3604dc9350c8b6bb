/**
 * The log: what the stages say to the operator on the notice channel. Text on a terminal, JSON lines
 * otherwise.
 *
 * A code is written at once the first time. Then it is quiet for ten seconds, counting; if anything was
 * counted, the last message goes out with the count, and the next ten seconds begin. A quiet period without a
 * repeat ends it: the next message of that code is written at once again. So a storm costs six lines a minute
 * and code.
 */
import { createHash } from 'node:crypto';
import { channels, type NoticeReport } from './channels.ts';

const QUIET_MS = 10_000;
/**
 * Codes are a finite set; should someone compute them, the oldest are forgotten (and written at once again).
 */
const CODES_MAX = 200;

export interface LogOptions {
  readonly write: (line: string) => void;
  /** Text for people; otherwise one JSON object a line. */
  readonly text: boolean;
  /** Text with colours: for a terminal. */
  readonly colour?: boolean;
  /** Notices below this are not written. */
  readonly level?: 'debug' | 'info' | 'warn' | 'error';
  /** Unix milliseconds. */
  readonly now: () => number;
  /**
   * Calls back once after `ms`; a timer that does not keep the process alive, unless a test brings its own.
   */
  readonly after?: (ms: number, fn: () => void) => () => void;
}

interface Repeat {
  count: number;
  last: NoticeReport;
  cancel: () => void;
}

function afterTimer(ms: number, fn: () => void): () => void {
  const timer = setTimeout(fn, ms).unref();
  return () => clearTimeout(timer);
}

/**
 * A user's key as the log may show it: whoever knows the key can find its lines, and nobody reads it from
 * them.
 */
export function hashedKey(key: string): string {
  return `#${createHash('sha256').update(key).digest('hex').slice(0, 8)}`;
}

/**
 * Takes out what must not be written: passwords in URLs, tokens, authorization values, users' keys; and line
 * breaks.
 */
export function redact(message: string): string {
  return message
    .replace(/\p{Cc}+/gu, ' ')
    .replace(/(\w+:\/\/)[^\s/@]*:[^\s/]*@/g, '$1***@')
    .replace(/\beyJ[\w-]+\.[\w-]+\.[\w-]*/g, '***')
    .replace(/\b(bearer|basic)\s+[\w+/=.~-]+/gi, '$1 ***')
    .replace(
      /\b(password|passwd|secret|token|api_?key)(["']?\s*[=:]\s*)("[^"]*"|'[^']*'|[^\s"',;&}]+)/gi,
      '$1$2***',
    )
    .replace(
      // Not how long one is: "key: 129 bytes".
      /\b(key)(["']?\s*[=:]\s*)(?!\d+ bytes)(?:"([^"]*)"|'([^']*)'|([^\s"',;&}\])]+))/gi,
      (_, name: string, between: string, ...values: (string | undefined)[]) =>
        name + between + hashedKey(values[0] ?? values[1] ?? values[2] ?? ''),
    );
}

const LEVELS: readonly string[] = ['debug', 'info', 'warn', 'error'];
const LEVEL_COLOUR = { info: '\x1b[36m', warn: '\x1b[33m', error: '\x1b[31m' } as const;

/**
 * One line, without its end. `repeats` is how many messages of the code this one stands for beyond itself.
 */
function format(notice: NoticeReport, repeats: number, timeMs: number, options: LogOptions): string {
  const time = new Date(timeMs).toISOString();
  const message = redact(notice.message);
  const { level, code } = notice;
  if (!options.text) {
    return JSON.stringify({ time, level, code, message, ...(repeats > 0 ? { repeats } : {}) });
  }
  const count = repeats > 0 ? ` (and ${repeats} more in ${QUIET_MS / 1000} s)` : '';
  const padded = level.padEnd(5);
  const shown = options.colour === true ? `${LEVEL_COLOUR[level]}${padded}\x1b[0m` : padded;
  return `${time.slice(11, 23)} ${shown} ${code} ${message}${count}`;
}

/** Starts writing; the returned function writes what is still counted and stops. */
export function startLog(options: LogOptions): () => void {
  const { write, now } = options;
  const least = LEVELS.indexOf(options.level ?? 'debug');
  const after = options.after ?? afterTimer;
  const repeats = new Map<string, Repeat>();
  const emit = (notice: NoticeReport, count: number) => write(`${format(notice, count, now(), options)}\n`);

  const quiet = (entry: Repeat): void => {
    entry.cancel = after(QUIET_MS, () => {
      if (entry.count === 0) {
        repeats.delete(entry.last.code);
        return;
      }
      emit(entry.last, entry.count - 1);
      entry.count = 0;
      quiet(entry);
    });
  };

  const onNotice = (report: unknown): void => {
    const notice = report as NoticeReport;
    if (LEVELS.indexOf(notice.level) < least) return;
    const known = repeats.get(notice.code);
    if (known !== undefined) {
      known.count += 1;
      known.last = notice;
      return;
    }
    emit(notice, 0);
    const oldest = repeats.size >= CODES_MAX ? repeats.keys().next().value : undefined;
    if (oldest !== undefined) {
      repeats.get(oldest)?.cancel();
      repeats.delete(oldest);
    }
    const entry: Repeat = { count: 0, last: notice, cancel: () => {} };
    repeats.set(notice.code, entry);
    quiet(entry);
  };

  channels.notice.subscribe(onNotice);
  return () => {
    channels.notice.unsubscribe(onNotice);
    for (const entry of repeats.values()) {
      entry.cancel();
      if (entry.count > 0) emit(entry.last, entry.count - 1);
    }
    repeats.clear();
  };
}

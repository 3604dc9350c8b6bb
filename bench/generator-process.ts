/**
 * The generator's process. Argument: the plan, as JSON.
 *
 * One connection adds prepared commands and counts the replies; another one, if predictions are watched,
 * follows them. Times are of performance.now() in this process, so that no two clocks are compared.
 */
import { messageOf } from '../src/errors.ts';
import { Alarm } from '../src/load/alarm.ts';
import { RunClock } from '../src/load/drive.ts';
import { arrivals, OpenLoop } from '../src/load/schedule.ts';
import { seededRandom } from '../src/random.ts';
import { parseEndpoint } from '../src/redis/endpoint.ts';
import { RECEIVE_BYTES, RedisSocket } from '../src/redis/socket.ts';
import { RedisWire } from '../src/redis/wire.ts';
import { EventRing, numberIn, prefixOf, RING } from './event-ring.ts';
import type { GeneratorMessage, GeneratorPlan, GeneratorReport, LatencyFigures } from './generator.ts';
import { Replies } from './replies.ts';
import { percentileOf } from './statistics.ts';

/** After the last event was sent, so long is waited for what has no prediction yet. */
const ANSWER_MS_MAX = 20_000;
/** And so long for predictions that should not come. */
const LINGER_MS = 200;

const plan = JSON.parse(process.argv[2]!) as GeneratorPlan;
const tell = (message: GeneratorMessage, then: () => void = () => {}) => {
  process.send!(message, undefined, undefined, then);
};

/** When each watched event was due, was sent, and had its prediction. */
class Watch {
  readonly dueMs: Float64Array;
  readonly lateMs: Float64Array;
  readonly latencyMs: Float64Array;
  answered = 0;
  duplicates = 0;

  constructor(events: number) {
    this.dueMs = new Float64Array(events);
    this.lateMs = new Float64Array(events);
    this.latencyMs = new Float64Array(events).fill(-1);
  }

  answer(seq: number, nowMs: number): void {
    if (!(seq >= 0 && seq < this.latencyMs.length)) return;
    if (this.latencyMs[seq] !== -1) {
      this.duplicates++;
      return;
    }
    this.latencyMs[seq] = nowMs - this.dueMs[seq]!;
    this.answered++;
  }
}

async function run(): Promise<GeneratorReport> {
  const { redisUrl, stream, predictions, batch, ratePerS, seconds, warmupS, observe, seed } = plan;
  const endMs = (warmupS + seconds) * 1000;
  const mean = ratePerS * (warmupS + seconds);
  // Poisson arrivals: six standard deviations of room.
  const watch = observe ? new Watch(Math.ceil(mean + 6 * Math.sqrt(mean) + 16)) : null;
  const clock = new RunClock();
  const wire = await RedisWire.connect(redisUrl);
  const prefix = prefixOf(batch);
  const tail =
    watch === null
      ? null
      : await wire.tail(predictions, ['event'], (entry) => {
          const name = entry.bytes(0);
          if (name !== undefined) watch.answer(numberIn(name, prefix), clock.now());
        });
  const sender = new Sender(new EventRing(stream, batch), clock, watch);
  await sender.open(redisUrl);
  const loop = new OpenLoop(arrivals('poisson', ratePerS, seededRandom(seed)), endMs);
  const alarm = new Alarm();
  await alarm.ready;
  clock.start();
  const cpu = process.cpuUsage();
  tell({ say: 'started' });
  await sendAll(loop, sender, clock, alarm);
  const { user, system } = process.cpuUsage(cpu);
  const [due, sent] = [sender.due, sender.sent];
  await alarm.close();
  await finished(sender, watch, clock, endMs);
  tail?.close();
  wire.close();
  sender.close();
  const from =
    watch === null
      ? 0
      : Math.max(
          0,
          watch.dueMs.findIndex((ms) => ms >= warmupS * 1000),
        );
  const latency =
    watch?.latencyMs
      .slice(from, sender.due)
      .filter((ms) => ms >= 0)
      .sort() ?? null;
  return {
    due,
    sent,
    cpuUs: (user + system) / sent,
    late: watch === null ? null : figuresOf(watch.lateMs.slice(from, sender.due).sort()),
    latency: latency === null ? null : figuresOf(latency),
    curve: latency === null ? [] : curveOf(latency),
    missing: watch === null ? 0 : sender.due - watch.answered,
    duplicates: watch?.duplicates ?? 0,
  };
}

/** Sends what is due and has room in the ring; the rest when replies have made room. */
class Sender {
  due = 0;
  sent = 0;
  readonly #ring: EventRing;
  readonly #clock: RunClock;
  readonly #watch: Watch | null;
  readonly #replies = new Replies();
  #socket: RedisSocket | null = null;
  #lost = '';

  constructor(ring: EventRing, clock: RunClock, watch: Watch | null) {
    this.#ring = ring;
    this.#clock = clock;
    this.#watch = watch;
  }

  open(redisUrl: string): Promise<void> {
    return new Promise((resolve) => {
      this.#socket = new RedisSocket({
        endpoint: parseEndpoint(redisUrl),
        name: 'bench:generator',
        bufferBytes: RECEIVE_BYTES,
        onOpen: resolve,
        onBytes: (buffer, start, end) => {
          this.#replies.take(buffer, start, end);
          this.flush();
          return end;
        },
        onClose: (reason) => {
          this.#lost = reason;
        },
        // A slow server is what is measured.
        answerDue: () => false,
      });
      this.#socket.open();
    });
  }

  /** Events without a reply, those not sent among them. */
  get outstanding(): number {
    return this.due - this.#replies.count;
  }

  take(seq: number, dueMs: number): void {
    this.due = seq + 1;
    if (this.#watch !== null) this.#watch.dueMs[seq] = dueMs;
  }

  flush(): void {
    if (this.#lost !== '') throw new Error(`connection lost: ${this.#lost}`);
    if (this.#replies.error !== '') throw new Error(`Redis answered: ${this.#replies.error}`);
    const count = Math.min(this.due - this.sent, RING - (this.sent - this.#replies.count));
    if (count <= 0) return;
    for (const bytes of this.#ring.commands(this.sent, count)) this.#socket!.write(bytes);
    if (this.#watch !== null) {
      const nowMs = this.#clock.now();
      const { dueMs, lateMs } = this.#watch;
      for (let seq = this.sent; seq < this.sent + count; seq++) lateMs[seq] = nowMs - dueMs[seq]!;
    }
    this.sent += count;
  }

  close(): void {
    this.#socket?.close();
  }
}

function sendAll(loop: OpenLoop, sender: Sender, clock: RunClock, alarm: Alarm): Promise<void> {
  return new Promise((resolve, reject) => {
    const step = () => {
      try {
        const now = clock.now();
        loop.pump(now, (seq, dueMs) => sender.take(seq, dueMs));
        sender.flush();
        if (loop.nextMs === Number.POSITIVE_INFINITY) resolve();
        else alarm.set(clock.startMs + Math.min(Math.max(loop.nextMs, now + plan.gapMs), now + 1000));
      } catch (error) {
        reject(error as Error);
      }
    };
    alarm.onRing(step);
    step();
  });
}

/** Resolves when all is replied to and answered, or has had the time for it. */
async function finished(sender: Sender, watch: Watch | null, clock: RunClock, endMs: number): Promise<void> {
  const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
  const isOpen = () => sender.outstanding > 0 || (watch !== null && watch.answered < sender.due);
  while (isOpen() && clock.now() < endMs + ANSWER_MS_MAX) {
    sender.flush();
    await pause(5);
  }
  if (watch !== null) await pause(LINGER_MS);
}

function figuresOf(sorted: Float64Array): LatencyFigures {
  const at = (percent: number) => percentileOf(sorted, percent);
  const [p50, p90, p99, p999, max] = [at(50), at(90), at(99), at(99.9), at(100)];
  return { count: sorted.length, p50, p90, p99, p999, max };
}

/** Up to the percentile that still stands for some events. */
function curveOf(sorted: Float64Array): [number, number][] {
  const places = [1, 10, 25, 50, 60, 70, 75, 80, 85, 90, 92.5, 95, 97, 98, 99, 99.3, 99.5, 99.7, 99.8, 99.9];
  const percents = [...places, 99.93, 99.95, 99.97, 99.99];
  const told = percents.filter((percent) => sorted.length * (1 - percent / 100) >= 3);
  return told.map((percent) => [percent, percentileOf(sorted, percent)]);
}

// Whoever asked is gone.
process.once('disconnect', () => process.exit());
// After a failure, sockets and threads are still there: the process is ended, not left to end.
try {
  tell({ say: 'done', report: await run() }, () => process.exit());
} catch (error) {
  tell({ say: 'failed', why: messageOf(error) }, () => process.exit(1));
}

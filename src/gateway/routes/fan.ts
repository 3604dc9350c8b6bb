/**
 * The rows of one request as events, a bounded number at a time: a request of a thousand rows must not push
 * everybody else's events out of the slabs. The first row that fails ends the request; rows in flight are
 * then ignored.
 */
import type { Answer, AnswerCallback } from '../../schedule/direct.ts';

export interface RowAnswer {
  readonly model: string;
  readonly status: Answer['status'];
  readonly rung: string;
  /** What `copy` made of them. */
  readonly outputs: string;
  readonly waitUs: number;
  readonly inferUs: number;
}

/** A copy: an Answer's outputs are valid only during its callback. */
export interface RowFailure {
  readonly row: number;
  readonly answer: Pick<Answer, 'status' | 'detail' | 'retryMs' | 'model'>;
}

export interface FanOptions {
  readonly rows: number;
  /** Rows in flight at most. */
  readonly window: number;
  /** Starts one row; `answer` may be called before it returns. */
  readonly infer: (row: number, answer: AnswerCallback) => void;
  /** An Answer's outputs are valid only during its callback. */
  readonly copy: (outputs: Uint8Array) => string;
  /** False: nobody waits any more, start no further rows. */
  readonly wanted: () => boolean;
}

/**
 * Calls `done` once: with one answer per row, in order, or with the first failure. Never when it is not
 * wanted.
 */
export function fanOut(options: FanOptions, done: (result: RowAnswer[] | RowFailure) => void): void {
  const { rows, window } = options;
  const answers = new Array<RowAnswer>(rows);
  let next = 0;
  let answered = 0;
  let over = false;
  let pumping = false;

  const take = (row: number, answer: Answer): void => {
    answered++;
    if (over) return;
    const { status, rung = '', model, waitUs, inferUs } = answer;
    if (status !== 'ok' && status !== 'degraded') {
      over = true;
      done({ row, answer: { status, model, detail: answer.detail, retryMs: answer.retryMs } });
      return;
    }
    answers[row] = { status, rung, model, waitUs, inferUs, outputs: options.copy(answer.outputs) };
    if (answered === rows) {
      over = true;
      done(answers);
      return;
    }
    // In halves of the window rather than row by row: rows that start together share a batch.
    if (next - answered <= window / 2) pump();
  };

  // An answer may come before `infer` returns: it must not start the next row from inside, a thousand calls
  // deep.
  const pump = (): void => {
    if (pumping) return;
    pumping = true;
    while (!over && next < rows && next - answered < window && options.wanted()) {
      const row = next++;
      options.infer(row, (answer) => take(row, answer));
    }
    pumping = false;
  };
  pump();
}

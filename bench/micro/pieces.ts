/** Every piece, in the order in which an event passes them. */
import { batcher } from './batcher.ts';
import type { Piece } from './case.ts';
import { codec } from './codec.ts';
import { committer } from './committer.ts';
import { control } from './control.ts';
import { hub } from './hub.ts';
import { intake } from './intake.ts';
import { messagepack } from './messagepack.ts';
import { leaky, path } from './path.ts';
import { protocol } from './protocol.ts';
import { tail } from './tail.ts';
import { worker } from './worker.ts';

export const PIECES: readonly Piece[] = [
  path,
  codec,
  intake,
  batcher,
  worker,
  messagepack,
  committer,
  tail,
  hub,
  protocol,
  control,
];

/** Not of the suite. */
export const HIDDEN: readonly Piece[] = [leaky];

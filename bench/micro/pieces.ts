/**
 * Every piece, in the order in which an event passes them. A piece is loaded when it is measured, and no
 * other with it: each has a process of its own.
 */
import type { MicroCase } from './case.ts';

/** Written in a file of its own, which exports its cases. */
export interface Piece {
  readonly name: string;
  /** One line for --help. */
  readonly what: string;
  readonly load: () => Promise<readonly MicroCase[]>;
}

export const PIECES: readonly Piece[] = [
  {
    name: 'path',
    what: 'the stream path of the main thread, from the reply of Redis to the settling commands',
    load: async () => await (await import('./path.ts')).cases(),
  },
  {
    name: 'codec',
    what: 'finding the fields of stream entries in a reply of Redis',
    load: async () => await (await import('./codec.ts')).cases(),
  },
  {
    name: 'intake',
    what: 'filling slabs: with the parser, without it, from the gateway',
    load: async () => await (await import('./intake.ts')).cases(),
  },
  {
    name: 'batcher',
    what: 'open, added, flush, release',
    load: async () => await (await import('./batcher.ts')).cases(),
  },
  {
    name: 'hop',
    what: "a batch's way to a worker and back, without the batch",
    load: async () => await (await import('./hop.ts')).cases(),
  },
  {
    name: 'worker',
    what: 'decode, session.run and encode of a batch, in one thread',
    load: async () => await (await import('./worker.ts')).cases(),
  },
  {
    name: 'worker-codec',
    what: 'decode and encode alone, on events and predictions of several forms',
    load: async () => await (await import('./worker-codec.ts')).cases(),
  },
  {
    name: 'messagepack',
    what: 'MessagePack: the reader and writer of the worker, the walk of the gateway, msgpackr',
    load: async () => await (await import('./messagepack.ts')).cases(),
  },
  {
    name: 'committer',
    what: 'the commands that settle a batch',
    load: async () => await (await import('./committer.ts')).cases(),
  },
  {
    name: 'tail',
    what: 'following the predictions stream, from the socket on',
    load: async () => await (await import('./tail.ts')).cases(),
  },
  {
    name: 'hub',
    what: 'one prediction to 32 and 256 subscribers, as frames',
    load: async () => await (await import('./hub.ts')).cases(),
  },
  {
    name: 'protocol',
    what: 'frames of WebSocket clients, and to them',
    load: async () => await (await import('./protocol.ts')).cases(),
  },
  {
    name: 'control',
    what: 'the measuring itself: nothing, and one object, for each event',
    load: async () => await (await import('./control.ts')).cases(),
  },
];

/** Not of the suite. */
export const HIDDEN: readonly Piece[] = [
  {
    name: 'leaky',
    what: 'the stream path with an object per event added to it',
    load: async () => (await import('./path.ts')).leakyCases(),
  },
];

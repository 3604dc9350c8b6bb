/**
 * The worker of hop.ts: takes batches over its desk and as tasks of piscina's, and does nothing with them.
 */
import { openDesk } from '../../src/infer/desk.ts';
import type { InferResult } from '../../src/infer/protocol.ts';

export const infer = async (): Promise<InferResult> => ({ inferUs: 84, runUs: 61, spill: null });

openDesk(infer);

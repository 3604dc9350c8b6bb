/**
 * The columnar parser of what Redis answers (redis/stream-reply.ts), without anyone who takes the entries.
 */

import { limitsDefault } from '../../src/limits.ts';
import { StreamReplyParser } from '../../src/redis/stream-reply.ts';
import { ENTRY_FIELDS } from '../../src/schedule/entry.ts';
import { type MicroCase, twinOnly } from './case.ts';
import { FORM_NAMES, type Form, repliesOf } from './stream.ts';

function whole(form: Form): MicroCase {
  const replies = repliesOf(form);
  let entries = 0;
  let bytes = 0;
  const parser = new StreamReplyParser({
    fields: ENTRY_FIELDS,
    entryBytesMax: limitsDefault.entryBytesMax,
    onEntry: (_buffer, entry) => {
      entries += 1;
      bytes += entry.idEnd - entry.idStart;
      return true;
    },
    onOversize: () => false,
    onReplyEnd: () => {},
    onError: (message) => {
      throw new Error(message);
    },
  });
  const work = (events: number) => {
    const bytesOf = replies(events);
    entries = 0;
    bytes = 0;
    parser.parse(bytesOf, 0, bytesOf.length);
    if (entries !== events || bytes === 0) throw new Error(`${entries} of ${events} entries`);
  };
  return { name: form, allocatesNothing: true, variants: twinOnly(work) };
}

export function cases(): MicroCase[] {
  return FORM_NAMES.map(whole);
}

/** What an audit calls by which name, what it means, and what to do about it. */
import type { AuditReport, Offence, State } from './report.ts';

/** In the order of a table, each with what people call it. */
export const STATE_NAMES: Readonly<Record<State, string>> = {
  unread: 'unread',
  pending: 'pending',
  ok: 'predicted, ok',
  degraded: 'predicted, degraded',
  expired: 'expired',
  overloaded: 'refused, overloaded',
  superseded: 'superseded',
  cancelled: 'cancelled',
  invalid: 'dead letter, invalid',
  failed: 'dead letter, failed',
  requeued: 'dead letter, requeued',
  dropped: 'dead letter, dropped',
  other: 'settled, of unknown status',
  trimmed: 'outcome may be trimmed',
  lost: 'lost',
};

interface OffenceText {
  readonly name: string;
  readonly meaning: string;
  readonly fix: (report: AuditReport) => string;
}

export const OFFENCE_TEXTS: Readonly<Record<Offence, OffenceText>> = {
  lost: {
    name: 'lost',
    meaning: 'delivered, not pending, without outcome',
    fix: ({ stream }) => `lost: append each event anew (XRANGE ${stream} ID ID shows it)`,
  },
  duplicates: {
    name: 'settled twice',
    meaning: 'more than one outcome',
    fix: () => 'settled twice: let readers skip a source that they have seen',
  },
  orphans: {
    name: 'orphans',
    meaning: 'an outcome, but no such event',
    fix: ({ stream, predictions, deadletters }) =>
      `orphans: delete the outcomes too where events were deleted by hand (XDEL ${stream}); ` +
      `let nothing else write to ${predictions} and ${deadletters}`,
  },
  ghosts: {
    name: 'ghosts',
    meaning: 'pending, but deleted from the stream',
    fix: ({ stream, group }) => `ghosts: XACK ${stream} ${group} ID, for their events are gone`,
  },
  settledPending: {
    name: 'settled, yet pending',
    meaning: 'an outcome, and pending still',
    fix: ({ stream, group }) =>
      `settled, yet pending: XACK ${stream} ${group} ID, before they are settled again`,
  },
  settledUnread: {
    name: 'settled, yet unread',
    meaning: 'an outcome, but the group was set back before the event',
    fix: ({ stream, group }) =>
      `settled, yet unread: XGROUP SETID ${stream} ${group} to the id before the oldest unread event`,
  },
};

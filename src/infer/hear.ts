/** What workers tell of themselves. */
import type { Piscina } from 'piscina';
import { messageOf } from '../errors.ts';
import { notice } from '../observe/channels.ts';
import type { Desks } from './desks.ts';
import type { Profiles } from './profiles.ts';
import type { AddonNews, WorkerNews } from './protocol.ts';
import type { Running } from './running.ts';

/** Listens from now on, the last that some say included. */
export function hear(piscina: Piscina, desks: Desks, running: Running, profiles: Profiles): void {
  const tellAddon = addonTeller();
  piscina.on('message', (news: WorkerNews) => {
    if (news.kind === 'addon') tellAddon(news);
    else if (news.kind === 'desk') {
      const worker = piscina.threads.find(({ threadId }) => threadId === news.thread);
      if (worker !== undefined) desks.add(news, worker);
    } else {
      running.record(news);
      if (news.profile !== null) profiles.keep(news.slot, news.profile);
    }
  });
  // An error outside any task of piscina's ends the worker. Piscina hears of it before the desks do.
  piscina.on('error', (error) =>
    queueMicrotask(() => {
      if (!desks.isOurs(error)) tellDeath(messageOf(error));
    }),
  );
}

export const tellDeath = (why: string) => notice('error', 'WORKER_DIED', why);

/** The same in every worker is one thing to tell. */
function addonTeller(): (news: AddonNews) => void {
  let told = '';
  return ({ why }) => {
    if (why === told) return;
    told = why;
    notice('warn', 'NATIVE', `a worker has no native addon, TypeScript does its work: ${why}`);
  };
}

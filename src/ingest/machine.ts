/**
 * What tells this process from every other one, and whether another one of this machine still lives.
 *
 * A process is known by its number and its start time, because numbers are given out again. Both mean
 * something only within one pid namespace of one boot of one machine: two containers of a machine may share
 * hostname and boot id while neither sees the other's processes.
 */
import { readFileSync, readlinkSync } from 'node:fs';
import { hostname } from 'node:os';

export interface Machine {
  readonly host: string;
  /** Changes whenever the machine boots; '' where the system does not tell (any but Linux). */
  readonly bootId: string;
  readonly pid: number;
  /** When this process started, in whatever unit the system counts; '' where it does not tell. */
  readonly start: string;
  /** Processes of the same one can be compared; '' where none can. */
  readonly pidNamespace: string;
  /** When that process started: null for one that does not live, '' where that cannot be told. */
  readonly startOf: (pid: number) => string | null;
}

export function readMachine(): Machine {
  const bootId = orEmpty(() => readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim());
  // A /proc that belongs to another namespace speaks of other processes.
  const ownProc = orEmpty(() => readlinkSync('/proc/self')) === String(process.pid);
  const namespace = orEmpty(() => readlinkSync('/proc/self/ns/pid'));
  const start = startOf(process.pid) ?? '';
  return {
    host: hostname(),
    bootId,
    pid: process.pid,
    start,
    // pid:[4026531836] -> 4026531836. The first namespace has the same number on every machine.
    pidNamespace: ownProc && bootId !== '' && start !== '' ? namespace.replace(/\D/g, '') : '',
    startOf,
  };
}

function startOf(pid: number): string | null {
  try {
    process.kill(pid, 0);
  } catch (error) {
    // EPERM: it lives, and is somebody else's.
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return null;
  }
  return startIn(orEmpty(() => readFileSync(`/proc/${pid}/stat`, 'latin1')));
}

/**
 * From a line of /proc/PID/stat (proc(5)): state is field 3, the start time field 22. The name before them
 * may hold anything, spaces and parentheses too. A zombie (Z), dead but not yet waited for, counts as dead.
 */
export function startIn(stat: string): string | null {
  if (stat === '') return '';
  const [state = '', ...rest] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return /[ZX]/.test(state) ? null : (rest[18] ?? '');
}

function orEmpty(read: () => string): string {
  try {
    return read();
  } catch {
    return '';
  }
}

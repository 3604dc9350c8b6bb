import { isIP } from 'node:net';

/** Whether a host name or address, as it stands in a URL or alone, is this machine and nothing else. */
export function isLoopback(host: string): boolean {
  const bare = host.replace(/^\[|\]$/g, '');
  return isIP(bare) === 4 ? bare.startsWith('127.') : bare === 'localhost' || bare === '::1';
}

import { isLoopback } from '../loopback.ts';

/**
 * Which web pages may talk to the gateway. A browser lets any page open a WebSocket or post a form to any
 * host, with the user's network position and cookies, and says in `Origin` which page it was. Programs send
 * no Origin.
 */
export function originAllowed(origin: string, host: string, allowed: readonly string[]): boolean {
  if (origin === '') return true;
  if (allowed.includes(origin)) return true;
  // 'null' (a sandboxed frame, a local file) is not a URL, and so never the same host.
  return URL.canParse(origin) && new URL(origin).host === host.toLowerCase();
}

/**
 * A page whose own name is made to point at 127.0.0.1 after it was loaded (DNS rebinding) is the same origin
 * to its browser, but its name is still in `Host`. So a gateway that listens on loopback answers to names of
 * loopback only, and to those of allowed origins. One that listens elsewhere is called by whatever names its
 * network gives it.
 */
export function hostAllowed(host: string, listensOn: string, allowed: readonly string[]): boolean {
  if (host === '' || !isLoopback(listensOn)) return true;
  if (!URL.canParse(`http://${host}`)) return false;
  const { hostname, host: name } = new URL(`http://${host}`);
  if (isLoopback(hostname) || hostname.endsWith('.localhost')) return true;
  return allowed.some((origin) => URL.canParse(origin) && new URL(origin).host === name);
}

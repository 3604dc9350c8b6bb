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

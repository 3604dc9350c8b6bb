/**
 * Static files, read once at start: a request is a look-up in a map, so no path can lead out of the
 * directory, and nothing is read from disk while predictions are being served.
 */
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { stripTypeScriptTypes } from 'node:module';
import { extname, join } from 'node:path';
import type { Exchange, Headers, RequestHead } from './http.ts';

const MIME_TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.mjs': 'text/javascript; charset=utf-8',
  '.json': 'application/json',
  '.map': 'application/json',
  '.svg': 'image/svg+xml',
  '.png': 'image/png',
  '.ico': 'image/x-icon',
  '.woff2': 'font/woff2',
  '.txt': 'text/plain; charset=utf-8',
};

/** All files of all mounts together. A console is some hundred kilobytes; more is a wrong directory. */
const STATIC_BYTES_MAX = 32 * 1024 * 1024;

const PAGE_HEADERS: Headers = {
  'content-security-policy':
    "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; " +
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
  // The files change with the program, not with the clock: always ask, and mostly hear 304.
  'cache-control': 'no-cache',
};

export interface StaticFile {
  readonly body: Buffer;
  readonly mime: string;
  readonly etag: string;
}

/** URL path ('/' or '/vendor/uplot/') to directory or single file. */
export type Mounts = Readonly<Record<string, string>>;

/** Every servable file by its URL path. TypeScript is served under `.js`, with its types stripped. */
export async function loadStatic(mounts: Mounts): Promise<ReadonlyMap<string, StaticFile>> {
  const files = new Map<string, StaticFile>();
  let bytes = 0;
  for (const [prefix, path] of Object.entries(mounts)) {
    for (const [url, file] of await filesOf(prefix, path)) {
      const read = await readServable(file);
      if (read === null) continue;
      bytes += read.body.length;
      if (bytes > STATIC_BYTES_MAX) throw new Error(`${path}: more than ${STATIC_BYTES_MAX} bytes to serve`);
      files.set(url.replace(/\.ts$/, '.js'), read);
    }
  }
  const index = [...files].filter(([url]) => url.endsWith('/index.html'));
  for (const [url, file] of index) files.set(url.slice(0, -'index.html'.length), file);
  return files;
}

/** A prefix that ends in a slash names a directory, any other one file. */
async function filesOf(prefix: string, path: string): Promise<[string, string][]> {
  if (!prefix.endsWith('/')) return [[prefix, path]];
  const entries = await readdir(path, { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => entry.isFile() && !entry.name.startsWith('.') && !entry.name.endsWith('.d.ts'))
    .map((entry) => {
      const file = join(entry.parentPath, entry.name);
      return [prefix + file.slice(join(path, '/').length).replaceAll('\\', '/'), file];
    });
}

async function readServable(path: string): Promise<StaticFile | null> {
  const extension = extname(path);
  const mime = extension === '.ts' ? MIME_TYPES['.js'] : MIME_TYPES[extension];
  if (mime === undefined || path.endsWith('tsconfig.json')) return null;
  const raw = await readFile(path);
  const body = extension === '.ts' ? Buffer.from(strip(raw.toString('utf8'))) : raw;
  const etag = `"${createHash('sha256').update(body).digest('base64url').slice(0, 22)}"`;
  return { body, mime, etag };
}

/** Browsers' modules import one another by file name: './client.ts' must become './client.js'. */
function strip(source: string): string {
  // The function warns once per process that it is experimental. It is what runs this very file; the
  // version of Node is pinned; and a warning at every start would only teach people to ignore warnings.
  const { emitWarning } = process;
  process.emitWarning = () => undefined;
  try {
    return stripTypeScriptTypes(source).replaceAll(/(from\s+'\.[^']*|import\('\.[^']*)\.ts'/g, "$1.js'");
  } finally {
    process.emitWarning = emitWarning;
  }
}

const ANY_SITE = { 'access-control-allow-origin': '*', 'cross-origin-resource-policy': 'cross-origin' };

/** False when there is no such file. */
export function serveStatic(
  files: ReadonlyMap<string, StaticFile>,
  head: RequestHead,
  exchange: Exchange,
): boolean {
  const file = files.get(head.path);
  if (file === undefined) return false;
  const headers = {
    ...PAGE_HEADERS,
    // The client library is for pages of any site; which may connect is another matter (gateway.origins).
    ...(head.path === '/client.js' ? ANY_SITE : {}),
    etag: file.etag,
    'content-type': file.mime,
  };
  if (head.ifNoneMatch === file.etag) exchange.reply(304, headers, '');
  else exchange.reply(200, headers, file.body);
  return true;
}

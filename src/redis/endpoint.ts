/**
 * Where a Redis server is and how to be let in: one description for the control client and for the hot
 * sockets.
 */
import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { SubitoError } from '../errors.ts';

/** How the configuration says it; the tls values are paths of PEM files. */
export interface EndpointOptions {
  readonly username?: string;
  readonly password?: string;
  readonly tls?: {
    readonly ca?: string;
    readonly cert?: string;
    readonly key?: string;
    readonly servername?: string;
  };
}

export interface RedisEndpoint {
  /** Path of a Unix socket; null: host and port. */
  readonly path: string | null;
  readonly host: string;
  readonly port: number;
  readonly username: string;
  readonly password: string;
  readonly db: number;
  /** Null: plain TCP. The values are PEM texts. */
  readonly tls: {
    readonly ca: string | undefined;
    readonly cert: string | undefined;
    readonly key: string | undefined;
    /** '' for an address: the certificate is then checked against the address, and no name is asked for. */
    readonly servername: string;
    /** The servername was configured, and holds for every server that is reached with these settings. */
    readonly named: boolean;
  } | null;
}

/** For people, and to tell servers apart: host:port, or the path of the socket. */
export function spell({ path, host, port }: RedisEndpoint): string {
  return path ?? `${isIP(host) === 6 ? `[${host}]` : host}:${port}`;
}

/** Another server that lets in whoever `like` lets in. */
export function reachedAt(like: RedisEndpoint, host: string, port: number): RedisEndpoint {
  const { tls } = like;
  const servername = isIP(host) > 0 ? '' : host;
  return { ...like, path: null, host, port, tls: tls && (tls.named ? tls : { ...tls, servername }) };
}

/**
 * Reads `redis://user:password@host:port/db`, `rediss://` for TLS, or `unix:///path?db=0`. Files named in `tls` are read here, so that a
 * missing one is an error at start and not at the first reconnect. The configuration has checked the URL's
 * form.
 */
export function parseEndpoint(url: string, options: EndpointOptions = {}): RedisEndpoint {
  const parsed = new URL(url);
  const host = parsed.hostname.replace(/^\[|\]$/g, '') || '127.0.0.1';
  const { ca, cert, key, servername } = options.tls ?? {};
  const unix = parsed.protocol === 'unix:';
  return {
    path: unix ? decodeURIComponent(parsed.pathname) : null,
    host,
    port: Number(parsed.port || 6379),
    username: options.username ?? decodeURIComponent(parsed.username),
    password: options.password ?? decodeURIComponent(parsed.password),
    db: Number((unix ? parsed.searchParams.get('db') : parsed.pathname.slice(1)) || 0),
    tls:
      parsed.protocol === 'rediss:'
        ? {
            ca: pem(ca),
            cert: pem(cert),
            key: pem(key),
            servername: servername ?? (isIP(host) > 0 ? '' : host),
            named: servername !== undefined,
          }
        : null,
  };
}

function pem(file: string | undefined): string | undefined {
  if (file === undefined) return undefined;
  try {
    return readFileSync(file, 'utf8');
  } catch (cause) {
    throw new SubitoError('CONFIG_INVALID', `redis.tls names ${file}, which cannot be read`, { cause });
  }
}

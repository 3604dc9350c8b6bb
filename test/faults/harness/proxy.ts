/**
 * A TCP proxy between the engine and Redis that fails on request. A connection is known by the name that it
 * gives itself (CLIENT SETNAME, seen in the bytes): `subito:reader:events`, `subito:committer`. Before it has
 * said one its name is ''.
 *
 * A connection that lost bytes never gets well again, as after a real fault: what comes later would make no
 * sense. New connections are well once the fault is over.
 */
import { createConnection, createServer, type Server, type Socket } from 'node:net';

/** Which connections: part of a name, or a pattern. Every one when left out. */
export type Which = string | RegExp;
export type Direction = 'up' | 'down' | 'both';

interface Link {
  name: string;
  readonly client: Socket;
  readonly server: Socket;
  /** Bytes of this direction vanish, and so does its end. Up is from the client to the server. */
  lostUp: boolean;
  lostDown: boolean;
  /** Replies vanish; with the first one the connection is cut. */
  losesReply: (() => void) | null;
  /** The next reply is cut in its middle, and the connection with it. */
  truncates: (() => void) | null;
  /** When the last delayed chunk of each direction goes out; later ones must not overtake it. */
  upDueMs: number;
  downDueMs: number;
}

interface Rule {
  readonly which: Which;
  readonly silence?: Direction;
  readonly delayMs?: number;
  /** Bytes of a command; the reply to it is lost. */
  readonly loseReplyTo?: string;
  readonly truncate?: boolean;
  /** Counted down by faults that happen so often and no more. */
  left: number;
  readonly happened: () => void;
}

const SETNAME = /setname\r\n\$\d+\r\n([^\r]+)\r\n/i;

function fits(name: string, which: Which): boolean {
  return typeof which === 'string' ? name.includes(which) : which.test(name);
}

export class FaultProxy {
  readonly #server: Server;
  readonly #links = new Set<Link>();
  readonly #rules = new Set<Rule>();
  #targetPort: number;
  #refusing = false;

  private constructor(targetPort: number) {
    this.#targetPort = targetPort;
    this.#server = createServer((client) => this.#accept(client));
  }

  static async to(targetPort: number): Promise<FaultProxy> {
    const proxy = new FaultProxy(targetPort);
    await new Promise<void>((resolve) => proxy.#server.listen(0, '127.0.0.1', resolve));
    return proxy;
  }

  get port(): number {
    return (this.#server.address() as { port: number }).port;
  }

  /** Names of the open connections. */
  get names(): string[] {
    return [...this.#links].map(({ name }) => name);
  }

  /** New connections lead there; the open ones stay where they are. */
  redirect(targetPort: number): void {
    this.#targetPort = targetPort;
  }

  /** Ends every connection and refuses new ones, until `accept`: the server's machine is off. */
  refuse(): void {
    this.#refusing = true;
    this.cut();
  }

  accept(): void {
    this.#refusing = false;
  }

  /** Ends connections at once, with a reset. Returns how many. */
  cut(which: Which = ''): number {
    const links = [...this.#links].filter(({ name }) => fits(name, which));
    for (const link of links) this.#end(link);
    return links.length;
  }

  /**
   * Half-open: bytes of one direction or both vanish while the connection stays, and the other side is not
   * told when one side ends. Lasts, for new connections too, until the returned function is called.
   */
  silence(direction: Direction, which: Which = ''): () => void {
    const rule = this.#rule({ which, silence: direction });
    for (const link of this.#links) this.#silence(link);
    return () => this.#rules.delete(rule);
  }

  /** Each piece of bytes arrives so much later, in order, until the returned function is called. */
  delay(delayMs: number, which: Which = ''): () => void {
    const rule = this.#rule({ which, delayMs });
    return () => this.#rules.delete(rule);
  }

  /**
   * The server gets the next command that holds these bytes and carries it out; its reply is lost and the
   * connection cut. Resolves when that has happened.
   */
  loseReplyTo(command: string, which: Which = ''): Promise<void> {
    return new Promise((happened) => {
      this.#rule({ which, loseReplyTo: command }, 1, happened);
    });
  }

  /** Of the next reply the first half arrives, and the connection is cut. Resolves then. */
  truncateReply(which: Which = ''): Promise<void> {
    return new Promise((happened) => {
      this.#rule({ which, truncate: true }, 1, happened);
    });
  }

  /** Ends all faults; connections that have lost bytes are cut. */
  heal(): void {
    this.#rules.clear();
    this.#refusing = false;
    for (const link of this.#links) if (link.lostUp || link.lostDown) this.#end(link);
  }

  close(): void {
    this.#refusing = true;
    for (const link of this.#links) this.#end(link);
    this.#server.close();
  }

  #rule(rule: Omit<Rule, 'left' | 'happened'>, left = Number.POSITIVE_INFINITY, happened = () => {}): Rule {
    const made = { ...rule, left, happened };
    this.#rules.add(made);
    return made;
  }

  #accept(client: Socket): void {
    if (this.#refusing) {
      client.on('error', () => {});
      client.resetAndDestroy();
      return;
    }
    client.setNoDelay(true);
    const server = createConnection({ port: this.#targetPort, host: '127.0.0.1', noDelay: true });
    const link: Link = {
      name: '',
      client,
      server,
      lostUp: false,
      lostDown: false,
      losesReply: null,
      truncates: null,
      upDueMs: 0,
      downDueMs: 0,
    };
    this.#links.add(link);
    client.on('data', (chunk) => this.#up(link, chunk));
    server.on('data', (chunk) => this.#down(link, chunk));
    client.on('error', () => {});
    server.on('error', () => {});
    client.on('close', () => link.lostUp || this.#end(link));
    server.on('close', () => link.lostDown || this.#end(link));
  }

  #up(link: Link, chunk: Buffer): void {
    if (link.name === '') {
      link.name = SETNAME.exec(chunk.toString('latin1'))?.[1] ?? '';
      if (link.name !== '') this.#silence(link);
    }
    if (link.lostUp) return;
    for (const rule of this.#rulesFor(link)) {
      if (rule.loseReplyTo !== undefined && chunk.includes(rule.loseReplyTo)) {
        this.#spend(rule);
        link.losesReply = rule.happened;
      }
      if (rule.truncate) {
        this.#spend(rule);
        link.truncates = rule.happened;
      }
    }
    link.upDueMs = this.#pass(link, link.server, chunk, link.upDueMs);
  }

  #down(link: Link, chunk: Buffer): void {
    if (link.lostDown) return;
    const { losesReply, truncates } = link;
    if (losesReply !== null) {
      this.#end(link);
      losesReply();
      return;
    }
    if (truncates !== null) {
      link.truncates = null;
      // Nothing after the first half may pass.
      link.lostDown = true;
      link.client.write(chunk.subarray(0, Math.ceil(chunk.length / 2)), () => {
        this.#end(link, false);
        truncates();
      });
      return;
    }
    link.downDueMs = this.#pass(link, link.client, chunk, link.downDueMs);
  }

  /** Writes now, or later where a delay holds; returns when it is due. */
  #pass(link: Link, to: Socket, chunk: Buffer, notBeforeMs: number): number {
    const delays = this.#rulesFor(link).map(({ delayMs = 0 }) => delayMs);
    const nowMs = performance.now();
    const dueMs = Math.max(notBeforeMs, nowMs + Math.max(0, ...delays));
    if (dueMs <= nowMs) to.write(chunk);
    else setTimeout(() => to.destroyed || to.write(chunk), dueMs - nowMs);
    return dueMs;
  }

  #rulesFor(link: Link): Rule[] {
    return [...this.#rules].filter(({ which }) => fits(link.name, which));
  }

  #spend(rule: Rule): void {
    rule.left -= 1;
    if (rule.left === 0) this.#rules.delete(rule);
  }

  #silence(link: Link): void {
    for (const { silence } of this.#rulesFor(link)) {
      if (silence === 'up' || silence === 'both') link.lostUp = true;
      if (silence === 'down' || silence === 'both') link.lostDown = true;
    }
  }

  /** With a reset, which overtakes what is still on its way; or after it. */
  #end(link: Link, reset = true): void {
    this.#links.delete(link);
    if (reset) link.client.resetAndDestroy();
    else link.client.end();
    link.server.destroy();
  }
}

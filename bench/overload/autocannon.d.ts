/** What cannon-process.ts uses of autocannon 9, which brings no types. */
declare module 'autocannon' {
  interface Client {
    /** `headers` is flat: name, value, name, value. */
    on(
      event: 'headers',
      listener: (head: { readonly statusCode: number; readonly headers: readonly string[] }) => void,
    ): void;
  }

  interface Options {
    readonly url: string;
    readonly method: string;
    readonly headers: Readonly<Record<string, string>>;
    readonly body: string;
    readonly connections: number;
    readonly duration: number;
    readonly setupClient: (client: Client) => void;
  }

  interface Result {
    readonly duration: number;
    readonly errors: number;
    readonly timeouts: number;
    readonly statusCodeStats: Readonly<Record<string, { readonly count: number }>>;
    readonly latency: { readonly p50: number; readonly p99: number };
  }

  function autocannon(options: Options): Promise<Result>;
  export = autocannon;
}

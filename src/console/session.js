/**
 * The page's WebSocket to the engine: the client's side of the push protocol (gateway/PROTOCOL.md), as far as
 * two figures on a page need it. It reconnects by itself and subscribes again; the SDK in src/client does
 * more.
 */

/**
 * @typedef {object} Frame
 * @property {string} t
 * @property {number} [id]
 * @property {string} [ch]
 * @property {number} [seq]
 * @property {string} [key]
 * @property {string} [model]
 * @property {string} [st]
 * @property {{ q: number, i: number }} [ms]
 * @property {Record<string, unknown>} [d]
 * @property {number} [code]
 * @property {string} [msg]
 * @property {number} [after]
 *
 * @typedef {object} Asked
 * @property {(frame: Frame) => void} resolve
 * @property {(error: Error) => void} reject
 * @property {ReturnType<typeof setTimeout>} timer
 *
 * @typedef {object} Handlers
 * @property {(frame: Frame) => void} prediction of the subscription
 * @property {(state: 'running' | 'reconnecting' | 'refused', detail: string) => void} state
 */

const BACKOFF_MS_MAX = 8000;
const ANSWER_MS_MAX = 5000;
/** From here on a close code says: do not come back as you are. */
const FINAL_CODE = 4500;

/** An event had no prediction for an answer. */
export class Refused extends Error {}

export class Session {
  #handlers;
  /** @type {WebSocket | null} */
  #socket = null;
  #welcome = false;
  #attempt = 0;
  #id = 0;
  /** @type {string | null} channel that should be subscribed */
  #channel = null;
  /** @type {Map<number, Asked>} */
  #asked = new Map();

  /** @param {Handlers} handlers */
  constructor(handlers) {
    this.#handlers = handlers;
    this.#connect();
  }

  /** Follows the predictions of one key, instead of the one before. @param {string} key */
  follow(key) {
    const channel = `key:${key}`;
    if (channel === this.#channel) return;
    if (this.#channel !== null) this.#send({ t: 'unsub', ch: this.#channel });
    this.#channel = channel;
    this.#subscribe();
  }

  /**
   * Sends one event and waits for its own answer. Rejects with Refused.
   * @param {string} key @param {string} model @param {Record<string, unknown>} data
   * @returns {Promise<Frame>}
   */
  ask(key, model, data) {
    if (!this.#welcome) return Promise.reject(new Refused('not connected to the engine'));
    const id = this.#send({ t: 'event', key, model, eid: crypto.randomUUID(), via: 'direct', d: data });
    return new Promise((resolve, reject) => {
      const timer = setTimeout(
        () => this.#answer(id, new Refused('no answer in five seconds')),
        ANSWER_MS_MAX,
      );
      this.#asked.set(id, { resolve, reject, timer });
    });
  }

  /** @param {number} id @param {Frame | Refused} answer */
  #answer(id, answer) {
    const asked = this.#asked.get(id);
    if (asked === undefined) return;
    this.#asked.delete(id);
    clearTimeout(asked.timer);
    if (answer instanceof Refused) asked.reject(answer);
    else asked.resolve(answer);
  }

  #connect() {
    const scheme = location.protocol === 'https:' ? 'wss' : 'ws';
    const socket = new WebSocket(`${scheme}://${location.host}/ws`, 'subito.v1.json');
    this.#socket = socket;
    socket.addEventListener('open', () => this.#send({ t: 'hello', sdk: 'console/1' }));
    socket.addEventListener('message', (event) => this.#receive(JSON.parse(event.data)));
    socket.addEventListener('close', (event) => this.#closed(event));
  }

  /** @param {CloseEvent} event */
  #closed({ code, reason }) {
    this.#welcome = false;
    for (const id of [...this.#asked.keys()]) this.#answer(id, new Refused('the connection was lost'));
    if (code >= FINAL_CODE && code < 5000) {
      this.#handlers.state('refused', reason || `close code ${code}`);
      return;
    }
    this.#handlers.state('reconnecting', reason);
    const backoffMs = Math.min(BACKOFF_MS_MAX, 500 * 2 ** this.#attempt++);
    setTimeout(() => this.#connect(), backoffMs * (0.5 + Math.random() / 2));
  }

  /** @param {Record<string, unknown>} frame */
  #send(frame) {
    const id = ++this.#id;
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify({ id, ...frame }));
    return id;
  }

  #subscribe() {
    if (this.#welcome && this.#channel !== null) {
      this.#send({ t: 'sub', ch: this.#channel, mode: 'latest', credit: 1 });
    }
  }

  /** @param {Frame} frame */
  #receive(frame) {
    if (frame.t === 'ping') {
      this.#send({ t: 'pong' });
    } else if (frame.t === 'welcome') {
      this.#welcome = true;
      this.#attempt = 0;
      this.#handlers.state('running', '');
      this.#subscribe();
    } else if (frame.t === 'pred' && frame.ch !== undefined) {
      if (frame.ch === this.#channel) this.#handlers.prediction(frame);
      // Credit for one more, once this one has been shown.
      this.#send({ t: 'flow', ch: frame.ch, seq: frame.seq, credit: 1 });
    } else if (frame.id !== undefined && this.#asked.has(frame.id)) {
      const good = frame.t === 'pred' && frame.st === 'ok';
      const why = frame.msg ?? frame.st ?? 'refused';
      this.#answer(frame.id, good ? frame : new Refused(why));
    }
  }
}

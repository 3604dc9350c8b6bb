/**
 * The numbers of the wire: errors that leave a connection open, and close codes that end it. PROTOCOL.md
 * gives them their meaning; test/gateway-protocol.test.ts holds the two together.
 */

export interface ErrorKind {
  readonly code: number;
  /** Sent as `msg`. */
  readonly name: string;
  /** The same frame may succeed later; `after` says when. */
  readonly retry: boolean;
}

export const ERRORS = {
  internal: { code: 100, name: 'internal', retry: true },
  notAuthenticated: { code: 101, name: 'not_authenticated', retry: false },
  forbidden: { code: 103, name: 'forbidden', retry: false },
  unknownType: { code: 104, name: 'unknown_type', retry: false },
  alreadySubscribed: { code: 105, name: 'already_subscribed', retry: false },
  tooManySubscriptions: { code: 106, name: 'too_many_subscriptions', retry: false },
  invalidEvent: { code: 107, name: 'invalid_event', retry: false },
  tokenExpired: { code: 109, name: 'token_expired', retry: false },
  rateLimited: { code: 111, name: 'rate_limited', retry: true },
  unrecoverable: { code: 112, name: 'unrecoverable', retry: false },
  overloaded: { code: 113, name: 'overloaded', retry: true },
  deadlineExceeded: { code: 114, name: 'deadline_exceeded', retry: true },
  modelUnavailable: { code: 115, name: 'model_unavailable', retry: true },
  unknownModel: { code: 116, name: 'unknown_model', retry: false },
  superseded: { code: 117, name: 'superseded', retry: false },
} as const satisfies Record<string, ErrorKind>;

export interface CloseKind {
  readonly code: number;
  /** Sent as the close frame's reason. */
  readonly name: string;
  /** The client may connect again, with backoff, without changing anything. */
  readonly reconnect: boolean;
}

export const CLOSES = {
  draining: { code: 4000, name: 'draining', reconnect: true },
  tokenExpired: { code: 4001, name: 'token_expired', reconnect: true },
  slowConsumer: { code: 4002, name: 'slow_consumer', reconnect: true },
  noPong: { code: 4003, name: 'no_pong', reconnect: true },
  positionLost: { code: 4004, name: 'position_lost', reconnect: true },
  flooding: { code: 4006, name: 'flooding', reconnect: true },
  noHello: { code: 4008, name: 'no_hello', reconnect: true },
  malformed: { code: 4500, name: 'malformed', reconnect: false },
  invalidToken: { code: 4501, name: 'invalid_token', reconnect: false },
  revoked: { code: 4503, name: 'revoked', reconnect: false },
  subprotocol: { code: 4506, name: 'subprotocol', reconnect: false },
  tooManyConnections: { code: 4509, name: 'too_many_connections', reconnect: false },
  tooLarge: { code: 4513, name: 'too_large', reconnect: false },
} as const satisfies Record<string, CloseKind>;

/** Each scenario has a short form, for `npm test`, and a long one, for `npm run test:faults`. */

export const LONG = process.env['SUBITO_TEST_FAULTS'] === 'long';

export function pick<T>(short: T, long: T): T {
  return LONG ? long : short;
}

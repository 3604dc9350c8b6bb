/**
 * Stride scheduling: of those who have work, the one is next who has had least for its weight. Who had
 * nothing to do for a while begins where the others are: it neither saves up nor has to catch up.
 */
interface Member {
  readonly id: number;
  readonly weight: number;
  /** What it has been charged, by weight. */
  pass: number;
  /** Number of the last round in which it had work. */
  round: number;
}

export class Shares {
  readonly #weights: readonly number[];
  readonly #members: Member[] = [];
  #round = 1;
  /** The pass of who was chosen last: where the others are. */
  #nowPass = 0;
  #best: Member | null = null;

  /** Of members 0, 1, ...; of any other: 1. */
  constructor(weights: readonly number[] = []) {
    this.#weights = weights;
  }

  /** It has work in this round. */
  offer(id: number): void {
    const member = this.#member(id);
    if (member.round !== this.#round) {
      if (member.round !== this.#round - 1) member.pass = Math.max(member.pass, this.#nowPass);
      member.round = this.#round;
    }
    const best = this.#best;
    const isTie = best !== null && member.pass === best.pass;
    if (best === null || (isTie ? id < best.id : member.pass < best.pass)) this.#best = member;
  }

  /** Who is next; null when nobody has work. Ends the round if there was one. */
  choose(): number | null {
    const best = this.#best;
    if (best === null) return null;
    this.#nowPass = best.pass;
    this.endRound();
    return best.id;
  }

  endRound(): void {
    if (this.#best === null) return;
    this.#best = null;
    this.#round += 1;
  }

  charge(id: number, cost: number): void {
    const member = this.#member(id);
    member.pass += cost / member.weight;
  }

  #member(id: number): Member {
    for (const member of this.#members) if (member.id === id) return member;
    const weight = this.#weights[id] ?? 1;
    const member = { id, weight, pass: this.#nowPass, round: 0 };
    this.#members.push(member);
    return member;
  }
}

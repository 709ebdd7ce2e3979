/**
 * The new image's part of an update in place: it is the very process that froze, and finds everything in its own hands.
 *
 * It goes the way of a successor, pass by pass, so that a handler sees the same whatever carries it. What differs: nobody
 * serves beside it, so that memory may be written at once; and there is nobody to go back to, so that what refuses
 * to finish is told and changes nothing. An image that throws before ready() ends this process and what it carried.
 */
import type { InheritedPass } from '../handover/inheritance.js';
import { type Arm, type IncomingOptions, Passed, warnOfUnfinished } from './successor.js';

export class Inherited extends Passed {
  readonly #frozen: InheritedPass;

  /** @param passes The pass of the freeze is the last. @throws {LiveUpdateError} EINVAL for what cannot be adopted. */
  constructor(options: IncomingOptions, passes: readonly InheritedPass[]) {
    super(options);
    for (const { handover, fds } of passes.slice(0, -1)) this.adopt(handover, fds);
    this.#frozen = passes.at(-1) as InheritedPass;
  }

  async finish(dropped: ReadonlySet<string>, arm: Arm): Promise<undefined> {
    const { handover, fds } = this.#frozen;
    this.records.add(handover.records, fds);
    const sessions = await this.retrieve(handover.image, dropped);
    (await this.options.prepare())();
    warnOfUnfinished([...(await this.finishSessions(sessions)), ...arm(() => undefined)]);
    this.records.clear();
  }
}

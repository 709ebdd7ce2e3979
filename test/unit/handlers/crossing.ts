/**
 * An update of one kept object within one process: what a program's two images do with a handler, step by step. The next image gets
 * duplicates, as it does over a wire.
 */
import { LiveUpdate, type Session } from '../../../src/core/index.js';
import type { Image } from '../../../src/core/types.js';
import { type CarriedFileHandler, type Handover, handleOf } from '../../../src/handlers/carried.js';
import { IncomingRecords, OutgoingRecords } from '../../../src/handover/records.js';
import { dupFd } from '../../../src/linux/fd.js';

type Factory<File> = (handover: Handover) => CarriedFileHandler<File>;

function side<File>(factory: Factory<File>, exclusive: boolean) {
  const handover = { incoming: new IncomingRecords({ exclusive }), outgoing: new OutgoingRecords() };
  const handler = factory(handover);
  const orchestrator = new LiveUpdate();
  orchestrator.registerFileHandler(handler as CarriedFileHandler);
  return { handover, handler, orchestrator };
}

export class Crossing<File extends object> {
  readonly #old;
  readonly #next;
  readonly file: File;
  #session!: Session;
  #adopted!: File;
  #image: Image | undefined;

  private constructor(factory: Factory<File>, value: unknown) {
    this.#old = side(factory, true);
    this.#next = side(factory, false);
    this.file = (this.#old.handler.toFile?.(value) ?? value) as File;
  }

  /** Preserves `value`, and has the next image adopt it. */
  static async begin<File extends object>(factory: Factory<File>, value: unknown): Promise<Crossing<File>> {
    const crossing = new Crossing(factory, value);
    const { orchestrator } = crossing.#old;
    crossing.#session = await orchestrator.createSession('keep:it');
    await crossing.#session.preserve(crossing.file, 0n);
    crossing.#pass();
    const handle = handleOf(crossing.#session.serialized(0n)!.data);
    crossing.#adopted = crossing.#next.handler.adopt!(handle) as File;
    return crossing;
  }

  #pass(): void {
    const { records, fds } = this.#old.handover.outgoing.takeChanged();
    this.#next.handover.incoming.add(
      records,
      fds.map((fd) => dupFd(fd)),
    );
  }

  /** What the next image's program has in its hands, also before the commit. */
  get object(): unknown {
    return this.#next.handler.toObject?.(this.#adopted) ?? this.#adopted;
  }

  get adopted(): File {
    return this.#adopted;
  }

  /** Freezes, and crosses to the point right before the commit. Without a turn of the loop for synchronous handlers. */
  async freeze(): Promise<void> {
    this.#image = (await this.#old.orchestrator.reboot()) as Image;
    this.#pass();
    await this.#next.orchestrator.deserialize(this.#image);
  }

  /** Goes back: the old image has everything again. */
  async rollback(): Promise<void> {
    await this.#old.orchestrator.cancelReboot();
    await this.#session.close();
  }

  /** Commits. Sever first: in one process the old image would go on. */
  async commit(): Promise<void> {
    this.#old.handler.sever?.(this.file);
    const session = await this.#next.orchestrator.retrieveSession('keep:it');
    await session.retrieve(0n);
    await session.finish();
    await session.close();
    this.#next.handler.start?.(this.#adopted, () => undefined);
  }

  /** Commits without claiming it. */
  async drop(): Promise<void> {
    this.#old.handler.sever?.(this.file);
    const session = await this.#next.orchestrator.retrieveSession('keep:it');
    await session.finish();
    await session.close();
  }

  /** The whole way. */
  static async all<File extends object>(factory: Factory<File>, value: unknown): Promise<unknown> {
    const crossing = await Crossing.begin(factory, value);
    await crossing.freeze();
    await crossing.commit();
    return crossing.object;
  }
}

/** A file as luod gives it to the image after one that died. */
export function restored<File extends object>(
  factory: Factory<File>,
  file: File,
): { file: File; start(): void } {
  const { handover, handler } = side(factory, true);
  const { bytes, fds } = handler.custody!(file);
  handover.incoming.add(
    [{ handle: 1, bytes, fdStart: 0, fdCount: fds.length }],
    fds.map((fd) => dupFd(fd)),
  );
  const built = handler.adopt!(1) as File;
  return { file: built, start: () => handler.start?.(built, () => undefined) };
}

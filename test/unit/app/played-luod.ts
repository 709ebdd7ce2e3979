/** An image in this process, whose luod and successor are played by a test. */
import { Server, Socket } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { LuodLink } from '../../../src/app/luod-link.js';
import { Program } from '../../../src/app/program.js';
import { createCommitWord } from '../../../src/handover/commit-word.js';
import type { LuodToImage } from '../../../src/handover/protocol.js';
import { Wire, type WireMessage } from '../../../src/handover/wire.js';
import { closeFd } from '../../../src/linux/fd.js';
import { socketPair } from '../../../src/linux/socketpair.js';

export class PlayedLuod {
  readonly image: Program;
  readonly server: Server;
  /** What came to the successor. */
  readonly passed: { readonly type: string; readonly fds: number }[] = [];
  /** Whether the successor says that it has what comes. */
  answers = true;
  /** What the image said to luod, since it was asked for. */
  readonly #said: WireMessage[];
  readonly #wire: Wire;
  readonly #undo: (() => void)[];

  private constructor(image: Program, wire: Wire, said: WireMessage[], undo: (() => void)[]) {
    this.image = image;
    this.server = new Server();
    this.#wire = wire;
    this.#said = said;
    this.#undo = undo;
  }

  /** A program that has a listener and a state, and serves. */
  static async start(): Promise<PlayedLuod> {
    const [ours, theirs] = socketPair();
    const said: WireMessage[] = [];
    const undo: (() => void)[] = [];
    const wire = listenTo(ours, (message) => said.push(message));
    undo.push(() => wire.close());
    const message = { type: 'welcome', role: 'fresh', service: 'chat', generation: 1 } as const;
    const image = await Program.onStage(LuodLink.over(theirs), { message, fds: [] });
    undo.push(() => image.leaveStage());
    const played = new PlayedLuod(image, wire, said, undo);
    await image.listen('first', played.server, {});
    await image.state('second', () => ({ count: 1 }));
    await image.ready();
    return played;
  }

  connect(count: number): void {
    for (let i = 0; i < count; i++) {
      const [accepted, peer] = socketPair();
      this.#undo.push(() => closeFd(peer));
      this.server.emit('connection', new Socket({ fd: accepted }));
    }
  }

  say(message: LuodToImage, fds: readonly number[] = []): void {
    this.#wire.send(message, fds);
  }

  /** Begins an update, whose successor takes what comes. */
  begin(): void {
    const [direct, theirDirect] = socketPair();
    const word = createCommitWord();
    const next = listenTo(theirDirect, ({ type }, wire, fds) => {
      this.passed.push({ type, fds });
      if (type === 'precopy' && this.answers) wire.send({ type: 'ack' });
    });
    this.#undo.push(() => next.close());
    this.say({ type: 'preserve', carrier: 'luod' }, [direct, word]);
    for (const fd of [direct, word]) closeFd(fd);
  }

  /** The first of these that the image says; what it said before is forgotten. */
  async comes(...types: string[]): Promise<WireMessage | undefined> {
    while (!this.#said.some(({ type }) => types.includes(type))) await nextTurn();
    return this.#said.splice(0).find(({ type }) => types.includes(type));
  }

  end(): void {
    for (const each of this.#undo.splice(0).reverse()) each();
  }
}

/** The other end of a conversation; descriptors that come are closed. */
function listenTo(fd: number, message: (message: WireMessage, wire: Wire, fds: number) => void): Wire {
  const wire: Wire = new Wire(fd, {
    message: (said, fds) => {
      for (const each of fds) closeFd(each);
      message(said, wire, fds.length);
    },
    closed: () => undefined,
  });
  return wire;
}

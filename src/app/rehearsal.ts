/**
 * A rehearsal of the cut, before it: the same code, with nothing at stake.
 *
 * A process cuts once in its life, so everything on that path would run for the first time inside the blackout: V8 compiles a function when
 * it is first called, and of the five milliseconds that ten connections take four are that. So two images of no consequence
 * are made in this process, with files of their own, and one takes over from the other, from the first message of an update to the first
 * bytes that the new one answers. luod's part is played by a few lines. What the program registered is not touched, and nobody can connect.
 *
 * An image that serves plays the old one's part alone, and its program has its turn in between. Of the program's own connections it
 * collects what the freeze will, since that loop must be compiled for what it meets.
 */
import { Server as HttpServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { Server, Socket } from 'node:net';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { LiveUpdateError } from '../core/errors.js';
import { reportedError } from '../core/reported-error.js';
import { withResolvers } from '../core/resolvers.js';
import type { ConnectionSet, Rehearsal } from '../handlers/connection-set.js';
import { createCommitWord } from '../handover/commit-word.js';
import {
  type ImageToLuod,
  type LuodToImage,
  type OldToSuccessor,
  type SuccessorToOld,
  toWire,
} from '../handover/protocol.js';
import { Wire, type WireMessage } from '../handover/wire.js';
import { closeFd } from '../linux/fd.js';
import { sendFds } from '../linux/scm-rights.js';
import { socketPair } from '../linux/socketpair.js';
import { collectGarbage } from './garbage.js';
import { LuodLink, type Welcome } from './luod-link.js';
import type { Program } from './program.js';

/** V8 has compiled what it will after this many. */
const ENOUGH = 20_000;
const FREEZE_ROUNDS = { first: 20, again: 4 } as const;
/** Connections between two turns of a program that serves: less than a millisecond's work, also of HTTP. */
const FREEZE_PART = 250;
/** A rehearsal takes a tenth of a second. One that a step of its own has left waiting is given up. */
const PATIENCE_MS = 2000;
/** How long a socket that nobody else writes to may be full. */
const FLUSH_MS = 100;
/** No rehearsal needs as many turns of the loop; one that does is given up. */
const TURNS = 2000;

/**
 * Makes an image for a rehearsal: a program like any, whose luod is at the other end of `link`, and which does not end its process. Owns the
 * link and the descriptors, also when it throws.
 */
export type OpenImage = (link: LuodLink, welcome: Welcome) => Promise<Program>;

/** The first rehearsal has the code compiled. One more, when time has passed since, brings it and what it works on back into the caches. */
export type Occasion = 'first' | 'again';

/**
 * Collects what a freeze would save, and throws it away.
 * @throws {LiveUpdateError} EINVAL when the state of a connection cannot be cloned.
 */
export async function rehearseFreeze(
  openImage: OpenImage,
  sets: readonly ConnectionSet[],
  occasion: Occasion,
): Promise<void> {
  const rounds = FREEZE_ROUNDS[occasion];
  await act(openImage, 'freeze');
  for (const set of sets) {
    // Made at the turn of their first run, and run again in the rounds that follow.
    let parts: Iterable<Rehearsal> = set.rehearsals(FREEZE_PART);
    let done = 0;
    for (let round = 0; round < rounds && done < ENOUGH; round++) {
      const ran: Rehearsal[] = [];
      for (const part of parts) {
        part.run();
        ran.push(part);
        done += part.size;
        await nextTurn();
      }
      parts = ran;
    }
  }
  collectGarbage('young');
}

/** Takes over. Resolves when everything was given back. */
export async function rehearseCut(openImage: OpenImage, occasion: Occasion): Promise<void> {
  // Before, and not behind: an image that does not serve yet has time, and ten thousand adopted sockets are young objects, which V8
  // would copy about in the middle of the cut. Later it may serve already, ahead of the commit.
  if (occasion === 'first') collectGarbage('all');
  // Once: what counts is that each function is compiled. More brought nothing that could be measured.
  await act(openImage, 'cut');
  collectGarbage('young');
}

async function act(openImage: OpenImage, part: 'freeze' | 'cut'): Promise<void> {
  const stage = new Stage(openImage);
  const late = new AbortController();
  try {
    await Promise.race([
      stage.play(part),
      sleep(PATIENCE_MS, undefined, { ref: false, signal: late.signal }),
    ]);
  } catch {
    // For want of descriptors or memory, say. It costs the cut its speed and nothing else; what matters fails again where it is told.
  } finally {
    late.abort();
    stage.clear();
  }
}

/** Two images, their luod, and their clients. */
export class Stage {
  readonly #openImage: OpenImage;
  readonly #undo: (() => void)[] = [];
  readonly #images: Program[] = [];
  /** Descriptors that are nobody else's yet. */
  readonly #owned = new Set<number>();
  readonly #clients: { readonly fd: number; readonly request: Buffer }[] = [];
  /** What fails elsewhere than in a step of the play: an image says it to luod, or its end of the conversation ends. */
  readonly #failure = withResolvers<never>();
  #isOver = false;

  constructor(openImage: OpenImage) {
    this.#openImage = openImage;
    // It may come when the play is over.
    this.#failure.promise.catch(() => undefined);
  }

  /**
   * 'freeze': to the halt of the old image. 'cut': until the new one has answered all that the old one was asked at last.
   * @throws {LiveUpdateError} whatever fails; ETIMEDOUT; ECANCELED when it was cleared meanwhile.
   */
  async play(part: 'freeze' | 'cut'): Promise<void> {
    const steps = this.#steps(part);
    const again = () => {
      // What was under way when all was given back may have made something.
      if (this.#isOver) this.clear();
    };
    steps.then(again, again);
    await Promise.race([steps, this.#failure.promise]);
  }

  async #steps(part: 'freeze' | 'cut'): Promise<void> {
    let isPreserved = false;
    let isFrozen = false;
    const before = this.#luod((type) => {
      isPreserved ||= type === 'preserved';
      isFrozen ||= type === 'frozen';
    });
    const old = await this.#image(before, { type: 'welcome', role: 'fresh', ...OF_NO_SERVICE }, []);
    const serving = await this.#program(old);
    await old.ready();
    await this.#connect(serving, 'tcp', 'x');
    await this.#connect(serving, 'http', 'GET /rehearsal HTTP/1.1\r\nHost: liveupdate\r\n\r\n');
    await this.#connect(serving, 'http', 'GET /rehearsal/stream HTTP/1.1\r\nHost: liveupdate\r\n\r\n');
    old.on('freeze', () => {
      // What changes behind the last pass is found, sent and put in place by code of its own.
      serving.change();
      // It stands still before it could read them, and lets go before the loop turns.
      this.#ask();
      before.send({ type: 'finish', drainMs: 0 });
      // It is about to wait for this without a turn of the loop.
      before.flush();
    });

    const word = this.#own(createCommitWord());
    const [direct, nextDirect] = this.#pair();
    before.send({ type: 'preserve', carrier: 'luod' }, [direct, word]);
    this.#disown(direct);
    closeFd(direct);
    if (part === 'freeze') {
      this.#audience(nextDirect);
      await this.#until(() => isPreserved);
      before.send({ type: 'freeze' });
      await this.#until(() => isFrozen);
      return;
    }
    let isReady = false;
    const after = this.#luod((type) => {
      isReady ||= type === 'ready';
    });
    const next = await this.#image(after, { type: 'welcome', role: 'successor', ...OF_NO_SERVICE }, [
      nextDirect,
      word,
    ]);
    const taking = await this.#program(next);
    const ready = next.ready();
    // Looked at below; it may fail before.
    ready.catch(() => undefined);
    await this.#until(() => isReady);
    before.send({ type: 'freeze' });
    await ready;
    await this.#until(() => taking.answers() === this.#clients.length);
  }

  /** What both images keep. */
  async #program(image: Program): Promise<Serving> {
    const state = await image.state('rehearsal', () => ({
      count: 0,
      numbers: [1],
      names: new Map([['a', { count: 0 }]]),
      kinds: new Set(['a']),
    }));
    await this.#turn();
    await image.memory('rehearsal', 4096);
    await this.#turn();
    let answers = 0;
    const answered = () => {
      answers++;
    };
    const tcp = new Server((socket) => {
      const connection = image.connection<{ bytes: number }>(socket);
      connection.state ??= { bytes: 0 };
      socket.on('error', () => socket.destroy());
      socket.on('data', (bytes) => {
        connection.state = { bytes: (connection.state?.bytes ?? 0) + bytes.length };
        socket.write(bytes, answered);
      });
    });
    const openStream = image.streams('rehearsal', (response) => {
      response.write('data: 1\n\n', answered);
    });
    const http = new HttpServer((request: IncomingMessage, response: ServerResponse) => {
      if (request.url === '/rehearsal') {
        response.writeHead(200, { 'Content-Type': 'text/plain' });
        response.end('a reply', answered);
      } else {
        response.writeHead(200, { 'Content-Type': 'text/event-stream' });
        openStream(request, response);
      }
    });
    http.keepAliveTimeout = 0;
    await image.listen('rehearsal', tcp, {});
    await this.#turn();
    await image.listen('rehearsal-http', http, {});
    const change = () => {
      state.count++;
      state.numbers.push(state.count);
      state.names.set('b', { count: state.count });
      state.kinds.add('b');
    };
    return { tcp, http, change, answers: () => answers };
  }

  #own(fd: number): number {
    this.#owned.add(fd);
    return fd;
  }

  #pair(): [number, number] {
    const [one, other] = socketPair();
    return [this.#own(one), this.#own(other)];
  }

  #disown(fd: number): void {
    this.#owned.delete(fd);
  }

  /** A luod's end of a conversation. */
  #luod(hear: (type: ImageToLuod['type']) => void): Luod {
    const [ours, theirs] = this.#pair();
    const wire = this.#wire(ours, (message) => {
      const said = message as unknown as ImageToLuod;
      if (said.type === 'failed') this.#failure.reject(reportedError(said.error));
      hear(said.type);
    });
    return {
      theirs,
      send: (message, fds) => wire.send(toWire(message), fds),
      flush: () => wire.flushNow(FLUSH_MS),
    };
  }

  /** @param fds The stage's; the image's from now on. */
  async #image({ theirs }: Luod, message: Welcome['message'], fds: number[]): Promise<Program> {
    const link = LuodLink.over(theirs);
    for (const fd of [theirs, ...fds]) this.#disown(fd);
    const image = await this.#openImage(link, { message, fds });
    this.#images.push(image);
    // What follows is for other turns of a program that serves.
    await this.#turn();
    return image;
  }

  #wire(fd: number, message: (message: WireMessage, wire: Wire) => void): Wire {
    const wire = new Wire(fd, {
      message: (said, fds) => {
        for (const received of fds) closeFd(received);
        message(said, wire);
      },
      closed: () => this.#failure.reject(new LiveUpdateError('EPIPE', 'an image left')),
    });
    this.#disown(fd);
    this.#undo.push(() => wire.close());
    return wire;
  }

  /** @throws {LiveUpdateError} ECANCELED when everything was given back meanwhile. */
  async #turn(): Promise<void> {
    await nextTurn();
    if (this.#isOver) throw givenUp();
  }

  /** In the place of a successor: says that it has what comes. */
  #audience(direct: number): void {
    this.#wire(direct, (message, wire) => {
      const { type } = message as unknown as OldToSuccessor;
      if (type === 'precopy') wire.send(toWire({ type: 'ack' } satisfies SuccessorToOld));
    });
  }

  /** A client, whose connection the server has accepted, and its first request. */
  async #connect(serving: Serving, server: 'tcp' | 'http', request: string): Promise<void> {
    const [fd, accepted] = this.#pair();
    this.#clients.push({ fd, request: Buffer.from(request) });
    const socket = new Socket({ fd: accepted });
    this.#disown(accepted);
    serving[server].emit('connection', socket);
    await this.#turn();
    sendFds(fd, Buffer.from(request), []);
    await this.#until(() => serving.answers() === this.#clients.length);
  }

  #ask(): void {
    for (const { fd, request } of this.#clients) sendFds(fd, request, []);
  }

  async #until(isSo: () => boolean): Promise<void> {
    for (let turn = 0; !isSo(); turn++) {
      if (turn === TURNS) throw new LiveUpdateError('ETIMEDOUT', 'the rehearsal did not come to its end');
      await this.#turn();
    }
  }

  /** Gives everything back. */
  clear(): void {
    this.#isOver = true;
    this.#failure.reject(givenUp());
    const leave = this.#images.map((image) => () => image.leaveStage());
    for (const undo of [...this.#undo.splice(0), ...leave].reverse()) {
      try {
        undo();
      } catch {
        // What is left is given back all the same, and the real update must not hear of it.
      }
    }
    for (const fd of this.#owned) closeFd(fd);
    this.#owned.clear();
  }
}

/** What one image serves. */
interface Serving {
  readonly tcp: Server;
  readonly http: HttpServer;
  /** Changes the state. */
  change(): void;
  /** How many requests it has answered. */
  answers(): number;
}

function givenUp(): LiveUpdateError {
  return new LiveUpdateError('ECANCELED', 'the rehearsal was given up');
}

interface Luod {
  /** The image's end. */
  readonly theirs: number;
  send(message: LuodToImage, fds?: readonly number[]): void;
  flush(): void;
}

const OF_NO_SERVICE = { service: 'rehearsal', generation: 1 };

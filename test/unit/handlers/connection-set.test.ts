import { once } from 'node:events';
import { type AddressInfo, connect, Server, Socket } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { Connection } from '../../../src/handlers/connection.js';
import { ConnectionSet } from '../../../src/handlers/connection-set.js';
import { deserializeValue } from '../../../src/handover/values.js';
import { closeFd, dupFd } from '../../../src/linux/fd.js';
import { sendFds } from '../../../src/linux/scm-rights.js';
import { socketPair } from '../../../src/linux/socketpair.js';

const undo: (() => void)[] = [];

afterEach(() => {
  for (const each of undo.splice(0)) each();
});

/** A set of connections with these states. */
function setOf(states: readonly unknown[]): ConnectionSet {
  const set = new ConnectionSet();
  for (const state of states) add(set, state);
  return set;
}

function add(set: ConnectionSet, state: unknown): Connection {
  const [own, peer] = socketPair();
  const connection = Connection.of(new Socket({ fd: own }));
  connection.state = state;
  set.add(connection);
  undo.push(() => {
    connection.socket.destroy();
    closeFd(peer);
  });
  return connection;
}

describe('preserving a set', () => {
  /** A clock by which every look is a millisecond later: a member takes a turn of the loop. */
  const slow = () => {
    let ms = 0;
    const clock = vi.spyOn(performance, 'now').mockImplementation(() => ms++);
    undo.push(() => clock.mockRestore());
  };

  it('leaves the program its turns, and misses none that comes or ends meanwhile', async () => {
    slow();
    const set = setOf([1, 2, 3, 4, 5, 6]);
    const members = [...set];
    const ended: number[] = [];
    let isDone = false;
    const done = set
      .preserve((id) => ended.push(id))
      .then(() => {
        isDone = true;
      });
    await nextTurn();
    expect(isDone).toBe(false);
    add(set, 7);
    // One that was looked at, and one that was not; neither has crossed.
    members[0]!.socket.destroy();
    members[5]!.socket.destroy();
    await done;
    await nextTurn();
    expect(set.waiting).toBe(5);
    expect(set.size).toBe(5);
    expect([...set.takeWaiting(10).ids].sort()).toEqual([2, 3, 4, 5, 7]);
    members[1]!.socket.destroy();
    await nextTurn();
    expect(ended).toEqual([2]);
  });

  it('ends when it is taken back', async () => {
    slow();
    const set = setOf([1, 2, 3, 4]);
    const ended: number[] = [];
    const done = set.preserve((id) => ended.push(id));
    await nextTurn();
    set.unpreserve();
    await done;
    expect(set.waiting).toBe(0);
    for (const { socket } of [...set]) socket.destroy();
    await nextTurn();
    expect(ended).toEqual([]);
  });
});

describe('serving ahead of the commit', () => {
  type Saved = Parameters<ConnectionSet['adopt']>[0];
  const parse = (record: Uint8Array) => deserializeValue(record) as Saved;

  /** Two clients, whose connections the next image serves while the old one holds duplicates. */
  async function serveAhead() {
    const old = new ConnectionSet();
    const server = new Server((socket) => old.add(Connection.of(socket))).listen(0, '127.0.0.1');
    undo.push(() => server.close());
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const clients: Socket[] = [];
    for (let i = 0; i < 2; i++) {
      const client = connect(port, '127.0.0.1');
      clients.push(client);
      undo.push(() => client.destroy());
      await Promise.all([once(client, 'connect'), once(server, 'connection')]);
      client.resume();
    }
    await old.preserve(() => undefined);
    const { ids, fds } = old.takeWaiting(10);
    const pass = parse(old.passRecord(ids));
    const duplicates = fds.map((fd) => dupFd(fd));
    const next = new ConnectionSet();
    next.adopt(pass, () => duplicates.shift() as number);
    next.serveAhead(old.takeBatch(10) as Buffer, new Server());
    undo.push(() => old.loseMoved());
    const ended: number[] = [];
    const ends = clients.map(async (client, i) => {
      await once(client, 'end');
      ended.push(i);
    });
    // Of those that are not to end the test does not hear.
    for (const end of ends) end.catch(() => undefined);
    /** A word takes longer to come than the call that sends it; another connection's, sent later, is behind it. */
    const soFar = async () => {
      const last = connect(port, '127.0.0.1');
      undo.push(() => last.destroy());
      const [accepted] = (await once(server, 'connection')) as [Socket];
      last.resume();
      accepted.destroy();
      await once(last, 'end');
      return ended;
    };
    const [first, second] = [...next] as [Connection, Connection];
    return { old, next, first, second, clients, ends, soFar };
  }

  async function close({ socket }: Connection): Promise<void> {
    socket.destroy();
    await once(socket, 'close');
  }

  it('tells a peer of its end until the freeze is restored, and not behind it', async () => {
    const { old, next, first, second, ends, soFar } = await serveAhead();
    first.socket.destroy();
    await ends[0];
    next.restore(parse(old.takeRest().record));
    await close(second);
    expect(await soFar()).toEqual([0]);
  });

  it('tells no peer of what was given back', async () => {
    const { next, first, second, soFar } = await serveAhead();
    next.giveBack();
    await close(first);
    await close(second);
    expect(await soFar()).toEqual([]);
  });

  it('resets a connection when the old image lets go of it, too', async () => {
    const { old, next, first, clients } = await serveAhead();
    first.socket.resetAndDestroy();
    next.restore(parse(old.takeRest().record));
    const failed = once(clients[0] as Socket, 'error');
    old.detach();
    expect(await failed).toMatchObject([{ code: 'ECONNRESET' }]);
  });

  it('is over with the update: the next one hears of an end, and so does the peer', async () => {
    const { old, next, first, ends } = await serveAhead();
    next.restore(parse(old.takeRest().record));
    const told: number[] = [];
    await next.preserve((id) => told.push(id));
    next.takeWaiting(10);
    first.socket.destroy();
    await ends[0];
    expect(told).toHaveLength(1);
  });
});

describe('announcing', () => {
  it('shows nobody a connection that crossed on before its turn', async () => {
    const set = new ConnectionSet();
    const pairs = Array.from({ length: 6 }, () => socketPair());
    undo.push(() => {
      for (const [, peer] of pairs) closeFd(peer);
    });
    const own = pairs.map(([fd]) => fd);
    const fresh = Uint32Array.of(1, 2, 3, 4, 5, 6);
    set.adopt({ fresh, changed: new Uint32Array(0), states: [] }, () => own.shift() as number);
    const server = new Server();
    const seen: Socket[] = [];
    server.on('connection', (socket) => seen.push(socket));
    set.arm(server, () => undefined);
    const done = set.announce(0);
    expect(seen).toHaveLength(1);
    // It speaks, and is to flow with the next turn.
    sendFds(pairs[5]![1], Buffer.from('x'), []);
    await nextTurn();
    const before = seen.length;
    set.detach();
    await done;
    for (let turn = 0; turn < 5; turn++) await nextTurn();
    expect(before).toBeLessThan(4);
    expect(seen).toHaveLength(before);
    expect(set.size).toBe(0);
  });
});

describe('a rehearsal of the freeze', () => {
  it('comes to every connection, part by part', () => {
    const sizes = (states: number[]) => Array.from(setOf(states).rehearsals(2), ({ size }) => size);
    expect(sizes([1, 2, 3, 4, 5])).toEqual([2, 2, 1]);
    expect(sizes([1, 2])).toEqual([2]);
    expect(sizes([])).toEqual([]);
  });

  it('is of no connection that has ended since its part was made', () => {
    const set = setOf([1, 2]);
    const [part] = [...set.rehearsals(2)];
    part!.run();
    const [first] = [...set];
    first!.socket.destroy();
    part!.run();
    expect(set.size).toBe(1);
  });

  it('finds a state that cannot be cloned, wherever it is', () => {
    const [first, second] = [...setOf([1, 2, () => 3]).rehearsals(2)];
    first!.run();
    expect(() => second!.run()).toThrow(expect.objectContaining({ code: 'EINVAL' }));
  });

  it('changes nothing that the freeze would save', () => {
    const set = setOf([{ a: 1 }, undefined]);
    const before = set.takeRest().record;
    for (const part of set.rehearsals(1)) part.run();
    expect(set.takeRest().record).toEqual(before);
  });
});

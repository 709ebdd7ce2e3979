import { Socket } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { Connection } from '../../../src/handlers/connection.js';
import { ConnectionSet } from '../../../src/handlers/connection-set.js';
import { closeFd } from '../../../src/linux/fd.js';
import { socketPair } from '../../../src/linux/socketpair.js';

const undo: (() => void)[] = [];

afterEach(() => {
  for (const each of undo.splice(0)) each();
});

/** A set of connections with these states. */
function setOf(states: readonly unknown[]): ConnectionSet {
  const set = new ConnectionSet();
  for (const state of states) {
    const [own, peer] = socketPair();
    const connection = Connection.of(new Socket({ fd: own }));
    connection.state = state;
    set.add(connection);
    undo.push(() => {
      connection.socket.destroy();
      closeFd(peer);
    });
  }
  return set;
}

describe('a rehearsal of the freeze', () => {
  it('comes to every connection, part by part', () => {
    expect([...setOf([1, 2, 3, 4, 5]).rehearse(2)]).toEqual([2, 2, 1]);
    expect([...setOf([1, 2]).rehearse(2)]).toEqual([2]);
    expect([...setOf([]).rehearse(2)]).toEqual([]);
  });

  it('finds a state that cannot be cloned, wherever it is', () => {
    const rehearsed = setOf([1, 2, () => 3]).rehearse(2);
    expect(rehearsed.next().value).toBe(2);
    expect(() => rehearsed.next()).toThrow(expect.objectContaining({ code: 'EINVAL' }));
  });

  it('changes nothing that the freeze would save', () => {
    const set = setOf([{ a: 1 }, undefined]);
    const before = set.collect();
    for (const _ of set.rehearse(1));
    expect(set.collect()).toEqual(before);
  });
});

import { openSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { LiveUpdateError } from '../../../src/core/errors.js';
import { Wire, type WireLimits, type WireMessage } from '../../../src/handover/wire.js';
import { closeFd } from '../../../src/linux/fd.js';
import { sendFds } from '../../../src/linux/scm-rights.js';
import { socketPair } from '../../../src/linux/socketpair.js';
import { countDescriptors } from '../linux/descriptors.js';

countDescriptors();

class End {
  readonly wire: Wire;
  readonly got: { message: WireMessage; fds: number }[] = [];
  readonly closed: Promise<LiveUpdateError | undefined>;
  #wake: (() => void)[] = [];

  constructor(fd: number, limits: Partial<WireLimits> = {}) {
    let close!: (error: LiveUpdateError | undefined) => void;
    this.closed = new Promise((resolve) => {
      close = resolve;
    });
    this.wire = new Wire(
      fd,
      {
        message: (message, fds) => {
          for (const own of fds) closeFd(own);
          this.got.push({ message, fds: fds.length });
          for (const wake of this.#wake.splice(0)) wake();
        },
        closed: close,
      },
      limits,
    );
  }

  async count(messages: number): Promise<void> {
    while (this.got.length < messages) await new Promise<void>((resolve) => this.#wake.push(resolve));
  }
}

function pair(limits: Partial<WireLimits> = {}): [End, End] {
  const [a, b] = socketPair();
  return [new End(a, limits), new End(b, limits)];
}

function rawPair(limits: Partial<WireLimits> = {}): [number, End] {
  const [a, b] = socketPair();
  return [a, new End(b, limits)];
}

describe('wire', () => {
  it('delivers lines that came at once whole, whatever is sent between them', async () => {
    const [raw, b] = socketPair();
    const got: WireMessage[] = [];
    let done!: () => void;
    const all = new Promise<void>((resolve) => {
      done = resolve;
    });
    const wire: Wire = new Wire(b, {
      message: (message) => {
        got.push(message);
        // As an answer does: it goes through the same buffers as what is read.
        wire.send({ type: 'answer', text: 'x'.repeat(5000) });
        if (got.length === 50) done();
      },
      closed: () => undefined,
    });
    const lines = Array.from({ length: 50 }, (_, id) => `{"type":"ask","id":${id}}\n`).join('');
    sendFds(raw, Buffer.from(lines), []);
    await all;
    expect(got.map(({ id }) => id)).toEqual(Array.from({ length: 50 }, (_, id) => id));
    wire.close();
    closeFd(raw);
  });

  it('throws away what another process began to read, up to the word it waits for', async () => {
    const [raw, b] = socketPair();
    const got: { type: string; fds: number }[] = [];
    let done!: () => void;
    const all = new Promise<void>((resolve) => {
      done = resolve;
    });
    const wire = new Wire(
      b,
      {
        message: ({ type }, fds) => {
          for (const fd of fds) closeFd(fd);
          got.push({ type, fds: fds.length });
          if (type === 'after') done();
        },
        closed: () => undefined,
      },
      {},
      { skipTo: 'resume' },
    );
    const fd = openSync('/dev/null', 'r');
    sendFds(raw, Buffer.from('rest of a line","fds":1}\n'), []);
    sendFds(raw, Buffer.from('{"type":"whole","fds":1}\n'), [fd]);
    sendFds(raw, Buffer.from('half of a line{"type":"resume"}\n{"type":"resume"}\n'), []);
    // In one read with the line before, descriptor and all.
    sendFds(raw, Buffer.from('{"type":"after","fds":1}\n'), [fd]);
    await all;
    expect(got).toEqual([
      { type: 'resume', fds: 0 },
      { type: 'after', fds: 1 },
    ]);
    wire.close();
    closeFd(fd);
    closeFd(raw);
  });

  it('brings messages and their descriptors whole and in order', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.record({ size: fc.nat(100_000), fds: fc.oneof(fc.constant(0), fc.nat(600)) }), {
          minLength: 1,
          maxLength: 6,
        }),
        async (sizes) => {
          const [a, b] = pair();
          const fd = openSync('/dev/null', 'r');
          for (const [i, { size, fds }] of sizes.entries()) {
            a.wire.send({ type: 'test', i, text: 'ü'.repeat(size) }, new Array<number>(fds).fill(fd));
          }
          // Queued descriptors are the wire's own duplicates.
          closeFd(fd);
          await b.count(sizes.length);
          expect(b.got.map(({ message, fds }) => [message.i, (message.text as string).length, fds])).toEqual(
            sizes.map(({ size, fds }, i) => [i, size, fds]),
          );
          a.wire.close();
          expect(await b.closed).toBeUndefined();
        },
      ),
      { numRuns: 30 },
    );
  });

  it('puts lines together from single bytes', async () => {
    const [raw, end] = rawPair();
    for (const byte of Buffer.from('{"type":"a"}\n{"type":"b"}\n')) sendFds(raw, Uint8Array.of(byte), []);
    await end.count(2);
    expect(end.got.map(({ message }) => message.type)).toEqual(['a', 'b']);
    closeFd(raw);
    await end.closed;
  });

  const bad: [string, string, number, string?][] = [
    ['a line that is no JSON', 'hello\n', 0],
    ['a line without a type', '{"a":1}\n', 0],
    ['a line that is no object', '[1]\n', 0],
    ['descriptors that did not come', '{"type":"a","fds":1}\n', 0],
    ['more descriptors claimed than came', '{"type":"a","fds":3}\n', 2],
    ['a number of descriptors that is none', '{"type":"a","fds":-1}\n', 1],
    ['a line that is too long', `{"type":"${'x'.repeat(2000)}`, 0, 'EMSGSIZE'],
    ['a whole line that is too long', `{"type":"${'x'.repeat(2000)}"}\n`, 0, 'EMSGSIZE'],
  ];
  for (const [what, line, fds, code = 'EPROTO'] of bad) {
    it(`ends with ${code} at ${what}`, async () => {
      const [raw, end] = rawPair({ lineBytes: 1000 });
      const fd = openSync('/dev/null', 'r');
      sendFds(raw, Buffer.from(line), new Array<number>(fds).fill(fd));
      closeFd(fd);
      expect(await end.closed).toMatchObject({ code });
      expect(end.got).toEqual([]);
      expect(end.wire.isOpen).toBe(false);
      closeFd(raw);
    });
  }

  it('ends with EPROTO when the other side leaves in mid-message, and closes what came', async () => {
    const [raw, end] = rawPair();
    const fd = openSync('/dev/null', 'r');
    sendFds(raw, Buffer.from('{"type":'), [fd, fd]);
    closeFd(fd);
    closeFd(raw);
    expect(await end.closed).toMatchObject({ code: 'EPROTO' });
  });

  it('refuses more than a message may carry, and a queue that nobody empties', () => {
    const [a, b] = pair({ lineFds: 10, sentLineBytes: 300_000, queuedBytes: 500_000 });
    expect(() => a.wire.send({ type: 'a' }, new Array<number>(11).fill(0))).toThrow(
      expect.objectContaining({ code: 'E2BIG' }),
    );
    expect(() => a.wire.send({ type: 'x'.repeat(300_000) })).toThrow(
      expect.objectContaining({ code: 'EMSGSIZE' }),
    );
    const fill = () => {
      for (;;) a.wire.send({ type: 'x'.repeat(100_000) }, [0]);
    };
    expect(fill).toThrow(expect.objectContaining({ code: 'ENOBUFS' }));
    a.wire.close();
    b.wire.close();
  });

  it('works while the event loop stands still', () => {
    const [a, b] = pair();
    const text = 'x'.repeat(500_000);
    a.wire.send({ type: 'a', text });
    expect(() => a.wire.flushNow(1)).toThrow(expect.objectContaining({ code: 'ETIMEDOUT' }));
    while (b.got.length === 0) {
      expect(b.wire.waitNow(1000)).toBe(true);
      b.wire.receiveNow();
      if (b.got.length === 0) {
        try {
          a.wire.flushNow(0);
        } catch {
          // The buffer is full again; the other side reads next.
        }
      }
    }
    expect(b.got[0]?.message.text).toBe(text);
    a.wire.close();
    b.wire.close();
  });

  it('loses what is said to somebody who is gone, and tells that he is', async () => {
    const [raw, end] = rawPair();
    closeFd(raw);
    end.wire.send({ type: 'a' });
    expect(await end.closed).toMatchObject({ code: 'EPIPE' });
    end.wire.send({ type: 'b' });
  });

  it('delivers first what he said last, where that is asked for', () => {
    const [raw, own] = socketPair();
    const told: string[] = [];
    const events = {
      message: ({ type }: WireMessage) => told.push(type),
      closed: () => told.push('closed'),
    };
    const wire = new Wire(own, events, {}, { hearsLastWord: true });
    sendFds(raw, Buffer.from('{"type":"refused"}\n'), []);
    closeFd(raw);
    wire.send({ type: 'a' });
    expect(told).toEqual(['refused', 'closed']);
  });
});

import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { openSync } from 'node:fs';
import { createServer } from 'node:net';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { closeFd, isCloseOnExec } from '../../../src/linux/fd.js';
import { handleFd } from '../../../src/linux/handle-fd.js';
import {
  discardArrived,
  MAX_FDS_PER_MESSAGE,
  recvFds,
  sendFds,
  waitReadable,
  waitWritable,
} from '../../../src/linux/scm-rights.js';
import {
  isListening,
  peerCredentials,
  SHUT_RDWR,
  shutdown,
  socketCookie,
  socketDomain,
  socketType,
} from '../../../src/linux/socket-facts.js';
import { socketPair } from '../../../src/linux/socketpair.js';
import { countDescriptors } from './descriptors.js';

countDescriptors();

const BYTE = Uint8Array.of(1);

function withPair(use: (a: number, b: number) => void): void {
  const [a, b] = socketPair();
  try {
    use(a, b);
  } finally {
    closeFd(a);
    closeFd(b);
  }
}

function nulls(count: number): number[] {
  return Array.from({ length: count }, () => openSync('/dev/null', 'r'));
}

describe('scm-rights', () => {
  it('sends and receives bytes, and nothing when there is nothing', () => {
    withPair((a, b) => {
      expect(recvFds(b, { maxBytes: 100, maxFds: 1 })).toBeUndefined();
      expect(sendFds(a, Buffer.from('hello'), [])).toBe(5);
      const received = recvFds(b, { maxBytes: 100, maxFds: 0 });
      expect(Buffer.from(received!.bytes).toString()).toBe('hello');
      expect(received).toMatchObject({ fds: [], eof: false });
    });
  });

  it('carries 253 descriptors at once, close-on-exec, and refuses 254', () => {
    withPair((a, b) => {
      const fds = nulls(MAX_FDS_PER_MESSAGE);
      expect(sendFds(a, BYTE, fds)).toBe(1);
      const received = recvFds(b, { maxBytes: 1, maxFds: MAX_FDS_PER_MESSAGE })!;
      expect(received.fds).toHaveLength(MAX_FDS_PER_MESSAGE);
      expect(received.fds.every(isCloseOnExec)).toBe(true);
      expect(() => sendFds(a, BYTE, [...fds, fds[0]!])).toThrow(
        expect.objectContaining({ code: 'EINVAL', operation: 'sendmsg' }),
      );
      for (const fd of [...fds, ...received.fds]) closeFd(fd);
    });
  });

  it('closes everything and says so when more came than there was room for', () => {
    withPair((a, b) => {
      const fds = nulls(10);
      sendFds(a, BYTE, fds);
      expect(() => recvFds(b, { maxBytes: 1, maxFds: 4 })).toThrow(
        expect.objectContaining({ code: 'EMSGSIZE' }),
      );
      for (const fd of fds) closeFd(fd);
    });
  });

  it('tells a full descriptor table apart, and leaks nothing then either', () => {
    const linux = fileURLToPath(new URL('../../../dist/linux/index.js', import.meta.url));
    const script = `
      import { openSync } from 'node:fs';
      import { closeFd, countOpenFds, fdHeadroom, recvFds, sendFds, socketPair } from ${JSON.stringify(linux)};
      const [a, b] = socketPair();
      const fds = Array.from({ length: 20 }, () => openSync('/dev/null', 'r'));
      sendFds(a, Uint8Array.of(1), fds);
      while (fdHeadroom() > 5) fds.push(openSync('/dev/null', 'r'));
      const before = countOpenFds();
      try { recvFds(b, { maxBytes: 1, maxFds: 253 }); } catch (error) { console.log(error.code, countOpenFds() - before); }
    `;
    const child = spawnSync(
      'sh',
      ['-c', 'ulimit -n 100; exec "$0" "$@"', process.execPath, '--input-type=module', '-e', script],
      { encoding: 'utf8' },
    );
    expect(child.stdout + child.stderr).toBe('EMFILE 0\n');
  });

  it('takes no more when the buffer is full, and waits for room and for bytes', () => {
    withPair((a, b) => {
      const chunk = Buffer.alloc(64 << 10);
      while (sendFds(a, chunk, []) !== undefined);
      expect(waitWritable(a, 0)).toBe(false);
      expect(waitReadable([a, b], 0)).toEqual([b]);
      while (recvFds(b, { maxBytes: 64 << 10, maxFds: 0 }) !== undefined);
      expect(waitWritable(a, 1000)).toBe(true);
      expect(waitReadable([a, b], 1)).toEqual([]);
    });
  });

  it('tells the end, and a send to nobody', () => {
    const [a, b] = socketPair();
    closeFd(a);
    expect(recvFds(b, { maxBytes: 1, maxFds: 0 })).toMatchObject({ eof: true });
    expect(() => sendFds(b, BYTE, [])).toThrow(
      expect.objectContaining({ code: 'EPIPE', operation: 'sendmsg' }),
    );
    closeFd(b);
    expect(() => sendFds(b, BYTE, [])).toThrow(expect.objectContaining({ code: 'EBADF' }));
  });
});

describe('socket facts', () => {
  it('know a socketpair and who is at its other end', () => {
    withPair((a, b) => {
      expect([socketType(a), socketDomain(a), isListening(a)]).toEqual(['stream', 'unix', false]);
      expect(peerCredentials(b)).toEqual({
        pid: process.pid,
        uid: process.getuid!(),
        gid: process.getgid!(),
      });
      expect(socketCookie(a)).not.toBe(socketCookie(b));
      shutdown(a, SHUT_RDWR);
      expect(recvFds(b, { maxBytes: 1, maxFds: 0 })).toMatchObject({ eof: true });
    });
  });

  it('know a listener, and refuse what is no socket', async () => {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    const fd = handleFd(server)!;
    expect([socketType(fd), socketDomain(fd), isListening(fd)]).toEqual(['stream', 'inet', true]);
    server.close();
    await once(server, 'close');
    const file = openSync('/dev/null', 'r');
    expect(() => socketType(file)).toThrow(
      expect.objectContaining({ code: 'ENOTSOCK', operation: 'getsockopt' }),
    );
    closeFd(file);
  });
});

it('throws away what has arrived, with its descriptors', () => {
  withPair((a, b) =>
    withPair((c, d) => {
      const own = socketPair();
      sendFds(a, BYTE, [own[1]]);
      sendFds(a, new Uint8Array(100_000), []);
      closeFd(own[1]);
      discardArrived(b);
      expect(recvFds(own[0], { maxBytes: 1, maxFds: 0 })?.eof).toBe(true);
      closeFd(own[0]);
      expect(recvFds(b, { maxBytes: 1, maxFds: 0 })).toBeUndefined();
      shutdown(c, SHUT_RDWR);
      discardArrived(d);
    }),
  );
});

import { mkdtempSync, rmSync } from 'node:fs';
import { type AddressInfo, connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { closeFd, isCloseOnExec } from '../../../src/linux/fd.js';
import { handleFd } from '../../../src/linux/handle-fd.js';
import {
  freePorts,
  type ListenAddress,
  listenAddress,
  openListeningSocket,
  openUnreachableListener,
} from '../../../src/linux/listen-socket.js';
import { isListening, socketCookie } from '../../../src/linux/socket-facts.js';
import { socketPair } from '../../../src/linux/socketpair.js';
import { countDescriptors } from './descriptors.js';

countDescriptors();

/** Listens with Node, reads the address, closes, and listens there again: what a reboot does to a listener. */
async function again(options: object): Promise<ListenAddress> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(options, resolve);
  });
  const address = listenAddress(handleFd(server) as number);
  await new Promise((resolve) => server.close(resolve));
  const fd = openListeningSocket(address, 16);
  try {
    expect(isListening(fd)).toBe(true);
    expect(isCloseOnExec(fd)).toBe(true);
    expect(listenAddress(fd)).toEqual(address);
    await new Promise<void>((resolve, reject) => {
      const to = 'path' in address ? { path: address.path } : { host: address.host, port: address.port };
      const client = connect(to);
      client.once('error', reject);
      client.once('connect', () => {
        client.once('close', () => resolve());
        client.destroy();
      });
    });
  } finally {
    closeFd(fd);
  }
  return address;
}

describe('listen-socket', () => {
  it('makes an IPv4 listener again', async () => {
    const address = await again({ host: '127.0.0.1', port: 0 });
    expect(address).toMatchObject({ host: '127.0.0.1', ipv6Only: false, reusePort: false });
  });

  it('makes an IPv6 listener again, alone or for both families', async () => {
    expect(await again({ host: '::1', port: 0 })).toMatchObject({ host: '0:0:0:0:0:0:0:1' });
    expect(await again({ host: '::', port: 0 })).toMatchObject({ host: '0:0:0:0:0:0:0:0', ipv6Only: false });
    expect(await again({ host: '::', port: 0, ipv6Only: true })).toMatchObject({ ipv6Only: true });
  });

  it('makes a unix listener again, by path and by abstract name', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'liveupdate-listen-'));
    try {
      const path = join(folder, 's');
      expect(await again({ path })).toEqual({ path });
      rmSync(path);
    } finally {
      rmSync(folder, { recursive: true });
    }
    const name = `\0liveupdate-test-${process.pid}`;
    const fd = openListeningSocket({ path: name }, 1);
    expect(listenAddress(fd)).toEqual({ path: name });
    closeFd(fd);
  });

  it('says who has the address', async () => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as AddressInfo;
    const address = { host: '127.0.0.1', port, scope: 0, ipv6Only: false, reusePort: false };
    expect(() => openListeningSocket(address, 1)).toThrow(
      expect.objectContaining({ code: 'EADDRINUSE', operation: 'bind' }),
    );
    await new Promise((resolve) => server.close(resolve));
  });

  it('takes an IPv6 address in any of its texts', () => {
    const texts = {
      '::': '0:0:0:0:0:0:0:0',
      '::1': '0:0:0:0:0:0:0:1',
      '0:0::1': '0:0:0:0:0:0:0:1',
      '::ffff:127.0.0.1': '0:0:0:0:0:ffff:7f00:1',
      '::ffff:7f00:1': '0:0:0:0:0:ffff:7f00:1',
    };
    for (const [host, full] of Object.entries(texts)) {
      const fd = openListeningSocket({ host, port: 0, scope: 0, ipv6Only: false, reusePort: true }, 1);
      expect(listenAddress(fd)).toMatchObject({ host: full, reusePort: true });
      closeFd(fd);
    }
  });

  it('refuses what is no address', () => {
    const rest = { port: 1, scope: 0, ipv6Only: false, reusePort: false };
    for (const host of [
      '',
      'localhost',
      '1.2.3',
      '1.2.3.256',
      '::g',
      '1:2',
      '::1::',
      '1:2:3:4:5:6:7:8:9',
      '::1.2.3.256',
    ]) {
      expect(() => openListeningSocket({ host, ...rest }, 1)).toThrow(
        expect.objectContaining({ code: 'EINVAL' }),
      );
    }
    for (const path of ['', 'x'.repeat(108)]) {
      expect(() => openListeningSocket({ path }, 1)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    }
    expect(() => openListeningSocket({ path: '/no/such/folder/s' }, 1)).toThrow(
      expect.objectContaining({ code: 'ENOENT' }),
    );
  });
});

it('frees the ports of what listens, and of nothing else', () => {
  const [one, other] = socketPair();
  const kept = openUnreachableListener();
  const tcp = openListeningSocket(
    { host: '127.0.0.1', port: 0, scope: 0, ipv6Only: false, reusePort: false },
    16,
  );
  const address = listenAddress(tcp);
  try {
    const cookies = [one, other, kept].map(socketCookie);
    expect(freePorts(new Set([kept]))).toEqual([tcp]);
    expect([one, other, kept].map(socketCookie)).toEqual(cookies);
    // Who still has the number finds a socket that listens, and where nobody comes.
    expect(isListening(tcp)).toBe(true);
    expect(listenAddress(tcp)).not.toEqual(address);
    closeFd(openListeningSocket(address, 16));
  } finally {
    for (const fd of [one, other, kept, tcp]) closeFd(fd);
  }
});

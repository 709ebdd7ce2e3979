import { once } from 'node:events';
import { connect, createServer, type Server } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { Listener } from '../../../src/handlers/listener.js';
import { openSharedPort, type SharedListenOptions } from '../../../src/handlers/shared-port.js';
import { closeFd } from '../../../src/linux/fd.js';
import { handleFd } from '../../../src/linux/handle-fd.js';
import { listenAddress } from '../../../src/linux/listen-socket.js';
import { countDescriptors } from '../linux/descriptors.js';

countDescriptors();

const servers: Server[] = [];

afterEach(async () => {
  await Promise.all(servers.splice(0).map((server) => new Promise((resolve) => server.close(resolve))));
});

async function open(options: SharedListenOptions): Promise<{ server: Server; port: number }> {
  const server = createServer((socket) => socket.end());
  const { address } = await Listener.open(server, options);
  servers.push(server);
  return { server, port: (address as { port: number }).port };
}

describe('a shared port', () => {
  it('has several listeners, which all get connections', async () => {
    const options = { host: '127.0.0.1', reusePort: true };
    const one = await open({ ...options, port: 0 });
    const two = await open({ ...options, port: one.port });
    expect(two.port).toBe(one.port);
    const came = new Set<Server>();
    for (const { server } of [one, two]) server.on('connection', () => came.add(server));
    while (came.size < 2) await once(connect(one.port, '127.0.0.1'), 'close');
  });

  it('is for both families without a host, as in Node, and for the host that a name has', async () => {
    const { server } = await open({ port: 0, reusePort: true });
    const all = { host: '0:0:0:0:0:0:0:0', ipv6Only: false, reusePort: true };
    expect(listenAddress(handleFd(server) as number)).toMatchObject(all);
    const named = await open({ port: 0, host: 'localhost', reusePort: true });
    expect(listenAddress(handleFd(named.server) as number)).toMatchObject({
      host: expect.stringMatching(/^(127\.0\.0\.1|0:.*:1)$/),
    });
    const six = await openSharedPort({ port: 0, host: '::1', ipv6Only: true });
    expect(listenAddress(six)).toMatchObject({ host: '0:0:0:0:0:0:0:1', ipv6Only: true });
    closeFd(six);
  });

  it('is refused beside a listener that does not share, and where there is none', async () => {
    const { port } = await open({ host: '127.0.0.1', port: 0 });
    const refused = (options: SharedListenOptions) => expect(open({ ...options, reusePort: true })).rejects;
    await refused({ host: '127.0.0.1', port }).toMatchObject({ code: 'EADDRINUSE' });
    await refused({ port: 65_536 }).toMatchObject({ code: 'EINVAL' });
    await refused({ port: 1.5 }).toMatchObject({ code: 'EINVAL' });
    await refused({ port: 0, host: 'no.such.host.invalid' }).toThrow(/ENOTFOUND|EAI_AGAIN/);
    await refused({ port: 0, host: 'fe80::1%none' }).toMatchObject({ code: 'EADDRNOTAVAIL' });
  });

  it('is given up when the server cannot take it', async () => {
    const { server } = await open({ host: '127.0.0.1', port: 0 });
    await expect(
      Listener.open(server, { host: '127.0.0.1', port: 0, reusePort: true }),
    ).rejects.toMatchObject({ code: 'EINVAL' });
  });
});

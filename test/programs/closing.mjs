/** A program that closes its listener when it gets a connection's first bytes, and answers with `closed`. */
import net from 'node:net';
import { liveupdate } from 'liveupdate';

const lu = await liveupdate();
setInterval(() => undefined, 2 ** 30);
if (lu.origin === 'fresh') {
  const server = net.createServer((socket) => {
    socket.on('data', () => {
      server.close();
      socket.write('closed');
    });
  });
  await lu.listen('once', server, { host: '127.0.0.1', port: Number(process.env.PORT) });
}
await lu.ready();

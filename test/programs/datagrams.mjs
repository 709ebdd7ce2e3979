/** A UDP service: answers each datagram with its own generation and what came. Counts them in a state. */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { liveupdate } from 'liveupdate';

const lu = await liveupdate();
const total = await lu.state('total', () => ({ datagrams: 0 }));
const socket = await lu.keep('udp', async () => {
  const made = createSocket({ type: 'udp4', recvBufferSize: 1 << 20 });
  made.bind(0, '127.0.0.1');
  await once(made, 'listening');
  return made;
});
socket.on('message', (bytes, { port, address }) => {
  total.datagrams++;
  socket.send(`${lu.generation} ${total.datagrams} ${bytes}`, port, address);
});
process.stderr.write(`port ${socket.address().port}\n`);
if (process.env.FAULT === 'never') throw new Error('this version does not work');
await lu.ready();

/** Copies what comes through one fifo (IN) to another (OUT), and counts the bytes in a state. */
import { constants, openSync } from 'node:fs';
import { Socket } from 'node:net';
import { liveupdate } from 'liveupdate';

const { O_RDWR, O_NONBLOCK } = constants;
const lu = await liveupdate();
const total = await lu.state('total', () => ({ bytes: 0 }));
// Open for both, so that neither end is over when the other side closes.
const open = (path) => openSync(path, O_RDWR | O_NONBLOCK);
const source = await lu.keep('in', () => new Socket({ fd: open(process.env.IN), writable: false }));
const target = await lu.keep('out', () => new Socket({ fd: open(process.env.OUT), readable: false }));
source.on('data', (bytes) => {
  total.bytes += bytes.length;
});
source.pipe(target);
await lu.ready();
process.stderr.write(`${lu.origin}: generation ${lu.generation} copies behind ${total.bytes}\n`);

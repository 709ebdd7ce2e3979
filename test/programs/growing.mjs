/** A program whose memory grows: version 1 has 4096 bytes, 2 moves them into 8192 under a new name, 3 gives the first up. */
import net from 'node:net';
import { liveupdate } from 'liveupdate';

const version = process.argv[2];
const lu = await liveupdate();

// Word 0 of the larger one says whether the smaller one's contents have been moved.
const old = version === '3' ? undefined : new Uint32Array(await lu.memory('cache', 4096));
const grown = version === '1' ? undefined : new Uint32Array(await lu.memory('cache-2', 8192));

function cache() {
  if (grown === undefined) return old;
  if (grown[0] === 0) {
    grown.set(old, 1);
    grown[0] = 1;
  }
  return grown.subarray(1);
}

const control = net.createServer((socket) => {
  const cells = cache();
  const report = {
    version,
    sum: cells.reduce((sum, cell) => sum + cell, 0),
    cells: cells.length,
    cell: cells[0]++,
  };
  socket.on('error', () => socket.destroy());
  socket.end(JSON.stringify(report));
});

await lu.listen('control', control, { path: process.env.CONTROL });
await lu.ready({ drop: version === '3' ? ['memory:cache'] : [] });
if (lu.origin === 'fresh') cache().fill(7);

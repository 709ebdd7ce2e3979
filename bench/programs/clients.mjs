/**
 * Live connections to the service: all are open, one in a hundred talks without pause and checks every byte it gets back. Tells
 * its parent {open}, and {longest, gap, closed, wrong, answers} since the last question, whenever it is asked: `longest` is how long one of
 * them waited for its echo, `gap` how long none got one, though somebody waited.
 */
import { once } from 'node:events';
import net from 'node:net';

const [port, count, talking] = process.argv.slice(2).map(Number);
const BYTES = 64;
let longest = 0;
let gap = 0;
/** How many wait, and since when none of them has got anything. */
let waiting = 0;
let silentSince = 0;
let closed = 0;
let wrong = 0;
let answers = 0;

function byteAt(seed, offset) {
  return (seed * 31 + offset * 7 + (offset >> 8)) & 255;
}

async function open(seed) {
  const socket = net.connect(port, '127.0.0.1');
  let isWaiting = false;
  socket.on('close', () => {
    closed++;
    if (isWaiting) waiting--;
  });
  await once(socket, 'connect');
  socket.on('error', () => undefined);
  socket.setNoDelay(true);
  if (seed >= talking) return;
  let sent = 0;
  let received = 0;
  let sentAt = 0;
  const send = () => {
    const bytes = Buffer.from(Uint8Array.from({ length: BYTES }, (_, i) => byteAt(seed, sent + i)));
    sent += BYTES;
    sentAt = performance.now();
    isWaiting = true;
    if (waiting++ === 0) silentSince = sentAt;
    socket.write(bytes);
  };
  socket.on('data', (bytes) => {
    for (const byte of bytes) if (byte !== byteAt(seed, received++)) wrong++;
    if (received < sent) return;
    if (received > sent) wrong++;
    answers++;
    const now = performance.now();
    longest = Math.max(longest, now - sentAt);
    gap = Math.max(gap, now - silentSince);
    silentSince = now;
    isWaiting = false;
    waiting--;
    setTimeout(() => {
      if (!socket.destroyed) send();
    }, 5);
  });
  send();
}

for (let at = 0; at < count; at += 100) {
  await Promise.all(Array.from({ length: Math.min(100, count - at) }, (_, i) => open(at + i)));
}
process.on('message', () => {
  process.send({ longest, gap, closed, wrong, answers });
  longest = 0;
  gap = 0;
  answers = 0;
});
process.on('disconnect', () => process.exit());
process.send({ open: count });

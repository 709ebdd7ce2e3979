/**
 * Live connections to the service: all are open, one in a hundred talks without pause and checks every byte it gets back. Tells
 * its parent {open}, and {longest, closed, wrong, answers} since the last question, whenever it is asked.
 */
import { once } from 'node:events';
import net from 'node:net';

const [port, count, talking] = process.argv.slice(2).map(Number);
const BYTES = 64;
let longest = 0;
let closed = 0;
let wrong = 0;
let answers = 0;

function byteAt(seed, offset) {
  return (seed * 31 + offset * 7 + (offset >> 8)) & 255;
}

async function open(seed) {
  const socket = net.connect(port, '127.0.0.1');
  socket.on('close', () => closed++);
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
    socket.write(bytes);
  };
  socket.on('data', (bytes) => {
    for (const byte of bytes) if (byte !== byteAt(seed, received++)) wrong++;
    if (received < sent) return;
    if (received > sent) wrong++;
    answers++;
    longest = Math.max(longest, performance.now() - sentAt);
    setTimeout(send, 5);
  });
  send();
}

for (let at = 0; at < count; at += 100) {
  await Promise.all(Array.from({ length: Math.min(100, count - at) }, (_, i) => open(at + i)));
}
process.on('message', () => {
  process.send({ longest, closed, wrong, answers });
  longest = 0;
  answers = 0;
});
process.on('disconnect', () => process.exit());
process.send({ open: count });

/**
 * Live WebSockets: all are open, one in a hundred talks without pause and checks what comes back. Tells its parent {open}, and
 * {longest, closed, wrong} since the last question, whenever it is asked.
 */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import WebSocket from 'ws';

const [port, count, talking] = process.argv.slice(2).map(Number);
/** The whole window of a stream that compresses. */
const WINDOW = 32 << 10;
let longest = 0;
let closed = 0;
let wrong = 0;

async function open(number) {
  const ws = new WebSocket(`ws://127.0.0.1:${port}/`);
  ws.on('close', () => closed++);
  await once(ws, 'open');
  ws.send(randomBytes(WINDOW / 2).toString('hex'));
  // Its answer says that the window is full: the service has done with what comes before it.
  ws.send('full');
  await once(ws, 'message');
  if (number >= talking) return;
  let next = 0;
  let sentAt = 0;
  const send = () => {
    sentAt = performance.now();
    ws.send(`${number}: ${++next}`);
  };
  ws.on('message', (data) => {
    if (data.toString() !== `${number}: ${next}`) wrong++;
    longest = Math.max(longest, performance.now() - sentAt);
    setTimeout(send, 5);
  });
  send();
}

for (let at = 0; at < count; at += 50) {
  await Promise.all(Array.from({ length: Math.min(50, count - at) }, (_, i) => open(at + i)));
}
process.on('message', () => {
  process.send({ longest, closed, wrong });
  longest = 0;
});
process.on('disconnect', () => process.exit());
process.send({ open: count });

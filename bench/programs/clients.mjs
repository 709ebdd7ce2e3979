/**
 * Live connections to the service: all are open, one in a hundred talks without pause and checks every byte it gets back. Of each 64
 * the first is the number of the image that answered, and the others are an echo.
 *
 * Tells its parent {open}, and {longest, gap, cutLongest, cutGap, closed, wrong, answers} since the last question, whenever it is asked: `longest` is
 * how long one of them waited for its echo, `gap` how long none got one, though somebody waited. The same at the cut: `cutLongest` of the waits for the
 * first echo of the next image, and `cutGap` before its very first.
 *
 * It makes as little garbage as it can: it shares the processors with what is measured, and its own pauses would be taken for the service's.
 */
import { once } from 'node:events';
import net from 'node:net';

const [port, count, talking] = process.argv.slice(2).map(Number);
const BYTES = 64;
/** Ten thousand connections so send some nine thousand messages a second. */
const PAUSE_MS = 9;
const PERIOD = 65_536;
const PATTERN = Uint8Array.from({ length: PERIOD }, (_, offset) => offset * 7 + (offset >> 8));
/** Since the last question. */
const seen = { longest: 0, gap: 0, cutLongest: 0, cutGap: 0, answers: 0 };
/** How many wait, and since when none of them has got anything. */
let waiting = 0;
let silentSince = 0;
/** The newest image that anybody has heard of. */
let newest;
let closed = 0;
let wrong = 0;

function byteAt(seed, offset) {
  return (PATTERN[offset % PERIOD] + seed * 31) & 255;
}

/** Numbers of images are bytes. */
function isNewer(image, than) {
  return than !== undefined && image !== than && ((image - than) & 255) < 128;
}

async function open(seed) {
  let isWaiting = false;
  let sent = 0;
  let received = 0;
  let sentAt = 0;
  let image;
  const bytes = Buffer.alloc(BYTES);

  const got = (length, buffer) => {
    let answeredBy = image;
    for (let at = 0; at < length; at++, received++) {
      if (received % BYTES === 0) answeredBy = buffer[at];
      else if (buffer[at] !== byteAt(seed, received)) wrong++;
    }
    if (received < sent) return true;
    if (received > sent) wrong++;
    answered(answeredBy);
    timer.refresh();
    return true;
  };
  const answered = (answeredBy) => {
    const now = performance.now();
    const wait = now - sentAt;
    const gap = now - silentSince;
    seen.answers++;
    seen.longest = Math.max(seen.longest, wait);
    seen.gap = Math.max(seen.gap, gap);
    if (isNewer(answeredBy, image)) seen.cutLongest = Math.max(seen.cutLongest, wait);
    if (isNewer(answeredBy, newest)) seen.cutGap = Math.max(seen.cutGap, gap);
    image = answeredBy;
    if (newest === undefined || isNewer(answeredBy, newest)) newest = answeredBy;
    silentSince = now;
    isWaiting = false;
    waiting--;
  };
  const unasked = (length) => {
    wrong += length;
    return true;
  };

  const socket = net.connect({
    port,
    host: '127.0.0.1',
    noDelay: true,
    onread: { buffer: Buffer.alloc(BYTES), callback: seed < talking ? got : unasked },
  });
  socket.on('close', () => {
    closed++;
    if (isWaiting) waiting--;
  });
  await once(socket, 'connect');
  socket.on('error', () => undefined);
  if (seed >= talking) return;
  const send = () => {
    if (socket.destroyed) return;
    for (let at = 0; at < BYTES; at++, sent++) bytes[at] = byteAt(seed, sent);
    sentAt = performance.now();
    isWaiting = true;
    if (waiting++ === 0) silentSince = sentAt;
    socket.write(bytes);
  };
  const timer = setTimeout(send, PAUSE_MS);
}

for (let at = 0; at < count; at += 100) {
  await Promise.all(Array.from({ length: Math.min(100, count - at) }, (_, i) => open(at + i)));
}
process.on('message', () => {
  process.send({ ...seen, closed, wrong });
  for (const key of Object.keys(seen)) seen[key] = 0;
});
process.on('disconnect', () => process.exit());
process.send({ open: count });

/**
 * The service that is measured, moved by hand: what a careful program does that knows SCM_RIGHTS and nothing of us. An echo with
 * state for each connection, as ../programs/echo.mjs.
 *
 * SIGUSR2 starts the same program as a successor at the other end of a socket pair, and this one goes its way out:
 *
 *   old   sends the listener and all connections, while it serves          new   builds a net.Socket for each, reads none
 *   old   pauses every connection, readStop one by one                     |
 *   old   sends what changed, with all states, as one delta, and waits     | blackout
 *   new   attaches: state, 'connection' handlers and read(0) one by one    |
 *   new   says so, old exits
 *
 * It carries no bytes that wait in user space, and cannot go back: both are beyond what it is compared for. Each image
 * prints {pid} as it serves, and a successor its times in ms as well. It ends when its lifeline, descriptor 3, does.
 */
import { spawn } from 'node:child_process';
import { closeSync, fstatSync, readSync, writeSync } from 'node:fs';
import net from 'node:net';
import { fileURLToPath } from 'node:url';
import { deserialize, serialize } from 'node:v8';
import { createMemfd, socketPair, watchFd } from 'liveupdate/linux';
import { ADOPTED, BATCH, CONNECTIONS, DELTA, LISTENER, PRECOPIED, Receiver, SERVING, send } from './wire.mjs';

/** Batches that are sent before the program gets its turn again. */
const BATCHES_A_TURN = 2;
const LIFELINE_FD = 3;
const DIRECT_FD = 4;
const BACKLOG = 4096;

/** The number of this image. */
const image = Number(process.argv[2] ?? 1);
const total = { bytes: 0, connections: 0 };
/** Live connections by number. */
const connections = new Map();
let nextId = 1;
/** When the first bytes came, of this image's life. */
let firstAt;

const server = net.createServer((socket) => {
  const connection = socket.carried ?? { id: nextId++, socket, state: undefined };
  connection.state ??= { bytes: 0, id: total.connections++ };
  connections.set(connection.id, connection);
  socket.on('data', (chunk) => {
    firstAt ??= process.hrtime.bigint();
    for (let at = -connection.state.bytes & 63; at < chunk.length; at += 64) chunk[at] = image;
    connection.state.bytes += chunk.length;
    total.bytes += chunk.length;
    socket.write(chunk);
  });
  socket.on('error', () => socket.destroy());
  socket.on('close', () => connections.delete(connection.id));
});

/** Node has no public word for it. */
const fdOf = ({ _handle: { fd } }) => fd;
const nextTurn = () => new Promise((resolve) => setImmediate(resolve));
const say = (text) => writeSync(1, `${JSON.stringify(text)}\n`);
const milliseconds = (from, to) => Number(to - from) / 1e6;

async function handOver() {
  const [own, other] = socketPair();
  spawn(process.execPath, [fileURLToPath(import.meta.url), String(image + 1)], {
    stdio: ['ignore', 'inherit', 'inherit', LIFELINE_FD, other],
  });
  closeSync(other);
  const receiver = new Receiver(own);
  watchFd(own, { readable: true }, () => {
    const open = receiver.receive((kind) => {
      if (kind === ADOPTED) cut(own, crossed);
      if (kind === SERVING) process.exit();
    });
    if (!open) throw new Error('the successor is gone');
  });
  send(own, LISTENER, [], [fdOf(server)]);
  const crossed = new Set();
  let batches = 0;
  for (let batch = takeBatch(crossed); batch.length > 0; batch = takeBatch(crossed)) {
    sendBatch(own, batch);
    if (++batches % BATCHES_A_TURN === 0) await nextTurn();
  }
  send(own, PRECOPIED);
}

function takeBatch(crossed) {
  const batch = [];
  for (const connection of connections.values()) {
    if (batch.length === BATCH) break;
    if (crossed.has(connection.id)) continue;
    crossed.add(connection.id);
    batch.push(connection);
  }
  return batch;
}

function sendBatch(fd, batch) {
  send(
    fd,
    CONNECTIONS,
    batch.map(({ id }) => id),
    batch.map(({ socket }) => fdOf(socket)),
  );
}

function cut(fd, crossed) {
  const at = process.hrtime.bigint();
  server.close();
  const states = [];
  for (const { id, socket, state } of connections.values()) {
    socket._handle.readStop();
    if (socket.writableLength + socket.readableLength > 0) throw new Error('bytes wait in user space');
    states.push([id, state]);
  }
  const pausedAt = process.hrtime.bigint();
  for (let batch = takeBatch(crossed); batch.length > 0; batch = takeBatch(crossed)) sendBatch(fd, batch);
  const delta = serialize({ at, pausedAt, sentAt: process.hrtime.bigint(), total, nextId, states });
  const memfd = createMemfd('delta', 0);
  writeSync(memfd, delta);
  send(fd, DELTA, [], [memfd]);
  closeSync(memfd);
}

function takeOver() {
  const adopted = new Map();
  let listenerFd;
  const receiver = new Receiver(DIRECT_FD);
  const watch = watchFd(DIRECT_FD, { readable: true }, () => {
    const open = receiver.receive((kind, ids, fds) => {
      if (kind === LISTENER) listenerFd = fds.shift();
      if (kind === CONNECTIONS) {
        for (const id of ids) {
          const socket = new net.Socket({
            fd: fds.shift(),
            readable: true,
            writable: true,
            manualStart: true,
          });
          adopted.set(id, socket);
        }
      }
      if (kind === PRECOPIED) send(DIRECT_FD, ADOPTED);
      if (kind === DELTA) void resume(read(fds.shift()), adopted, listenerFd, watch);
    });
    if (!open) process.exit(1);
  });
}

function read(memfd) {
  const bytes = Buffer.alloc(fstatSync(memfd).size);
  readSync(memfd, bytes, 0, bytes.length, 0);
  closeSync(memfd);
  return deserialize(bytes);
}

/** As in our own measure, the blackout ends with the first bytes that waited, or when the event loop has turned. */
async function resume(delta, adopted, listenerFd, watch) {
  const receivedAt = process.hrtime.bigint();
  Object.assign(total, delta.total);
  nextId = delta.nextId;
  for (const [id, state] of delta.states) {
    const socket = adopted.get(id);
    adopted.delete(id);
    socket.carried = { id, socket, state };
    server.emit('connection', socket);
    socket.read(0);
  }
  for (const socket of adopted.values()) socket.destroy();
  server.listen({ fd: listenerFd }, BACKLOG);
  await nextTurn();
  await nextTurn();
  const resumedAt = firstAt ?? process.hrtime.bigint();
  watch.close();
  send(DIRECT_FD, SERVING);
  say({
    pid: process.pid,
    connections: delta.states.length,
    blackoutMs: milliseconds(delta.at, resumedAt),
    pauseMs: milliseconds(delta.at, delta.pausedAt),
    deltaMs: milliseconds(delta.pausedAt, receivedAt),
    attachMs: milliseconds(receivedAt, resumedAt),
  });
}

new net.Socket({ fd: LIFELINE_FD }).on('end', () => process.exit()).resume();
process.on('SIGUSR2', () => void handOver());
if (image > 1) {
  takeOver();
} else {
  server.listen(Number(process.env.PORT), '127.0.0.1', BACKLOG, () => say({ pid: process.pid }));
}

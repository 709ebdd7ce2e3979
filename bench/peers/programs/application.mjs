/**
 * The service that every system of the comparison updates: the same code, whoever runs it.
 *
 * HTTP: `GET /N` is answered with 1 KiB: the number N, who answers, and letters that depend on N, so that a client knows every byte it is to
 * get but for the pid. Headers say the version, a counter of all requests, and the cache's stamp: both live in memory.
 *
 * `GET /events` is answered with an event stream, see event-streams.mjs.
 *
 * TCP: bytes 1 to 255 come back changed by their position in the connection, which the server has to remember. Byte 0 asks for the version.
 */
import { readFileSync } from 'node:fs';
import http from 'node:http';
import { EVENTS_PATH } from './event-streams.mjs';

export const BODY_BYTES = 1024;
const LETTERS = Buffer.alloc(BODY_BYTES + 26, 'abcdefghijklmnopqrstuvwxyz');

/** What a client must get for request `number`, but for the beginning. */
export function lettersOf(number) {
  return LETTERS.subarray(number % 26, (number % 26) + BODY_BYTES);
}

/** The byte that stands at `offset` of what the client with `seed` sends: never 0. */
export function sentByte(seed, offset) {
  return ((seed * 31 + offset * 7 + (offset >> 8)) % 255) + 1;
}

/** How the server changes the byte at `offset` of a connection. */
export function changed(byte, offset) {
  return byte ^ ((offset * 5 + (offset >> 7)) & 255);
}

/** The code's version: what was deployed last, as this process started. */
export function deployedVersion() {
  return readFileSync(process.env.VERSION_FILE, 'utf8');
}

/** A cache's stamp tells it from every other. A stamped cache has all its pages touched. */
export function stamp(cache) {
  cache.fill(1);
  new DataView(cache.buffer, cache.byteOffset).setFloat64(0, Math.random());
}

function stampOf(cache) {
  return Buffer.from(cache.buffer, cache.byteOffset, 8).toString('hex');
}

/** `counter.count` counts the requests; `openStream(request, response)` takes each event stream, its head not yet sent. */
export function createHttpServer({ version, counter, cache, openStream }) {
  const cacheStamp = stampOf(cache);
  const server = http.createServer((request, response) => {
    if (request.url === EVENTS_PATH) {
      response.writeHead(200, {
        'Content-Type': 'text/event-stream',
        'Cache-Control': 'no-store',
        // nginx would have an event wait for others.
        'X-Accel-Buffering': 'no',
      });
      openStream(request, response);
      return;
    }
    const number = Number(request.url.slice(1));
    const start = `request ${number} version ${version} pid ${process.pid}\n`;
    const body = Buffer.from(lettersOf(number));
    body.write(start, 'latin1');
    response.writeHead(200, {
      'Content-Type': 'text/plain',
      'Content-Length': BODY_BYTES,
      'X-Version': version,
      'X-Counter': ++counter.count,
      'X-Cache': cacheStamp,
    });
    response.end(body);
  });
  // A connection that is silent is alive all the same.
  server.keepAliveTimeout = 0;
  server.requestTimeout = 0;
  server.headersTimeout = 0;
  return server;
}

/** Serves a TCP connection. `state.offset` is what has to be remembered of it. */
export function talk(socket, state, version) {
  socket.setNoDelay(true);
  socket.on('data', (bytes) => {
    const answer = Buffer.allocUnsafe(bytes.length);
    let length = 0;
    for (const byte of bytes) {
      if (byte !== 0) answer[length++] = changed(byte, state.offset++);
    }
    if (length > 0) socket.write(answer.subarray(0, length));
    if (length < bytes.length) socket.write(Buffer.concat([Buffer.from([0]), Buffer.from(version)]));
  });
  socket.on('error', () => socket.destroy());
}

/** Tells the benchmark, by a line, that this version serves. */
export function sayServing(version) {
  process.stdout.write(`${JSON.stringify({ version, pid: process.pid })}\n`);
}

/** Ports and sizes, as the benchmark gives them. */
export function settings() {
  const { HTTP_PORT, TCP_PORT, CACHE_BYTES } = process.env;
  return { httpPort: Number(HTTP_PORT), tcpPort: Number(TCP_PORT), cacheBytes: Number(CACHE_BYTES) };
}

/** Many connect at once. */
export const BACKLOG = 4096;

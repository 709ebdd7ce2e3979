/**
 * A cache that speaks Redis's protocol and loses no key: not by an update, not by its own death.
 *
 *     luod run -- node examples/cache/server.mjs [--port 6379] [--host 127.0.0.1] [--megabytes 64] [--evict]
 *
 * Keys are in `lu.memory`, whose pages outlive whoever writes them (store.mjs); connections cross with what had come of a request
 * (requests.mjs). Nothing else is kept. PORT, HOST and MEGABYTES of the environment stand in for the flags.
 */
import net from 'node:net';
import { parseArgs } from 'node:util';
import { liveupdate } from 'liveupdate';
import { answer } from './commands.mjs';
import { Replies } from './replies.mjs';
import { feed, newInput, nextRequest, ProtocolError } from './requests.mjs';
import { Store } from './store.mjs';

/** So many bytes of replies are sent before the next request is answered: a client that reads none stops being served. */
const REPLY_BYTES = 256 * 1024;
/** All slots are looked at for expired keys in so many turns. */
const SWEEPS = 100;
const SWEEP_EVERY_MS = 100;

const { values: flags } = parseArgs({
  options: {
    host: { type: 'string', default: process.env.HOST ?? '127.0.0.1' },
    port: { type: 'string', default: process.env.PORT ?? '6379' },
    megabytes: { type: 'string', default: process.env.MEGABYTES ?? '64' },
    evict: { type: 'boolean', default: false },
  },
});

function whole(name, least, most) {
  const value = Number(flags[name]);
  if (Number.isInteger(value) && value >= least && value <= most) return value;
  process.stderr.write(`--${name} takes a whole number from ${least} to ${most}, not '${flags[name]}'\n`);
  process.exit(2);
}

const port = whole('port', 0, 65_535);
const megabytes = whole('megabytes', 1, 4096);

const lu = await liveupdate();
const store = new Store(await lu.memory('cache', megabytes * 1024 * 1024), { evicts: flags.evict });
if (lu.origin === 'crash' || lu.origin === 'kexec') {
  const { keys, damaged } = store.recover();
  process.stderr.write(`cache: ${keys} keys are there after a ${lu.origin}, ${damaged} are damaged\n`);
}

const out = new Replies();
const facts = { generation: lu.generation, origin: lu.origin, evicts: flags.evict };

const server = net.createServer({ noDelay: true }, (socket) => {
  const conn = lu.connection(socket);
  // All that this program knows of a connection, as plain data: it is as it was on one that crossed.
  conn.state ??= { protocol: 2, name: '', isOver: false, input: newInput() };
  const context = { store, out, facts, state: conn.state };
  const serve = () => {
    while (!socket.writableNeedDrain && !conn.state.isOver) {
      const isMore = answerSome(context);
      if (out.length > 0) socket.write(out.take());
      if (conn.state.isOver) socket.end();
      if (!isMore) return;
    }
    // What has been asked stays in `input`, what has not been read in the socket.
    if (!conn.state.isOver) socket.pause();
  };
  socket.on('data', (bytes) => {
    if (conn.state.isOver) return;
    feed(conn.state.input, bytes);
    serve();
  });
  socket.on('drain', () => {
    socket.resume();
    serve();
  });
  socket.on('error', () => socket.destroy());
  // The version before may have stopped in the midst of many requests.
  if (conn.crossed) serve();
});

/** Answers what is complete. @returns whether there may be more. */
function answerSome(context) {
  const { state } = context;
  out.protocol = state.protocol;
  try {
    while (out.length < REPLY_BYTES && !state.isOver) {
      const request = nextRequest(state.input);
      if (request === undefined) return false;
      answer(context, request);
    }
    return true;
  } catch (error) {
    if (!(error instanceof ProtocolError)) throw error;
    out.error(`ERR Protocol error: ${error.message}`);
    state.isOver = true;
    return false;
  }
}

await lu.listen('cache', server, { host: flags.host, port, backlog: 4096 });
await lu.ready();

let slot = 0;
setInterval(() => {
  slot = store.sweep(slot, Math.ceil(store.slots / SWEEPS));
}, SWEEP_EVERY_MS).unref();

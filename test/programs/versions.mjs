/**
 * A program of which there are several versions: an echo server that counts its bytes in a state, whose shape each version
 * changes. Versions 1 and 2 of it also keep a file of a handler of their own; the second writes what it has in a new form
 * and reads the old one as well.
 *
 *     node versions.mjs VERSION [what else is different]
 *
 * What the bytes are called:   1  { count }   2  { bytes }   3  { bytes, seen: Map of generation to bytes }
 */
import net from 'node:net';
import { handleOf, liveupdate, toSerializedData } from 'liveupdate';

const [version, ...differences] = process.argv.slice(2);
const { PORT, CONTROL } = process.env;
const is = (difference) => differences.includes(difference);

const lu = await liveupdate();
const events = [];
for (const name of ['freeze', 'unfreeze', 'rollback']) lu.on(name, () => events.push(name));

const made = {
  1: () => ({ count: 0 }),
  2: () => ({ bytes: 0 }),
  3: () => ({ bytes: 0, seen: new Map() }),
};

let runs = 0;
function migrate(stats, from) {
  runs++;
  if (is('throws') || (is('throws-in-the-cut') && runs === 2)) throw new Error(`cannot read ${from}`);
  if (is('goes-back')) return from < 2 ? stats : { count: stats.bytes };
  if (from < 2) stats = { bytes: stats.count };
  if (from < 3 && version === '3') stats.seen = new Map();
  return stats;
}

const stats = await lu.state('stats', made[version], {
  version: is('goes-back') ? 3 : Number(version),
  migrate: is('no-migrate') ? undefined : migrate,
});
const preview = { ...stats };
await lu.memory('table', is('more-memory') ? 8192 : 4096);

/** A ticket: a live thing of the program's own, and two forms in which it crosses. */
class Ticket {
  constructor(number) {
    this.number = number;
  }
}

function ticketHandler(compatible, encode, decode) {
  const { handover } = lu;
  const adopt = (handle) =>
    handover.incoming.adopt(handle, () => new Ticket(decode(handover.incoming.bytes(handle))));
  return {
    compatible,
    adopt,
    ops: {
      canPreserve: (_handler, file) => file instanceof Ticket,
      preserve(args) {
        args.serializedData = toSerializedData(handover.outgoing.put(encode(args.file.number)));
      },
      unpreserve: (args) => handover.outgoing.drop(handleOf(args.serializedData)),
      retrieve(args) {
        args.file = adopt(handleOf(args.serializedData));
      },
      finish: (args) => handover.incoming.drop(handleOf(args.serializedData)),
    },
  };
}

const one = ticketHandler(
  'ticket-v1',
  (number) => Buffer.from(String(number)),
  (bytes) => Number(Buffer.from(bytes).toString()),
);
const two = ticketHandler(
  'ticket-v2',
  (number) => Buffer.from([number]),
  (bytes) => bytes[0],
);
// The first that takes a file writes it; every one reads what was written by its name.
const handlers = { 1: [one], 2: [two, one], 3: [two, one] }[version];
for (const handler of is('writes-the-old-form') ? [one, two] : handlers) {
  if (!is('no-handler')) lu.registerHandler(handler);
}
const ticket = is('no-handler') ? undefined : await lu.keep('ticket', () => new Ticket(42));

function add(bytes) {
  if (version === '1') stats.count += bytes;
  else stats.bytes += bytes;
  if (version === '3') stats.seen.set(lu.generation, (stats.seen.get(lu.generation) ?? 0) + bytes);
}

const server = net.createServer((socket) => {
  socket.on('data', (chunk) => {
    add(chunk.length);
    socket.write(chunk);
  });
  socket.on('error', () => socket.destroy());
});

const control = net.createServer((socket) => {
  const { generation, origin } = lu;
  const seen = [...(stats.seen ?? [])];
  const report = { version, generation, origin, stats: { ...stats, seen }, preview, ticket, runs, events };
  socket.on('error', () => socket.destroy());
  socket.end(JSON.stringify({ pid: process.pid, ...report }));
});

await lu.listen('echo', server, { host: '127.0.0.1', port: Number(PORT) });
await lu.listen('control', control, { path: CONTROL });
await lu.ready({ drop: is('no-handler') ? ['keep:ticket'] : [] });

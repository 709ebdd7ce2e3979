/**
 * A chat and counter server that keeps everything across updates: its listener, its live connections with the name and
 * count of each, a total in memory, and the room's history. Run it by `luod run -- node examples/chat/server.mjs`.
 *
 * The talk is lines. `name X` gives yourself a name, `say TEXT` tells everybody in the room, `count N` must be the number
 * after the one before on this connection and is answered by `counted N`; anything else is answered by `what?`.
 */
import net from 'node:net';
import { liveupdate } from 'liveupdate';

const HISTORY = 20;

const lu = await liveupdate();
const room = await lu.state('room', () => ({ said: [], joined: 0 }));
const totals = new BigUint64Array(await lu.memory('totals', 4096));
const members = new Set();

const server = net.createServer((socket) => {
  const conn = lu.connection(socket);
  if (conn.state === undefined) {
    room.joined++;
    conn.state = { name: `guest ${room.joined}`, counted: 0, partial: '' };
  }
  members.add(socket);
  socket.setEncoding('utf8');
  socket.on('data', (text) => {
    const lines = (conn.state.partial + text).split('\n');
    conn.state.partial = lines.pop();
    for (const line of lines) hear(socket, conn.state, line);
  });
  socket.on('error', () => socket.destroy());
  socket.on('close', () => members.delete(socket));
});

function hear(socket, member, line) {
  const [word, ...rest] = line.split(' ');
  if (word === 'count') {
    const number = Number(rest[0]);
    if (number !== member.counted + 1) socket.write(`expected ${member.counted + 1}, not ${number}\n`);
    member.counted = number;
    totals[0]++;
    socket.write(`counted ${number}\n`);
  } else if (word === 'name') {
    member.name = rest.join(' ');
    socket.write(`hello ${member.name}\n`);
  } else if (word === 'say') {
    const said = `${member.name}: ${rest.join(' ')}`;
    room.said.push(said);
    if (room.said.length > HISTORY) room.said.shift();
    for (const other of members) other.write(`${said}\n`);
  } else {
    socket.write('what?\n');
  }
}

await lu.listen('chat', server, { host: '127.0.0.1', port: Number(process.env.PORT ?? 7000), backlog: 4096 });
await lu.ready();

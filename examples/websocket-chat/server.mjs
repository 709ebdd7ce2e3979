/**
 * A chat in the browser, with rooms. Its WebSockets cross every update: nobody is disconnected, nobody types a name again, and no
 * message is lost. Run it by `luod run -- node examples/websocket-chat/server.mjs`.
 *
 *   GET /                the page
 *   WebSocket /ROOM      JSON. A client says { nick } or { text }; it is told { n, nick, text } for each message in the room, n
 *                        being its number there, and on its arrival the last of them; and { room, nick, members, generation }
 */
import { readFile } from 'node:fs/promises';
import http from 'node:http';
import { liveupdate } from 'liveupdate';
import { WebSocketServer } from 'ws';

const HISTORY = 50;
const HEARTBEAT_MS = 30_000;

const lu = await liveupdate();
const chat = await lu.state('chat', () => ({ rooms: new Map(), guests: 0 }));
const page = await readFile(new URL('page.html', import.meta.url));

const server = http.createServer((request, response) => {
  if (request.url !== '/') response.writeHead(404).end();
  else response.setHeader('Content-Type', 'text/html; charset=utf-8').end(page);
});

const wss = new WebSocketServer({ server, maxPayload: 4096 });
wss.on('connection', (ws, request) => {
  const conn = lu.connection(ws);
  // Undefined for one that is new; who crossed has it, and has been greeted.
  if (conn.state === undefined) {
    conn.state = {
      room: decodeURIComponent(request.url.slice(1)) || 'lobby',
      nick: `guest ${++chat.guests}`,
    };
    for (const message of roomOf(conn.state.room).said) tell(ws, message);
    greet(ws, conn.state);
  }
  ws.isAlive = true;
  ws.on('pong', () => {
    ws.isAlive = true;
  });
  ws.on('message', (data) => hear(ws, conn.state, data));
  ws.on('error', () => ws.terminate());
});

function roomOf(name) {
  if (!chat.rooms.has(name)) chat.rooms.set(name, { count: 0, said: [] });
  return chat.rooms.get(name);
}

function tell(ws, message) {
  ws.send(JSON.stringify(message));
}

function membersOf(room) {
  return [...wss.clients].filter((ws) => lu.connection(ws).state?.room === room);
}

function greet(ws, { room, nick }) {
  tell(ws, { room, nick, members: membersOf(room).length, generation: lu.generation });
}

function hear(ws, member, data) {
  let said;
  try {
    said = JSON.parse(data);
  } catch {
    ws.close(1007, 'not JSON');
    return;
  }
  if (typeof said?.nick === 'string' && said.nick !== '') {
    member.nick = said.nick.slice(0, 40);
    greet(ws, member);
  }
  if (typeof said?.text !== 'string') return;
  const room = roomOf(member.room);
  const message = { n: ++room.count, nick: member.nick, text: said.text };
  room.said.push(message);
  if (room.said.length > HISTORY) room.said.shift();
  for (const other of membersOf(member.room)) tell(other, message);
}

setInterval(() => {
  for (const ws of wss.clients) {
    if (!ws.isAlive) ws.terminate();
    ws.isAlive = false;
    ws.ping();
  }
}, HEARTBEAT_MS).unref();

lu.webSockets('chat', wss);
await lu.listen('web', server, { host: '127.0.0.1', port: Number(process.env.PORT ?? 7001), backlog: 4096 });
await lu.ready();

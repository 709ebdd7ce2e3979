/**
 * WebSockets under test, of the package ws, on an HTTP server. Every message comes back as it came, text as text; and as in any
 * server of its kind there is a heartbeat, a subprotocol, and something that is told to all clients.
 *
 *   /echo              what the clients send; DEFLATE is the JSON of its `perMessageDeflate`
 *                      who does not answer a ping in BEAT_MS is ended
 *   /ticks             what is told to all
 *   GET /about         generation, pid, the number of clients, and the sum of what the connections have counted
 *   GET /tell/N        sends the next N numbers to every client of /ticks
 *   GET /blob/X        sends every client of /ticks a Blob that can be read when there is a file HOLD/X
 *   GET /hold/X        upgrades to /late?X are completed when there is a file HOLD/X
 */
import http from 'node:http';
import { liveupdate } from 'liveupdate';
import { WebSocketServer } from 'ws';
import { released } from './released.mjs';

const { PORT, DEFLATE, WITHOUT, DROP, BEAT_MS = '60000' } = process.env;

const lu = await liveupdate();
const ticks = await lu.state('ticks', () => ({ next: 0 }));

const perMessageDeflate = DEFLATE === undefined ? false : JSON.parse(DEFLATE);
const echo = new WebSocketServer({ noServer: true, perMessageDeflate, maxPayload: 8 << 20 });
const told = new WebSocketServer({ noServer: true, perMessageDeflate: {} });

echo.on('connection', (ws, request) => {
  const conn = lu.connection(ws);
  conn.state ??= { born: lu.generation, messages: 0, url: request.url };
  ws.isAlive = true;
  ws.on('pong', () => {
    ws.isAlive = true;
  });
  ws.on('message', (bytes, isBinary) => {
    conn.state.messages++;
    if (isBinary || bytes.toString() !== 'who') return ws.send(bytes, { binary: isBinary });
    const { url, headers, socket } = request;
    const { protocol, extensions } = ws;
    const about = { generation: lu.generation, state: conn.state, url, agent: headers['user-agent'] };
    ws.send(JSON.stringify({ ...about, protocol, extensions, port: socket.remotePort }));
  });
});

told.on('connection', (ws) => {
  ws.on('message', (bytes) => ws.close(1000, bytes.toString()));
});

class SlowBlob extends Blob {
  #word;
  constructor(word) {
    super([word]);
    this.#word = word;
  }
  async arrayBuffer() {
    await released(this.#word);
    return super.arrayBuffer();
  }
}

function tell(count) {
  for (let i = 0; i < count; i++) {
    ticks.next++;
    for (const ws of told.clients) ws.send(String(ticks.next));
  }
}

const server = http.createServer((request, response) => {
  const [, what, value] = request.url.split('/');
  if (what === 'tell') tell(Number(value));
  if (what === 'blob') for (const ws of told.clients) ws.send(new SlowBlob(value));
  const sum = [...echo.clients].reduce((all, ws) => all + lu.connection(ws).state.messages, 0);
  const clients = { echo: echo.clients.size, told: told.clients.size };
  response.end(JSON.stringify({ generation: lu.generation, pid: process.pid, clients, sum, word: what }));
});
server.keepAliveTimeout = 0;
server.on('upgrade', async (request, socket, head) => {
  const { pathname, search } = new URL(request.url, 'http://test');
  if (pathname === '/late') await released(search.slice(1));
  const wss = pathname === '/ticks' ? told : echo;
  wss.handleUpgrade(request, socket, head, (ws) => wss.emit('connection', ws, request));
});

lu.webSockets('echo', echo);
if (WITHOUT !== 'ticks') lu.webSockets('ticks', told);
await lu.listen('web', server, { port: Number(PORT), host: '127.0.0.1', backlog: 4096 });

setInterval(() => {
  for (const ws of echo.clients) {
    if (!ws.isAlive) ws.terminate();
    ws.isAlive = false;
    ws.ping('beat');
  }
}, Number(BEAT_MS)).unref();

await lu.ready(DROP === undefined ? {} : { drop: [DROP] });

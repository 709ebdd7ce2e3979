/** A WebSocket service: echoes, with a state for each connection. DEFLATE: 'yes' compresses, with windows that remember. */
import http from 'node:http';
import { liveupdate } from 'liveupdate';
import { WebSocketServer } from 'ws';

const lu = await liveupdate();
const server = http.createServer();
const wss = new WebSocketServer({
  server,
  perMessageDeflate: process.env.DEFLATE === 'yes' ? { threshold: 0 } : false,
});
wss.on('connection', (ws) => {
  const conn = lu.connection(ws);
  conn.state ??= { messages: 0 };
  ws.on('message', (data, isBinary) => {
    conn.state.messages++;
    // A long one only fills the window.
    if (data.length < 1000) ws.send(data, { binary: isBinary });
  });
});
lu.webSockets('echo', wss);
await lu.listen('web', server, { host: '127.0.0.1', port: Number(process.env.PORT), backlog: 4096 });
await lu.ready();

/**
 * An event stream under test: whoever asks for /events is told numbers, each once.
 *
 *   GET /events        an event stream
 *   GET /emit/N        tells the next N numbers to all, two writes for each
 *   GET /end           ends all streams
 *   GET /bad           opens a stream with a Content-Length; answers by the error's code
 */
import http from 'node:http';
import { liveupdate } from 'liveupdate';

const { PORT, WITHOUT, DROP } = process.env;

const lu = await liveupdate();
const numbers = await lu.state('numbers', () => ({ next: 0 }));
const listeners = new Set();

const take = (response, request) => {
  const conn = lu.connection(response);
  if (conn.state === undefined) response.write(`: ${request.url}\n\n`);
  conn.state ??= { born: lu.generation, told: 0, url: request.url };
  listeners.add(response);
  response.on('close', () => listeners.delete(response));
};
const open = WITHOUT === undefined ? lu.streams('events', take) : () => undefined;

function emit(count) {
  for (let i = 0; i < count; i++) {
    numbers.next++;
    for (const response of listeners) {
      response.write(`id: ${numbers.next}\n`);
      response.write(`data: from ${lu.generation}\n\n`);
      lu.connection(response).state.told++;
    }
  }
}

const server = http.createServer((request, response) => {
  const [, what, value] = request.url.split('/');
  if (what === 'events') {
    response.writeHead(200, { 'Content-Type': 'text/event-stream' });
    open(request, response);
    return;
  }
  if (what === 'bad') {
    try {
      response.writeHead(200, { 'Content-Length': 5 });
      open(request, response);
    } catch (error) {
      response.end(error.code);
    }
    return;
  }
  if (what === 'emit') emit(Number(value));
  const states = [...listeners].map((stream) => lu.connection(stream).state);
  if (what === 'end') for (const stream of listeners) stream.end('data: the end\n\n');
  response.end(JSON.stringify({ generation: lu.generation, next: numbers.next, states }));
});
server.keepAliveTimeout = 0;

await lu.listen('web', server, { port: Number(PORT), host: '127.0.0.1' });
await lu.ready(DROP === undefined ? {} : { drop: [DROP] });

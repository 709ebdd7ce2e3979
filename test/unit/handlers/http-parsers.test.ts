import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import { type AddressInfo, connect, createServer as createNetServer, type Socket } from 'node:net';
import { afterEach, expect, it } from 'vitest';
import { HttpParsers } from '../../../src/handlers/http-parsers.js';

const REQUEST = 'GET / HTTP/1.1\r\nhost: a\r\n\r\n';
const closing: { close(): unknown }[] = [];

afterEach(() => {
  for (const closable of closing.splice(0)) closable.close();
});

/** A client, and the server's end of its connection, of which `server` is told by a listener that is not its own. */
async function crossed(server: Server): Promise<{ client: Socket; socket: Socket }> {
  const listener = createNetServer().listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const client = connect((listener.address() as AddressInfo).port, '127.0.0.1');
  const [socket] = (await once(listener, 'connection')) as [Socket];
  closing.push(listener, { close: () => client.destroy() }, { close: () => socket.destroy() });
  server.emit('connection', socket);
  return { client, socket };
}

const parserOf = (socket: Socket) => (socket as Socket & { parser: object }).parser;

it('tells a connection between two requests from one with a request under way, on a server that does not listen yet', async () => {
  const server = createServer((_request, response) => response.end('ok'));
  const parsers = HttpParsers.of(server);
  closing.push(server);
  const { client, socket } = await crossed(server);
  const isIdle = () => parsers.idle().has(parserOf(socket));

  client.write(REQUEST);
  await once(client, 'data');
  expect(isIdle()).toBe(true);

  const heard = once(socket, 'data');
  // A parser that reads by itself shows nothing of what comes; one behind a listener is given everything.
  client.write(REQUEST.slice(0, 1));
  await heard;
  expect(isIdle()).toBe(false);

  client.write(REQUEST.slice(1));
  await once(client, 'data');
  expect(isIdle()).toBe(true);
});

it('goes on with the same list when the server listens', async () => {
  const server = createServer((_request, response) => response.end('ok'));
  const parsers = HttpParsers.of(server);
  const { client, socket } = await crossed(server);
  closing.push(server);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  client.write(REQUEST);
  await once(client, 'data');
  expect([...parsers.idle()]).toEqual([parserOf(socket)]);
});

it('refuses a Node that keeps no list', () => {
  const server = createServer();
  server.removeAllListeners('listening');
  expect(() => HttpParsers.of(server)).toThrow(
    expect.objectContaining({ code: 'ENOSYS', message: expect.stringContaining(process.versions.node) }),
  );
});

/** What a client makes of a luod that ends its connection. */
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { LuodClient } from '../../../src/app/luod-client.js';
import { countDescriptors } from '../linux/descriptors.js';

countDescriptors();

let folder: string;
let server: Server;
let connections: number;
/** What luod does with a request on its connection of this number, from 1 on. */
let answer: (socket: Socket, connection: number) => void;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'liveupdate-client-'));
  connections = 0;
  server = createServer((socket) => {
    const connection = ++connections;
    socket.on('error', () => undefined);
    socket.on('data', () => answer(socket, connection));
  }).listen(join(folder, 'luod.sock'));
  await once(server, 'listening');
});

afterEach(async () => {
  server.close();
  await once(server, 'close');
  rmSync(folder, { recursive: true });
});

const hello = '{"type":"reply","id":1,"ok":true,"protocol":1,"version":"1","limits":{}}\n';

it('asks again on another connection when the first ended before a word came on it', async () => {
  answer = (socket, connection) => {
    if (connection < 3) socket.destroy();
    else socket.write(hello);
  };
  const client = await LuodClient.connect(join(folder, 'luod.sock'));
  expect(await client.hello()).toMatchObject({ version: '1' });
  expect(connections).toBe(3);
  client.close();
});

it('tells at last when every connection ends so', async () => {
  answer = (socket) => socket.destroy();
  const client = await LuodClient.connect(join(folder, 'luod.sock'));
  await expect(client.hello()).rejects.toThrow(/EPIPE|ECONNRESET/);
  expect(connections).toBe(10);
  client.close();
});

it('does not ask again what was refused, or what a luod may have done', async () => {
  answer = (socket) => socket.end('{"type":"refused","error":{"code":"EMFILE","message":"full"}}\n');
  const refused = await LuodClient.connect(join(folder, 'luod.sock'));
  await expect(refused.hello()).rejects.toThrow(/full/);
  refused.close();
  answer = (socket) => {
    answer = () => socket.destroy();
    socket.write(hello);
  };
  const client = await LuodClient.connect(join(folder, 'luod.sock'));
  await client.hello();
  await expect(client.createSession('s')).rejects.toThrow(/EPIPE|ECONNRESET/);
  expect(connections).toBe(2);
  client.close();
});

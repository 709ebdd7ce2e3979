// A cache service: 64 MiB of memory, a state and a listener. It answers each line with what it has.
//
//   get            what it is and has, as JSON
//   ping           the same, without looking at every word of the memory
//   put NUMBER     fills the memory with the pattern of that number and counts it in the state
//
// SOCKET, a path: it listens there as well, makes the folder itself, and keeps a connection to it.
// FAIL_FREEZE, a path: while that file exists, the program refuses to freeze.

import { once } from 'node:events';
import { existsSync, mkdirSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { dirname } from 'node:path';
import { liveupdate } from '../../dist/index.js';

const SIZE = 64 << 20;
const lu = await liveupdate();
const words = new Uint32Array(await lu.memory('cache', SIZE));
const state = await lu.state('counts', () => ({ puts: 0, number: 0, history: new Map() }));

lu.on('freeze', () => {
  const path = process.env.FAIL_FREEZE;
  if (path !== undefined && existsSync(path)) throw new Error('not now');
});

function fill(number) {
  for (let at = 0; at < words.length; at++) words[at] = (at * 2654435761 + number) >>> 0;
  state.puts++;
  state.number = number;
  state.history.set(state.puts, number);
}

/** How many words are not what was put last. */
function wrong() {
  let count = 0;
  for (let at = 0; at < words.length; at++) {
    if (words[at] !== (at * 2654435761 + state.number) >>> 0) count++;
  }
  return count;
}

function serve(socket) {
  let line = '';
  socket.setEncoding('utf8').on('data', (text) => {
    line += text;
    for (let end = line.indexOf('\n'); end !== -1; end = line.indexOf('\n')) {
      const [command, number] = line.slice(0, end).split(' ');
      line = line.slice(end + 1);
      if (command === 'put') fill(Number(number));
      const { origin, generation } = lu;
      const answer = { origin, generation, puts: state.puts, history: [...state.history] };
      if (command !== 'ping') answer.wrong = wrong();
      socket.write(`${JSON.stringify(answer)}\n`);
    }
  });
  socket.on('error', () => socket.destroy());
}

const server = createServer(serve);
await lu.listen('cache', server, { host: '127.0.0.1', port: Number(process.env.PORT ?? 0) });
const { SOCKET } = process.env;
if (SOCKET !== undefined) {
  mkdirSync(dirname(SOCKET), { recursive: true });
  await lu.listen('local', createServer(serve), { path: SOCKET });
  // A socket of this kernel alone.
  await lu.keep('peer', async () => {
    const socket = connect(SOCKET);
    await once(socket, 'connect');
    return socket;
  });
}
await lu.ready();
console.log(`ready ${lu.origin} ${lu.generation} ${server.address().port}`);

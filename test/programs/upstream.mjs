/**
 * A program with a connection of its own to a server (UPSTREAM is its port or path), kept for all generations; each says its number on it
 * and tells on stderr what it was answered. With the word 'extra' it also keeps a state, with 'drop' it gives that up.
 */
import { once } from 'node:events';
import net from 'node:net';
import { liveupdate } from 'liveupdate';

const [word] = process.argv.slice(2);
const lu = await liveupdate();
if (word === 'extra') await lu.state('extra', () => ({}));
const { UPSTREAM } = process.env;
if (UPSTREAM) {
  const socket = await lu.keep('upstream', async () => {
    const made = /^\d+$/.test(UPSTREAM) ? net.connect(Number(UPSTREAM), '127.0.0.1') : net.connect(UPSTREAM);
    await once(made, 'connect');
    return made;
  });
  socket.setEncoding('utf8');
  socket.on('data', (text) => process.stderr.write(`generation ${lu.generation} was told ${text}\n`));
  await lu.ready();
  socket.write(String(lu.generation));
} else {
  setInterval(() => undefined, 2 ** 30);
  await lu.ready(word === 'drop' ? { drop: ['state:extra'] } : {});
}

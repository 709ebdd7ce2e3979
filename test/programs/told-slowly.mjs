/**
 * A program that takes its time with every connection that it is told of, and ends the first that came with an update. Behind ready() it opens a port that
 * it does not keep. It writes what happens to the file LOG, a line each.
 */
import { appendFileSync, readFileSync } from 'node:fs';
import net from 'node:net';
import { liveupdate } from 'liveupdate';

const say = (what) => appendFileSync(process.env.LOG, `${what} ${lu.generation}\n`);
const sayNice = () => {
  if (process.env.TELLS_NICE)
    say(readFileSync('/proc/self/autogroup', 'latin1').trim().split(' ').slice(1).join(' '));
};
const lu = await liveupdate();
sayNice();
if (lu.origin === 'update') say(`started ${performance.now()}`);
let isFirst = lu.origin === 'update';
const server = net.createServer((socket) => {
  lu.connection(socket);
  socket.on('error', () => socket.destroy());
  const until = performance.now() + Number(process.env.SLOW_MS ?? 2);
  if (lu.origin === 'update') while (performance.now() < until);
  say('connection');
  if (isFirst && process.env.ENDS_FIRST) socket.destroy();
  isFirst = false;
  socket.on('data', (bytes) => socket.write(bytes));
});
lu.on('finish', () => say('finish'));
process.on('exit', () => say('exit'));
await lu.listen('echo', server, { host: '127.0.0.1', port: Number(process.env.PORT) });
await lu.ready();
sayNice();
if (process.env.OWN_PORT) {
  const own = net.createServer((socket) => socket.end(String(lu.generation)));
  own.on('error', ({ code }) => say(code));
  own.listen(Number(process.env.OWN_PORT), '127.0.0.1', () => say('listening'));
}

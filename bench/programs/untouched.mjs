/** A service with much memory of which it has touched the first page and the last one. */
import net from 'node:net';
import { liveupdate } from 'liveupdate';

const lu = await liveupdate();
const memory = new Uint8Array(await lu.memory('cache', Number(process.env.MEMORY)));
if (lu.origin === 'fresh') {
  memory[0] = 1;
  memory[memory.length - 1] = 2;
} else if (memory[0] !== 1 || memory[memory.length - 1] !== 2) {
  throw new Error('the memory that came is not the memory that was left');
}
await lu.listen('silent', net.createServer(), { host: '127.0.0.1', port: 0 });
await lu.ready();

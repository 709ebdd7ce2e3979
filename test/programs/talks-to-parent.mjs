/** A child of Node's own kind, which answers its parent on the channel, and updates itself in place at the word 'update'. */
import { liveupdate } from 'liveupdate';

const lu = await liveupdate();
process.on('message', (message) => {
  if (message === 'update') void lu.update();
  else process.send({ heard: message.hello, generation: lu.generation, pid: process.pid });
});
await lu.ready();
process.stdout.write(`generation ${lu.generation} serves\n`);

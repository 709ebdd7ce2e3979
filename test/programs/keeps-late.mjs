/** Asks for memory at the first SIGUSR2, long after ready(), and says at each whether it has it. Lives on without anything else. */
import { liveupdate } from 'liveupdate';

const lu = await liveupdate();
const say = (text) => process.stderr.write(`generation ${lu.generation} ${text}\n`);
let late;
setInterval(() => undefined, 2 ** 30);
process.on('SIGUSR2', () => {
  if (late === undefined) {
    late = 'waits for it';
    void lu.memory('late', 4096).then(() => {
      late = 'has it';
      say('was given it');
    });
  }
  say(late);
});
await lu.ready();

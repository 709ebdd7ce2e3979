/** Asks liveupdate for what it must refuse, and says in one line what it answered. */
import net from 'node:net';
import { liveupdate } from 'liveupdate';

const lu = await liveupdate();
const cases = {
  'two-listeners': async () => {
    await lu.listen('same', net.createServer(), { port: 0 });
    await lu.listen('same', net.createServer(), { port: 0 });
  },
  'port-taken': () =>
    lu.listen('one', net.createServer(), { host: '127.0.0.1', port: Number(process.env.PORT) }),
  'state-not-cloneable': () => lu.state('s', () => ({ f: () => 1 })),
  'state-no-object': () => lu.state('s', () => 5),
  'memory-too-large': () => lu.memory('m', 2 ** 44),
  'memory-no-size': () => lu.memory('m', -1),
  'name-too-long': () => lu.state('x'.repeat(80), () => ({})),
  'unknown-socket': () => lu.connection(new net.Socket()),
  'ready-twice': async () => {
    await lu.ready();
    await lu.ready();
  },
  'keep-nothing': () => lu.keep('k', () => 5),
  'update-before-ready': () => lu.update(),
};
try {
  await cases[process.argv[2]]();
  console.log('nothing was refused');
} catch (error) {
  console.log(error.message);
}
process.exit();

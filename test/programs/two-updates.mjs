/** Asks for updates too early and twice, and tells what it is answered. */
import { liveupdate } from 'liveupdate';

const lu = await liveupdate();
const tell = (which) => (error) => process.stdout.write(`${which} ${error.code}\n`);
setInterval(() => undefined, 2 ** 30);
if (lu.generation === 1) await lu.update().catch(tell('early'));
await lu.ready();
process.stdout.write(`generation ${lu.generation} serves\n`);
if (lu.generation === 1) {
  void lu.update();
  await lu.update().catch(tell('second'));
}

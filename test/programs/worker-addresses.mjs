/** Listens where workers cannot, and says what it was told. */
import http from 'node:http';
import net from 'node:net';
import { liveupdate } from 'liveupdate';

const { FOLDER } = process.env;
const lu = await liveupdate();
const attempt = async (name, options) => {
  try {
    await lu.listen(name, net.createServer(), options);
    return 'ok';
  } catch (error) {
    return error.message;
  }
};
// Whoever is first has it.
const same = await attempt('same', { path: `${FOLDER}/same` });
const none = await attempt('none', { port: 0 });
const bad = await attempt('bad', { port: 70_000 });
const unknown = await attempt('unknown', { host: 'no.such.host.invalid', port: 1 });
const server = http.createServer((_request, response) => response.end());
const { port } = await lu.listen('shared', server, { port: Number(process.env.PORT) });
console.error(JSON.stringify({ worker: lu.worker, same, none, bad, unknown, port }));
await lu.ready();

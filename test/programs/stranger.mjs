// What a user of the socket's group, who is not luod's, is answered: one line of JSON. Started by root, which it stops being.

import { createConnection } from 'node:net';
import { createInterface } from 'node:readline';
import { LuodClient } from '../../dist/index.js';

const socket = process.argv[2];
const uid = Number(process.argv[3]);
// Only now, with everything loaded: the checkout may be closed to strangers.
process.setgroups([uid]);
process.setgid(uid);
process.setuid(uid);
const client = await LuodClient.connect(socket);
const answers = {};
const note = async (name, work) => {
  try {
    answers[name] = (await work()) ?? 'ok';
  } catch (error) {
    answers[name] = error.code;
  }
};

/** A request that the client has no word for. */
async function raw(request) {
  const connection = createConnection(socket);
  connection.write(`${JSON.stringify({ id: 1, ...request })}\n`);
  const { value } = await createInterface({ input: connection })[Symbol.asyncIterator]().next();
  connection.destroy();
  const reply = JSON.parse(value);
  if (!reply.ok) throw reply.error;
  return reply;
}

await note('retrieve', () => client.retrieveSession('s'));
await note('drop', () => client.dropSession('s'));
await note('dropOther', () => raw({ type: 'drop_session', name: 's', uid: 0 }));
await note('create', async () => void (await client.createSession('s', { custody: 'hold' })));
await note('sessions', async () => (await raw({ type: 'sessions' })).sessions.map(({ session }) => session));
await note('status', () => raw({ type: 'status' }));
await note('update', () => raw({ type: 'update' }));
await note('kexec', () => raw({ type: 'kexec' }));
console.log(JSON.stringify(answers));
process.stdin.resume();
await new Promise((resolve) => process.stdin.once('end', resolve));
client.close();

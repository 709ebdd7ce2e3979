/** The clients of programs/clients.mjs, in as many processes as they need. */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { end, environment, inTime, own } from './processes.mjs';

const PROGRAM = join(dirname(fileURLToPath(import.meta.url)), 'programs', 'clients.mjs');
/** Clients of one process: descriptor tables stay far below any limit. */
const CLIENTS = 5000;

/** Resolves when all are connected. */
export async function connectClients(port, connections) {
  const groups = [];
  for (let left = connections; left > 0; left -= CLIENTS) {
    const count = Math.min(left, CLIENTS);
    const talking = Math.max(1, Math.round(count / 100));
    const group = own(fork(PROGRAM, [port, count, talking], { env: environment }));
    groups.push(group);
    await inTime('clients to connect', once(group, 'message'));
  }
  return {
    /**
     * What they saw since the last question: the longest wait for an echo and the longest gap without any, of all and at the cut, in ms (of the
     * process that had the longest), answers; and closed connections and wrong bytes, ever.
     */
    async ask() {
      const answers = await Promise.all(
        groups.map(async (group) => {
          group.send('report');
          const [answer] = await inTime('the clients to report', once(group, 'message'));
          return answer;
        }),
      );
      const greatest = (key) => Math.max(...answers.map((answer) => answer[key]));
      const sum = (key) => answers.reduce((total, answer) => total + answer[key], 0);
      return {
        longest: greatest('longest'),
        gap: greatest('gap'),
        cutLongest: greatest('cutLongest'),
        cutGap: greatest('cutGap'),
        closed: sum('closed'),
        wrong: sum('wrong'),
        answers: sum('answers'),
      };
    },
    async stop() {
      await Promise.all(groups.map((group) => end(group)));
    },
  };
}

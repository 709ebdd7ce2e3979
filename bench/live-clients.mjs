/** The clients of programs/clients.mjs, in as many processes as they need. */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { end, environment, inTime, own } from './processes.mjs';

const PROGRAM = join(dirname(fileURLToPath(import.meta.url)), 'programs', 'clients.mjs');
/** Clients of one process: descriptor tables stay far below any limit. */
const CLIENTS = 5000;
const PATIENCE_MS = 10_000;

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
  const reportOf = async (group) => {
    group.send('report');
    const [answer] = await inTime('the clients to report', once(group, 'message'));
    return answer;
  };
  /** What one group saw, as soon as it has heard of the next version: each client talks a few milliseconds after its last echo. */
  const reportBehindCut = async (group) => {
    const saw = await reportOf(group);
    const deadline = performance.now() + PATIENCE_MS;
    while (saw.cutGap === 0) {
      if (performance.now() > deadline) throw new Error('no client has heard of the new version');
      const more = await reportOf(group);
      for (const key of Object.keys(saw))
        saw[key] = key === 'answers' ? saw[key] + more[key] : Math.max(saw[key], more[key]);
    }
    return saw;
  };
  /**
   * What they saw since the last question: the longest wait for an echo and the longest gap without any, of all and at the cut, in ms (of the
   * process that had the longest), answers; and closed connections and wrong bytes, ever.
   */
  const askAll = async (report) => {
    const answers = await Promise.all(groups.map(report));
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
  };

  return {
    ask: () => askAll(reportOf),
    /** The same, when all have heard of the next version. */
    askBehindCut: () => askAll(reportBehindCut),
    async stop() {
      await Promise.all(groups.map((group) => end(group)));
    },
  };
}

/** `luoctl history`: what became of a program's updates, and why. */
import type { Command } from 'commander';
import type { HistoryEntry } from '../daemon/update-history.js';
import type { Reply } from './luod-client.js';
import { historyTable } from './tables.js';
import { type AskFlags, tell, withAskFlags } from './tell.js';

interface OfOne {
  service: string;
  history: HistoryEntry[];
}

function toText(reply: Reply): string {
  const workers = reply.workers as OfOne[] | undefined;
  if (workers === undefined) return historyTable(reply.history as HistoryEntry[]);
  return workers.map(({ service, history }) => `${service}:\n${historyTable(history)}`).join('\n');
}

export function addHistoryCommand(program: Command): void {
  withAskFlags(
    program
      .command('history')
      .description('the last updates of a program: what became of them, why, and who asked for them')
      .argument('[service]', 'its name; not needed when luod runs only one'),
  )
    .addHelpText(
      'after',
      '\nThe last twenty, the latest first; they outlive luod, and end with the service. auto-rolled-back: it took over, was found bad, and the command before runs again.',
    )
    .action((service: string | undefined, flags: AskFlags) =>
      tell(flags, { type: 'history', service }, toText),
    );
}

/** `luoctl sessions`, `files`, `flbs`, `preserve` and `drop`: what is kept beyond its programs, and whose it is. */
import type { Command } from 'commander';
import type { Preservation } from '../daemon/agents.js';
import type { SessionStatus } from '../daemon/luod-status.js';
import type { SharedFlbStatus } from '../daemon/shared-flbs.js';
import { duration, wholeNumber } from './arguments.js';
import { filesTable, flbsTable, preservationSummary, sessionsTable } from './tables.js';
import { type AskFlags, tell, withAskFlags } from './tell.js';

export function addSessionCommands(program: Command): void {
  withAskFlags(
    program
      .command('sessions')
      .description('what outlives the programs, and who holds it: luod, or the kernel since a kexec'),
  ).action((flags: AskFlags) =>
    tell(flags, { type: 'sessions' }, (reply) => sessionsTable(reply.sessions as SessionStatus[])),
  );

  withAskFlags(
    program
      .command('files')
      .description('the files of sessions that clients keep with luod')
      .argument('[session]', 'only of sessions of this name'),
  ).action((session: string | undefined, flags: AskFlags) =>
    tell(flags, { type: 'sessions' }, (reply) => filesTable(reply.sessions as SessionStatus[], session)),
  );

  withAskFlags(
    program
      .command('flbs')
      .description('memory that services of one user share, and how many files depend on it'),
  ).action((flags: AskFlags) =>
    tell(flags, { type: 'list_flbs' }, (reply) => flbsTable(reply.flbs as SharedFlbStatus[])),
  );

  withAskFlags(
    program
      .command('preserve')
      .description('have every subscribed program put its files into a session, and wait until all have')
      .option('--timeout <time>', 'how long at most (default: 30s)', duration),
  )
    .addHelpText(
      'after',
      '\nBefore such programs are ended or replaced: their next images claim the sessions. Exit code 1 when one is late; it goes on as it was.',
    )
    .action((flags: AskFlags & { timeout?: number }) =>
      tell(flags, { type: 'preserve', timeout: flags.timeout }, (reply) =>
        preservationSummary(reply as unknown as Preservation),
      ),
    );

  withAskFlags(
    program
      .command('drop')
      .description('give up an orphaned session of a client, with all its files')
      .argument('<session>', 'its name')
      .option('--uid <uid>', 'whose (default: your own)', wholeNumber),
  )
    .addHelpText('after', '\nA session that somebody has is not dropped: EBUSY.')
    .action((name: string, flags: AskFlags & { uid?: number }) =>
      tell(flags, { type: 'drop_session', name, uid: flags.uid }, (reply) => `dropped ${reply.dropped}\n`),
    );
}

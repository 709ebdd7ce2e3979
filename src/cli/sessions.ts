/** `luoctl sessions`, `files` and `drop`: what is kept beyond its programs, and whose it is. */
import type { Command } from 'commander';
import type { SessionStatus } from '../daemon/luod.js';
import { wholeNumber } from './arguments.js';
import { filesTable, sessionsTable } from './tables.js';
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

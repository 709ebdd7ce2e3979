#!/usr/bin/env node
/** luoctl: asks a luod how things stand, and to update what it runs. */
import { resolve } from 'node:path';
import { Command } from 'commander';
import { LiveUpdateError } from '../core/errors.js';
import type { LuodStatus, SessionStatus } from '../daemon/luod.js';
import { socketPath } from '../daemon/socket-address.js';
import type { UpdateResult } from '../daemon/update.js';
import {
  type DeadlineFlags,
  deadlineOptions,
  EXIT_REFUSED,
  EXIT_USAGE,
  fail,
  toDeadlines,
  wholeNumber,
} from './arguments.js';
import { addDoctorCommand } from './doctor.js';
import { addKexecCommand } from './kexec.js';
import { ask, type Reply } from './luod-client.js';
import { packageVersion } from './package-version.js';
import { filesTable, sessionsTable, statusTable, updateSummary } from './tables.js';

interface Flags {
  socket?: string;
  json?: boolean;
}

const program = new Command('luoctl')
  .description('Asks luod how things stand, and to update what it runs.')
  .version(packageVersion())
  .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : EXIT_USAGE))
  .showHelpAfterError('(luoctl --help shows what there is)')
  .addHelpText('after', '\nExit codes: 0 done, 1 refused or rolled back, 2 wrong usage.');

async function tell(
  flags: Flags,
  request: Record<string, unknown>,
  human: (reply: Reply) => string,
): Promise<void> {
  const json = flags.json === true;
  let reply: Reply;
  try {
    reply = await ask(socketPath(flags.socket), request);
  } catch (error) {
    if (!json) {
      fail('luoctl', error);
      return;
    }
    const { code, message } = error as { code: string; message: string };
    reply = { ok: false, error: { code, message } };
  }
  if (json) process.stdout.write(`${JSON.stringify(reply)}\n`);
  else if (reply.ok || reply.rolledBack !== undefined)
    (reply.ok ? process.stdout : process.stderr).write(human(reply));
  else process.stderr.write(`luoctl: ${reply.error?.message}\n`);
  if (!reply.ok) process.exitCode = EXIT_REFUSED;
}

program
  .command('status')
  .description('what luod runs and holds')
  .option('--socket <path>', "luod's socket (default: $LIVEUPDATE_SOCKET, else the run folder of this user)")
  .option('--json', 'one JSON object')
  .action((flags: Flags) =>
    tell(flags, { type: 'status' }, (reply) => statusTable(reply as unknown as LuodStatus)),
  );

program
  .command('sessions')
  .description('what outlives the programs, and who holds it: luod, or the kernel since a kexec')
  .option('--socket <path>', "luod's socket (default: $LIVEUPDATE_SOCKET, else the run folder of this user)")
  .option('--json', 'one JSON object')
  .action((flags: Flags) =>
    tell(flags, { type: 'sessions' }, (reply) => sessionsTable(reply.sessions as SessionStatus[])),
  );

program
  .command('files')
  .description('the files of sessions that clients keep with luod')
  .argument('[session]', 'only of sessions of this name')
  .option('--socket <path>', "luod's socket (default: $LIVEUPDATE_SOCKET, else the run folder of this user)")
  .option('--json', 'one JSON object')
  .action((session: string | undefined, flags: Flags) =>
    tell(flags, { type: 'sessions' }, (reply) => filesTable(reply.sessions as SessionStatus[], session)),
  );

program
  .command('drop')
  .description('give up an orphaned session of a client, with all its files')
  .argument('<session>', 'its name')
  .option('--uid <uid>', 'whose (default: your own)', wholeNumber)
  .option('--socket <path>', "luod's socket (default: $LIVEUPDATE_SOCKET, else the run folder of this user)")
  .option('--json', 'one JSON object')
  .action((name: string, flags: Flags & { uid?: number }) =>
    tell(flags, { type: 'drop_session', name, uid: flags.uid }, (reply) => `dropped ${reply.dropped}\n`),
  );

const update = program
  .command('update')
  .description('replace a running program by its next version; what it keeps stays')
  .argument('[service]', 'its name; not needed when luod runs only one')
  .argument('[command...]', 'after --: the new command (default: the one it runs now)')
  .option('--socket <path>', "luod's socket (default: $LIVEUPDATE_SOCKET, else the run folder of this user)")
  .option('--json', 'one JSON object')
  .addHelpText(
    'after',
    `
Examples:
  luoctl update
  luoctl update chat --timeout 10s
  luoctl update chat -- node chat-v2.mjs

If the new version exits, hangs or refuses, the old one goes on and the exit code is 1.`,
  );
for (const option of deadlineOptions()) update.addOption(option);
update.action((service: string | undefined, command: string[], flags: Flags & DeadlineFlags) => {
  const { name, newCommand } = splitAtDashes(service, command);
  const request = { type: 'update', service: name, command: newCommand, deadlines: toDeadlines(flags) };
  return tell(flags, request, (reply) => updateSummary(reply as unknown as UpdateResult));
});

/** `update -- node x` has no service: what stands behind the dashes is the command. */
function splitAtDashes(
  service: string | undefined,
  command: string[],
): { name: string | undefined; newCommand: string[] | undefined } {
  const words = service === undefined ? [] : [service, ...command];
  const dashes = process.argv.indexOf('--');
  const behind = dashes === -1 ? 0 : process.argv.length - dashes - 1;
  const before = words.slice(0, words.length - behind);
  if (before.length > 1)
    update.error(
      `error: a new command stands after --: luoctl update ${before[0]} -- ${before.slice(1).join(' ')}`,
    );
  if (dashes !== -1 && behind === 0) update.error('error: there is no command after --');
  return { name: before[0], newCommand: behind === 0 ? undefined : words.slice(words.length - behind) };
}

program
  .command('self-update')
  .description('replace luod serve by what its file is now; no client notices')
  .option('--binary <file>', 'by another luod.js')
  .option('--socket <path>', "luod's socket (default: $LIVEUPDATE_SOCKET, else the run folder of this user)")
  .option('--json', 'one JSON object')
  .addHelpText(
    'after',
    '\nThe new version is asked first whether it can take over; if not, nothing happens and the exit code is 1.',
  )
  .action(async (flags: Flags & { binary?: string }) => {
    // Only here, so that no other command waits for libc.
    const { LuodClient } = await import('../app/luod-client.js');
    try {
      const client = await LuodClient.connect(socketPath(flags.socket));
      const now = await client.selfUpdate(flags.binary === undefined ? undefined : resolve(flags.binary));
      client.close();
      const text = `luod ${now.version}, pid ${now.pid}, has taken over ${now.sessions} sessions\n`;
      process.stdout.write(flags.json === true ? `${JSON.stringify({ ok: true, ...now })}\n` : text);
    } catch (error) {
      const { code, message } = LiveUpdateError.from(error);
      if (flags.json === true)
        process.stdout.write(`${JSON.stringify({ ok: false, error: { code, message } })}\n`);
      else fail('luoctl', error);
      process.exitCode = EXIT_REFUSED;
    }
  });

addKexecCommand(program);
addDoctorCommand(program);

await program.parseAsync();

/** `luoctl self-update`: luod, replaced under its clients and programs. */
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { socketPath } from '../daemon/socket-address.js';
import { type AskFlags, refuse, withAskFlags } from './tell.js';

export function addSelfUpdateCommand(program: Command): void {
  withAskFlags(
    program
      .command('self-update')
      .description('replace luod by what its file is now; no client and no program notices')
      .option('--binary <file>', 'by another luod.js'),
  )
    .addHelpText(
      'after',
      '\nThe new version is asked first whether it can take over; if not, nothing happens and the exit code is 1.',
    )
    .action(async (flags: AskFlags & { binary?: string }) => {
      // Only here, so that no other command waits for libc.
      const { LuodClient } = await import('../app/luod-client.js');
      try {
        const client = await LuodClient.connect(socketPath(flags.socket));
        const now = await client.selfUpdate(flags.binary === undefined ? undefined : resolve(flags.binary));
        client.close();
        const text = `luod ${now.version}, pid ${now.pid}, has taken over ${now.sessions} sessions and ${now.services} services\n`;
        process.stdout.write(flags.json === true ? `${JSON.stringify({ ok: true, ...now })}\n` : text);
      } catch (error) {
        refuse(flags, error);
      }
    });
}

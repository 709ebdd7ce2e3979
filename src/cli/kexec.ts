/** `luoctl kexec`: the machine's kernel, replaced under the services. */
import { resolve } from 'node:path';
import type { Command } from 'commander';
import type { KexecResult } from '../daemon/kernel-update.js';
import { socketPath } from '../daemon/socket-address.js';
import { type DeadlineFlags, deadlineOptions, EXIT_REFUSED, fail, toDeadlines } from './arguments.js';
import { ask, type LuodEvent } from './luod-client.js';
import { kexecSummary } from './tables.js';

interface KexecFlags extends DeadlineFlags {
  socket?: string;
  json?: boolean;
  kernel?: string;
  initrd?: string;
  cmdline?: string;
  reuseCmdline?: boolean;
  dryRun?: boolean;
  dropUnpreservable?: boolean;
}

const HELP = `
Memory and state cross; listeners are made again from their address; connections end. What cannot cross is listed and
nothing stops, unless --drop-unpreservable gives it up. If anything fails, everything goes on as it was.

Examples:
  luoctl kexec --kernel /boot/vmlinuz-7.3.4 --initrd /boot/initrd.img-7.3.4 --reuse-cmdline --dry-run
  luoctl kexec --kernel /boot/vmlinuz-7.3.4 --initrd /boot/initrd.img-7.3.4 --reuse-cmdline --drop-unpreservable

The kernel is left at once, as by kexec -e: end first what else on this machine needs an orderly end. After it, start luod
with the same services; each gets its own back. With --json, one object is printed right before the kernel is left, or when
it could not be.`;

export function addKexecCommand(program: Command): void {
  const command = program
    .command('kexec')
    .description("replace the machine's kernel; what the services keep stays")
    .option(
      '--socket <path>',
      "luod's socket (default: $LIVEUPDATE_SOCKET, else the run folder of this user)",
    )
    .option('--kernel <file>', 'the next kernel (default: the one that kexec has loaded)')
    .option('--initrd <file>', 'its initramfs')
    .option('--cmdline <words>', 'its command line')
    .option('--reuse-cmdline', 'the command line of the present kernel')
    .option('--dry-run', 'say what would cross and what not; change nothing')
    .option('--drop-unpreservable', 'give up what cannot cross')
    .option('--json', 'one JSON object')
    .addHelpText('after', HELP);
  for (const option of deadlineOptions()) {
    if (option.long !== '--spawn-timeout' && option.long !== '--retrieve-timeout') command.addOption(option);
  }
  command.action(run);
}

async function run(flags: KexecFlags): Promise<void> {
  const { kernel, initrd, cmdline, reuseCmdline, dryRun, dropUnpreservable, json } = flags;
  const tell = (result: KexecResult): void => {
    if (json === true) process.stdout.write(`${JSON.stringify(result)}\n`);
    else (result.ok ? process.stdout : process.stderr).write(kexecSummary(result));
  };
  const event = (message: LuodEvent): void => {
    if (message.type === 'farewell') {
      const { type: _type, ...result } = message;
      tell(result as unknown as KexecResult);
    } else if (json !== true) process.stderr.write(`luoctl: ${message.line}\n`);
  };
  try {
    const request = {
      type: 'kexec',
      kernel: kernel === undefined ? undefined : resolve(kernel),
      initrd: initrd === undefined ? undefined : resolve(initrd),
      cmdline,
      reuseCmdline,
      dryRun,
      dropUnpreservable,
      deadlines: toDeadlines(flags),
    };
    const reply = await ask(socketPath(flags.socket), request, event);
    if (!reply.ok) process.exitCode = EXIT_REFUSED;
    // A refusal at the door has no phases.
    if (reply.phases === undefined && json !== true)
      process.stderr.write(`luoctl: ${reply.error?.message}\n`);
    else if (reply.phases === undefined) process.stdout.write(`${JSON.stringify(reply)}\n`);
    else tell(reply as unknown as KexecResult);
  } catch (error) {
    if (json === true) {
      const { code, message } = error as { code: string; message: string };
      process.stdout.write(`${JSON.stringify({ ok: false, error: { code, message } })}\n`);
      process.exitCode = EXIT_REFUSED;
    } else fail('luoctl', error);
  }
}

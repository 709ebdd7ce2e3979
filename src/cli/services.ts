/** `luoctl status`, `services`, `start`, `stop`, `update`, `prepare`, `cut`, `cancel` and `rollback`: the programs that luod runs. */
import { resolve } from 'node:path';
import type { Command } from 'commander';
import type { LuodStatus } from '../daemon/luod-status.js';
import type { Cancelled, Prepared, ServiceStatus } from '../daemon/service.js';
import type { UpdateResult } from '../daemon/update.js';
import type { GroupUpdateResult } from '../daemon/worker-group.js';
import {
  addServiceOptions,
  type DeadlineFlags,
  deadlineOptions,
  duration,
  toDeadlines,
} from './arguments.js';
import { addHealthOptions, HEALTH_HELP, type HealthFlags, toHealthWords } from './health-options.js';
import type { Reply } from './luod-client.js';
import { groupSummary, preparedSummary, servicesTable, statusTable, updateSummary } from './tables.js';
import { type AskFlags, tell, withAskFlags } from './tell.js';

const WAIT = 'answer when the watch is over: exit code 0 only if the new version passed it';

const SERVICE = "its name, or a worker's (web/2); not needed when luod runs only one";
const ONLY = 'only of this one';
const TOGETHER =
  'all workers at once: if one cannot get ready, none is replaced (default: one after the other)';

interface StartFlags extends AskFlags, HealthFlags {
  cwd?: string;
  restart: string;
  maxRestarts: number;
  workers?: number;
  fresh?: boolean;
}

interface UpdateFlags extends AskFlags, DeadlineFlags, HealthFlags {
  together?: boolean;
  wait?: boolean;
}

interface PrepareFlags extends AskFlags, DeadlineFlags, HealthFlags {
  for?: number;
}

export function addServiceCommands(program: Command): void {
  withAskFlags(
    program.command('status').description('what luod runs and holds').argument('[service]', ONLY),
  ).action((service: string | undefined, flags: AskFlags) =>
    tell(flags, { type: 'status', service }, (reply) => statusTable(reply as unknown as LuodStatus)),
  );

  withAskFlags(
    program.command('services').description('the programs that luod runs').argument('[service]', ONLY),
  ).action((service: string | undefined, flags: AskFlags) =>
    tell(flags, { type: 'services', service }, (reply) => servicesTable(reply.services as ServiceStatus[])),
  );

  const start = withAskFlags(
    addServiceOptions(
      program
        .command('start')
        .description('have luod run a program, until it is told to stop it')
        .argument('<service>', 'a name for it')
        .argument('<command...>', 'the program and its arguments, after --')
        .option('--cwd <folder>', 'where it runs (default: here)'),
    ).option(
      '--fresh',
      'start with nothing, even if the kernel before a kexec kept something for this service',
    ),
  )
    .addHelpText(
      'after',
      "\nThe program has luod's environment and output, and luod's user.\n\nExample:\n  luoctl start chat -- node chat.mjs --port 7000\n  luoctl start web --workers 4 -- node server.mjs\n\nOf a service of workers, those that have ended are started again.\n" +
        HEALTH_HELP,
    )
    .action((service: string, command: string[], flags: StartFlags) => {
      const { restart, maxRestarts, workers, fresh } = flags;
      const cwd = resolve(flags.cwd ?? '.');
      const health = toHealthWords(flags);
      const request = { type: 'start', service, command, cwd, restart, maxRestarts, workers, fresh, health };
      return tell(flags, request, startedSummary);
    });
  addHealthOptions(start, false);

  withAskFlags(
    program.command('stop').description('end a program that luod runs').argument('[service]', SERVICE),
  )
    .addHelpText(
      'after',
      '\nIt gets SIGTERM, and SIGKILL after ten seconds. What luod held for it is let go.',
    )
    .action((service: string | undefined, flags: AskFlags) =>
      tell(flags, { type: 'stop', service }, stoppedSummary),
    );

  const update = withAskFlags(
    program
      .command('update')
      .description('replace a running program by its next version; what it keeps stays')
      .argument('[service]', SERVICE)
      .argument('[command...]', 'after --: the new command (default: the one it runs now)'),
  ).addHelpText(
    'after',
    `
Examples:
  luoctl update
  luoctl update chat --timeout 10s
  luoctl update chat -- node chat-v2.mjs
  luoctl update chat --wait --health http://127.0.0.1:7001/healthz --min-uptime 5s -- node chat-v2.mjs
  luoctl update web/2               one of several workers

Workers are updated one after the other; the first that fails ends it, and the rest stay as they are.

If the new version exits, hangs, refuses or is unhealthy, the old one goes on and the exit code is 1.
${HEALTH_HELP}`,
  );
  for (const option of deadlineOptions()) update.addOption(option);
  addHealthOptions(update, true).option('--wait', WAIT).option('--together', TOGETHER);
  update.action((service: string | undefined, command: string[], flags: UpdateFlags) => {
    const { name, newCommand } = splitAtDashes(update, service, command);
    const request = { type: 'update', service: name, command: newCommand, ...updateWords(flags) };
    return tell(flags, request, updatedSummary);
  });

  const prepare = withAskFlags(
    program
      .command('prepare')
      .description('start the next version and bring the update up to its cut; the running version serves on')
      .argument('[service]', SERVICE)
      .argument('[command...]', 'after --: the new command (default: the one it runs now)'),
  ).addHelpText(
    'after',
    `
Everything that can fail before the cut is done when it answers: the new version runs, has everything that can cross ahead, and has passed
its health check. What is deployed later is not part of it. It uses its memory until then, and the running version can keep nothing
new: keep() and its like wait. Of workers all are prepared, or none.

Examples:
  luoctl prepare chat -- node chat-v2.mjs
  luoctl cut chat                   it takes over
  luoctl cancel chat                or not
${HEALTH_HELP}`,
  );
  for (const option of deadlineOptions()) prepare.addOption(option);
  addHealthOptions(prepare, true).option(
    '--for <time>',
    'how long it may wait for the cut, before it is given up (default: 60s)',
    duration,
  );
  prepare.action((service: string | undefined, command: string[], flags: PrepareFlags) => {
    const { name, newCommand } = splitAtDashes(prepare, service, command);
    const words = { deadlines: toDeadlines(flags), health: toHealthWords(flags), hold: flags.for };
    return tell(flags, { type: 'prepare', service: name, command: newCommand, ...words }, preparedAnswer);
  });

  withAskFlags(
    program
      .command('cut')
      .description('let take over what was prepared')
      .argument('[service]', SERVICE)
      .option('--wait', WAIT)
      .option(
        '--together',
        'all workers at once (default: one after the other; the first that fails ends it)',
      ),
  ).action((service: string | undefined, flags: UpdateFlags) =>
    tell(flags, { type: 'cut', service, wait: flags.wait, together: flags.together }, updatedSummary),
  );

  withAskFlags(
    program
      .command('cancel')
      .description(
        'call off what is prepared, or an update on its way to the cut; the running version serves on',
      )
      .argument('[service]', SERVICE),
  ).action((service: string | undefined, flags: AskFlags) =>
    tell(flags, { type: 'cancel', service }, cancelledSummary),
  );

  const rollback = withAskFlags(
    program
      .command('rollback')
      .description('update a program to the command that it ran before the last one')
      .argument('[service]', SERVICE),
  ).addHelpText(
    'after',
    '\nAn update like any other: nothing is lost, and if it fails the present version goes on. A second rollback undoes the first. After an automatic rollback it leads to what ran before the version that runs again, never to the one that was found bad.\n\nWhat ran before was good once: only the checks given here are asked, and it is watched only with --watch.',
  );
  for (const option of deadlineOptions()) rollback.addOption(option);
  addHealthOptions(rollback, true).option('--wait', WAIT).option('--together', TOGETHER);
  rollback.action((service: string | undefined, flags: UpdateFlags) =>
    tell(flags, { type: 'rollback', service, ...updateWords(flags) }, updatedSummary),
  );
}

function startedSummary({ name, pid, workers }: Reply): string {
  if (workers === undefined) return `${name}: started, pid ${pid}\n`;
  const started = (workers as ServiceStatus[]).map((one) => `${one.name} (pid ${one.pid})`);
  return `${name}: ${started.length} workers: ${started.join(', ')}\n`;
}

function stoppedSummary({ service, status, workers }: Reply): string {
  const ended = (workers as { service: string; status: number }[] | undefined) ?? [];
  const lines = ended.map((one) => `${one.service}: ended with ${one.status}\n`);
  return `${lines.join('')}${service}: ended with ${status}\n`;
}

function updatedSummary(reply: Reply): string {
  return reply.workers === undefined
    ? updateSummary(reply as unknown as UpdateResult)
    : groupSummary(reply as unknown as GroupUpdateResult);
}

function preparedAnswer(reply: Reply): string {
  if (!reply.ok) return updatedSummary(reply);
  const { service, workers } = reply as unknown as { service: string; workers?: Prepared[] };
  return (workers ?? [reply as unknown as Prepared]).map((one) => preparedSummary(one, service)).join('');
}

function cancelledSummary(reply: Reply): string {
  const { workers } = reply as unknown as { workers?: Cancelled[] };
  const each = workers ?? [reply as unknown as Cancelled];
  return each
    .map(
      ({ service, generation, pid }) =>
        `${service}: called off, generation ${generation} (pid ${pid}) serves on\n`,
    )
    .join('');
}

function updateWords(flags: UpdateFlags): object {
  return {
    deadlines: toDeadlines(flags),
    health: toHealthWords(flags),
    wait: flags.wait,
    together: flags.together,
  };
}

/** `update -- node x` has no service: what stands behind the dashes is the command. */
function splitAtDashes(
  update: Command,
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

/** The command line of luod: `luod run -- CMD…` runs one program under it and ends with it, `luod serve` keeps sessions for the host. */
import { basename } from 'node:path';
import { Command } from 'commander';
import { LiveUpdateError } from '../core/errors.js';
import { auditTo, noAudit } from '../daemon/audit.js';
import { defaultLimits } from '../daemon/limits.js';
import { Luod } from '../daemon/luod.js';
import type { RestartPolicy } from '../daemon/service.js';
import { ServiceManager } from '../daemon/service-manager.js';
import type { Target } from '../daemon/services.js';
import { socketPath } from '../daemon/socket-address.js';
import { checkHandover } from '../daemon/successor-check.js';
import { adoptOrphans } from '../linux/subreaper.js';
import { addServiceOptions, duration, EXIT_USAGE, fail, wholeNumber } from './arguments.js';
import { addCompletionCommand, completes } from './completion.js';
import { addHealthOptions, HEALTH_HELP, type HealthFlags, toHealthWords } from './health-options.js';
import { addManCommand } from './manual.js';
import { packageVersion } from './package-version.js';

interface RunFlags extends HealthFlags {
  name?: string;
  socket?: string;
  restart: RestartPolicy;
  maxRestarts: number;
  workers?: number;
  fresh?: boolean;
  keepFor: number;
  keeper: boolean;
}

const PASSED_ON: readonly NodeJS.Signals[] = ['SIGUSR1', 'SIGUSR2', 'SIGWINCH', 'SIGCONT'];
const ENDING: readonly NodeJS.Signals[] = ['SIGTERM', 'SIGINT', 'SIGQUIT'];

// Whoever read the log may leave (a pipe to head, a closed terminal); the services must not end with him.
process.stderr.on('error', () => undefined);

function log(line: string): void {
  process.stderr.write(`luod: ${line}\n`);
}

interface ServeFlags {
  socket?: string;
  group?: number;
  audit?: string;
  maxClients?: number;
  maxSessions?: number;
  maxFiles?: number;
  maxFds?: number;
  maxBytes?: number;
  maxLine?: number;
  maxQueue?: number;
  maxSubscriptions?: number;
  messageTimeout?: number;
  keepFor: number;
  keeper: boolean;
}

/** Keeps sessions for every client of the host, until it is told to end. */
async function serve(flags: ServeFlags): Promise<void> {
  // Before anything is held: a luod that is ended without knowing it leaves everything to the keeper.
  const ended = new Promise<NodeJS.Signals>((resolve) => {
    for (const ending of ENDING) process.once(ending, resolve);
  });
  const limits = defaultLimits(flags.maxClients);
  const manager = ServiceManager.fromEnvironment(log);
  // Children that a program keeps across updates lose their parent with its first image.
  adoptOrphans();
  const luod = await Luod.listen({
    manager,
    socket: socketPath(flags.socket),
    version: packageVersion(),
    log,
    audit: flags.audit === undefined ? noAudit : await auditTo(flags.audit, log),
    group: flags.group,
    keeperPatienceMs: flags.keeper ? flags.keepFor : undefined,
    limits: {
      ...limits,
      sessionsPerUid: flags.maxSessions ?? limits.sessionsPerUid,
      filesPerSession: flags.maxFiles ?? limits.filesPerSession,
      bytesPerUid: flags.maxBytes ?? limits.bytesPerUid,
      lineBytes: flags.maxLine ?? limits.lineBytes,
      queuedBytes: flags.maxQueue ?? limits.queuedBytes,
      subscriptionsPerClient: flags.maxSubscriptions ?? limits.subscriptionsPerClient,
      stallMs: flags.messageTimeout ?? limits.stallMs,
      heldFds: Math.min(flags.maxFds ?? limits.heldFds, limits.heldFds),
    },
  });
  await recover(luod);
  await luod
    .recoverClients()
    .catch((error) =>
      log(`what the previous kernel keeps for clients: ${LiveUpdateError.from(error).message}`),
    );
  log(`listens at ${luod.socket}`);
  manager?.ready(luod.summary());
  const signal = await ended;
  const { length } = luod.sessions();
  log(`ends (${signal})${length === 0 ? '' : `, and with it ${length} sessions`}`);
  manager?.stopping();
  await luod.stopServices(signal);
  luod.close();
}

/** What the previous kernel keeps is asked for by name when its service starts; here it is only told what there is. */
async function recover(luod: Luod): Promise<void> {
  await luod
    .recover()
    .catch((error) => log(`the previous kernel's index: ${LiveUpdateError.from(error).message}`));
}

async function run(command: string[], flags: RunFlags): Promise<void> {
  // As in serve(); what comes before the program is there is for it all the same.
  let service: Target | undefined;
  let early: NodeJS.Signals | undefined;
  for (const signal of ENDING) {
    process.on(signal, () => {
      if (service === undefined) early = signal;
      else service.stop(signal);
    });
  }
  for (const signal of PASSED_ON) process.on(signal, () => service?.signal(signal));
  process.on('SIGHUP', () => {
    service
      ?.update({ by: 'SIGHUP' })
      .catch((error) => log(`${service?.name}: ${LiveUpdateError.from(error).message}`));
  });
  const socket = socketPath(flags.socket);
  const keeperPatienceMs = flags.keeper ? flags.keepFor : undefined;
  const manager = ServiceManager.fromEnvironment(log);
  // Children that a program keeps across updates lose their parent with its first image.
  adoptOrphans();
  const luod = await Luod.listen({ socket, version: packageVersion(), log, keeperPatienceMs, manager });
  await recover(luod);
  const name =
    flags.name ?? basename(command[0] === 'node' ? (command[1] ?? 'node') : (command[0] as string));
  const { restart, maxRestarts, fresh = false } = flags;
  const health = toHealthWords(flags);
  const options = { name, command, cwd: process.cwd(), restart, maxRestarts, fresh, health };
  service = luod.run(options, flags.workers);
  if (early !== undefined) service.stop(early);
  await Promise.race([service.ready, service.stopped]);
  if (service.isRunning) manager?.ready(luod.summary());
  process.exitCode = await service.stopped;
  manager?.stopping();
  // Those that a luod before this one was told to run, at the same socket.
  await luod.stopServices('SIGTERM');
  luod.close();
}

const program = new Command('luod')
  .description('Holds what must outlive a program, and replaces the program while it runs.')
  .version(packageVersion())
  .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : EXIT_USAGE))
  .showHelpAfterError('(luod --help shows what there is)');

const runCommand = addServiceOptions(
  program
    .command('run')
    .description('run one program, in one process or several; end when it ends, with its exit code')
    .argument('<command...>', 'the program and its arguments, after --')
    .option('--name <name>', "the service's name (default: the program's)")
    .option(
      '--socket <path>',
      'where luod listens (default: $LIVEUPDATE_SOCKET, else the run folder of this user)',
    ),
)
  .option(
    '--keep-for <time>',
    'how long the program waits for the next luod when this one is killed',
    duration,
    3_600_000,
  )
  .option('--no-keeper', 'run without a keeper: if luod is killed, nothing manages the program any more')
  .option('--fresh', 'start with nothing, even if the kernel before a kexec kept something for this service')
  .addHelpText(
    'after',
    `
Examples:
  luod run -- node server.mjs
  luod run --name chat --socket /run/luod/chat.sock -- node chat.mjs --port 7000
  luod run --name web --workers 4 -- node server.mjs

Then, from another terminal:
  luoctl update                     the same command again: the new version of its files
  luoctl update -- node v2.mjs      another command
  luoctl update --together          all workers at once, not one after the other
${HEALTH_HELP}

Signals: TERM, INT and QUIT end the program and luod; HUP updates; USR1, USR2, WINCH and CONT are passed on.`,
  )
  .action((command: string[], flags: RunFlags) => run(command, flags).catch((error) => fail('luod', error)));
addHealthOptions(runCommand, false);

program
  .command('serve')
  .description('keep sessions for the programs of this host, in any language')
  .option(
    '--socket <path>',
    'where luod listens (default: $LIVEUPDATE_SOCKET, else the run folder of this user)',
  )
  .option('--group <gid>', 'let members of this group in: each has sessions of his own', wholeNumber)
  .option('--audit <file>', 'a JSON line for every event of a session; - is stderr')
  .option('--max-clients <n>', 'connections at one time (default: 1000)', wholeNumber)
  .option('--max-sessions <n>', 'sessions of one user (default: 10000)', wholeNumber)
  .option('--max-files <n>', 'files of one session (default: 10000)', wholeNumber)
  .option('--max-fds <n>', 'descriptors held in all (default: what `ulimit -n` leaves)', wholeNumber)
  .option(
    '--max-bytes <n>',
    "bytes of memory kept for one user (default: half of the machine's)",
    wholeNumber,
  )
  .option('--max-line <n>', 'bytes of a message (default: 1048576)', wholeNumber)
  .option('--max-queue <n>', 'bytes of answers that a client does not read (default: 16777216)', wholeNumber)
  .option(
    '--max-subscriptions <n>',
    'programs that one connection is subscribed as (default: 100)',
    wholeNumber,
  )
  .option(
    '--keep-for <time>',
    'how long everything waits for the next luod when this one is killed',
    duration,
    3_600_000,
  )
  .option('--no-keeper', 'run without a keeper: everything ends with luod, however it ends')
  .option('--message-timeout <time>', 'for one message, from its first byte (default: 10s)', duration)
  .addHelpText(
    'after',
    `
Examples:
  luod serve
  luod serve --socket /run/luod/host.sock --group 100 --audit /var/log/luod.audit

What a client can say is in docs/protocol.md. Signals: TERM, INT and QUIT end luod, and every session with it.`,
  )
  .action((flags: ServeFlags) => serve(flags).catch((error) => fail('luod', error)));

program
  .command('check-handover', { hidden: true })
  .description('whether this version can take over from the luod whose keeper that is; changes nothing')
  .requiredOption('--keeper <path>', "the keeper's socket")
  .action(async ({ keeper }: { keeper: string }) => {
    try {
      const sessions = await checkHandover(keeper);
      process.stdout.write(`${JSON.stringify({ ok: true, version: packageVersion(), sessions })}\n`);
    } catch (error) {
      fail('luod', error);
    }
  });

addCompletionCommand(program);
addManCommand(program);

if (!(await completes(program))) await program.parseAsync();

/** The command line of luoctl. */
import { Command } from 'commander';
import { EXIT_USAGE } from './arguments.js';
import { addCompletionCommand, completes } from './completion.js';
import { addDoctorCommand } from './doctor.js';
import { addHistoryCommand } from './history.js';
import { addKexecCommand } from './kexec.js';
import { addManCommand } from './manual.js';
import { packageVersion } from './package-version.js';
import { addSelfUpdateCommand } from './self-update.js';
import { addServiceCommands } from './services.js';
import { addSessionCommands } from './sessions.js';
import { addWatchCommand } from './watch.js';

const program = new Command('luoctl')
  .description('Asks luod how things stand, and to update what it runs.')
  .version(packageVersion())
  .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : EXIT_USAGE))
  .showHelpAfterError('(luoctl --help shows what there is)')
  .addHelpText('after', '\nExit codes: 0 done, 1 refused or rolled back, 2 wrong usage.');

program.commandsGroup('Programs:');
addServiceCommands(program);
addHistoryCommand(program);
program.commandsGroup('Sessions:');
addSessionCommands(program);
program.commandsGroup('luod and the kernel:');
addSelfUpdateCommand(program);
addKexecCommand(program);
addDoctorCommand(program);

addWatchCommand(program);
program.commandsGroup('This command:');
addCompletionCommand(program);
addManCommand(program);

if (!(await completes(program))) await program.parseAsync();

/** The manual page of a command, in roff (man(7)), made from what its --help is made from. */
import type { Command } from 'commander';
import { packageVersion } from './package-version.js';

export function addManCommand(program: Command): void {
  program
    .command('man')
    .description('print the manual page')
    .addHelpText('after', `\nExample:\n  ${program.name()} man | man -l -`)
    .action(() => void process.stdout.write(manualPage(program)));
}

function manualPage(program: Command): string {
  const name = program.name();
  const lines = [
    `.TH ${name.toUpperCase()} 1 "" "liveupdate ${packageVersion()}" "liveupdate"`,
    '.SH NAME',
    `${name} \\- ${text(program.description())}`,
    '.SH SYNOPSIS',
    `.B ${name}`,
    '.I command',
    '.RI [ options ]',
    '.SH COMMANDS',
  ];
  const help = program.createHelp();
  for (const command of help.visibleCommands(program)) {
    if (command.name() === 'help') continue;
    lines.push(`.SS ${name} ${text(help.subcommandTerm(command))}`, text(command.description()));
    for (const argument of help.visibleArguments(command)) {
      lines.push('.TP', `.I ${text(argument.name())}`, text(help.argumentDescription(argument)));
    }
    for (const option of help.visibleOptions(command)) {
      if (option.long === '--help') continue;
      lines.push('.TP', `.B ${text(help.optionTerm(option))}`, text(help.optionDescription(option)));
    }
    const more = after(command);
    if (more !== '') lines.push('.PP', '.nf', ...more.split('\n').map(text), '.fi');
  }
  const more = after(program);
  if (more !== '') lines.push('.SH NOTES', '.nf', ...more.split('\n').map(text), '.fi');
  lines.push('.SH SEE ALSO', name === 'luod' ? '.BR luoctl (1)' : '.BR luod (1)');
  return `${lines.join('\n')}\n`;
}

/** What the help says after its tables, which commander tells only as it prints it. */
function after(command: Command): string {
  let said = '';
  const context = { error: false, command, write: (more: string) => (said += more) };
  (command as unknown as NodeJS.EventEmitter).emit('afterHelp', context);
  return said.trim();
}

/** Not taken for requests or escapes, and with real minus signs. */
function text(words: string): string {
  const escaped = words.replaceAll('\\', '\\e').replaceAll('-', '\\-');
  return /^[.']/.test(escaped) ? `\\&${escaped}` : escaped;
}

/**
 * Completion for shells. The scripts know nothing: they ask the command itself at each TAB (`complete-words`), so what they offer is
 * what this version has, and the names are those of the luod that runs.
 */
import { Argument, type Command, type Option } from 'commander';
import { socketPath } from '../daemon/socket-address.js';
import { ask } from './luod-client.js';

/** What a script calls: the words of the line up to the cursor, the last of which is the one to complete. */
const COMPLETE_WORDS = 'complete-words';

const SCRIPTS: Readonly<Record<string, (name: string) => string>> = {
  bash: (name) => `# ${name} completion for bash: source <(${name} completion bash)
_${name}() {
  local IFS=$'\\n'
  COMPREPLY=($(${name} ${COMPLETE_WORDS} "\${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _${name} ${name}
`,
  zsh: (name) => `#compdef ${name}
# ${name} completion for zsh: source <(${name} completion zsh)
_${name}() {
  local -a found
  found=("\${(@f)$(${name} ${COMPLETE_WORDS} "\${(@)words[2,CURRENT]}" 2>/dev/null)}")
  if [[ -n "$found[1]" ]]; then compadd -a found; else _files; fi
}
compdef _${name} ${name}
`,
  fish: (name) => `# ${name} completion for fish: ${name} completion fish | source
complete -c ${name} -a '(${name} ${COMPLETE_WORDS} (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'
`,
};

export function addCompletionCommand(program: Command): void {
  program
    .command('completion')
    .description('print a script that completes this command in a shell')
    .addArgument(new Argument('<shell>', 'which').choices(Object.keys(SCRIPTS)))
    .addHelpText(
      'after',
      `
Examples:
  source <(${program.name()} completion bash)     for this shell; in ~/.bashrc for every one
  ${program.name()} completion fish > ~/.config/fish/completions/${program.name()}.fish`,
    )
    .action((shell: string) => void process.stdout.write(SCRIPTS[shell]?.(program.name()) ?? ''));
}

/** Answers a script and returns true, when one asks. Before the command line is parsed, because it is half a line. */
export async function completes(program: Command): Promise<boolean> {
  const [word, ...words] = process.argv.slice(2);
  if (word !== COMPLETE_WORDS) return false;
  const found = await candidates(program, words);
  process.stdout.write(found.map((one) => `${one}\n`).join(''));
  return true;
}

async function candidates(program: Command, words: readonly string[]): Promise<string[]> {
  const prefix = words.at(-1) ?? '';
  const before = words.slice(0, -1);
  // Behind the dashes is another command's line.
  if (before.includes('--')) return [];
  let command: Command = program;
  let arguments_ = 0;
  let open: Option | undefined;
  let socket: string | undefined;
  for (const word of before) {
    if (open !== undefined) {
      if (open.long === '--socket') socket = word;
      open = undefined;
    } else if (word.startsWith('-')) {
      const [flag, value] = word.split('=', 2);
      const option = command.options.find(({ long, short }) => long === flag || short === flag);
      if (value !== undefined && option?.long === '--socket') socket = value;
      else if (option?.required === true && value === undefined) open = option;
    } else if (command === program) {
      command = program.commands.find((one) => one.name() === word) ?? program;
    } else arguments_++;
  }
  const matching = (list: readonly string[]) => list.filter((one) => one.startsWith(prefix));
  if (open !== undefined) return matching(open.argChoices ?? []);
  if (prefix.startsWith('-')) {
    return matching([
      ...command.options.flatMap(({ long, hidden }) => (long && !hidden ? [long] : [])),
      '--help',
    ]);
  }
  // commander hides a command by this field alone.
  const isHidden = (one: Command) => (one as unknown as { _hidden: boolean })._hidden;
  if (command === program) {
    return matching(program.commands.filter((one) => !isHidden(one)).map((one) => one.name()));
  }
  const argument = command.registeredArguments[arguments_];
  if (argument?.argChoices !== undefined) return matching(argument.argChoices);
  // A new service has a new name.
  if (argument === undefined || command.name() === 'start') return [];
  return matching(await liveNames(argument.name(), socket));
}

/** The names that luod knows; none when no luod answers, since a TAB is no place for an error. */
async function liveNames(kind: string, socket: string | undefined): Promise<string[]> {
  try {
    const path = socketPath(socket);
    if (kind === 'service') {
      const { services = [] } = await ask(path, { type: 'services' });
      const known = services as { name: string; worker?: { group: string } }[];
      return [
        ...new Set(
          known.flatMap(({ name, worker }) => (worker === undefined ? [name] : [worker.group, name])),
        ),
      ];
    }
    if (kind !== 'session') return [];
    const { sessions = [] } = await ask(path, { type: 'sessions' });
    return [...new Set((sessions as { session: string }[]).map(({ session }) => session))];
  } catch {
    return [];
  }
}

// npm run kernel:run: boots the test kernel in QEMU, runs a command in it, gives back its output and exit code.
//
// The guest sees this machine's whole file system (read-only below, an overlay above), so the command is found under the
// path it has here. When the command reboots by kexec, the next kernel runs it again, with the next stage in its environment:
//
//   LIVEUPDATE_GUEST_STAGE    1 after the boot, 2 after the first kexec, ...
//   LIVEUPDATE_GUEST_KERNEL   what to load for the next stage: the kernel,
//   LIVEUPDATE_GUEST_INITRD   its initramfs,
//   LIVEUPDATE_GUEST_CMDLINE  and its command line
//   LIVEUPDATE_GUEST_WORK     a folder of the host's that both stages, and the host, can write
//
// Serial port 1 is the kernel's console and goes to a file; serial port 2 is the command's output.

import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { StringDecoder } from 'node:string_decoder';
import { fileURLToPath } from 'node:url';
import { ensureKernel } from './build.mjs';
import { progress, runMain, ToolError, tailOf, UsageError, which } from './command.mjs';
import { ensurePackages, RUN_NEEDS } from './debian.mjs';
import { ensureInitramfs } from './initramfs.mjs';

const HELP = `Usage: npm run kernel:run -- [OPTIONS] SCRIPT [ARGUMENTS...]

Boots the test kernel in QEMU and runs SCRIPT in it, as root: an executable, or a .mjs, .cjs or .js file for Node.
Its output is this command's output, and its exit code this command's. After a kexec it is run again (see
LIVEUPDATE_GUEST_STAGE below).

Options:
  --work FOLDER    a folder that the guest may write, /run/work in there (default: one that is removed afterwards)
  --cmdline WORDS  more words for the kernel's command line
  --memory MIB     the guest's memory (default: 2048)
  --timeout S      give up after so many seconds (default: 300)
  --env NAME=VALUE for the script; again for another
  --console FILE   keep the kernel's console there
  --quiet          no progress on stderr
  --help           this text

In the script's environment:
  LIVEUPDATE_GUEST_STAGE                     1, then 2 after the first kexec, and so on
  LIVEUPDATE_GUEST_KERNEL, _INITRD, _CMDLINE what to load for the next stage
  LIVEUPDATE_GUEST_WORK                      the writable folder

Exit codes: the script's; 1 when the guest could not be run to its end, 2 usage.
`;

const DEFAULTS = { memory: 2048, timeout: 300 };

/**
 * Runs a command in the guest.
 * @param {string[]} command The program, an absolute path, and its arguments.
 * @param {{ work?: string, cmdline?: string, memory?: number, timeout?: number, env?: Record<string, string>,
 *   console?: string, say?: (line: string) => void, onOutput?: (text: string) => void }} [options]
 *   timeout: seconds. onOutput: told of the output as it comes.
 * @returns {Promise<{ code: number, output: string, console: string }>} console: the kernel's, whole.
 */
export async function runGuest(command, options = {}) {
  const { memory = DEFAULTS.memory, timeout = DEFAULTS.timeout, say = () => undefined } = options;
  const kernel = await ensureKernel({ say });
  await ensurePackages(RUN_NEEDS, say);
  const initramfs = ensureInitramfs();
  const scratch = mkdtempSync(join(tmpdir(), 'liveupdate-guest-'));
  try {
    const work = resolve(options.work ?? join(scratch, 'work'));
    const console = options.console ?? join(scratch, 'console');
    mkdirSync(work, { recursive: true });
    rmSync(join(work, 'exit'), { force: true });
    const words = `console=ttyS0 liveupdate=on kho=on panic=-1 ${options.cmdline ?? ''}`.trim();
    writeFileSync(
      join(work, 'command'),
      guestScript(command, { words, kernel, initramfs, env: options.env }),
    );
    say(`boot Linux ${kernel.version}`);
    const args = machine({
      memory,
      kernel: kernel.path,
      initramfs,
      work,
      console,
      words: `${words} stage=1`,
    });
    const output = await qemu(args, { timeout, onOutput: options.onOutput, console });
    const log = existsSync(console) ? readFileSync(console, 'latin1') : '';
    if (!existsSync(join(work, 'exit'))) {
      throw new ToolError('the guest ended before the script did (a panic, or a kexec that failed)', {
        tail: tailOf(console),
      });
    }
    return { code: Number(readFileSync(join(work, 'exit'), 'utf8')), output, console: log };
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

function machine({ memory, kernel, initramfs, work, console, words }) {
  const share = (tag, path, more) => [
    '-fsdev',
    `local,id=${tag},path=${path.replaceAll(',', ',,')},security_model=none,multidevs=remap${more}`,
    '-device',
    `virtio-9p-pci,fsdev=${tag},mount_tag=${tag}`,
  ];
  return [
    // Emulated: nested virtualization is refused or half-working on many machines, and the guest needs seconds.
    ...['-accel', 'tcg', '-cpu', 'max', '-m', String(memory), '-smp', '2'],
    ...['-no-reboot', '-display', 'none', '-nodefaults', '-monitor', 'none'],
    ...['-chardev', `file,id=console,path=${console.replaceAll(',', ',,')}`, '-serial', 'chardev:console'],
    ...['-chardev', 'stdio,id=output,signal=off', '-serial', 'chardev:output'],
    ...['-object', 'rng-random,id=rng,filename=/dev/urandom', '-device', 'virtio-rng-pci,rng=rng'],
    ...share('host', '/', ',readonly=on'),
    ...share('work', work, ''),
    ...['-kernel', kernel, '-initrd', initramfs, '-append', words],
  ];
}

const quote = (word) => `'${String(word).replaceAll("'", `'\\''`)}'`;

/** What process 1 of the guest runs with sh: the environment and the command. */
function guestScript(command, { words, kernel, initramfs, env = {} }) {
  const variables = {
    PATH: process.env.PATH ?? '/usr/sbin:/usr/bin:/sbin:/bin',
    HOME: '/root',
    TMPDIR: '/tmp',
    LIVEUPDATE_GUEST_KERNEL: kernel.path,
    LIVEUPDATE_GUEST_INITRD: initramfs,
    LIVEUPDATE_GUEST_WORK: '/run/work',
    ...env,
  };
  return [
    'stage=$(/run/guest/busybox sed "s/.*stage=\\([0-9]*\\).*/\\1/" /proc/cmdline)',
    ...Object.entries(variables).map(([name, value]) => `export ${name}=${quote(value)}`),
    'export LIVEUPDATE_GUEST_STAGE=$stage',
    `export LIVEUPDATE_GUEST_CMDLINE=${quote(words)}" stage=$((stage + 1))"`,
    `cd ${quote(process.cwd())}`,
    `exec ${command.map(quote).join(' ')}`,
    '',
  ].join('\n');
}

/** Runs QEMU to its end; resolves with what came from the second serial port. */
function qemu(args, { timeout, onOutput, console }) {
  return new Promise((resolve, reject) => {
    const child = spawn(which('qemu-system-x86_64'), args, { stdio: ['ignore', 'pipe', 'pipe'] });
    // QEMU must not outlive us, however we end.
    const stop = () => child.kill('SIGKILL');
    process.once('exit', stop);
    const decoder = new StringDecoder('utf8');
    let output = '';
    let complaint = '';
    let late = false;
    child.stdout.on('data', (bytes) => {
      const text = decoder.write(bytes);
      output += text;
      onOutput?.(text);
    });
    child.stderr.on('data', (bytes) => {
      complaint += bytes;
    });
    const timer = setTimeout(() => {
      late = true;
      stop();
    }, timeout * 1000);
    child.once('error', (error) => reject(new ToolError(`qemu: ${error.message}`)));
    child.once('close', (code) => {
      clearTimeout(timer);
      process.off('exit', stop);
      if (late) {
        reject(
          new ToolError(`the guest did not end within ${timeout} s`, {
            tail: `${output.slice(-2000)}\n--- console ---\n${tailOf(console)}`,
          }),
        );
      } else if (code !== 0) reject(new ToolError(`qemu ended with ${code}`, { tail: complaint }));
      else resolve(output);
    });
  });
}

/** How a script is run: by Node when its name says so, else by itself. */
export function commandFor(script, args = []) {
  const path = resolve(script);
  if (!existsSync(path)) throw new UsageError(`no such script: ${script}`);
  return /\.[cm]?js$/.test(path) ? [process.execPath, path, ...args] : [path, ...args];
}

function positive(name, text) {
  if (text === undefined) return undefined;
  if (!/^[1-9]\d*$/.test(text)) throw new UsageError(`--${name} ${text}: not a number above zero`);
  return Number(text);
}

function ownArguments(argv) {
  // What stands behind the script is the script's.
  const takesValue = new Set(['--work', '--cmdline', '--memory', '--timeout', '--env', '--console']);
  let at = 0;
  while (at < argv.length && argv[at].startsWith('-')) at += takesValue.has(argv[at]) ? 2 : 1;
  return { own: argv.slice(0, at), script: argv[at], args: argv.slice(at + 1) };
}

async function main(argv) {
  const { parseArgs } = await import('node:util');
  const { own, script, args } = ownArguments(argv);
  const { values } = parseArgs({
    args: own,
    options: {
      work: { type: 'string' },
      cmdline: { type: 'string' },
      memory: { type: 'string' },
      timeout: { type: 'string' },
      env: { type: 'string', multiple: true },
      console: { type: 'string' },
      quiet: { type: 'boolean' },
      help: { type: 'boolean', short: 'h' },
    },
  });
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  if (script === undefined) throw new UsageError('which script?');
  const env = {};
  for (const entry of values.env ?? []) {
    const [, name, value] = /^([A-Za-z_]\w*)=(.*)$/s.exec(entry) ?? [];
    if (name === undefined) throw new UsageError(`--env ${entry}: not of the form NAME=VALUE`);
    env[name] = value;
  }
  const { code } = await runGuest(commandFor(script, args), {
    work: values.work,
    cmdline: values.cmdline,
    memory: positive('memory', values.memory),
    timeout: positive('timeout', values.timeout),
    env,
    console: values.console === undefined ? undefined : resolve(values.console),
    say: progress(values.quiet),
    onOutput: (text) => process.stdout.write(text),
  });
  return code;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await runMain('kernel:run', main);

/** Whether this machine's kernel can be live-updated, and what is missing for it: each requirement by itself, with advice. */
import { existsSync, readFileSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';
import { LiveUpdateError } from '../core/errors.js';
import { closeFd } from './fd.js';
import { LIVEUPDATE_DEVICE, LiveupdateDevice } from './liveupdate.js';
import { createMemfd } from './memfd.js';

/** 'unknown': it cannot be seen from here, or depends on another requirement that is missing. */
export type Verdict = 'ok' | 'missing' | 'unknown';

export interface KernelFact {
  readonly name: string;
  readonly verdict: Verdict;
  /** What was seen. */
  readonly found: string;
  /** What to do about it, unless it is ok. */
  readonly advice?: string;
}

export interface KernelFactsOptions {
  /** Where /proc, /sys and /boot are: for looking at another system's. */
  readonly root?: string;
  readonly release?: string;
  /** The device to ask. */
  readonly device?: string;
}

const OLDEST = [6, 19];
/** capability.h */
const CAP_SYS_BOOT = 22n;
const ON = /^(1|y|yes|on|true)$/i;
const OFF = /^(0|n|no|off|false)$/i;

/** Every requirement, in the order in which they depend on each other. Throws nothing: what cannot be read is unknown. */
export function kernelFacts(options: KernelFactsOptions = {}): KernelFact[] {
  const system = new System(options);
  return [
    version(system),
    built(system, 'CONFIG_LIVEUPDATE', 'the orchestrator'),
    built(system, 'CONFIG_LIVEUPDATE_MEMFD', 'memory files across a kexec'),
    switchedOn(system, 'liveupdate', undefined),
    switchedOn(system, 'kho', 'CONFIG_KEXEC_HANDOVER_ENABLE_DEFAULT'),
    deviceFact(options.device ?? LIVEUPDATE_DEVICE),
    kexecCall(system),
    kexecAllowed(system),
    lockdown(system),
    privilege(system),
  ];
}

class System {
  readonly release: string;
  readonly #root: string;
  #config: string | undefined | null = null;
  readonly #cmdline: string;

  constructor(options: KernelFactsOptions) {
    this.#root = options.root ?? '/';
    this.release = options.release ?? release();
    this.#cmdline = this.read('proc/cmdline') ?? '';
  }

  has(path: string): boolean {
    return existsSync(join(this.#root, path));
  }

  /** A file's text, or undefined when it cannot be read. */
  read(path: string): string | undefined {
    return this.#bytes(path)?.toString('utf8').trim();
  }

  #bytes(path: string): Buffer | undefined {
    try {
      return readFileSync(join(this.#root, path));
    } catch {
      // Missing, or not for this user: the verdict is 'unknown' then, or follows from it.
      return undefined;
    }
  }

  /** The kernel's configuration, if it tells it. */
  get config(): string | undefined {
    if (this.#config === null) {
      const packed = this.#bytes('proc/config.gz');
      this.#config = packed === undefined ? this.read(`boot/config-${this.release}`) : unpack(packed);
    }
    return this.#config;
  }

  /** A word of the kernel's command line; the last one counts. */
  parameter(name: string): string | undefined {
    const words = this.#cmdline.split(/\s+/).filter((word) => word.startsWith(`${name}=`));
    return words.at(-1)?.slice(name.length + 1);
  }

  /** Whether an option is built in; undefined when the configuration is not known. */
  isBuilt(option: string): boolean | undefined {
    return this.config === undefined ? undefined : new RegExp(`^${option}=[ym]$`, 'm').test(this.config);
  }
}

function unpack(packed: Buffer): string | undefined {
  try {
    // Loaded here, since most processes never look.
    return process.getBuiltinModule('node:zlib').gunzipSync(packed).toString('utf8');
  } catch {
    // Damaged: as good as not there.
    return undefined;
  }
}

function fact(name: string, verdict: Verdict, found: string, advice: string): KernelFact {
  return verdict === 'ok' ? { name, verdict, found } : { name, verdict, found, advice };
}

function version({ release: found }: System): KernelFact {
  const [major = 0, minor = 0] = found.split('.').map((part) => Number.parseInt(part, 10));
  const [oldMajor = 0, oldMinor = 0] = OLDEST;
  const isNew = major > oldMajor || (major === oldMajor && minor >= oldMinor);
  return fact(
    'kernel',
    isNew ? 'ok' : 'missing',
    found,
    `install a kernel from ${OLDEST.join('.')} on (7.2 and newer have no limit of sessions and files)`,
  );
}

function built(system: System, option: string, what: string): KernelFact {
  const is = system.isBuilt(option);
  const found =
    is === undefined ? 'the configuration is not readable' : `${option} is ${is ? '' : 'not '}set`;
  const advice =
    is === undefined
      ? `look for ${option} in the configuration that this kernel was built with`
      : `${what}: install or build a kernel with ${option}=y`;
  return fact(
    option.slice('CONFIG_'.length).toLowerCase(),
    is === undefined ? 'unknown' : is ? 'ok' : 'missing',
    found,
    advice,
  );
}

function switchedOn(system: System, name: string, byDefault: string | undefined): KernelFact {
  const value = system.parameter(name);
  const advice = `add ${name}=on to the kernel's command line, and boot`;
  const label = `${name}=on`;
  if (value !== undefined && ON.test(value)) return fact(label, 'ok', `${name}=${value}`, advice);
  if (value !== undefined && OFF.test(value)) return fact(label, 'missing', `${name}=${value}`, advice);
  if (value !== undefined)
    return fact(label, 'missing', `${name}=${value}, which is neither on nor off`, advice);
  if (byDefault === undefined) return fact(label, 'missing', 'not on the command line: off', advice);
  const is = system.isBuilt(byDefault);
  if (is === undefined)
    return fact(label, 'unknown', 'not on the command line; the default is not known', advice);
  return fact(
    label,
    is ? 'ok' : 'missing',
    `not on the command line: ${is ? 'on' : 'off'} by default`,
    advice,
  );
}

/** Opens the device and has it take a memory file, which is called off again. */
function deviceFact(path: string): KernelFact {
  const name = 'device';
  try {
    using device = LiveupdateDevice.open(path);
    const session = device.createSession(`doctor-${process.pid}`);
    const memfd = createMemfd('doctor', 4096, { crossesKernel: true });
    try {
      session.preserve(memfd, 0n);
    } finally {
      closeFd(memfd);
      session.close();
    }
    return { name, verdict: 'ok', found: `${path} takes memory files` };
  } catch (error) {
    const { code, message } = LiveUpdateError.from(error);
    const advice = DEVICE_ADVICE[code] ?? 'look into the kernel log for liveupdate';
    const seen = code === 'EBUSY' || code === 'EACCES' || code === 'EPERM';
    return { name, verdict: seen ? 'unknown' : 'missing', found: message, advice };
  }
}

const DEVICE_ADVICE: Readonly<Record<string, string>> = {
  ENOENT: 'see the lines above; with all of them in order, the kernel log says why it is off',
  EBUSY: 'another program has it open (a live update agent, systemd); ask again when it has closed it',
  EACCES: 'ask as root',
  EPERM: 'ask as root',
  EIO: 'what the previous kernel left could not be read; boot without kexec to clear it',
};

function kexecCall(system: System): KernelFact {
  const has = system.has('sys/kernel/kexec_loaded');
  return fact(
    'kexec',
    has ? 'ok' : 'missing',
    has ? 'there' : 'this kernel has no kexec',
    'a kernel with CONFIG_KEXEC_FILE=y',
  );
}

function kexecAllowed(system: System): KernelFact {
  const value = system.read('proc/sys/kernel/kexec_load_disabled');
  const found =
    value === undefined ? 'kernel.kexec_load_disabled cannot be read' : `kernel.kexec_load_disabled=${value}`;
  const advice = 'kernel.kexec_load_disabled can be set to 1 but not back: remove it from sysctl.d, and boot';
  return fact(
    'kexec allowed',
    value === '0' ? 'ok' : value === undefined ? 'unknown' : 'missing',
    found,
    advice,
  );
}

function lockdown(system: System): KernelFact {
  const text = system.read('sys/kernel/security/lockdown');
  const mode = text === undefined ? 'none' : (/\[(\w+)\]/.exec(text)?.[1] ?? text);
  const advice = 'a locked-down kernel loads only signed kernels: sign the next one';
  return fact('lockdown', mode === 'none' ? 'ok' : 'unknown', mode, advice);
}

function privilege(system: System): KernelFact {
  const mask = /^CapEff:\s*([0-9a-f]+)$/m.exec(system.read('proc/self/status') ?? '')?.[1];
  const may = mask !== undefined && ((BigInt(`0x${mask}`) >> CAP_SYS_BOOT) & 1n) === 1n;
  return fact(
    'privilege',
    may ? 'ok' : 'missing',
    may ? 'CAP_SYS_BOOT' : 'no CAP_SYS_BOOT',
    'run luod as root, or with AmbientCapabilities=CAP_SYS_BOOT and access to /dev/liveupdate',
  );
}

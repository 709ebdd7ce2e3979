/** The next kernel: kexec_file_load(2) and reboot(2) into it. */
import { openSync, readFileSync } from 'node:fs';
import { LiveUpdateError } from '../core/errors.js';
import { closeFd } from './fd.js';
import { errno, failure, libc } from './libc.js';

const SYS_KEXEC_FILE_LOAD = process.arch === 'arm64' ? 294 : 320;
const KEXEC_FILE_UNLOAD = 1;
const KEXEC_FILE_NO_INITRAMFS = 4;
const LINUX_REBOOT_CMD_KEXEC = 0x45584543;
const ENOEXEC = 8;
const EKEYREJECTED = 129;

/** Bytes of a command line that any kernel takes, with its NUL (COMMAND_LINE_SIZE of x86-64 and arm64). */
const CMDLINE_BYTES = 2048;

export interface NextKernel {
  /** Path of the kernel image. */
  readonly kernel: string;
  /** Path of the initramfs; without one the kernel must do without. */
  readonly initrd?: string | undefined;
  readonly cmdline: string;
}

/**
 * Loads a kernel for `rebootIntoLoadedKernel`; it replaces one loaded before. Nothing stops.
 * @throws {LiveUpdateError} ENOENT, EACCES for the files; EINVAL for a command line with NUL or of 2048 bytes and more, or a
 *   file that is no kernel; EPERM without CAP_SYS_BOOT, when loading is locked, or for a kernel without the signature that this
 *   machine demands; EBUSY while another load is running; ENOSYS without CONFIG_KEXEC_FILE. kexec_file_load(2)
 */
export function loadKernel({ kernel, initrd, cmdline }: NextKernel): void {
  const words = Buffer.from(`${cmdline}\0`);
  if (cmdline.includes('\0') || words.length > CMDLINE_BYTES) {
    throw new LiveUpdateError(
      'EINVAL',
      `a command line has no NUL and fewer than ${CMDLINE_BYTES} bytes, not ${words.length - 1}`,
      { operation: 'kexec_file_load' },
    );
  }
  const kernelFd = open(kernel);
  try {
    const initrdFd = initrd === undefined ? -1 : open(initrd);
    try {
      load(kernelFd, initrdFd, words, initrd === undefined ? KEXEC_FILE_NO_INITRAMFS : 0);
    } finally {
      if (initrdFd !== -1) closeFd(initrdFd);
    }
  } finally {
    closeFd(kernelFd);
  }
}

/** Forgets the loaded kernel, if there is one. @throws {LiveUpdateError} EPERM, EBUSY. */
export function unloadKernel(): void {
  load(-1, -1, null, KEXEC_FILE_UNLOAD);
}

/** Whether a kernel is loaded. */
export function isKernelLoaded(): boolean {
  return readFileSync('/sys/kernel/kexec_loaded', 'utf8').trim() === '1';
}

/**
 * Leaves this kernel for the loaded one, at once: nothing is stopped or written back for anybody (sync first). Every outgoing
 * session of the kernel's orchestrator is frozen on the way. Does not return, or throws and nothing has happened.
 * @throws {LiveUpdateError} EINVAL when no kernel is loaded; EPERM without CAP_SYS_BOOT; the errno of a failed freeze. reboot(2)
 */
export function rebootIntoLoadedKernel(): never {
  libc.reboot(LINUX_REBOOT_CMD_KEXEC);
  const error = errno();
  throw failure('reboot', error);
}

/** Writes back what all file systems hold. sync(2) */
export function syncFileSystems(): void {
  libc.sync();
}

function load(kernelFd: number, initrdFd: number, cmdline: Buffer | null, flags: number): void {
  const result = libc.kexecFileLoad(
    SYS_KEXEC_FILE_LOAD,
    kernelFd,
    initrdFd,
    cmdline?.length ?? 0,
    cmdline,
    flags,
  );
  const error = errno();
  if (result !== -1) return;
  if (error === ENOEXEC) {
    throw new LiveUpdateError('EINVAL', 'the file is no kernel that this machine can start', {
      operation: 'kexec_file_load',
    });
  }
  if (error === EKEYREJECTED) {
    throw new LiveUpdateError('EPERM', 'the kernel is not signed as this machine demands', {
      operation: 'kexec_file_load',
    });
  }
  throw failure('kexec_file_load', error);
}

function open(path: string): number {
  try {
    return openSync(path, 'r');
  } catch (cause) {
    throw LiveUpdateError.from(cause, { operation: 'open' });
  }
}

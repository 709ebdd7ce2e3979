/**
 * libc, called from TypeScript: the one file that knows koffi. Its traps are rules here, and nothing goes around them:
 *
 *   - Prototypes are fixed. ioctl(2) and fcntl(2) are variadic in C, but on Linux's x86-64 and arm64 a fixed prototype with
 *     the same argument passes the same registers, and is faster.
 *   - Structs are laid out by hand in Buffers; nothing is encoded by koffi.
 *   - errno is read in the statement after the call, before anything can allocate: a garbage collection may change it.
 *   - No call is asynchronous: koffi would run it on libuv's four threads, and a blocked one would starve them all.
 */
import koffi from 'koffi';
import { ERRNO, type ErrnoCode, errnoName, LiveUpdateError } from '../core/errors.js';

if (process.platform !== 'linux') {
  throw new LiveUpdateError('ENOSYS', `liveupdate needs Linux, not ${process.platform}`, {
    operation: 'load',
  });
}
if (process.arch !== 'x64' && process.arch !== 'arm64') {
  throw new LiveUpdateError(
    'ENOSYS',
    `liveupdate knows the system calls of x64 and arm64, not ${process.arch}`,
    { operation: 'load' },
  );
}

// This process's own libc, glibc or musl: loading a second one by name would have an errno of its own.
const lib = koffi.load(null);

type Fd = number;
type Pointer = bigint | number;
/** What a `void *` argument takes: bytes of ours, an address, or null. */
type Bytes = Uint8Array | Pointer | null;

/** A call that has not been made yet. */
class Declaration {
  readonly prototype: string;

  constructor(prototype: string) {
    this.prototype = prototype;
  }
}

/** What stands in `libc` until its first use: a process needs a few of these calls, and koffi's half of each is 10 KiB. */
function declare<F>(prototype: string): F {
  return new Declaration(prototype) as unknown as F;
}

/** The calls with each bound where it is first used, and plain properties from then on. */
function boundWhenUsed<Calls extends object>(calls: Calls): Calls {
  for (const [name, { prototype }] of Object.entries(calls) as [string, Declaration][]) {
    Object.defineProperty(calls, name, {
      configurable: true,
      enumerable: true,
      get: () => {
        const call: unknown = lib.func(prototype);
        Object.defineProperty(calls, name, { value: call, enumerable: true });
        return call;
      },
    });
  }
  return calls;
}

/** The calls, with the names of their manual pages. Results are C's: -1 for a failure. */
export const libc = boundWhenUsed({
  close: declare<(fd: Fd) => number>('int close(int fd)'),
  fcntl: declare<(fd: Fd, command: number, argument: number) => number>(
    'int fcntl(int fd, int command, long argument)',
  ),
  lseek: declare<(fd: Fd, offset: number, whence: number) => number>(
    'int64_t lseek(int fd, int64_t offset, int whence)',
  ),
  ioctl: declare<(fd: Fd, request: number, argument: Bytes) => number>(
    'int ioctl(int fd, unsigned long request, void *argument)',
  ),
  memfdCreate: declare<(name: string, flags: number) => number>(
    'int memfd_create(const char *name, unsigned int flags)',
  ),
  mmap: declare<
    (address: Bytes, length: number, protection: number, flags: number, fd: Fd, offset: number) => Pointer
  >('intptr_t mmap(void *address, size_t length, int protection, int flags, int fd, long offset)'),
  munmap: declare<(address: Bytes, length: number) => number>('int munmap(void *address, size_t length)'),
  mprotect: declare<(address: Bytes, length: number, protection: number) => number>(
    'int mprotect(void *address, size_t length, int protection)',
  ),
  sendmsg: declare<(fd: Fd, message: Bytes, flags: number) => number>(
    'intptr_t sendmsg(int fd, void *message, int flags)',
  ),
  recvmsg: declare<(fd: Fd, message: Bytes, flags: number) => number>(
    'intptr_t recvmsg(int fd, void *message, int flags)',
  ),
  poll: declare<(fds: Bytes, count: number, timeout: number) => number>(
    'int poll(void *fds, unsigned long count, int timeout)',
  ),
  socketpair: declare<(domain: number, type: number, protocol: number, pair: Bytes) => number>(
    'int socketpair(int domain, int type, int protocol, void *pair)',
  ),
  getsockopt: declare<(fd: Fd, level: number, name: number, value: Bytes, length: Bytes) => number>(
    'int getsockopt(int fd, int level, int name, void *value, void *length)',
  ),
  getsockname: declare<(fd: Fd, address: Bytes, length: Bytes) => number>(
    'int getsockname(int fd, void *address, void *length)',
  ),
  shutdown: declare<(fd: Fd, how: number) => number>('int shutdown(int fd, int how)'),
  getrlimit: declare<(resource: number, limit: Bytes) => number>('int getrlimit(int resource, void *limit)'),
  socket: declare<(domain: number, type: number, protocol: number) => number>(
    'int socket(int domain, int type, int protocol)',
  ),
  setsockopt: declare<(fd: Fd, level: number, name: number, value: Bytes, length: number) => number>(
    'int setsockopt(int fd, int level, int name, void *value, unsigned int length)',
  ),
  bind: declare<(fd: Fd, address: Bytes, length: number) => number>(
    'int bind(int fd, void *address, unsigned int length)',
  ),
  connect: declare<(fd: Fd, address: Bytes, length: number) => number>(
    'int connect(int fd, void *address, unsigned int length)',
  ),
  listen: declare<(fd: Fd, backlog: number) => number>('int listen(int fd, int backlog)'),
  accept4: declare<(fd: Fd, address: Bytes, length: Bytes, flags: number) => number>(
    'int accept4(int fd, void *address, void *length, int flags)',
  ),
  epollCreate1: declare<(flags: number) => number>('int epoll_create1(int flags)'),
  epollWait: declare<(epoll: Fd, events: Bytes, count: number, timeout: number) => number>(
    'int epoll_wait(int epoll, void *events, int count, int timeout)',
  ),
  epollCtl: declare<(epoll: Fd, operation: number, fd: Fd, event: Bytes) => number>(
    'int epoll_ctl(int epoll, int operation, int fd, void *event)',
  ),
  dup3: declare<(from: Fd, to: Fd, flags: number) => number>('int dup3(int from, int to, int flags)'),
  execve: declare<(path: string, argv: Bytes, envp: Bytes) => number>(
    'int execve(const char *path, void *argv, void *envp)',
  ),
  eventfd: declare<(initial: number, flags: number) => number>(
    'int eventfd(unsigned int initial, int flags)',
  ),
  timerfdCreate: declare<(clock: number, flags: number) => number>(
    'int timerfd_create(int clock, int flags)',
  ),
  timerfdSettime: declare<(fd: Fd, flags: number, value: Bytes, old: Bytes) => number>(
    'int timerfd_settime(int fd, int flags, void *value, void *old)',
  ),
  timerfdGettime: declare<(fd: Fd, value: Bytes) => number>('int timerfd_gettime(int fd, void *value)'),
  sync: declare<() => void>('void sync()'),
  reboot: declare<(command: number) => number>('int reboot(int command)'),
  /** syscall(2), in the shape of kcmp(2), which no libc wraps. */
  kcmp: declare<
    (call: number, pid: number, other: number, type: number, fd: number, otherFd: number) => number
  >('long syscall(long call, int pid, int other, int type, unsigned long fd, unsigned long otherFd)'),
  /** syscall(2), in the shape of pidfd_open(2), which an older libc does not wrap. */
  pidfdOpen: declare<(call: number, pid: number, flags: number) => number>(
    'long syscall(long call, int pid, unsigned int flags)',
  ),
  /** syscall(2), in the shape of pidfd_send_signal(2), which an older libc does not wrap. */
  pidfdSendSignal: declare<(call: number, pidfd: Fd, signal: number, info: Bytes, flags: number) => number>(
    'long syscall(long call, int pidfd, int signal, void *info, unsigned int flags)',
  ),
  prctl: declare<(option: number, one: number, two: number, three: number, four: number) => number>(
    'int prctl(int option, unsigned long one, unsigned long two, unsigned long three, unsigned long four)',
  ),
  waitpid: declare<(pid: number, status: Bytes, options: number) => number>(
    'int waitpid(int pid, void *status, int options)',
  ),
  /** syscall(2), in the shape of kexec_file_load(2), which no libc wraps. */
  kexecFileLoad: declare<
    (call: number, kernel: Fd, initrd: Fd, length: number, cmdline: Bytes, flags: number) => number
  >(
    'long syscall(long call, int kernel, int initrd, unsigned long length, void *cmdline, unsigned long flags)',
  ),
} as const);

/** The errno of the call in the statement before. */
export function errno(): number {
  return koffi.errno();
}

/** The address of a Buffer's bytes, for a pointer inside a hand-laid struct. The Buffer must outlive its use. */
export function addressOf(bytes: Uint8Array): bigint {
  return BigInt(koffi.address(bytes));
}

/** An ArrayBuffer over memory that is not V8's. The caller has checked the length and keeps the memory mapped. */
export function viewOf(address: Pointer, length: number): ArrayBuffer {
  return koffi.view(address as never, length);
}

/** A file descriptor watched by libuv's own loop. For poll.ts alone, which pins it and guards its callback. */
export const pollHandle = koffi.node.poll;
export type PollHandle = ReturnType<typeof pollHandle>;

const HINTS: Partial<Record<ErrnoCode, string>> = {
  EMFILE: 'this process has no descriptor left; raise `ulimit -n`',
  ENFILE: 'the system has no descriptor left; raise fs.file-max',
  ENOMEM: 'not enough memory, or too many mappings (vm.max_map_count)',
  EACCES: 'permission denied',
  EPERM: 'not permitted',
  EBADF: 'the descriptor is not open',
  EINVAL: 'invalid argument',
  EPIPE: 'the other side is gone',
  ECONNRESET: 'the other side is gone',
  ETOOMANYREFS: 'too many descriptors on their way; raise `ulimit -n`',
  ENOTSOCK: 'not a socket',
};

/** The error of a failed call. */
export function failure(call: string, number: number): LiveUpdateError {
  const code = errnoName(number);
  const text = HINTS[code] ?? (ERRNO[code] === number ? 'failed' : `failed with errno ${number}`);
  return new LiveUpdateError(code, text, { operation: call });
}

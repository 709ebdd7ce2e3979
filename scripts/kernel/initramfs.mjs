// The guest's first files: one busybox and one script, which mounts the host's root and makes it the guest's.
//
// The host's root comes read-only over 9p, under an overlay in memory, so that the guest finds the machine's own Node and the
// checkout where they are and can write anywhere without changing anything. Only /run/work is really the host's.

import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { cacheFolder, sha256 } from './cache.mjs';
import { output, which } from './command.mjs';

/** Runs as process 1 of a fresh kernel. */
const INIT = `#!/bin/busybox sh
bb=/bin/busybox
$bb mkdir -p /proc /sys /dev /lower /upper /root
$bb mount -t proc proc /proc
$bb mount -t devtmpfs dev /dev
$bb mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro host /lower || $bb poweroff -f
$bb mount -t tmpfs -o mode=755 upper /upper
$bb mkdir /upper/data /upper/work
$bb mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work root /root || $bb poweroff -f
$bb mount -t tmpfs -o mode=755 run /root/run
$bb mkdir /root/run/work /root/run/guest
$bb mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=none work /root/run/work || $bb poweroff -f
$bb cp /bin/busybox /second /root/run/guest/
$bb mount --move /dev /root/dev
$bb mount --move /proc /root/proc
$bb mount -t sysfs sys /root/sys
exec $bb switch_root -c /dev/console /root /run/guest/second
`;

/** Process 1 from then on: runs the command with its output on the second serial port, and tells how it ended. */
const SECOND = `#!/run/guest/busybox sh
bb=/run/guest/busybox
$bb mkdir -p /dev/pts /dev/shm
$bb mount -t devpts pts /dev/pts
$bb mount -t tmpfs shm /dev/shm
$bb mount -t debugfs debug /sys/kernel/debug
$bb mkdir -p /sys/fs/cgroup && $bb mount -t cgroup2 cgroup /sys/fs/cgroup
$bb ifconfig lo 127.0.0.1 up
$bb hostname guest
$bb stty -F /dev/ttyS1 raw -echo
$bb rm -f /run/work/exit
$bb sh /run/work/command </dev/null >/dev/ttyS1 2>&1
echo $? > /run/work/exit
$bb sync
$bb poweroff -f
`;

/** The path of the initramfs, made when the cache has none of this recipe and this busybox. */
export function ensureInitramfs() {
  const busybox = which('busybox');
  const key = sha256(`${INIT}\n${SECOND}\n${sha256(readFileSync(busybox))}`).slice(0, 12);
  const path = join(cacheFolder('initramfs'), `${key}.cpio`);
  if (existsSync(path)) return path;
  const folder = mkdtempSync(join(tmpdir(), 'liveupdate-initramfs-'));
  try {
    mkdirSync(join(folder, 'bin'));
    mkdirSync(join(folder, 'root'));
    copyFileSync(busybox, join(folder, 'bin/busybox'));
    writeFileSync(join(folder, 'init'), INIT, { mode: 0o755 });
    writeFileSync(join(folder, 'second'), SECOND, { mode: 0o755 });
    const names = ['.', 'bin', 'bin/busybox', 'init', 'root', 'second'];
    const archive = output('cpio', ['-o', '-H', 'newc', '--quiet', '-R', '0:0'], {
      cwd: folder,
      input: Buffer.from(`${names.join('\n')}\n`),
      encoding: 'buffer',
    });
    // Whole under its name or not at all: two runs may make it at one time.
    const draft = `${path}.${process.pid}`;
    writeFileSync(draft, archive);
    renameSync(draft, path);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  return path;
}

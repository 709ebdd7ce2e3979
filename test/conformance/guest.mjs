// Runs in the test kernel: the sequences' first lives, a kexec, and their second lives.

import { readFileSync, writeFileSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';
import { loadKernel, rebootIntoLoadedKernel } from '../../build/linux/index.js';
import { runFirstLives, runSecondLives } from './executor.mjs';
import { KernelSystem } from './kernel-system.mjs';

const { LIVEUPDATE_GUEST_STAGE: stage, LIVEUPDATE_GUEST_WORK: work, ...env } = process.env;
const { sequences } = JSON.parse(readFileSync(join(work, 'sequences.json'), 'utf8'));
const system = new KernelSystem();
// What the test FLBs said while the kernel booted.
const boot = system.takeFlbLog();
const save = (results) =>
  writeFileSync(join(work, `life-${stage}.json`), JSON.stringify({ kernel: release(), boot, results }));

if (stage === '1') {
  save(runFirstLives(system, sequences));
  loadKernel({
    kernel: env.LIVEUPDATE_GUEST_KERNEL,
    initrd: env.LIVEUPDATE_GUEST_INITRD,
    cmdline: env.LIVEUPDATE_GUEST_CMDLINE,
  });
  rebootIntoLoadedKernel();
} else {
  save(runSecondLives(system, sequences));
}

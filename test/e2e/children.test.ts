/** A child process that talks all the time, through updates, until it ends under a version that did not start it. */
import { existsSync, readFileSync } from 'node:fs';
import { afterEach, expect, it } from 'vitest';
import { closeFd } from '../../src/linux/fd.js';
import { openPidfd, parentOf } from '../../src/linux/pidfd.js';
import { watchFd } from '../../src/linux/poll.js';
import { LuodProcess, programPath } from './luod-process.js';

let luod: LuodProcess;

afterEach(async () => {
  await luod?.stop();
});

const program = [process.execPath, programPath('child.mjs')];

it('is one for all generations; no byte is lost, and its exit code reaches the third', {
  timeout: 120_000,
}, async () => {
  luod = await LuodProcess.start({ command: program });
  await luod.says(/generation 1: child \d+/);
  const pid = Number(/generation 1: child (\d+)/.exec(luod.stderr)?.[1]);
  for (let generation = 2; generation <= 3; generation++) {
    expect(await luod.update()).toMatchObject({ ok: true, generation });
  }
  await luod.says(new RegExp(`generation 3: child ${pid}, heard \\d\\d`));
  // An orphan of the first generation's by now.
  expect(parentOf(pid)).toBe(luod.pid);
  luod.signal('SIGUSR2');
  await luod.says(/generation 3: heard/);
  expect(luod.stderr).toContain(`generation 3: child ${pid} exited with 7 null`);
  const [, heard, wrong] = /generation 3: heard (\d+), wrong (\d+)/.exec(luod.stderr) as RegExpExecArray;
  expect([Number(heard) > 1000, Number(wrong)]).toEqual([true, 0]);
  expect(luod.stderr.match(/exited with/g)).toHaveLength(1);

  // luod waits for it: no zombie stays.
  while (existsSync(`/proc/${pid}`)) await luod.status();
  // It is not kept any more: the next version starts another.
  expect(await luod.update()).toMatchObject({ ok: true, generation: 4 });
  await luod.says(/generation 4: child \d+/);
  const next = Number(/generation 4: child (\d+)/.exec(luod.stderr)?.[1]);
  expect(next).not.toBe(pid);

  // It ends with its service, whose program does not see to that.
  const pidfd = openPidfd(next);
  const ended = new Promise<void>((resolve) => {
    const watch = watchFd(pidfd, { readable: true }, () => {
      watch.close();
      resolve();
    });
  });
  await luod.stop();
  await ended;
  closeFd(pidfd);
});

it('outlives a crash of its program, and its pipes do', { timeout: 60_000 }, async () => {
  luod = await LuodProcess.start({ command: program });
  await luod.says(/generation 1: child \d+/);
  const pid = Number(/generation 1: child (\d+)/.exec(luod.stderr)?.[1]);
  const { services } = (await luod.status()) as unknown as { services: { pid: number }[] };
  process.kill(services[0]!.pid, 'SIGKILL');
  await luod.says(new RegExp(`generation 2: child ${pid},`));
  expect(readFileSync(`/proc/${pid}/status`, 'utf8')).toMatch(/^State:\s+[RS]/m);
  luod.signal('SIGUSR2');
  await luod.says(new RegExp(`generation 2: child ${pid} exited with 7 null`));
});

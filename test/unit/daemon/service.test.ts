/** A service that the luod before left in the middle. */
import { spawn } from 'node:child_process';
import { expect, it } from 'vitest';
import { Service } from '../../../src/daemon/service.js';
import type { RestoredService } from '../../../src/daemon/service-record.js';
import { openPidfd } from '../../../src/linux/pidfd.js';

const COMMAND = ['sleep', '1000'];

it('an update whose key was noted, and that was never begun, is no answer to it', async () => {
  const child = spawn(COMMAND[0] as string, COMMAND.slice(1), { detached: true });
  // The service is told of its end, and waits for it.
  child.unref();
  const pid = child.pid as number;
  const left: RestoredService = {
    service: {
      name: 'chat',
      command: COMMAND,
      cwd: '/',
      restart: 'never',
      maxRestarts: 0,
      fresh: false,
      // It was killed as it was about to start the next version.
      state: 'updating',
      generation: 1,
      wasReady: true,
      isOwed: false,
      restarts: 0,
      updateKey: 'key 1',
      lastUpdate: null,
    },
    images: [
      {
        role: 'current',
        command: COMMAND,
        secret: 'secret',
        generation: 1,
        startedAt: Date.now(),
        childPid: pid,
        pid,
        pidfd: openPidfd(pid),
      },
    ],
    held: [],
    update: undefined,
    history: [],
  };
  const nothing = () => undefined;
  const options = {
    socket: '/nowhere',
    log: nothing,
    arrival: async () => undefined,
    store: { put: nothing, amend: nothing, drop: nothing },
    changed: nothing,
  };
  const service = Service.restore(options, left, nothing);
  try {
    // Both are asked anew: of a program that does not use liveupdate, and for what nobody has prepared.
    await expect(service.prepare({ key: 'key 1' })).rejects.toMatchObject({ code: 'EOPNOTSUPP' });
    await expect(service.cut({ key: 'key 1' })).rejects.toMatchObject({ code: 'ENOENT' });
    await expect(service.cancel('uid 0', true)).rejects.toMatchObject({ code: 'ENOENT' });
  } finally {
    service.stop('SIGTERM');
    expect(await service.stopped).toBe(128 + 15);
  }
});

/** The keeper is killed: luod starts another and tells it everything, so that luod may be killed again. */
import { closeSync, fstatSync } from 'node:fs';
import { expect, it } from 'vitest';
import { createMemfd } from '../../src/linux/memfd.js';
import { ByteClients } from '../e2e/byte-clients.js';
import { Host } from '../e2e/host.js';
import { LuodProcess, processesWith } from '../e2e/luod-process.js';

it('sessions, in every state, are with the next keeper', async () => {
  const host = await Host.start();
  const client = await host.connect();
  const memfds = [1, 2, 3].map((size) => createMemfd('m', size));
  const [first, second, third] = memfds as [number, number, number];
  const inode = (fd: number) => fstatSync(fd).ino;

  const owned = await client.createSession('owned', { custody: 'hold' });
  await owned.preserve(first, 1n);
  const left = await client.createSession('left', { custody: 'hold' });
  await left.preserve(second, 2n);
  left.close();
  const claimed = await client.createSession('claimed', { custody: 'hold' });
  await claimed.preserve(third, 3n);
  claimed.close();
  let next = await client.retrieveSession('claimed').catch(() => undefined);
  while (next === undefined) next = await client.retrieveSession('claimed').catch(() => undefined);
  closeSync(await next.retrieve(3n));

  for (let death = 1; death <= 2; death++) {
    host.stderr = '';
    process.kill(host.keeperPid, 'SIGKILL');
    await host.says(/another keeper has everything/);
    await host.kill();
    await host.spawn();
    expect((await owned.list()).map(({ token }) => token)).toEqual(['1']);
    const again = await next.retrieve(3n);
    expect(inode(again)).toBe(inode(third));
    closeSync(again);
  }
  const orphan = await client.retrieveSession('left');
  const back = await orphan.retrieve(2n);
  expect(inode(back)).toBe(inode(second));
  for (const fd of [back, ...memfds]) closeSync(fd);
  for (const session of [owned, orphan, next]) session.close();
  client.close();
  await host.stop();
  expect(processesWith(host.folder)).toEqual([]);
});

it('a service is with the next keeper', async () => {
  const luod = await LuodProcess.start();
  const clients = await ByteClients.open(luod.port, 20);
  const { pid } = await luod.report();
  const keeper = processesWith(`${luod.socket}.keeper`)[0] as number;
  process.kill(keeper, 'SIGKILL');
  await luod.says(/another keeper has everything/);
  luod.signal('SIGKILL');
  await luod.exited;
  await luod.again();
  expect((await luod.report()).pid).toBe(pid);
  expect(await luod.update()).toMatchObject({ ok: true, generation: 2 });
  expect(await clients.settle()).toEqual({ missing: 0 });
  expect([clients.wrong, clients.closed]).toEqual([[], 0]);
  clients.close();
  await luod.stop();
  await expect.poll(() => processesWith(luod.folder)).toEqual([]);
});

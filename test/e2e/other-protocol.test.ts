/** An image and a luod of times that do not understand each other. */
import { afterEach, describe, expect, it } from 'vitest';
import { LuodProcess, programPath } from './luod-process.js';

const other = ['env', 'PROTOCOL=99', process.execPath, programPath('other-protocol.mjs')];

let luod: LuodProcess;

afterEach(async () => {
  await luod?.stop();
});

describe('an image that speaks another protocol', () => {
  it('is refused at its hello, with both versions, and the update is rolled back at once', async () => {
    luod = await LuodProcess.start();
    const result = await luod.updateTo(other);
    expect(result).toMatchObject({
      ok: false,
      rolledBack: true,
      error: { code: 'EPROTONOSUPPORT', phase: 'spawn' },
    });
    expect(result.error?.message).toMatch(/speaks protocol 99, and this luod \(\S+\) protocol 1: /);
    expect(await luod.report()).toMatchObject({ generation: 1, events: [] });
  });

  it('is told why', async () => {
    luod = await LuodProcess.start({ command: other, isPlain: true });
    await luod.says(/the answer was \{"type":"refused","error":\{"code":"EPROTONOSUPPORT"/);
    await luod.says(/generation 1 was refused: pid \d+ speaks protocol 99/);
  });
});

import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { closeFd } from '../../../src/linux/fd.js';
import { watchFd } from '../../../src/linux/poll.js';
import { recvFds, sendFds } from '../../../src/linux/scm-rights.js';
import { socketPair } from '../../../src/linux/socketpair.js';
import { countDescriptors } from './descriptors.js';

countDescriptors();

const LINUX = fileURLToPath(new URL('../../../dist/linux/index.js', import.meta.url));

function child(body: string, flags: string[] = []) {
  const script = `import { closeFd, sendFds, socketPair, watchFd } from ${JSON.stringify(LINUX)};\nconst [a, b] = socketPair();\n${body}`;
  return spawnSync(process.execPath, [...flags, '--input-type=module', '-e', script], { encoding: 'utf8' });
}

describe('poll', () => {
  it('calls back as long as there is something, and not after close', async () => {
    const [a, b] = socketPair();
    sendFds(a, Buffer.from('xy'), []);
    let calls = 0;
    await new Promise<void>((resolve) => {
      const watch = watchFd(b, { readable: true }, ({ readable, error }) => {
        expect({ readable, error }).toEqual({ readable: true, error: undefined });
        calls++;
        if (calls === 1) return;
        recvFds(b, { maxBytes: 10, maxFds: 0 });
        watch.close();
        watch.close();
        watch.unref();
        watch.ref();
        resolve();
      });
    });
    expect(calls).toBe(2);
    closeFd(a);
    closeFd(b);
  });

  it('has promises and ticks run before the next call', () => {
    const { stdout } = child(
      `const said = [];
       sendFds(a, Buffer.from('x'), []);
       const watch = watchFd(b, { readable: true }, () => {
         said.push('call');
         if (said.length > 6) { watch.close(); console.log(said.join(' ')); return; }
         process.nextTick(() => said.push('tick'));
         Promise.resolve().then(() => said.push('promise'));
       });`,
    );
    expect(stdout).toBe('call tick promise call tick promise call\n');
  });

  it('makes what a callback throws an uncaught exception', () => {
    const { status, stderr } = child(
      "sendFds(a, Buffer.from('x'), []); watchFd(b, { readable: true }, () => { throw new Error('told'); });",
    );
    expect(status).toBe(1);
    expect(stderr).toContain('Error: told');
  });

  it('lets the process end when it is unreferenced', () => {
    expect(child('watchFd(b, { readable: true }, () => undefined).unref();').status).toBe(0);
  });

  it('is not called while the process takes itself down', () => {
    const { status, stderr } = child(
      `watchFd(b, { readable: true }, () => undefined).unref();
       process.on('exit', () => sendFds(a, Buffer.from('x'), []));`,
    );
    expect([status, stderr]).toEqual([0, '']);
  });

  it('is not collected while it is open', () => {
    const { stdout } = child(
      `watchFd(b, { readable: true }, () => { console.log('called'); process.exit(0); });
       for (let i = 0; i < 10; i++) { gc(); await new Promise((resolve) => setImmediate(resolve)); }
       sendFds(a, Buffer.from('x'), []);`,
      ['--expose-gc'],
    );
    expect(stdout).toBe('called\n');
  });
});

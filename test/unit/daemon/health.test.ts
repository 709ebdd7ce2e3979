import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import { afterEach, describe, expect, it } from 'vitest';
import { hasGate, policyOf, TRUSTED } from '../../../src/daemon/health.js';
import { runCheck } from '../../../src/daemon/health-command.js';
import { askUrl } from '../../../src/daemon/health-url.js';

const { signal } = new AbortController();

function check(code: string, timeoutMs = 20_000, called: AbortSignal = signal) {
  const command = [process.execPath, '-e', code];
  return runCheck({ command, cwd: '/', env: process.env, timeoutMs, signal: called });
}

describe('a command', () => {
  it('is healthy when it exits with 0, whatever it says', async () => {
    expect(await check('console.error("x".repeat(1e6))')).toBeUndefined();
  });

  it('is not when it exits otherwise or is killed; the end of what it said is told', async () => {
    const exits = await check('process.stdout.write("a".repeat(5000) + "the end", () => process.exit(2))');
    expect(exits?.code).toBe('ECHILD');
    expect(exits?.message).toMatch(/exited with code 2: a+the end$/);
    expect(exits?.message.length).toBeLessThan(1300);
    expect(await check('process.kill(process.pid, "SIGKILL")')).toMatchObject({
      code: 'ECHILD',
      message: expect.stringMatching(/was killed by SIGKILL$/),
    });
  });

  it('is not waited for when it left somebody with its output', async () => {
    // In a session of its own, which the check's group does not have.
    const left = `const c = require('child_process').spawn(process.execPath, ['-e', 'setInterval(() => 0, 1e6)'],
      { detached: true, stdio: ['ignore', 'inherit', 'inherit'] }); process.stdout.write(String(c.pid), () => process.exit(3));`;
    const reason = await check(left);
    expect(reason?.message).toMatch(/exited with code 3: \d+$/);
    process.kill(Number(/\d+$/.exec(reason?.message ?? '')?.[0]), 'SIGKILL');
  });

  it('is called off by the signal, before and while it runs', async () => {
    expect(await check('', 20_000, AbortSignal.abort())).toMatchObject({ code: 'ECANCELED' });
    const called = new AbortController();
    const running = check('setInterval(() => 0, 1e6)', 20_000, called.signal);
    called.abort();
    expect(await running).toMatchObject({ code: 'ECANCELED' });
  });
});

describe('a URL', () => {
  let server: Server | undefined;

  afterEach(() => {
    server?.closeAllConnections();
    server?.close();
  });

  async function answering(
    status: number | undefined,
    headers: Record<string, string> = {},
  ): Promise<string> {
    server = createServer((_, response) => {
      if (status !== undefined) response.writeHead(status, headers).end('x'.repeat(100_000));
    }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    return `http://127.0.0.1:${(server.address() as { port: number }).port}/healthz`;
  }

  it('is healthy at any 2xx', async () => {
    expect(await askUrl(await answering(204), 20_000, signal)).toBeUndefined();
  });

  it('is not at a redirection, nor at an error', async () => {
    expect(await askUrl(await answering(302, { location: '/ok' }), 20_000, signal)).toMatchObject({
      code: 'EPROTO',
      message: expect.stringMatching(/answered 302 Found$/),
    });
    server?.close();
    expect(await askUrl(await answering(500), 20_000, signal)).toMatchObject({ code: 'EPROTO' });
  });

  it('is not when it does not answer in time, or when it is called off', async () => {
    const url = await answering(undefined);
    expect(await askUrl(url, 50, signal)).toMatchObject({ code: 'ETIMEDOUT' });
    const called = new AbortController();
    const asked = askUrl(url, 20_000, called.signal);
    called.abort();
    expect(await asked).toMatchObject({ code: 'ECANCELED' });
    expect(await askUrl(url, 20_000, AbortSignal.abort())).toMatchObject({ code: 'ECANCELED' });
  });

  it('is not when nobody listens', async () => {
    expect(await askUrl('unix:/no/such.sock:/', 20_000, signal)).toMatchObject({ code: 'ENOENT' });
  });
});

describe('policyOf', () => {
  it('lets the later word count, also when it is 0 or no check at all', () => {
    const service = { check: { url: 'http://127.0.0.1/' }, timeout: 1, minUptime: 2, watch: 3 };
    expect(policyOf()).toEqual({ check: undefined, timeoutMs: 10_000, minUptimeMs: 0, watchMs: 10_000 });
    expect(policyOf(service, undefined)).toEqual({
      check: service.check,
      timeoutMs: 1,
      minUptimeMs: 2,
      watchMs: 3,
    });
    const one = policyOf(service, { check: null, minUptime: 0, watch: 0 });
    expect(one).toEqual({ check: undefined, timeoutMs: 1, minUptimeMs: 0, watchMs: 0 });
    expect(hasGate(one)).toBe(false);
    expect(policyOf(TRUSTED, { watch: 5 })).toMatchObject({ check: undefined, watchMs: 5 });
  });
});

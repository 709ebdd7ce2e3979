/**
 * examples/cache under luod, with the clients that people use: node-redis with its defaults, redis-cli and redis-benchmark. They are
 * at work while the server is updated, and while it is killed: no error, no key lost, no count wrong.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { connect } from 'node:net';
import { fileURLToPath } from 'node:url';
import { createClient } from 'redis';
import { afterEach, describe, expect, it } from 'vitest';
import { LuodProcess, run } from './luod-process.js';

const SERVER = fileURLToPath(new URL('../../examples/cache/server.mjs', import.meta.url));
const HAS_BENCHMARK = spawnSync('redis-benchmark', ['--version']).error === undefined;
const WHY_NOT = HAS_BENCHMARK
  ? ''
  : ' (skipped: redis-benchmark is not installed; Debian has it in redis-tools)';

let luod: LuodProcess;
const clients: Client[] = [];

type Client = ReturnType<typeof newClient>;

function newClient() {
  return createClient({
    socket: { host: '127.0.0.1', port: luod.port, reconnectStrategy: 20 },
  });
}

const errors: string[] = [];

async function dial(): Promise<Client> {
  const client = newClient();
  client.on('error', (error: Error) => errors.push(error.message));
  clients.push(client);
  await client.connect();
  return client;
}

async function start(...flags: string[]): Promise<void> {
  luod = await LuodProcess.start({ command: [process.execPath, SERVER, ...flags] });
}

afterEach(async () => {
  for (const client of clients.splice(0)) client.destroy();
  errors.length = 0;
  await luod?.stop();
});

/** What one client has been told, or may yet be: the value of each key, and one that is under way. */
class Ledger {
  readonly acknowledged = new Map<string, string | null>();
  underWay: { key: string; value: string | null } | undefined;
  counted = 0;
  isCounting = false;
  operations = 0;
  readonly wrong: string[] = [];
}

/** Sets, reads, deletes and counts without a pause, and checks each answer, until `isOver`. What it has been refused it notes. */
async function work(client: Client, name: string, ledger: Ledger, isOver: () => boolean): Promise<void> {
  for (let turn = 0; !isOver(); turn++) {
    const key = `${name}:${(turn * 7919) % 500}`;
    const value = turn % 11 === 10 ? null : `${name} ${turn} ${'x'.repeat((turn * 31) % 400)}`;
    try {
      ledger.underWay = { key, value };
      if (value === null) await client.del(key);
      else await client.set(key, value);
      ledger.acknowledged.set(key, value);
      ledger.underWay = undefined;
      const read = `${name}:${(turn * 104729) % 500}`;
      const found = await client.get(read);
      if (found !== (ledger.acknowledged.get(read) ?? null)) ledger.wrong.push(`${read} is ${found}`);
      ledger.isCounting = true;
      const count = await client.incr(`${name}:count`);
      ledger.isCounting = false;
      ledger.counted++;
      if (count !== ledger.counted) ledger.wrong.push(`counted ${count} for ${ledger.counted}`);
      ledger.operations += 3;
    } catch (error) {
      ledger.wrong.push(String(error));
      return;
    }
  }
}

/** Keys that are not what was acknowledged, nor what was under way. */
async function lost(client: Client, name: string, ledger: Ledger): Promise<string[]> {
  const missing: string[] = [];
  for (const [key, value] of ledger.acknowledged) {
    const found = await client.get(key);
    const isUnderWay = ledger.underWay?.key === key && ledger.underWay.value === found;
    if (found !== value && !isUnderWay) missing.push(`${key} is ${found}, not ${value}`);
  }
  const counted = Number(await client.get(`${name}:count`));
  const most = ledger.counted + (ledger.isCounting ? 1 : 0);
  if (counted < ledger.counted || counted > most) missing.push(`${counted} counted, not ${ledger.counted}`);
  return missing;
}

/** One key a line, several to a request, each request in two writes: the cut falls into requests. */
async function writesHalves(port: number, isOver: () => boolean): Promise<{ sent: number; answers: string }> {
  const socket = connect(port, '127.0.0.1').setNoDelay(true);
  let answers = '';
  let wake = () => undefined as unknown;
  socket.setEncoding('latin1').on('data', (text: string) => {
    answers += text;
    wake();
  });
  // 'close' follows, and the answers that are missing tell.
  socket.on('error', () => undefined);
  socket.on('close', () => wake());
  await once(socket, 'connect');
  let sent = 0;
  const request = () => `*2\r\n$4\r\nECHO\r\n$8\r\n${String(sent++).padStart(8, '0')}\r\n`;
  let rest = '';
  const wanted = () => sent * '$8\r\n00000000\r\n'.length;
  while (!isOver() && !socket.destroyed) {
    const text = rest + request() + request() + request();
    const cut = text.length - 1 - ((sent * 7) % 40);
    rest = text.slice(cut);
    socket.write(text.slice(0, cut));
    // All but the last is answered, the last has come in part.
    while (answers.length < wanted() - 2 * 14 && !socket.destroyed) {
      await new Promise<void>((resolve) => {
        wake = () => resolve();
      });
    }
  }
  socket.write(rest);
  while (answers.length < wanted() && !socket.destroyed) {
    await new Promise<void>((resolve) => {
      wake = () => resolve();
    });
  }
  socket.destroy();
  return { sent, answers };
}

describe('the cache of the examples', () => {
  it('answers as Redis does', async () => {
    await start('--megabytes', '1');
    const client = await dial();
    expect(await client.ping()).toBe('PONG');
    expect(await client.set('a', '1', { expiration: { type: 'EX', value: 100 } })).toBe('OK');
    expect(await client.ttl('a')).toBeGreaterThan(98);
    expect(await client.set('a', '2', { condition: 'NX' })).toBeNull();
    expect(await client.set('a', '2', { condition: 'XX', GET: true })).toBe('1');
    expect(await client.ttl('a')).toBe(-1);
    expect(await client.mSet({ b: 'two', c: 'three' })).toBe('OK');
    expect(await client.mGet(['b', 'none', 'c'])).toEqual(['two', null, 'three']);
    expect([await client.incrBy('a', 40), await client.decr('a'), await client.append('a', '0')]).toEqual([
      42, 41, 3,
    ]);
    expect([
      await client.strLen('a'),
      await client.exists(['a', 'b', 'none']),
      await client.del(['a', 'x']),
    ]).toEqual([3, 2, 1]);
    await expect(client.incr('b')).rejects.toThrow('value is not an integer or out of range');
    await client.set('top', String(2n ** 63n - 1n));
    await expect(client.incr('top')).rejects.toThrow('would overflow');
    await client.set('soon', 'gone', { expiration: { type: 'PX', value: 1 } });
    await expect.poll(() => client.get('soon')).toBeNull();
    expect([await client.pTTL('soon'), await client.dbSize()]).toEqual([-2, 3]);
    expect((await client.keys('[bc]')).sort()).toEqual(['b', 'c']);
    const scanned: string[] = [];
    for await (const keys of client.scanIterator({ MATCH: 't?p', COUNT: 1 })) scanned.push(...keys);
    expect(scanned).toEqual(['top']);
    const bytes = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
    await client.set('bytes', bytes);
    expect(await client.sendCommand(['STRLEN', 'bytes'])).toBe(256);
    await expect(client.set('large', 'x'.repeat(1 << 17))).rejects.toThrow('ERR key and value are more than');
    await expect(
      Promise.all(Array.from({ length: 2000 }, (_, i) => client.set(`full${i}`, 'x'.repeat(1000)))),
    ).rejects.toThrow('OOM command not allowed');
    expect(await client.get('b')).toBe('two');
    await client.flushAll();
    expect(await client.dbSize()).toBe(0);
    await expect(client.sendCommand(['LPUSH', 'l', '1'])).rejects.toThrow("unknown command 'LPUSH'");
    expect(errors).toEqual([]);
  });

  it('does not notice five updates under load: no error, no lost key, no count wrong', async () => {
    await start('--megabytes', '4');
    const names = ['one', 'two', 'three', 'four'];
    let isOver = false;
    const ledgers = names.map(() => new Ledger());
    const working = names.map(async (name, i) =>
      work(await dial(), name, ledgers[i] as Ledger, () => isOver),
    );
    const halves = writesHalves(luod.port, () => isOver);
    for (let generation = 2; generation <= 6; generation++) {
      const done = ledgers.map(({ operations }) => operations);
      expect(await luod.updateTo([])).toMatchObject({ ok: true, generation, carried: true, connections: 5 });
      // Each works on before the next update begins.
      await expect
        .poll(() => ledgers.every(({ operations, wrong }, i) => operations > done[i]! || wrong.length > 0))
        .toBe(true);
    }
    isOver = true;
    await Promise.all(working);
    const { sent, answers } = await halves;
    const expected = Array.from({ length: sent }, (_, i) => `$8\r\n${String(i).padStart(8, '0')}\r\n`).join(
      '',
    );
    expect(answers === expected).toBe(true);
    expect([ledgers.flatMap(({ wrong }) => wrong), errors]).toEqual([[], []]);
    const client = await dial();
    for (const [i, name] of names.entries())
      expect(await lost(client, name, ledgers[i] as Ledger)).toEqual([]);
    expect(await client.info()).toContain('generation:6');
  });

  it('keeps every acknowledged key when it is killed in the midst of work', async () => {
    await start('--megabytes', '4');
    for (let life = 0; life < 3; life++) {
      const names = [`a${life}`, `b${life}`, `c${life}`, `d${life}`];
      const ledgers = names.map(() => new Ledger());
      const workers = await Promise.all(names.map(() => dial()));
      const working = names.map((name, i) =>
        work(workers[i] as Client, name, ledgers[i] as Ledger, () => ledgers[i]!.wrong.length > 0),
      );
      await expect.poll(() => ledgers.every(({ operations }) => operations > 300)).toBe(true);
      const { services } = await luod.status();
      process.kill(services[0]!.pid as number, 'SIGKILL');
      await Promise.all(working);
      // The kill is all that went wrong.
      for (const { wrong } of ledgers)
        expect(wrong).toEqual([expect.stringMatching(/ECONNRESET|ocket|closed/)]);
      // These have connected again by themselves.
      const [client] = workers as [Client, ...Client[]];
      const missing: string[] = [];
      for (const [i, name] of names.entries())
        missing.push(...(await lost(client, name, ledgers[i] as Ledger)));
      expect(missing).toEqual([]);
      await luod.says(/cache: \d+ keys are there after a crash, 0 are damaged/);
      expect(await client.info()).toContain('origin:crash');
      expect(ledgers.reduce((keys, { acknowledged }) => keys + acknowledged.size, 0)).toBeGreaterThan(400);
    }
  });

  it('answers what is left of a long pipeline after an update, to a client that was slow to read', async () => {
    await start('--megabytes', '8');
    const client = await dial();
    await client.set('big', 'b'.repeat(30_000));
    const socket = connect(luod.port, '127.0.0.1');
    await once(socket, 'connect');
    socket.pause();
    const requests = 3000;
    socket.write('*2\r\n$3\r\nGET\r\n$3\r\nbig\r\n'.repeat(requests));
    // Answered as far as the client reads: 90 MB are more than all buffers on the way.
    await expect.poll(() => socket.bytesWritten).toBeGreaterThan(60_000);
    expect(await luod.updateTo([])).toMatchObject({ ok: true, connections: 2 });
    let received = 0;
    const whole = requests * ('$30000\r\n'.length + 30_000 + 2);
    socket.on('data', (bytes: Buffer) => {
      received += bytes.length;
      if (received >= whole) socket.end();
    });
    socket.resume();
    await once(socket, 'close');
    expect(received).toBe(whole);
  });

  describe.skipIf(!HAS_BENCHMARK)(`under redis-benchmark${WHY_NOT}`, () => {
    function benchmark(...flags: string[]): { child: ChildProcess; over: Promise<[number | null, string]> } {
      const child = spawn(
        'redis-benchmark',
        ['-h', '127.0.0.1', '-p', String(luod.port), '-c', '20', '--csv', ...flags],
        { stdio: ['ignore', 'pipe', 'pipe'] },
      );
      let said = '';
      for (const stream of [child.stdout, child.stderr])
        stream?.setEncoding('utf8').on('data', (text: string) => {
          said += text;
        });
      return { child, over: once(child, 'close').then(([code]) => [code as number | null, said]) };
    }

    for (const [how, flags] of [
      ['one request at a time', ['-P', '1', '-n', '15000', '-t', 'ping_inline,ping_mbulk,set,get,incr,mset']],
      ['sixteen at a time', ['-P', '16', '-n', '150000', '-r', '10000', '-t', 'set,get,incr']],
    ] as const) {
      it(`is updated while it serves ${how}, and no request fails`, async () => {
        await start('--megabytes', '16');
        const { child, over } = benchmark(...flags);
        let updates = 0;
        while (child.exitCode === null) {
          expect(await luod.updateTo([])).toMatchObject({ ok: true, carried: true });
          if (child.exitCode === null) updates++;
        }
        const [code, said] = await over;
        expect(said).not.toMatch(/err|fail|closed|reset/i);
        expect(code).toBe(0);
        expect(updates).toBeGreaterThan(0);
        const tests = flags.at(-1)!.split(',').length;
        // A line for each test, behind the head.
        expect(said.trim().split('\n')).toHaveLength(tests + 1);
        const client = await dial();
        if (flags[1] === '1') expect(await client.get('counter:__rand_int__')).toBe('15000');
      });
    }

    it('works with redis-cli, as its page says', async () => {
      await start();
      const cli = async (...words: string[]) =>
        (await run(['redis-cli', '-p', String(luod.port), ...words])).stdout.trim();
      expect(await cli('set', 'greeting', 'hello')).toBe('OK');
      expect(await cli('incr', 'visits')).toBe('1');
      expect(await luod.updateTo([])).toMatchObject({ ok: true });
      const { services } = await luod.status();
      process.kill(services[0]!.pid as number, 'SIGKILL');
      expect(await cli('get', 'greeting')).toBe('hello');
      expect(await cli('incr', 'visits')).toBe('2');
      expect(await cli('info')).toContain('origin:crash');
    });
  });
});

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { kernelFacts } from '../../../src/linux/kernel-facts.js';

describe('kernel facts', () => {
  let root = '';
  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'liveupdate-facts-'));
  });
  afterEach(() => rmSync(root, { recursive: true }));

  function put(path: string, content: string | Buffer): void {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), content);
  }

  function facts(release = '7.3.4-amd64') {
    const list = kernelFacts({ root, release, device: join(root, 'dev/liveupdate') });
    return Object.fromEntries(list.map((fact) => [fact.name, fact]));
  }

  function able(): void {
    put(
      'proc/config.gz',
      gzipSync('CONFIG_LIVEUPDATE=y\nCONFIG_LIVEUPDATE_MEMFD=y\nCONFIG_KEXEC_HANDOVER_ENABLE_DEFAULT=y\n'),
    );
    put('proc/cmdline', 'quiet liveupdate=on\n');
    put('proc/sys/kernel/kexec_load_disabled', '0\n');
    put('proc/self/status', 'CapEff:\t000001ffffffffff\n');
    put('sys/kernel/kexec_loaded', '0\n');
    put('sys/kernel/security/lockdown', '[none] integrity confidentiality\n');
  }

  it('finds an able machine able, but for the device that is not there', () => {
    able();
    const { device, ...others } = facts();
    expect(Object.values(others).map(({ verdict }) => verdict)).toEqual(new Array(9).fill('ok'));
    expect(device).toMatchObject({ verdict: 'missing', advice: expect.any(String) });
  });

  it('says of every missing part what to do', () => {
    able();
    put('proc/config.gz', gzipSync('# CONFIG_LIVEUPDATE is not set\n'));
    put('proc/cmdline', 'liveupdate=on kho=off liveupdate=off');
    put('proc/sys/kernel/kexec_load_disabled', '1\n');
    put('proc/self/status', 'CapEff:\t00000000a80425fb\n');
    put('sys/kernel/security/lockdown', 'none [integrity] confidentiality\n');
    rmSync(join(root, 'sys/kernel/kexec_loaded'));
    const found = facts('6.18.0');
    for (const fact of Object.values(found)) expect(fact.advice, fact.name).toBeDefined();
    expect(found.kernel?.verdict).toBe('missing');
    expect(found.liveupdate).toMatchObject({
      verdict: 'missing',
      advice: expect.stringContaining('CONFIG_LIVEUPDATE=y'),
    });
    // The last word counts.
    expect(found['liveupdate=on']).toMatchObject({ verdict: 'missing', found: 'liveupdate=off' });
    expect(found['kho=on']).toMatchObject({ verdict: 'missing', found: 'kho=off' });
    expect(found['kexec allowed']?.verdict).toBe('missing');
    expect(found.lockdown).toMatchObject({ verdict: 'unknown', found: 'integrity' });
    expect(found.privilege?.verdict).toBe('missing');
  });

  it('says unknown where it cannot see', () => {
    put('proc/cmdline', 'liveupdate=on');
    put('proc/config.gz', 'no gzip');
    const found = facts();
    for (const name of ['liveupdate', 'liveupdate_memfd', 'kho=on', 'kexec allowed']) {
      expect(found[name]?.verdict, name).toBe('unknown');
    }
    expect(found['liveupdate=on']?.verdict).toBe('ok');
  });

  it('reads the configuration of /boot, and knows that 6.19 is newer than 6.9', () => {
    put('boot/config-6.9.1', 'CONFIG_LIVEUPDATE=y\n');
    expect(facts('6.9.1')).toMatchObject({ kernel: { verdict: 'missing' }, liveupdate: { verdict: 'ok' } });
    expect(facts('6.19.0-rc1').kernel?.verdict).toBe('ok');
  });
});

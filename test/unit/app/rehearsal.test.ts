import { execFileSync } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { Socket } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { Program } from '../../../src/app/program.js';
import { type OpenImage, rehearseCut, rehearseFreeze, Stage } from '../../../src/app/rehearsal.js';
import { LiveUpdateError } from '../../../src/core/errors.js';
import { Connection } from '../../../src/handlers/connection.js';
import { ConnectionSet } from '../../../src/handlers/connection-set.js';
import { closeFd, countOpenFds, fdHeadroom } from '../../../src/linux/fd.js';
import { countDescriptors } from '../linux/descriptors.js';

countDescriptors();

/** Node closes a socket some turns of the loop behind its destroy(). */
async function descriptorsAre(expected: number): Promise<void> {
  for (let turn = 0; turn < 100 && countOpenFds() !== expected; turn++) await nextTurn();
}

const warnings: Error[] = [];
const note = (warning: Error) => warnings.push(warning);
beforeAll(() => void process.on('warning', note));
afterAll(() => void process.off('warning', note));

describe('a rehearsal', () => {
  it.each(['freeze', 'cut'] as const)(
    'of the %s comes to its end, and gives everything back',
    async (part) => {
      const listeners = process.eventNames().map((name) => [name, process.listenerCount(name)]);
      for (let round = 0; round < 12; round++) {
        const stage = new Stage(Program.onStage);
        try {
          await stage.play(part);
        } finally {
          stage.clear();
        }
      }
      expect(process.eventNames().map((name) => [name, process.listenerCount(name)])).toEqual(listeners);
      expect(warnings).toEqual([]);
    },
  );

  it('plays two images, and ends neither the process nor what serves in it', async () => {
    const images: Program[] = [];
    const open: OpenImage = async (link, welcome) => {
      const image = await Program.onStage(link, welcome);
      images.push(image);
      return image;
    };
    for (const occasion of ['first', 'again'] as const) {
      await rehearseCut(open, occasion);
      expect(images.splice(0).map(({ origin }) => origin)).toEqual(['fresh', 'update']);
      await rehearseFreeze(open, [], occasion);
      expect(images.splice(0).map(({ origin }) => origin)).toEqual(['fresh']);
    }
  });

  it.each([
    ['first', 20],
    ['again', 4],
  ] as const)('%s, runs each part of the freeze %i times', async (occasion, times) => {
    const set = new ConnectionSet();
    const sockets = Array.from({ length: 3 }, () => new Socket());
    for (const socket of sockets) set.add(Connection.of(socket));
    let runs = 0;
    vi.spyOn(set, 'rehearsals').mockImplementation(function* (perPart) {
      for (const part of ConnectionSet.prototype.rehearsals.call(set, perPart)) {
        yield {
          size: part.size,
          run: () => {
            runs++;
            part.run();
          },
        };
      }
    });
    await rehearseFreeze(Program.onStage, [set], occasion);
    expect(runs).toBe(times);
    for (const socket of sockets) socket.destroy();
  });

  it('that cannot be held, or ends half way, is in nobody’s way', async () => {
    const refuse: OpenImage = (link, { fds }) => {
      link.close();
      for (const fd of fds) closeFd(fd);
      return Promise.reject(new Error('no descriptors left'));
    };
    await rehearseCut(refuse, 'first');
    await rehearseFreeze(refuse, [], 'first');
    let opened = 0;
    await rehearseCut(
      (link, welcome) => (++opened % 2 === 0 ? refuse(link, welcome) : Program.onStage(link, welcome)),
      'first',
    );
    expect(opened).toBe(2);
  });

  it('that ends when everything has come gives that back, too', async () => {
    let hasCome = false;
    await rehearseCut(async (link, welcome) => {
      const image = await Program.onStage(link, welcome);
      if (image.origin === 'update') {
        hasCome = true;
        image.state = () => Promise.reject(new Error('the next version does not want it'));
      }
      return image;
    }, 'first');
    expect(hasCome).toBe(true);
  });

  const noMemory = () => {
    throw new LiveUpdateError('ENOMEM', 'none left');
  };
  const failures: [string, (image: Program) => void][] = [
    ['preserve', (image) => (image.orchestrator.createSession = noMemory)],
    ['freeze', (image) => image.on('freeze', noMemory)],
    ['reboot', (image) => (image.orchestrator.reboot = noMemory)],
    ['retrieve', (image) => (image.orchestrator.deserialize = noMemory)],
    ['finish', (image) => (image.orchestrator.retrieveSession = noMemory)],
  ];

  it.each(failures)('whose %s fails ends by that, and not by waiting', async (step, fail) => {
    const before = countOpenFds();
    for (const part of ['freeze', 'cut'] as const) {
      if (part === 'freeze' && (step === 'retrieve' || step === 'finish')) continue;
      const stage = new Stage(async (link, welcome) => {
        const image = await Program.onStage(link, welcome);
        fail(image);
        return image;
      });
      await expect(stage.play(part)).rejects.toMatchObject({ code: 'ENOMEM' });
      stage.clear();
    }
    await descriptorsAre(before);
  });

  it('that is given up while a step is under way gives back what that step makes', async () => {
    for (let turns = 0; turns < 40; turns++) {
      const before = countOpenFds();
      const stage = new Stage(Program.onStage);
      const over = stage.play('cut').catch((error: unknown) => LiveUpdateError.from(error).code);
      for (let turn = 0; turn < turns; turn++) await nextTurn();
      stage.clear();
      await over;
      await descriptorsAre(before);
      expect([turns, countOpenFds()]).toEqual([turns, before]);
    }
  });

  it('leaves no descriptor open, however few there are', async () => {
    const pid = String(process.pid);
    const [soft, hard] = execFileSync('prlimit', [
      '--pid',
      pid,
      '--nofile',
      '--noheadings',
      '--output',
      'SOFT,HARD',
    ])
      .toString()
      .trim()
      .split(/\s+/);
    execFileSync('prlimit', ['--pid', pid, `--nofile=${countOpenFds() + 64}:${hard}`]);
    const taken: number[] = [];
    try {
      for (let left = 0; left < 60; left++) {
        for (const part of ['freeze', 'cut'] as const) {
          while (fdHeadroom() > left + 4) taken.push(openSync('/dev/null', 'r'));
          const before = countOpenFds();
          const stage = new Stage(Program.onStage);
          const over = await stage.play(part).catch((error: unknown) => LiveUpdateError.from(error).code);
          stage.clear();
          await descriptorsAre(before);
          expect([left, part, over, countOpenFds()]).toEqual([left, part, over, before]);
          for (const fd of taken.splice(0)) closeSync(fd);
        }
      }
    } finally {
      for (const fd of taken) closeSync(fd);
      execFileSync('prlimit', ['--pid', pid, `--nofile=${soft}:${hard}`]);
    }
  });
});

import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Program } from '../../../src/app/program.js';
import { type OpenImage, rehearseCut, rehearseFreeze, Stage } from '../../../src/app/rehearsal.js';
import { closeFd } from '../../../src/linux/fd.js';
import { countDescriptors } from '../linux/descriptors.js';

countDescriptors();

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
    await rehearseCut(async (link, welcome) => {
      const image = await Program.onStage(link, welcome);
      images.push(image);
      return image;
    });
    expect(images.map(({ origin }) => origin)).toEqual(['fresh', 'update']);
    images.length = 0;
    await rehearseFreeze(async (link, welcome) => {
      const image = await Program.onStage(link, welcome);
      images.push(image);
      return image;
    }, []);
    expect(images.map(({ origin }) => origin)).toEqual(['fresh']);
  });

  it('that cannot be held, or ends half way, is in nobody’s way', async () => {
    const refuse: OpenImage = (link, { fds }) => {
      link.close();
      for (const fd of fds) closeFd(fd);
      return Promise.reject(new Error('no descriptors left'));
    };
    await rehearseCut(refuse);
    await rehearseFreeze(refuse, []);
    let opened = 0;
    await rehearseCut((link, welcome) =>
      ++opened % 2 === 0 ? refuse(link, welcome) : Program.onStage(link, welcome),
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
    });
    expect(hasCome).toBe(true);
  });
});

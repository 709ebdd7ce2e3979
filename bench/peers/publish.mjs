/** `--write`: the tables into performance.md, between two marks, and beside it the JSON and the picture. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { picture } from './picture.mjs';

const BEGIN = '<!-- bench:peers begin -->';
const END = '<!-- bench:peers end -->';

/** @throws {Error} when the page has no place for it; nothing is written then. */
export function publish(result, text, folder) {
  const page = join(folder, 'performance.md');
  const before = readFileSync(page, 'utf8');
  const [begin, end] = [before.indexOf(BEGIN), before.indexOf(END)];
  if (begin === -1 || end < begin)
    throw new Error(`${page} has no place for the tables: ${BEGIN} and ${END}`);
  const block = `${BEGIN}\n\n${text}\n![Time of replies through an update](peers.svg)\n\n`;
  writeFileSync(page, before.slice(0, begin) + block + before.slice(end));
  writeFileSync(join(folder, 'peers.json'), `${JSON.stringify(result)}\n`);
  writeFileSync(join(folder, 'peers.svg'), picture(result));
}

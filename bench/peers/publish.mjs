/** `--write`: the tables into docs/performance.md, between two marks, and beside it the JSON and the picture. */
import { readFileSync, writeFileSync } from 'node:fs';
import { picture } from './picture.mjs';

const docs = (name) => new URL(`../../docs/${name}`, import.meta.url);
const BEGIN = '<!-- bench:peers begin -->';
const END = '<!-- bench:peers end -->';

export function publish(result, text) {
  writeFileSync(docs('peers.json'), `${JSON.stringify(result)}\n`);
  writeFileSync(docs('peers.svg'), picture(result));
  const page = readFileSync(docs('performance.md'), 'utf8');
  const [begin, end] = [page.indexOf(BEGIN), page.indexOf(END)];
  if (begin === -1 || end < begin)
    throw new Error(`docs/performance.md has no place for the tables: ${BEGIN} and ${END}`);
  const block = `${BEGIN}\n${text}\n![Time of replies through an update](peers.svg)\n`;
  writeFileSync(docs('performance.md'), page.slice(0, begin) + block + page.slice(end));
}

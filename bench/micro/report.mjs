/** What was measured, as a Markdown page and as JSON, and whether it grew as it may. */
import { readFileSync, writeFileSync } from 'node:fs';
import { cpus, release, totalmem } from 'node:os';
import { growth } from './measure.mjs';

/** The largest exponent that counts as linear, of a step that has a control beyond what its control has above 1. */
export const LINEAR = 1.1;
/** At most so much of a control's growth is the machine's, unless a table says otherwise: what grows with n√n is told, however busy it is. */
const MACHINE = 0.25;

export function machine() {
  return `${cpus()[0].model}, ${cpus().length} cores, ${Math.round(totalmem() / 2 ** 30)} GiB, Linux ${release()}, Node ${process.versions.node}`;
}

/**
 * A table's rows as plain objects, each with its growth if the table has a range for it: with V8's collector as it is, and, where that was
 * measured, without one and with cold caches.
 */
export function rowsOf({ rows, from, cold }) {
  return Array.from(rows, ([name, points]) => ({
    name,
    points,
    ...(from === undefined ? {} : { growth: growth(points, from) }),
    ...(cold?.has(name) ? { cold: growth(cold.get(name), from) } : {}),
  }));
}

/**
 * What is wrong with the tables: growth above linear, of our own code alone where that is known, in what is no control.
 * @throws {Error} for a table that names a control which it has not.
 */
export function faultsOf(tables) {
  return tables.flatMap((table) => {
    const { controlOf } = table;
    const rows = rowsOf(table).map(({ name, growth, cold }) => ({
      name,
      growth: cold ?? growth,
    }));
    const controls = new Set([...(table.controls ?? []), ...Object.values(controlOf ?? {})]);
    for (const name of controls)
      if (!rows.some((row) => row.name === name)) throw new Error(`${table.title} has no '${name}'`);
    return rows
      .filter(({ name, growth }) => growth !== undefined && !controls.has(name))
      .map(({ name, growth }) => {
        const control = rows.find((row) => row.name === controlOf?.[name]);
        const machine = Math.min(table.machine ?? MACHINE, Math.max(0, (control?.growth.exponent ?? 1) - 1));
        return { name, growth, allowed: LINEAR + machine, control };
      })
      .filter(({ growth, allowed }) => !(growth.exponent <= allowed))
      .map(({ name, growth: { exponent, from, to }, allowed, control }) => {
        const beside = control === undefined ? '' : ` beside '${control.name}'`;
        return `${table.title}, ${name}: grows with exponent ${exponent.toFixed(3)} from ${from} to ${to}; ${Number(allowed.toFixed(3))} is allowed${beside}`;
      });
  });
}

const digits = (number) => (number >= 100 ? number.toFixed(0) : number.toPrecision(3));

function markdownTable(table) {
  const { title, unit, sizes, from, cold } = table;
  const heads = [unit, ...sizes.map((size) => size.toLocaleString('en'))];
  if (from !== undefined) heads.push(`exponent from ${from.toLocaleString('en')}`);
  if (cold !== undefined) heads.push('caches cold, nothing collected');
  const lines = rowsOf(table).map(({ name, points, growth: fitted, cold: ofCold }) => {
    const cells = points.map((point) => digits(point.median));
    if (fitted !== undefined) cells.push(fitted.exponent.toFixed(2));
    if (ofCold !== undefined) cells.push(ofCold.exponent.toFixed(2));
    return `| ${[name, ...cells].join(' | ')} |`;
  });
  return `**${title}**\n\n| ${heads.join(' | ')} |\n|${'---|'.repeat(heads.length)}\n${lines.join('\n')}\n`;
}

/** @param parts.facts Lines that are no table, each a sentence. */
export function markdown({ tables, facts }) {
  const list = facts.map((fact) => `- ${fact}`).join('\n');
  return `${machine()}\n\n${tables.map(markdownTable).join('\n')}${list === '' ? '' : `\n${list}\n`}`;
}

/** Puts `text` between the marks of a page that have this name. */
export function writeBlock(page, text, name = 'micro') {
  const before = readFileSync(page, 'utf8');
  const [begin, end] = [`<!-- ${name} -->`, `<!-- /${name} -->`];
  const start = before.indexOf(begin);
  const stop = before.indexOf(end);
  if (start === -1 || stop < start) throw new Error(`${page} has no ${begin} ... ${end}`);
  writeFileSync(page, `${before.slice(0, start + begin.length)}\n${text}${before.slice(stop)}`);
}

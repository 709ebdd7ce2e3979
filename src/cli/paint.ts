/** Colours, for people at a terminal: never in a pipe, in JSON, or where NO_COLOR is set. */
import { styleText } from 'node:util';

type Colour = Parameters<typeof styleText>[0];

/** What a word says of how things stand. */
const STATES: Readonly<Record<string, Colour>> = {
  serving: 'green',
  held: 'green',
  owned: 'green',
  ok: 'green',
  starting: 'cyan',
  updating: 'cyan',
  prepared: 'cyan',
  claimed: 'cyan',
  orphaned: 'yellow',
  unclaimed: 'yellow',
  restarting: 'yellow',
  unknown: 'yellow',
  stopping: 'yellow',
  stopped: 'red',
  failed: 'red',
  'rolled-back': 'yellow',
  'auto-rolled-back': 'red',
  missing: 'red',
};

export function heading(text: string): string {
  return paint('bold', text);
}

/** @param text A state's name, maybe with spaces behind it. */
export function state(text: string): string {
  const colour = STATES[text.trim()];
  return colour === undefined ? text : paint(colour, text);
}

export function good(text: string): string {
  return paint('green', text);
}

export function bad(text: string): string {
  return paint('red', text);
}

function paint(colour: Colour, text: string): string {
  const isWanted = process.stdout.isTTY === true && (process.env.NO_COLOR ?? '') === '';
  return isWanted ? styleText(colour, text, { validateStream: false }) : text;
}

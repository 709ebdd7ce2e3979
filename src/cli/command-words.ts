/**
 * A command in one argument, split into words without a shell: spaces separate, quotes and backslashes hold together as in sh(1), and
 * nothing else means anything. What a shell would take for more than a word is refused, so that nobody believes it works.
 */
import { LiveUpdateError } from '../core/errors.js';

/** What a shell would do something with, outside of quotes. */
const FOR_A_SHELL = /[|&;<>`$()]/;

/** @throws {LiveUpdateError} EINVAL for an open quote, a shell's character, or nothing at all. */
export function commandWords(text: string): [string, ...string[]] {
  const words: string[] = [];
  let word: string | undefined;
  let quote: string | undefined;
  for (let i = 0; i < text.length; i++) {
    const char = text[i] as string;
    if (char === quote) quote = undefined;
    else if (char === '\\' && quote !== "'" && i + 1 < text.length) word = (word ?? '') + text[++i];
    else if (quote !== undefined) word = (word ?? '') + char;
    else if (char === '"' || char === "'") {
      quote = char;
      word ??= '';
    } else if (/\s/.test(char)) {
      if (word !== undefined) words.push(word);
      word = undefined;
    } else if (FOR_A_SHELL.test(char)) {
      const text = `'${char}' is for a shell, and there is none: quote it, or give '["sh", "-c", "..."]'`;
      throw new LiveUpdateError('EINVAL', text);
    } else word = (word ?? '') + char;
  }
  if (quote !== undefined) throw new LiveUpdateError('EINVAL', `the quote ${quote} is not closed`);
  if (word !== undefined) words.push(word);
  const [first, ...rest] = words;
  if (first === undefined) throw new LiveUpdateError('EINVAL', 'there is no command');
  return [first, ...rest];
}

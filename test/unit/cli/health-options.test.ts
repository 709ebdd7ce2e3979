import { describe, expect, it } from 'vitest';
import { commandWords } from '../../../src/cli/command-words.js';
import { parseHealthCheck } from '../../../src/cli/health-options.js';

describe('commandWords', () => {
  it('splits as a shell splits words, and does nothing else that a shell does', () => {
    expect(commandWords(' curl  -fsS\thttp://127.0.0.1/?a=*\n')).toEqual([
      'curl',
      '-fsS',
      'http://127.0.0.1/?a=*',
    ]);
    expect(commandWords(`node -e 'a "b" \\n' "c 'd' \\" e" f\\ g '' x""y`)).toEqual([
      'node',
      '-e',
      'a "b" \\n',
      `c 'd' " e`,
      'f g',
      '',
      'xy',
    ]);
    expect(commandWords(`echo '$HOME|;' "(x)" \\&`)).toEqual(['echo', '$HOME|;', '(x)', '&']);
  });

  it('gives EINVAL for what only a shell can do, for an open quote, and for nothing', () => {
    for (const text of ['a | b', 'a && b', 'a; b', 'a > b', 'a $B', 'a `b`', 'a (b)']) {
      expect(() => commandWords(text), text).toThrow(/EINVAL: '.' is for a shell/);
    }
    expect(() => commandWords(`a 'b`)).toThrow(/the quote ' is not closed/);
    expect(() => commandWords(' ')).toThrow(/there is no command/);
  });
});

describe('--health', () => {
  it('takes a URL of this machine, a command, or a command as JSON', () => {
    for (const url of [
      'http://127.0.0.1:8080/healthz?full',
      'http://localhost/',
      'http://[::1]:80/',
      'unix:/run/x.sock',
      'unix:/run/x.sock:/healthz',
    ]) {
      expect(parseHealthCheck(url)).toEqual({ url });
    }
    expect(parseHealthCheck('./check.sh --fast')).toEqual({ command: ['./check.sh', '--fast'] });
    expect(parseHealthCheck('["sh", "-c", "a | b"]')).toEqual({ command: ['sh', '-c', 'a | b'] });
  });

  const bad: [string, RegExp][] = [
    ['https://127.0.0.1/', /is not http/],
    ['ftp://127.0.0.1/', /is not http/],
    ['http://example.org/', /'example.org' is not this machine's loopback/],
    ['http://127.0.0.1.example.org/', /not this machine's loopback/],
    ['http://0.0.0.0/', /not this machine's loopback/],
    ['http://u:p@127.0.0.1/', /user or password/],
    ['http://', /is no URL/],
    ['unix:relative.sock', /no socket by its whole path/],
    ['unix:/run/x.sock:healthz', /no socket by its whole path/],
    ['curl -f x | grep ok', /'\|' is for a shell/],
    ['["curl"', /no JSON array of words/],
    ['[]', /no JSON array of words/],
    ['["curl", 1]', /no JSON array of words/],
    [' ', /there is no command/],
  ];
  for (const [text, message] of bad) {
    it(`refuses ${text}`, () => expect(() => parseHealthCheck(text)).toThrow(message));
  }
});

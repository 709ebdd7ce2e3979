/** How examples/cache reads requests: however they are cut, and wherever an update falls between two pieces. */
import { deserialize, serialize } from 'node:v8';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { answer, COMMANDS, matcher } from '../../../examples/cache/commands.mjs';
import { Replies } from '../../../examples/cache/replies.mjs';
import { feed, newInput, nextRequest, ProtocolError } from '../../../examples/cache/requests.mjs';
import { Store } from '../../../examples/cache/store.mjs';

type Input = ReturnType<typeof newInput>;

function take(input: Input, into: string[][]): void {
  for (let request = nextRequest(input); request !== undefined; request = nextRequest(input))
    into.push((request as Buffer[]).map((word) => word.toString('latin1')));
}

function bulk(words: readonly string[]): Buffer {
  const parts = words.map((word) => `$${word.length}\r\n${word}\r\n`);
  return Buffer.from(`*${words.length}\r\n${parts.join('')}`, 'latin1');
}

const word = fc.string({ unit: 'binary-ascii', maxLength: 40 });
const inlineWord = fc.stringMatching(/^[a-z0-9]{1,10}$/);
const requests = fc.array(
  fc.oneof(
    fc.array(word, { minLength: 1, maxLength: 6 }).map((words) => ({ words, bytes: bulk(words) })),
    fc
      .array(inlineWord, { minLength: 1, maxLength: 4 })
      .map((words) => ({ words, bytes: Buffer.from(`${words.join('  ')}\r\n`) })),
  ),
  { minLength: 1, maxLength: 8 },
);

function refusal(text: string): string {
  const input = newInput();
  feed(input, Buffer.from(text));
  try {
    nextRequest(input);
  } catch (error) {
    expect(error).toBeInstanceOf(ProtocolError);
    return (error as Error).message;
  }
  return 'none';
}

describe('requests', () => {
  test('are read whole, wherever they are cut, and wherever the next version reads on', () => {
    fc.assert(
      fc.property(
        requests,
        fc.array(fc.tuple(fc.integer({ min: 1, max: 30 }), fc.boolean())),
        (list, cuts) => {
          const bytes = Buffer.concat(list.map(({ bytes }) => bytes));
          let input = newInput();
          const read: string[][] = [];
          let at = 0;
          for (const [length, crosses] of cuts) {
            if (at >= bytes.length) break;
            feed(input, Buffer.from(bytes.subarray(at, at + length)));
            at += length;
            take(input, read);
            if (crosses) input = deserialize(serialize(input)) as Input;
          }
          if (at < bytes.length) feed(input, bytes.subarray(at));
          take(input, read);
          expect(read).toEqual(list.map(({ words }) => words));
          expect(input).toEqual(newInput());
        },
      ),
    );
  });

  test('that are empty are skipped', () => {
    const input = newInput();
    feed(input, Buffer.from('\r\n*0\r\n*-1\r\n  \r\nPING\r\n'));
    const read: string[][] = [];
    take(input, read);
    expect(read).toEqual([['PING']]);
  });

  test('a large value is put together once, not anew with each piece', () => {
    const input = newInput();
    feed(input, Buffer.from('*2\r\n$4\r\nECHO\r\n$1000000\r\n'));
    for (let sent = 0; sent < 1_000_000; sent += 1000) {
      expect(nextRequest(input)).toBeUndefined();
      feed(input, Buffer.alloc(1000, 'v'));
    }
    expect(input.chunks.length).toBeGreaterThan(999);
    feed(input, Buffer.from('\r\n'));
    expect(nextRequest(input)).toHaveLength(2);
  });

  test('that break the protocol are refused', () => {
    expect(refusal('*1\r\n+PING\r\n')).toBe("expected '$', got '+'");
    expect(refusal('*x\r\n')).toBe('invalid multibulk length');
    expect(refusal('*\r\n')).toBe('invalid multibulk length');
    expect(refusal('*99999999999\r\n')).toBe('invalid multibulk length');
    expect(refusal('*1\r\n$-1\r\n')).toBe('invalid bulk length');
    expect(refusal('*1\r\n$99999999999\r\n')).toBe('invalid bulk length');
    expect(refusal('*2\r\n$60000000\r\n')).toBe('none');
    expect(refusal('*1\r\n$4\r\nPINGPONG')).toBe('a bulk string does not end where it should');
    expect(refusal('x'.repeat(70_000))).toBe('too big inline request');
  });
});

describe('patterns', () => {
  const matches = (pattern: string, key: string) => matcher(Buffer.from(pattern))(Buffer.from(key));

  test.each([
    ['*', 'anything\n', true],
    ['h?llo', 'hallo', true],
    ['h?llo', 'hllo', false],
    ['h[ae]llo', 'hello', true],
    ['h[^e]llo', 'hello', false],
    ['h[a-c]llo', 'hbllo', true],
    ['a.c', 'abc', false],
    ['a\\*c', 'a*c', true],
    ['a\\*c', 'abc', false],
    ['(a|b)+', 'a', false],
    ['[]x', 'x', false],
    ['[c-a]', 'b', true],
    ['[\\]-]', ']', true],
    ['[\\d]', '7', false],
    ['[a-]', '-', true],
    ['[abc', '[abc', true],
    ['user:*:name', 'user:12:name', true],
  ])('%s and %j: %s', (pattern, key, is) => {
    expect(matches(pattern, key)).toBe(is);
  });
});

describe('commands', () => {
  test('whatever is asked, there is one answer, and the server lives', () => {
    const names = [...COMMANDS.keys()];
    const argument = fc.oneof(
      fc.constantFrom(
        'k',
        '1',
        '-1',
        '0',
        'EX',
        'PX',
        'NX',
        'KEEPTTL',
        'GET',
        'MATCH',
        'COUNT',
        '*',
        '[z-a]',
        '',
      ),
      fc.constantFrom(
        String(2n ** 63n - 1n),
        String(-(2n ** 63n)),
        String(2n ** 53n),
        '9'.repeat(30),
        'x'.repeat(200),
      ),
      word,
    );
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.constantFrom(...names), fc.array(argument, { maxLength: 5 })), {
          maxLength: 60,
        }),
        (list) => {
          const store = new Store(new ArrayBuffer(64 * 1024));
          const facts = { generation: 1, origin: 'fresh', evicts: false };
          const out = new Replies();
          for (const [name, words] of list) {
            const state = { protocol: 2, name: '', isOver: false };
            out.protocol = 2;
            answer(
              { store, out, state, facts },
              [name, ...words].map((one) => Buffer.from(one, 'latin1')),
            );
            const reply = out.take().toString('latin1');
            expect(reply, name).toMatch(/^[+\-:$*%_][^\r\n]*\r\n/);
          }
        },
      ),
    );
  });
});

describe('replies', () => {
  test('an error that quotes a client is one line all the same', () => {
    const out = new Replies();
    answer({ out, state: {}, store: undefined, facts: undefined }, [Buffer.from('no\r\n+OK\r\nsuch')]);
    expect(out.take().toString()).toBe("-ERR unknown command 'no??+OK??such'\r\n");
  });

  test('null and maps are those of the protocol that the client asked for', () => {
    const out = new Replies();
    out.null();
    out.map(2);
    out.protocol = 3;
    out.null();
    out.map(2);
    expect(out.take().toString()).toBe('$-1\r\n*4\r\n_\r\n%2\r\n');
  });
});

import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, it } from 'vitest';
import { WebSocket } from 'ws';
import { LuodProcess } from './luod-process.js';

const example = (path: string) => fileURLToPath(new URL(`../../examples/${path}`, import.meta.url));

let luod: LuodProcess;

afterEach(async () => {
  for (const member of members.splice(0)) member.ws.terminate();
  await luod?.stop();
});

interface Message {
  readonly n: number;
  readonly nick: string;
  readonly text: string;
}

interface Greeting {
  readonly room: string;
  readonly nick: string;
  readonly members: number;
  readonly generation: number;
}

const members: Member[] = [];

/** Somebody in a room. */
class Member {
  readonly ws: WebSocket;
  readonly messages: Message[] = [];
  greeting: Greeting | undefined;
  closed = 0;

  private constructor(ws: WebSocket) {
    this.ws = ws;
    ws.on('message', (data: Buffer) => {
      const message = JSON.parse(data.toString()) as Message | Greeting;
      if ('text' in message) this.messages.push(message);
      else this.greeting = message;
    });
    ws.on('close', () => this.closed++);
    ws.on('error', () => undefined);
  }

  static async join(room: string, nick: string): Promise<Member> {
    const member = new Member(new WebSocket(`ws://127.0.0.1:${luod.port}/${room}`));
    members.push(member);
    await member.is((greeting) => greeting !== undefined);
    member.say({ nick });
    await member.is((greeting) => greeting?.nick === nick);
    return member;
  }

  say(word: { nick?: string; text?: string }): void {
    this.ws.send(JSON.stringify(word));
  }

  async is(what: (greeting: Greeting | undefined) => boolean): Promise<void> {
    while (!what(this.greeting)) await once(this.ws, 'message');
  }

  async has(count: number): Promise<void> {
    while (this.messages.length < count) await once(this.ws, 'message');
  }
}

describe('examples/websocket-chat', () => {
  it('goes on through updates: rooms, names, history, and no message lost', { timeout: 60_000 }, async () => {
    luod = await LuodProcess.start({ command: [process.execPath, example('websocket-chat/server.mjs')] });
    const ada = await Member.join('engines', 'Ada');
    const charles = await Member.join('engines', 'Charles');
    const grace = await Member.join('compilers', 'Grace');
    let isOver = false;
    let said = 0;
    const talking = (async () => {
      while (!isOver) {
        ada.say({ text: `message ${++said}` });
        charles.say({ text: `message ${++said}` });
        grace.say({ text: 'compiled' });
        await charles.has(said);
      }
    })();
    for (let generation = 2; generation <= 6; generation++)
      expect(await luod.updateTo([])).toMatchObject({ ok: true, generation, draining: 0 });
    isOver = true;
    await talking;
    await ada.has(said);
    await grace.has(said / 2);
    for (const { messages } of [ada, charles]) {
      expect(messages.map(({ n }) => n)).toEqual(Array.from({ length: said }, (_, i) => i + 1));
      expect(new Set(messages.map(({ nick }) => nick))).toEqual(new Set(['Ada', 'Charles']));
    }
    // Whom one hears is in which order the server read them; each is heard once.
    expect(new Set(ada.messages.map(({ text }) => text)).size).toBe(said);
    expect(ada.messages).toEqual(charles.messages);
    expect(grace.messages.map(({ n, nick }) => `${nick} ${n}`)).toEqual(
      Array.from({ length: said / 2 }, (_, i) => `Grace ${i + 1}`),
    );
    expect(said).toBeGreaterThan(20);
    expect([ada, charles, grace].map(({ closed }) => closed)).toEqual([0, 0, 0]);
    // Who comes now finds the room as it is.
    const newcomer = await Member.join('engines', 'Alan');
    expect(newcomer.greeting).toEqual({ room: 'engines', nick: 'Alan', members: 3, generation: 6 });
    expect(newcomer.messages).toEqual(ada.messages.slice(-50));
    const page = await fetch(`http://127.0.0.1:${luod.port}/`);
    expect([page.status, await page.text()]).toEqual([200, expect.stringContaining('<title>Chat</title>')]);
  });
});

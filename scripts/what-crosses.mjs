#!/usr/bin/env node
/**
 * Prints the table of docs/what-crosses.md: what crosses, by which carrier. Nothing that a handler decides is written here: one file of
 * every built-in handler is made and preserved, and its record, its descriptors and its callbacks are looked at:
 *
 *   an update, in place   it can be built again from its record (`adopt`)
 *   a crash               luod holds something for it (`custody`)
 *   a kexec               its descriptors are such as another kernel can have (handover/kernel-crossing.ts), or it has none
 *
 * What is no file of a handler stands here in words: connections by their protocol, and what a program cannot keep.
 *
 * After `npm run build`. With `--write` it writes the page.
 */
import { spawnSync } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { constants, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import tls from 'node:tls';
import { fileURLToPath } from 'node:url';
import { handlerOf, toFile } from '../build/app/kept-object.js';
import { LiveUpdate } from '../build/core/index.js';
import { builtInHandlers } from '../build/handlers/built-in.js';
import { KeptChild } from '../build/handlers/child.js';
import { ConnectionSet } from '../build/handlers/connection-set.js';
import { Counters } from '../build/handlers/counters.js';
import { Eventfd } from '../build/handlers/eventfd.js';
import { FdFile } from '../build/handlers/fd-file.js';
import { Listener } from '../build/handlers/listener.js';
import { Memory } from '../build/handlers/memory.js';
import { OpenFile } from '../build/handlers/open-file.js';
import { State } from '../build/handlers/state.js';
import { KeptTimer } from '../build/handlers/timer.js';
import { Timerfd } from '../build/handlers/timerfd.js';
import { registerTlsListeners } from '../build/handlers/tls-listener.js';
import { kernelCrossing } from '../build/handover/kernel-crossing.js';
import { IncomingRecords, OutgoingRecords } from '../build/handover/records.js';
import { createMemfd } from '../build/linux/memfd.js';

const PAGE = fileURLToPath(new URL('../docs/what-crosses.md', import.meta.url));
const BEGIN = '<!-- npm run docs:crosses -->';
const END = '<!-- end -->';

const handover = { incoming: new IncomingRecords({ exclusive: true }), outgoing: new OutgoingRecords() };
const orchestrator = new LiveUpdate();
const handlers = [];
registerTlsListeners(orchestrator, handover, (handler) => {
  orchestrator.registerFileHandler(handler);
  handlers.push(handler);
});
handlers.push(...builtInHandlers(handover));
const seen = new Set();

const folder = mkdtempSync(join(tmpdir(), 'liveupdate-crosses-'));
/** Undoes what was made, newest first. */
const undo = [() => rmSync(folder, { recursive: true })];

function made(value, close) {
  undo.push(() => close(value));
  return value;
}

async function connected() {
  const server = net.createServer((socket) => socket.resume()).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const socket = net.connect(server.address().port, '127.0.0.1');
  await once(socket, 'connect');
  undo.push(() => server.close());
  undo.push(() => socket.destroy());
  return socket;
}

async function listening(server, options) {
  const listener = await Listener.open(server, options);
  undo.push(() => server.close());
  return listener;
}

async function bound() {
  const socket = createSocket('udp4').bind(0, '127.0.0.1');
  await once(socket, 'listening');
  return made(socket, (it) => it.close());
}

function fifo() {
  const path = join(folder, 'fifo');
  spawnSync('mkfifo', [path]);
  const fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
  return made(new net.Socket({ fd, writable: false }), (it) => it.destroy());
}

async function cat() {
  const child = await KeptChild.spawn('cat', [], { stdio: ['pipe', 'ignore', 'ignore'] });
  undo.push(() => child.kill('SIGKILL'));
  return child;
}

const local = { host: '127.0.0.1', port: 0 };

/** A file of every built-in handler. `lost` and `again` are the words for what nobody holds. */
const FILES = [
  ['`state`', () => State.create({}, 1), { crash: 'no: made anew' }],
  ['`state` with a version', () => State.create({}, 2), { crash: 'no: made anew' }],
  ['`memory`', () => Memory.create('crosses', 4096)],
  ['`timer`', () => KeptTimer.create(1000, {}), { crash: 'no: made anew' }],
  ['listener, TCP', () => listening(net.createServer(), local), { kexec: 'made again' }],
  [
    'listener, unix',
    () => listening(net.createServer(), { path: join(folder, 'unix') }),
    { kexec: 'made again' },
  ],
  [
    'listener, TLS (with its ticket keys)',
    () => listening(tls.createServer(), local),
    { crash: 'without keys', kexec: 'made again' },
  ],
  ['UDP socket', bound],
  ['pipe, fifo', fifo],
  ['eventfd', () => made(Eventfd.create(), (it) => it.close())],
  ['timerfd', () => made(Timerfd.create(), (it) => it.close())],
  ['regular file', () => made(OpenFile.open(join(folder, 'file'), 'w'), (it) => it.close())],
  ['memfd', () => new FdFile(createMemfd('crosses', 4096))],
  ['child process (`KeptChild`)', cat],
  ['connection in `keep()`', connected],
  ['connections of a listener', () => new ConnectionSet(), { fds: connected }],
];

/** A sentence about a file, from what its handler does with it. */
async function row([name, make, { crash = 'no: closed', kexec = 'yes', fds: others } = {}]) {
  const file = toFile(await make(), handlers);
  const handler = handlerOf(file, handlers, name);
  seen.add(handler.compatible);
  const args = { handler, file, serializedData: 0n, retrieveStatus: 0, privateData: undefined };
  await handler.ops.preserve(args);
  const { fds } = handover.outgoing.takeChanged();
  const theirs = others === undefined ? fds : [(await others())._handle.fd];
  const stays = theirs.some((fd) => kernelCrossing(fd).kind === 'left');
  await handler.ops.unpreserve(args);
  const crosses = handler.adopt === undefined ? 'no' : 'yes';
  const held =
    handler.custody === undefined
      ? crash
      : crash === 'without keys'
        ? `held by luod, ${crash}`
        : 'held by luod';
  return [name, crosses, held, crosses, stays ? 'no: stays behind' : kexec];
}

/** What is not a file of its own: connections as their protocol has them, and what nobody can carry. */
const WORDS = [
  ['HTTP connection, idle', 'yes', 'no: closed', 'yes', 'no: stays behind'],
  ['HTTP connection, busy', 'drains, then yes', 'no: closed', 'awaited, then yes', 'no: stays behind'],
  ['event stream (`lu.streams`)', 'yes', 'no: closed', 'yes', 'no: stays behind'],
  ['WebSocket (`lu.webSockets`)', 'yes', 'no: closed', 'yes', 'no: stays behind'],
  ['TLS connection', 'drains', 'no: closed', 'no: closed', 'no: stays behind'],
  ['HTTP/2 connection', 'drains', 'no: closed', 'no: closed', 'no: stays behind'],
  ['`conn.state`', 'yes', 'no: with its connection', 'yes', 'no: with its connection'],
  [
    'files of your own handlers',
    'yes',
    'if they have `custody`',
    'yes',
    'records, memfds, listening sockets',
  ],
  ['event listeners, closures, promises', ...Array(4).fill('no: say them again')],
  ['`setTimeout`, worker threads, work in the thread pool', ...Array(4).fill('no')],
];

async function counters() {
  const { flb } = new Counters(handover);
  seen.add(flb.compatible);
  return ['`counter`', 'yes', 'no: begins at 0', 'yes', 'yes'];
}

async function table() {
  const rows = [];
  for (const file of FILES) rows.push(await row(file));
  const missing = handlers.filter(({ compatible }) => !seen.has(compatible));
  if (missing.length > 0)
    throw new Error(`no file of ${missing.map(({ compatible }) => compatible).join(', ')}`);
  rows.splice(3, 0, await counters());
  rows.push(...WORDS);
  const head = ['what', 'update under luod', 'crash of the program', 'in place', 'kexec'];
  return [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}

try {
  const text = await table();
  if (process.argv.includes('--write')) {
    const page = readFileSync(PAGE, 'utf8');
    const [before] = page.split(BEGIN);
    const [, after] = page.split(END);
    writeFileSync(PAGE, `${before}${BEGIN}\n\n${text}\n\n${END}${after}`);
  } else process.stdout.write(`${text}\n`);
} finally {
  for (const act of undo.reverse()) act();
}
process.exit(process.exitCode ?? 0);

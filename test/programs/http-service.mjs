/**
 * An HTTP service under test. FRAMEWORK says what answers: node:http itself, express, fastify, https, http2 (over TLS), or tls (which
 * echoes); each unchanged, behind `lu.listen`. PORT (or HTTP_PATH, a unix path) says where.
 *
 *   GET  /hello/X      at once: generation, pid and X
 *   GET  /slow/MS/X    the same after MS milliseconds
 *   GET  /hold/X       the same when there is a file HOLD/X
 *   GET  /stream/X     a chunk '1', and when there is a file HOLD/X nine more, the last of which names the generation
 *   POST /upload       the number of bytes and their SHA-256
 *   GET  /count        how many requests all images have had
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import http2 from 'node:http2';
import https from 'node:https';
import { setTimeout as pause } from 'node:timers/promises';
import tls from 'node:tls';
import { liveupdate } from 'liveupdate';
import { released } from './released.mjs';

const { FRAMEWORK = 'http', PORT, HTTP_PATH } = process.env;

const lu = await liveupdate();
const requests = lu.counter('requests');

const about = (word) => ({ generation: lu.generation, pid: process.pid, word });

async function stream(response, word) {
  response.write('1');
  await released(word);
  for (let i = 2; i <= 9; i++) {
    response.write(String(i));
    await pause(1);
  }
  response.end(`generation ${lu.generation}`);
}

async function digest(request) {
  const hash = createHash('sha256');
  let bytes = 0;
  for await (const chunk of request) {
    bytes += chunk.length;
    hash.update(chunk);
  }
  return { bytes, sha256: hash.digest('hex') };
}

async function answer(request, response) {
  requests.add();
  const [, what, one, two] = request.url.split('/');
  const json = (value) => {
    response.setHeader('Content-Type', 'application/json');
    response.end(JSON.stringify(value));
  };
  if (what === 'hello') json(about(one));
  else if (what === 'count') json({ ...about('count'), count: requests.value });
  else if (what === 'slow') setTimeout(() => json(about(two)), Number(one));
  else if (what === 'hold') released(one).then(() => json(about(one)));
  else if (what === 'stream') await stream(response, one);
  else if (what === 'upload') json(await digest(request));
  else response.writeHead(404).end();
}

function certificate() {
  const file = (name) => readFileSync(new URL(`tls/${name}.pem`, import.meta.url));
  return { key: file('key'), cert: file('cert') };
}

async function withExpress() {
  const { default: express } = await import('express');
  const app = express();
  app.get('/hello/:word', (request, response) => response.json(about(request.params.word)));
  app.get('/slow/:ms/:word', async ({ params }, response) => {
    await pause(Number(params.ms));
    response.json(about(params.word));
  });
  app.post('/upload', async (request, response) => response.json(await digest(request)));
  return http.createServer(app);
}

async function withFastify() {
  const { default: fastify } = await import('fastify');
  const app = fastify();
  app.addContentTypeParser('*', (_request, payload, done) => done(null, payload));
  app.get('/hello/:word', ({ params }) => about(params.word));
  app.get('/slow/:ms/:word', async ({ params }) => {
    await pause(Number(params.ms));
    return about(params.word);
  });
  app.post('/upload', async ({ body }) => digest(body));
  await app.ready();
  return app.server;
}

const server = await {
  http: () => http.createServer(answer),
  express: withExpress,
  fastify: withFastify,
  https: () => https.createServer(certificate(), answer),
  http2: () => http2.createSecureServer(certificate(), answer),
  tls: () => tls.createServer(certificate(), (socket) => socket.pipe(socket).on('error', () => undefined)),
}[FRAMEWORK]();
await lu.listen(
  'web',
  server,
  HTTP_PATH === undefined ? { port: Number(PORT), host: '127.0.0.1' } : { path: HTTP_PATH },
);
if (process.env.FAULT === 'freeze-throws') {
  lu.on('freeze', () => {
    throw Object.assign(new Error('not now'), { code: 'EBUSY' });
  });
}
await lu.ready();
process.stdout.write(`generation ${lu.generation} serves\n`);

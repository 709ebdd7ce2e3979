import http from 'node:http';
import http2 from 'node:http2';
import https from 'node:https';
import net from 'node:net';
import tls from 'node:tls';
import { expect, it } from 'vitest';
import { isHttp2, isHttps, isTls } from '../../../src/handlers/server-kinds.js';

it.each([
  ['net', net.createServer(), []],
  ['http', http.createServer(), []],
  ['tls', tls.createServer(), ['tls']],
  ['https', https.createServer(), ['tls', 'https']],
  ['http2', http2.createServer(), ['http2']],
  ['secure http2', http2.createSecureServer(), ['tls', 'http2']],
  ['secure http2 that speaks HTTP/1', http2.createSecureServer({ allowHTTP1: true }), ['tls', 'http2']],
])('knows a server of node:%s', (_, server, kinds) => {
  const known = { tls: isTls(server), https: isHttps(server), http2: isHttp2(server) };
  expect(Object.entries(known).flatMap(([kind, is]) => (is ? [kind] : []))).toEqual(kinds);
});

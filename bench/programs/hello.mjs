/**
 * The service whose idle overhead is measured: answers every request with the same few bytes. LIBRARY says whether it uses liveupdate or
 * only Node. Tells its pid and port in one line.
 */
import { createServer } from 'node:http';

const BODY = 'hello\n';
const server = createServer((_request, response) => {
  response.setHeader('content-type', 'text/plain');
  response.end(BODY);
});
// A contender is silent while the others have their turn.
server.keepAliveTimeout = 0;
const where = { host: '127.0.0.1', port: 0 };
if (process.env.LIBRARY === '1') {
  const { liveupdate } = await import('liveupdate');
  const lu = await liveupdate();
  await lu.listen('http', server, where);
  await lu.ready();
} else {
  await new Promise((resolve) => server.listen(where, resolve));
}
process.stdout.write(`${JSON.stringify({ pid: process.pid, port: server.address().port })}\n`);

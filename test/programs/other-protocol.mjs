/** An image of another time: says hello to luod in PROTOCOL, writes down the answer, and waits. */
import { createConnection } from 'node:net';

const { LIVEUPDATE_SOCKET, LIVEUPDATE_IMAGE, PROTOCOL } = process.env;
const socket = createConnection(LIVEUPDATE_SOCKET);
socket.write(
  `${JSON.stringify({ type: 'hello', protocol: Number(PROTOCOL), image: LIVEUPDATE_IMAGE, pid: process.pid })}\n`,
);
for await (const answer of socket) process.stderr.write(`the answer was ${answer}`);

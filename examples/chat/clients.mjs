/**
 * Clients of the chat server that count, and judge what comes back: every number must be answered once and in order, on the
 * connection that was opened at the start.
 */
import net from 'node:net';

export class Clients {
  /** Numbers that were sent and not answered, answered twice or in the wrong order, as bytes; and closed connections. */
  bytesLost = 0;
  closed = 0;
  answered = 0;
  /** Longest time from a number to its answer, since the last `takeLongest()`. */
  #longest = 0;
  #clients = [];
  #stopping = false;

  static async open(port, count, pauseMs) {
    const clients = new Clients();
    await Promise.all(Array.from({ length: count }, () => clients.#open(port, pauseMs)));
    return clients;
  }

  async #open(port, pauseMs) {
    const socket = net.connect(port, '127.0.0.1');
    await new Promise((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
    const client = {
      socket,
      sent: 0,
      received: 0,
      sentAt: 0,
      partial: '',
      timer: undefined,
      idle: undefined,
    };
    this.#clients.push(client);
    socket.setEncoding('utf8');
    socket.setNoDelay(true);
    const next = () => {
      if (this.#stopping) {
        client.idle?.();
        return;
      }
      client.sent++;
      client.sentAt = performance.now();
      socket.write(`count ${client.sent}\n`);
    };
    socket.on('data', (text) => {
      const lines = (client.partial + text).split('\n');
      client.partial = lines.pop();
      for (const line of lines) {
        if (line !== `counted ${client.sent}` || client.received === client.sent) {
          this.bytesLost += line.length + 1;
          continue;
        }
        client.received++;
        this.answered++;
        this.#longest = Math.max(this.#longest, performance.now() - client.sentAt);
        client.timer = setTimeout(next, pauseMs * (0.5 + Math.random()));
      }
    });
    socket.on('error', () => undefined);
    socket.on('close', () => {
      clearTimeout(client.timer);
      if (!this.#stopping) this.closed++;
      client.idle?.();
    });
    next();
  }

  get size() {
    return this.#clients.length;
  }

  takeLongest() {
    const longest = this.#longest;
    this.#longest = 0;
    return longest;
  }

  /** Waits for every answer that is due (at most `graceMs`), counts what did not come, and hangs up. */
  async stop(graceMs) {
    this.#stopping = true;
    const due = this.#clients.filter(({ socket, sent, received }) => !socket.destroyed && received < sent);
    const timers = [];
    const answered = due.map(
      (client) =>
        new Promise((resolve) => {
          client.idle = resolve;
          timers.push(setTimeout(resolve, graceMs));
        }),
    );
    await Promise.all(answered);
    for (const timer of timers) clearTimeout(timer);
    for (const client of this.#clients) {
      clearTimeout(client.timer);
      if (client.received < client.sent) this.bytesLost += `counted ${client.sent}\n`.length;
      client.socket.destroy();
    }
  }
}

/** HAProxy in front of the service, reloaded with its listeners passed on (-x) and its tables sent by a peer. */
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import net from 'node:net';
import { join } from 'node:path';
import { freePort } from '../../processes.mjs';
import { backendSetting, startBackend } from '../backend.mjs';
import { fromDebian } from '../debian.mjs';
import { listens, SystemProcess, until } from '../system-process.mjs';

let haproxyFiles;

/**
 * The version in a header of its own, as the program that is replaced is HAProxy; so is the counter: a stick table's. Without http-no-delay an
 * event waits for others.
 */
function configuration({ folder, httpPort, tcpPort }, backend, peerPort, version) {
  const http = `
frontend http
  mode http
  bind 127.0.0.1:${httpPort} backlog 4096
  http-request track-sc0 src table counters
  http-response set-header X-Version ${version}
  http-response set-header X-Counter %[sc_http_req_cnt(0)]
  http-response del-header X-Cache
  default_backend http
backend http
  mode http
  server service 127.0.0.1:${backend.httpPort}
backend counters
  stick-table type ip size 1k expire 1h store http_req_cnt peers local`;
  const tcp = `
listen tcp
  mode tcp
  bind 127.0.0.1:${tcpPort} backlog 4096
  server service 127.0.0.1:${backend.tcpPort}`;
  return `
global
  stats socket ${folder}/admin.sock mode 600 level admin expose-fd listeners
  maxconn 8192
defaults
  option http-no-delay
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  timeout http-keep-alive 600s
peers local
  peer here 127.0.0.1:${peerPort}
${httpPort > 0 ? http : ''}
${tcpPort > 0 ? tcp : ''}
`;
}

export const haproxy = {
  name: 'haproxy',
  title: 'HAProxy',
  how: 'reload, -x and -sf, in front of the service',
  loads: { http: true, tcp: true },
  isProxy: true,
  counts: 'requests, in a stick table',

  async prepare() {
    haproxyFiles = await fromDebian('haproxy', ['haproxy']);
    const { stdout } = spawnSync(haproxyFiles.file, ['-v'], { encoding: 'utf8', env: haproxyFiles.env });
    this.version = /version (\d[\d.]*)/.exec(stdout)[0].replace('version', 'HAProxy');
  },

  async start(setting) {
    const backend = await backendSetting(setting);
    const service = await startBackend(backend);
    const peerPort = await freePort();
    const file = join(setting.folder, 'haproxy.cfg');
    const begin = (version, ...more) => {
      writeFileSync(file, configuration(setting, backend, peerPort, version));
      return new SystemProcess(
        setting,
        haproxyFiles.file,
        ['-db', '-f', file, '-L', 'here', ...more],
        haproxyFiles.env,
      );
    };
    const first = begin('1');
    await listens(setting.httpPort || setting.tcpPort);
    let current = first;
    return {
      async update(version) {
        const admin = join(setting.folder, 'admin.sock');
        current = begin(version, '-x', admin, '-sf', String(current.pid));
        await until('the new process', async () => (await pidBehind(admin)) === current.pid);
      },
      isOldGone: () => first.hasEnded,
      async stop() {
        await current.stop();
        await first.stop();
        await service.stop();
      },
    };
  },
};

/** Who answers at the admin socket: the new process takes its path as it takes over. */
async function pidBehind(path) {
  const socket = net.connect(path);
  let text = '';
  try {
    socket.write('show info\n');
    for await (const part of socket.setEncoding('utf8')) text += part;
  } catch {
    // Between the two.
    return undefined;
  }
  return Number(/^Pid: (\d+)$/m.exec(text)?.[1]);
}

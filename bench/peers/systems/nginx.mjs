/** nginx in front of the service, its binary upgraded: USR2 starts the new one, QUIT lets the old one leave. */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { backendSetting, startBackend } from '../backend.mjs';
import { fromDebian } from '../debian.mjs';
import { command, listens, until } from '../system-process.mjs';

let nginxFiles;

/** The version in a header of its own, as the program that is replaced is nginx; so is the counter: of its connections. */
function configuration({ folder, httpPort, tcpPort }, backend, version) {
  const module = join(nginxFiles.root, 'usr/lib/nginx/modules/ngx_stream_module.so');
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'];
  const http = `
http {
  access_log off;
  ${temporary.map((name) => `${name}_temp_path ${folder}/${name};`).join('\n  ')}
  keepalive_timeout 600s;
  keepalive_requests 100000000;
  upstream service { server 127.0.0.1:${backend.httpPort}; keepalive 256; keepalive_requests 100000000; }
  server {
    listen 127.0.0.1:${httpPort} backlog=4096;
    location / {
      proxy_pass http://service;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_hide_header X-Version;
      proxy_hide_header X-Counter;
      proxy_hide_header X-Cache;
      add_header X-Version ${version};
      add_header X-Counter $connection;
    }
  }
}`;
  const stream = `
stream {
  upstream service { server 127.0.0.1:${backend.tcpPort}; }
  server { listen 127.0.0.1:${tcpPort} backlog=4096; proxy_pass service; tcp_nodelay on; }
}`;
  return `
${tcpPort > 0 && existsSync(module) ? `load_module ${module};` : ''}
${process.getuid() === 0 ? 'user root;' : ''}
worker_processes auto;
pid ${folder}/nginx.pid;
error_log ${folder}/log warn;
events { worker_connections 8192; }
${httpPort > 0 ? http : ''}
${tcpPort > 0 ? stream : ''}
`;
}

export const nginx = {
  name: 'nginx',
  title: 'nginx',
  how: 'binary upgrade, USR2 and QUIT, in front of the service',
  loads: { http: true, tcp: true },
  isProxy: true,
  counts: 'connections',

  async prepare() {
    nginxFiles = await fromDebian('nginx', ['nginx', 'libnginx-mod-stream']);
    const { stderr } = spawnSync(nginxFiles.file, ['-v'], { encoding: 'utf8', env: nginxFiles.env });
    this.version = stderr.trim().replace(/^.*nginx\//, 'nginx ');
  },

  async start(setting) {
    const backend = await backendSetting(setting);
    const service = await startBackend(backend);
    const file = join(setting.folder, 'nginx.conf');
    const pidFile = join(setting.folder, 'nginx.pid');
    const configure = (version) => writeFileSync(file, configuration(setting, backend, version));
    configure('1');
    const master = () => Number(readFileSync(pidFile, 'utf8'));
    // A plain name instead of the path would make USR2 fail, and so would staying in the foreground: an nginx whose first parent lives takes
    // itself for an upgrade that is not over.
    await command(
      setting,
      nginxFiles.file,
      ['-p', setting.folder, '-e', join(setting.folder, 'log'), '-c', file],
      nginxFiles.env,
    );
    await listens(setting.httpPort || setting.tcpPort);
    const first = master();
    setting.processes.add(first);
    const isLive = (pid) => setting.processes.live().includes(pid);
    return {
      async update(version) {
        configure(version);
        process.kill(first, 'SIGUSR2');
        const next = await until('the new master', () => {
          if (!existsSync(`${pidFile}.oldbin`) || !existsSync(pidFile)) return undefined;
          return master() || undefined;
        });
        setting.processes.add(next);
        await until('the new workers', () => childrenOf(next).length > 0);
        process.kill(first, 'SIGQUIT');
      },
      isOldGone: () => !isLive(first),
      async stop() {
        for (const pid of [first, master()]) if (isLive(pid)) process.kill(pid, 'SIGTERM');
        await until('nginx to end', () => !isLive(first) && !existsSync(pidFile));
        await service.stop();
      },
    };
  },
};

function childrenOf(pid) {
  return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean);
}

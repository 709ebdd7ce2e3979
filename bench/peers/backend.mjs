/** The service behind a proxy. It is not replaced; its processes are not the proxy's, and do not count as such. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { freePort } from '../processes.mjs';
import { deploy, program, SystemProcess, serviceEnvironment } from './system-process.mjs';

/** The setting of a proxy's backend. */
export async function backendSetting(setting) {
  const folder = join(setting.folder, 'backend');
  mkdirSync(folder);
  deploy(folder, '1');
  return {
    ...setting,
    folder,
    httpPort: setting.httpPort > 0 ? await freePort() : 0,
    tcpPort: setting.tcpPort > 0 ? await freePort() : 0,
    processes: setting.others,
  };
}

export async function startBackend(backend) {
  const service = new SystemProcess(
    backend,
    process.execPath,
    [program('plain.mjs')],
    serviceEnvironment(backend),
  );
  await service.serves('1');
  return service;
}

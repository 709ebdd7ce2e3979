/** node:cluster, its workers replaced one after the other. */
import { program, SystemProcess, serviceEnvironment } from '../system-process.mjs';

export const cluster = {
  name: 'cluster',
  title: 'node:cluster',
  how: 'rolling restart of the workers',
  loads: { http: true, tcp: true },
  version: `Node ${process.versions.node}`,
  prepare: () => undefined,

  async start(setting) {
    const primary = new SystemProcess(
      setting,
      process.execPath,
      [program('cluster.mjs')],
      serviceEnvironment(setting),
    );
    const says = (word) => primary.line((line) => (line.includes(`"${word}"`) ? true : undefined));
    await says('primary');
    return {
      async update() {
        primary.child.kill('SIGHUP');
        await says('replaced');
      },
      stop: () => primary.stop(),
    };
  },
};

/** A plain restart, as a supervisor does it: TERM, and the new version when the old one has ended. */
import { program, SystemProcess, serviceEnvironment } from '../system-process.mjs';

export const restart = {
  name: 'restart',
  title: 'plain restart',
  how: 'TERM, graceful end, start',
  loads: { http: true, tcp: true },
  version: `Node ${process.versions.node}`,
  prepare: () => undefined,

  async start(setting) {
    const begin = async (version) => {
      const service = new SystemProcess(
        setting,
        process.execPath,
        [program('plain.mjs')],
        serviceEnvironment(setting),
      );
      await service.serves(version);
      return service;
    };
    let service = await begin('1');
    return {
      async update(version) {
        await service.stop();
        service = await begin(version);
      },
      stop: () => service.stop(),
    };
  },
};

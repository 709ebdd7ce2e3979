/** Ours without luod: SIGHUP, and the program replaces itself in place. */
import { program, SystemProcess, serviceEnvironment, Unavailable } from '../system-process.mjs';

export const exec = {
  name: 'exec',
  title: 'liveupdate, in place',
  how: 'HUP: exec, same pid, no daemon',
  loads: { http: true, tcp: true },
  prepare: () => undefined,

  async start(setting) {
    const service = new SystemProcess(
      setting,
      process.execPath,
      [program('ours.mjs')],
      serviceEnvironment(setting),
    );
    const pid = await service.serves('1');
    return {
      async update(version) {
        process.kill(pid, 'SIGHUP');
        let next;
        try {
          next = await service.serves(version);
        } catch (error) {
          throw new Unavailable(`no update in place: ${error.message.trim()}`, { cause: error });
        }
        if (next !== pid) throw new Error(`another pid serves: ${next} instead of ${pid}`);
      },
      stop: () => service.stop(),
    };
  },
};

/** A service on its way into the next kernel (kernel-map.ts): an outgoing session of the kernel's that fills. */
import { LiveUpdateError } from '../core/errors.js';
import type { Image } from '../core/types.js';
import { encodeHandover } from '../handover/codec.js';
import { writeImageFile } from '../handover/image-file.js';
import { kernelCrossing } from '../handover/kernel-crossing.js';
import type { PassRecord } from '../handover/records.js';
import { closeFd } from '../linux/fd.js';
import type { LiveupdateDevice, LiveupdateSession } from '../linux/liveupdate.js';
import type { GatheredRecord } from './departure.js';
import {
  FIRST_FD_TOKEN,
  IMAGE_TOKEN,
  kernelSessionName,
  MAP_TOKEN,
  MAP_VERSION,
  preserveText,
  type ServiceMap,
} from './kernel-map.js';

export class KernelSessionWriter implements Disposable {
  readonly service: string;
  readonly session: LiveupdateSession;
  readonly #crossings = new Map<number, ServiceMap['descriptors'][number]>();
  #next = FIRST_FD_TOKEN;

  /** @throws {LiveUpdateError} EINVAL, EEXIST, ENOMEM: see `LiveupdateDevice.createSession`. */
  constructor(device: LiveupdateDevice, service: string) {
    this.service = service;
    this.session = device.createSession(kernelSessionName(service));
  }

  get memfds(): number {
    return Number(this.#next - FIRST_FD_TOKEN);
  }

  /**
   * Gives the kernel the descriptors that it does not have yet; the long part, as it pins every page.
   * @throws {LiveUpdateError} EOPNOTSUPP for one that a kexec cannot take along; EBUSY for a memfd that another session has;
   *   ENOMEM, ENOSPC.
   */
  take(records: Iterable<GatheredRecord>): void {
    for (const { fds } of records) {
      for (const fd of fds) if (!this.#crossings.has(fd)) this.#crossings.set(fd, this.#cross(fd));
    }
  }

  #cross(fd: number): ServiceMap['descriptors'][number] {
    const crossing = kernelCrossing(fd);
    switch (crossing.kind) {
      case 'memfd': {
        const token = this.#next++;
        this.session.preserve(fd, token);
        return { memfd: String(token) };
      }
      case 'listener':
        return { listener: crossing.address };
      case 'left':
        throw new LiveUpdateError('EOPNOTSUPP', `a kexec cannot take ${crossing.what} along`, {
          session: this.session.name,
        });
    }
  }

  /** Completes the session: the map and the frozen image. @throws {LiveUpdateError} ENOMEM, ENOSPC, and as `take`. */
  complete(image: Image, gathered: ReadonlyMap<number, GatheredRecord>, generation: number): void {
    this.take(gathered.values());
    const records: PassRecord[] = [];
    const descriptors: ServiceMap['descriptors'] = [];
    for (const [handle, { bytes, fds }] of gathered) {
      records.push({ handle, bytes, fdStart: descriptors.length, fdCount: fds.length });
      for (const fd of fds) descriptors.push(this.#crossings.get(fd) as ServiceMap['descriptors'][number]);
    }
    const map: ServiceMap = { version: MAP_VERSION, service: this.service, generation, descriptors };
    preserveText(this.session, MAP_TOKEN, map);
    const encoded = writeImageFile(encodeHandover({ image, records }));
    try {
      this.session.preserve(encoded, IMAGE_TOKEN);
    } finally {
      closeFd(encoded);
    }
  }

  /** Calls the session off. */
  [Symbol.dispose](): void {
    this.session.close();
  }
}

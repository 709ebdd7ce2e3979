/** luod's use of the kernel's device: short, because it has one opener in the whole system. */
import { setTimeout as delay } from 'node:timers/promises';
import { LiveUpdateError } from '../core/errors.js';
import { LiveupdateDevice } from '../linux/liveupdate.js';

const RETRY_MS = 20;
const PATIENCE_MS = 5000;

/**
 * Opens the device, waiting for another opener to leave (another luod that starts, say).
 * @throws {LiveUpdateError} ENOENT without one; EBUSY after five seconds; EIO, ENODEV, EACCES, EPERM.
 */
export async function openKernelDevice(): Promise<LiveupdateDevice> {
  const started = performance.now();
  for (;;) {
    try {
      return LiveupdateDevice.open();
    } catch (error) {
      const isBusy = error instanceof LiveUpdateError && error.code === 'EBUSY';
      if (!isBusy || performance.now() - started > PATIENCE_MS) throw error;
      await delay(RETRY_MS);
    }
  }
}

/**
 * Asks the device for what a previous kernel left.
 * @param onBusy Told when another program keeps the device open. What came stays with the kernel then.
 * @returns undefined when this kernel has no live update, this user may not ask (then nothing can have come for him), or the
 *   device is busy.
 * @throws {LiveUpdateError} EIO, ENODEV, and what `ask` throws.
 */
export async function askKernel<T>(
  ask: (device: LiveupdateDevice) => T,
  onBusy: (error: LiveUpdateError) => void,
): Promise<T | undefined> {
  let device: LiveupdateDevice;
  try {
    device = await openKernelDevice();
  } catch (error) {
    const problem = LiveUpdateError.from(error);
    if (problem.code === 'EBUSY') onBusy(problem);
    else if (!ABSENT.has(problem.code)) throw problem;
    return undefined;
  }
  try {
    return ask(device);
  } finally {
    device.close();
  }
}

const ABSENT: ReadonlySet<string> = new Set(['ENOENT', 'EACCES', 'EPERM']);

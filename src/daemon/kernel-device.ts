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
 * @returns undefined when this kernel has no live update, or this user may not ask: then nothing can have come for him.
 * @throws {LiveUpdateError} EBUSY, EIO, ENODEV, and what `ask` throws.
 */
export async function askKernel<T>(ask: (device: LiveupdateDevice) => T): Promise<T | undefined> {
  let device: LiveupdateDevice;
  try {
    device = await openKernelDevice();
  } catch (error) {
    if (error instanceof LiveUpdateError && ABSENT.has(error.code)) return undefined;
    throw error;
  }
  try {
    return ask(device);
  } finally {
    device.close();
  }
}

const ABSENT: ReadonlySet<string> = new Set(['ENOENT', 'EACCES', 'EPERM']);

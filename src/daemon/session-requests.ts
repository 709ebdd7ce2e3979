/** What may be asked on a session's own descriptor, checked at the door. */

import { LiveUpdateError } from '../core/errors.js';
import { FLB_LIMIT, U64_MAX } from '../core/names.js';
import { type Infer, z } from './lazy-zod.js';

export const requestId = z.union([z.number(), z.string().max(100)]).optional();

/** A u64: a decimal string, or a number as far as JSON's are exact. */
const token = z
  .union([z.number().int().nonnegative().max(Number.MAX_SAFE_INTEGER), z.string().regex(/^\d{1,20}$/)])
  .transform((value) => BigInt(value))
  .refine((value) => value <= U64_MAX, 'larger than a u64');

/** Asked before, and maybe done: luod was replaced before it could answer. */
const retry = z.boolean().optional();

const reserved = z.number().int().optional();

/** FLBs that the file depends on. */
const flbs = z.array(z.string().max(1000)).max(FLB_LIMIT).optional();

const request = z.discriminatedUnion('type', [
  z.object({ type: z.literal('preserve_fd'), id: requestId, token, flbs, retry }),
  z.object({ type: z.literal('unpreserve_fd'), id: requestId, token, retry }),
  z.object({ type: z.literal('retrieve_fd'), id: requestId, token }),
  z.object({ type: z.literal('finish'), id: requestId, reserved }),
  z.object({ type: z.literal('get_name'), id: requestId, reserved }),
  z.object({ type: z.literal('list'), id: requestId }),
  z.object({ type: z.literal('close'), id: requestId }),
]);

export type SessionRequest = Infer<typeof request>;

/** @throws {LiveUpdateError} EINVAL with what is wrong where. */
export function parseSessionRequest(message: unknown): SessionRequest {
  const parsed = request.safeParse(message);
  if (parsed.success) return parsed.data;
  const issues = parsed.error.issues.map(
    ({ path, message: text }) => `${path.join('.') || 'request'}: ${text}`,
  );
  throw new LiveUpdateError('EINVAL', issues.join('; '), { operation: 'request' });
}

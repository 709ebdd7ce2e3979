/**
 * The request by which a connection became something that crosses. It is saved as text, once, when it comes, and passed on as it is:
 * most programs never look at it again, and it is read when they are given it.
 */
import { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';

interface SavedRequest {
  readonly method: string | undefined;
  readonly url: string | undefined;
  readonly httpVersion: string;
  readonly headers: IncomingMessage['headers'];
  readonly rawHeaders: readonly string[];
}

export function saveRequest({ method, url, httpVersion, headers, rawHeaders }: IncomingMessage): string {
  return JSON.stringify({ method, url, httpVersion, headers, rawHeaders } satisfies SavedRequest);
}

/** A request as the one that was saved, without its body, which was read. */
export function restoreRequest(text: string, socket: Socket): IncomingMessage {
  const saved = JSON.parse(text) as SavedRequest;
  const [major = 1, minor = 1] = saved.httpVersion.split('.').map(Number);
  return Object.assign(new IncomingMessage(socket), saved, {
    httpVersionMajor: major,
    httpVersionMinor: minor,
    complete: true,
  });
}

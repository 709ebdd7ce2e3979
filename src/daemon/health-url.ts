/**
 * A health check that is a URL: healthy when it answers 2xx. Only this machine is asked, over loopback or a unix socket: what luod
 * is told to ask must not become a way to reach what only luod's machine can reach. A redirection is an answer, and not a 2xx.
 */
import { LiveUpdateError } from '../core/errors.js';
import { withResolvers } from '../core/resolvers.js';
import type { ErrorReport } from '../handover/protocol.js';

const FORMS = 'give http://127.0.0.1:PORT/PATH or unix:/SOCKET:/PATH';

/** Where to ask, as `http.get` takes it. */
export type HealthUrl =
  | { readonly host: string; readonly port: number; readonly path: string }
  | { readonly socketPath: string; readonly path: string };

/** @throws {LiveUpdateError} EINVAL for what is no such URL, or leads to another machine. */
export function parseHealthUrl(text: string): HealthUrl {
  if (text.startsWith('unix:')) return parseUnix(text);
  let url: URL;
  try {
    url = new URL(text);
  } catch (cause) {
    throw new LiveUpdateError('EINVAL', `'${text}' is no URL: ${FORMS}`, { cause });
  }
  if (url.protocol !== 'http:') throw new LiveUpdateError('EINVAL', `'${text}' is not http: ${FORMS}`);
  if (url.username !== '' || url.password !== '') {
    throw new LiveUpdateError('EINVAL', `'${text}' has a user or password, which a check has no use for`);
  }
  const host = url.hostname.replace(/^\[(.*)\]$/, '$1');
  if (host !== 'localhost' && host !== '::1' && !/^127\.\d+\.\d+\.\d+$/.test(host)) {
    throw new LiveUpdateError('EINVAL', `'${host}' is not this machine's loopback: ${FORMS}, or a command`);
  }
  return { host, port: Number(url.port || 80), path: `${url.pathname}${url.search}` };
}

/** `unix:/run/chat.sock:/healthz`, as nginx and curl's users write it; without a path it is `/`. */
function parseUnix(text: string): HealthUrl {
  const [, socketPath = '', path = '/'] = /^unix:([^:]*)(?::(.*))?$/.exec(text) ?? [];
  if (!socketPath.startsWith('/') || !/^\/[!-~]*$/.test(path)) {
    throw new LiveUpdateError('EINVAL', `'${text}' names no socket by its whole path: ${FORMS}`);
  }
  return { socketPath, path };
}

/**
 * Asks once.
 * @param text As `parseHealthUrl` takes it.
 * @returns why it is not healthy: EPROTO another answer than 2xx, ETIMEDOUT none in time, ECANCELED when called off, or the
 *   errno of the connection; undefined when it is.
 */
export async function askUrl(
  text: string,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<ErrorReport | undefined> {
  // Only here: most services have no such check, and a client of HTTP is a megabyte.
  const { get } = await import('node:http');
  const { promise, resolve } = withResolvers<ErrorReport | undefined>();
  // A connection for each question: one that is kept would be asked of the version that it once belonged to.
  const request = get({ ...parseHealthUrl(text), agent: false, headers: { 'user-agent': 'luod' } });
  const settle = (reason: ErrorReport | undefined) => {
    clearTimeout(timer);
    signal.removeEventListener('abort', cancel);
    request.destroy();
    resolve(reason);
  };
  const cancel = () => settle({ code: 'ECANCELED', message: 'the health check was called off' });
  const late = () =>
    settle({ code: 'ETIMEDOUT', message: `${text} did not answer within ${Math.round(timeoutMs)} ms` });
  const timer = setTimeout(late, timeoutMs);
  signal.addEventListener('abort', cancel);
  if (signal.aborted) cancel();
  request.on('response', ({ statusCode = 0, statusMessage }) => {
    const isHealthy = statusCode >= 200 && statusCode < 300;
    const answer = `${statusCode} ${statusMessage ?? ''}`.trim();
    settle(isHealthy ? undefined : { code: 'EPROTO', message: `${text} answered ${answer}` });
  });
  request.on('error', (error) => {
    const { code } = LiveUpdateError.from(error);
    // A name with several addresses fails with one error for all of them, and no text.
    settle({ code, message: `${text}: ${error.message || (error as NodeJS.ErrnoException).code}` });
  });
  return await promise;
}

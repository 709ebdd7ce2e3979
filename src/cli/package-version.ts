import { readFileSync } from 'node:fs';

/** The version of this package. */
export function packageVersion(): string {
  // From any folder below src/ or dist/, whichever this module was bundled into.
  const url = new URL('../../package.json', import.meta.url);
  return (JSON.parse(readFileSync(url, 'utf8')) as { version: string }).version;
}

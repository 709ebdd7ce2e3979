/** What workers of a service are called, and how many there may be. For the command line as well, which loads nothing else with it. */

/** Workers of one service, at most. */
export const MAX_WORKERS = 256;

/** The name of worker `index` of a group. */
export function workerName(group: string, index: number): string {
  return `${group}/${index}`;
}

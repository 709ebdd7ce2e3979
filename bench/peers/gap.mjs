/** How long nobody was answered, though somebody had asked. */

/**
 * The longest time without a reply between `from` and `to`. While nobody waits for a reply no time counts: the process of the clients may be
 * woken late itself. A request that fails is answered by nobody: from then on somebody waits until there is a reply.
 * @param {{askedAt: number, endedAt: number, isAnswered: boolean}[]} requests
 * @returns undefined when nothing was asked in that time, nor waited for.
 */
export function longestGap(requests, from, to) {
  const inTime = requests.filter(({ askedAt, endedAt }) => askedAt < to && endedAt > from);
  if (inTime.length === 0) return undefined;
  const sorted = (numbers) => numbers.sort((a, b) => a - b);
  const begins = sorted(inTime.map(({ askedAt }) => askedAt));
  const ends = sorted(inTime.map(({ endedAt }) => endedAt));
  const replies = sorted(
    inTime.filter(({ isAnswered, endedAt }) => isAnswered && endedAt < to).map(({ endedAt }) => endedAt),
  );
  let longest = 0;
  let last = from;
  let begun = 0;
  let ended = 0;
  /** Since when somebody waits who was not answered at `last`; Infinity when nobody does. */
  const waitsSince = () => {
    while (begins[begun] <= last) begun++;
    while (ends[ended] <= last) ended++;
    return begun > ended ? last : (begins[begun] ?? Number.POSITIVE_INFINITY);
  };
  for (const at of replies) {
    longest = Math.max(longest, at - waitsSince());
    last = at;
  }
  // Whoever still waits was not answered in time, or at all.
  return Math.max(longest, to - waitsSince());
}

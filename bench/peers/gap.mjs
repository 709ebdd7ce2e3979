/** How long nobody was answered, though somebody had asked. */

/**
 * The longest time between two replies, of the requests that were asked from `from` until `to`. While nobody waits for a reply no time counts:
 * the process of the clients may be woken late itself. A request that fails is answered by nobody.
 * @param {{askedAt: number, endedAt: number, isAnswered: boolean}[]} requests
 * @returns undefined when there were none.
 */
export function longestGap(requests, from, to) {
  const inTime = requests.filter(({ askedAt }) => askedAt >= from && askedAt < to);
  if (inTime.length === 0) return undefined;
  const sorted = (numbers) => numbers.sort((a, b) => a - b);
  const begins = sorted(inTime.map(({ askedAt }) => askedAt));
  const ends = sorted(inTime.map(({ endedAt }) => endedAt));
  const replies = sorted(inTime.filter(({ isAnswered }) => isAnswered).map(({ endedAt }) => endedAt));
  let longest = 0;
  let last = from;
  let begun = 0;
  let ended = 0;
  for (const at of replies) {
    while (begins[begun] <= last) begun++;
    while (ends[ended] <= last) ended++;
    const isAwaited = begun > ended;
    longest = Math.max(longest, at - (isAwaited ? last : begins[begun]));
    last = at;
  }
  return longest;
}

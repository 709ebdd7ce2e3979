/** What a store of records with descriptors should have, and generated changes of it. The contents are those of memfds. */

export interface Item {
  readonly record: object;
  readonly contents: readonly string[];
}

/** By group and item. */
export type Kept = Map<string, Map<string, Item>>;

export interface Change {
  readonly does: 'put' | 'amend' | 'drop';
  readonly group: string;
  readonly item?: string | undefined;
  readonly record?: object;
  readonly contents?: readonly string[];
}

export function after(kept: Kept, { does, group, item, record = {}, contents = [] }: Change): Kept {
  const next: Kept = new Map([...kept].map(([name, items]) => [name, new Map(items)]));
  const items = next.get(group) ?? new Map<string, Item>();
  if (does === 'drop') {
    if (item === undefined) items.clear();
    else items.delete(item);
  } else {
    const own = does === 'put' ? contents : (items.get(item as string)?.contents ?? []);
    items.set(item as string, { record, contents: own });
  }
  if (items.size === 0) next.delete(group);
  else next.set(group, items);
  return next;
}

export function plain(kept: Kept): string[] {
  return [...kept]
    .flatMap(([group, items]) =>
      [...items].map(([item, { record, contents }]) => JSON.stringify([group, item, record, contents])),
    )
    .sort();
}

export function countOf(kept: Kept): number {
  let count = 0;
  for (const items of kept.values()) for (const { contents } of items.values()) count += contents.length;
  return count;
}

/** Changes of a few groups and items, each with numbers of its own. */
export function changes(next: () => number, groups: readonly string[]): () => Change {
  const below = (limit: number) => Math.floor(next() * limit);
  let number = 0;
  return () => {
    const group = groups[below(groups.length)] as string;
    const item = `item ${below(4)}`;
    const what = next();
    if (what < 0.5) {
      const contents = Array.from({ length: below(3) }, () => `content ${number++}`);
      return { does: 'put', group, item, record: { number: number++ }, contents };
    }
    if (what < 0.7) return { does: 'amend', group, item, record: { number: number++ } };
    return { does: 'drop', group, item: what < 0.95 ? item : undefined };
  };
}

/** What a program found that says so: a line of JSON. */
export function keptOf(line: string): Kept {
  const { items } = JSON.parse(line) as {
    items: { group: string; item: string; record: object; fds: string[] }[];
  };
  let kept: Kept = new Map();
  for (const { group, item, record, fds } of items)
    kept = after(kept, { does: 'put', group, item, record, contents: fds });
  return kept;
}

/**
 * File tables: the files of one session, by token and in order of preservation.
 *
 * An owner gives its files what tokens it likes, and most count: 0, 1, 2 and on. So the list that keeps the order is
 * at once the way to find a file: as long as tokens count along with places, a token *is* its file's place, and
 * no hash is computed and no table grown for it. From the first token that does not, each new file's place
 * is noted in a Map instead.
 *
 * Taking a file out leaves a hole, so that the others keep their places; at the end of the list it shortens it. When more than
 * half of the list is holes, it is built anew, which costs each file that was taken out a constant share. A token that comes again is a new
 * file, at the end.
 */
import type { Token } from './types.js';

/** A token as a Map's key: a number where one can hold it, which a Map finds several times faster than a bigint. */
type Key = number | bigint;

const word = new BigUint64Array(1);
const halves = new Uint32Array(word.buffer);
/** What the high half of a token can be at most if a number is to hold it. */
const HIGH_MAX = 2 ** 21 - 1;

/** Two stores and two loads, where Number(token) would be a call. Little endian, as every machine that this runs on. */
function key(token: Token): Key {
  word[0] = token;
  const high = halves[1] as number;
  return high <= HIGH_MAX ? high * 2 ** 32 + (halves[0] as number) : token;
}

/** Every token must be a u64. */
export class FileTable<File extends { readonly token: Token }> {
  #list: (File | undefined)[] = [];
  #size = 0;
  /** The first so many places are, or were, their files' tokens. */
  #counted = 0;
  /** The places of all other files. */
  #places: Map<Key, number> | undefined;

  get size(): number {
    return this.#size;
  }

  get(token: Token): File | undefined {
    const name = key(token);
    const counted = name < this.#counted ? this.#list[name as number] : undefined;
    if (counted !== undefined || this.#places === undefined) return counted;
    const place = this.#places.get(name);
    return place === undefined ? undefined : this.#list[place];
  }

  has(token: Token): boolean {
    return this.get(token) !== undefined;
  }

  /** At the end. Its token must be free. */
  add(file: File): void {
    const name = key(file.token);
    const place = this.#list.length;
    if (name === place && this.#counted === place) {
      this.#counted++;
    } else {
      this.#places ??= new Map();
      this.#places.set(name, place);
    }
    // An array that grows makes room for seventeen, and most sessions have one file.
    if (place === 0) this.#list = [file];
    else this.#list.push(file);
    this.#size++;
  }

  delete(token: Token): void {
    const name = key(token);
    let place = this.#places?.get(name);
    if (place !== undefined) this.#places!.delete(name);
    else if (name < this.#counted && this.#list[name as number] !== undefined) place = name as number;
    else return;
    this.#list[place] = undefined;
    this.#size--;
    this.#tidy();
  }

  clear(): void {
    this.#list = [];
    this.#size = 0;
    this.#counted = 0;
    this.#places = undefined;
  }

  /** All files as they are now, in order of preservation: a list of the caller's own. */
  toArray(): File[] {
    const list = this.#list;
    return (list.length === this.#size ? list.slice() : list.filter((file) => file !== undefined)) as File[];
  }

  #tidy(): void {
    const list = this.#list;
    while (list.length > 0 && list[list.length - 1] === undefined) list.pop();
    if (this.#counted > list.length) this.#counted = list.length;
    if (list.length <= 2 * this.#size) return;
    const files = this.toArray();
    this.clear();
    for (const file of files) this.add(file);
  }
}

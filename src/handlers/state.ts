/**
 * A value of the program, saved as a structured clone.
 *
 * It crosses twice: as it is when the update begins, so that the new image can deserialize it (the slow part) while the
 * old one serves; and as it is at the freeze, if that differs. The new image's object is then brought up to date in
 * place, so the reference the program got stays the right one. That is why a state is an object and not a number.
 *
 * The record says in which version of its shape the value was saved. When the program claims it (`read`), it says
 * which it works with; from then on the value is of that version, and what comes at the cut goes the same way.
 */
import { LiveUpdateError } from '../core/errors.js';
import { deserializeValue, serializeValue } from '../handover/values.js';
import { type CarriedFileHandler, type Handover, handleOf, toSerializedData } from './carried.js';
import { reconcile } from './reconcile.js';
import { type SavedState, type StateForm, UNVERSIONED, VERSIONED } from './state-record.js';
import { checkStateValue, migrated, type StateShape } from './state-shape.js';

/** The last record that came, and what it says. */
interface Saved extends SavedState {
  readonly record: Uint8Array;
}

/** A named value; `value` is the object that the program holds. */
export class State<T extends object = object> {
  #value: T;
  #version: number;
  /** What `value` was made of, when it came from another image. */
  #saved: Saved | undefined;
  #shape: StateShape | undefined;

  private constructor(value: T, version: number, saved: Saved | undefined) {
    this.#value = value;
    this.#version = version;
    this.#saved = saved;
  }

  /** @throws {LiveUpdateError} EINVAL when `value` cannot be updated in place, or cannot be cloned. */
  static create<T extends object>(value: T, version = 1): State<T> {
    checkStateValue(value);
    // At once, and not at the first update: the mistake belongs to the line that made it.
    serializeValue(value);
    return new State(value, version, undefined);
  }

  /** The value that another image saved, as it saved it. @throws {LiveUpdateError} EINVAL when the record is damaged. */
  static restore(record: Uint8Array, form: StateForm): State {
    const saved = { record, ...form.decode(record) };
    return new State(toObject(saved.clone), saved.version, saved);
  }

  get value(): T {
    return this.#value;
  }

  /** Of the shape that `value` has. */
  get version(): number {
    return this.#version;
  }

  /**
   * The program claims a restored value, in the shape that it works with. From here on `value` stays the same object.
   * @throws {LiveUpdateError} as `migrated`; the state is as it was saved.
   */
  read(shape: StateShape): void {
    try {
      this.#value = migrated(this.#value, this.#version, shape) as T;
    } catch (error) {
      // The migrate may have changed it half-way, and the program may claim it again.
      if (this.#saved !== undefined) this.#value = toObject(this.#saved.clone) as T;
      throw error;
    }
    this.#version = shape.version;
    this.#shape = shape;
  }

  /**
   * Brings a restored value up to date with what was saved last.
   * @throws {LiveUpdateError} EINVAL when the record is damaged, or a migrate gives another kind of object than before; as
   *   `migrated`.
   */
  refresh(record: Uint8Array, form: StateForm): void {
    if (record === this.#saved?.record) return;
    const saved = { record, ...form.decode(record) };
    this.#saved = saved;
    if (reconcile(this.#value, this.#shaped(saved)) === this.#value) return;
    throw new LiveUpdateError(
      'EINVAL',
      `the migrate from version ${saved.version} to ${this.#version} gave another kind of object for the final value than for the preview`,
      { operation: 'state', ...(this.#shape === undefined ? {} : { session: this.#shape.session }) },
    );
  }

  #shaped({ version, clone }: SavedState): object {
    const value = toObject(clone);
    return this.#shape === undefined ? value : migrated(value, version, this.#shape);
  }
}

/** @throws {LiveUpdateError} EINVAL when the bytes are damaged. */
function toObject(clone: Uint8Array): object {
  const value = deserializeValue(clone);
  checkStateValue(value);
  return value;
}

/** For states of version 1, as images save them that know no versions. */
export function unversionedStateHandler(handover: Handover): CarriedFileHandler<State, Buffer> {
  return stateHandler(handover, UNVERSIONED);
}

/** For states of any later version. */
export function versionedStateHandler(handover: Handover): CarriedFileHandler<State, Buffer> {
  return stateHandler(handover, VERSIONED);
}

function stateHandler(handover: Handover, form: StateForm): CarriedFileHandler<State, Buffer> {
  const adopt = (handle: number): State =>
    handover.incoming.adopt(handle, () => State.restore(handover.incoming.bytes(handle), form));
  return {
    compatible: form.compatible,
    adopt,
    ops: {
      canPreserve: (_handler, file) => file instanceof State && form.writes(file.version),
      preserve(args) {
        const { value, version } = args.file!;
        args.privateData = form.encode(value, version);
        args.serializedData = toSerializedData(handover.outgoing.put(args.privateData));
      },
      unpreserve(args) {
        handover.outgoing.drop(handleOf(args.serializedData));
        args.privateData = undefined;
      },
      freeze(args) {
        const { value, version } = args.file!;
        const bytes = form.encode(value, version);
        if (bytes.equals(args.privateData!)) return;
        args.privateData = bytes;
        handover.outgoing.update(handleOf(args.serializedData), bytes);
      },
      retrieve(args) {
        const handle = handleOf(args.serializedData);
        const state = adopt(handle);
        state.refresh(handover.incoming.bytes(handle), form);
        args.file = state;
      },
      finish(args) {
        handover.incoming.drop(handleOf(args.serializedData));
      },
    },
  };
}

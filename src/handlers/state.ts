/**
 * A value of the program, saved as a structured clone.
 *
 * It crosses twice: as it is when the update begins, so that the new image can deserialize it (the slow part) while the
 * old one serves; and as it is at the freeze, if that differs. The new image's object is then brought up to date in
 * place, so the reference the program got stays the right one. That is why a state is an object and not a number.
 */
import { LiveUpdateError } from '../core/errors.js';
import { deserializeValue, serializeValue } from '../handover/values.js';
import { type CarriedFileHandler, type Handover, handleOf, toSerializedData } from './carried.js';
import { reconcile } from './reconcile.js';

const COMPATIBLE = 'liveupdate-state-v1';

/** A named value; `value` is the object that the program holds. */
export class State<T extends object = object> {
  readonly value: T;
  /** What `value` was made of, when it came from another image. */
  #saved: Uint8Array | undefined;

  private constructor(value: T, saved: Uint8Array | undefined) {
    this.value = value;
    this.#saved = saved;
  }

  /** @throws {LiveUpdateError} EINVAL when `value` is no object, or one that cannot be cloned. */
  static create<T extends object>(value: T): State<T> {
    if (typeof value !== 'object' || value === null) {
      throw new LiveUpdateError(
        'EINVAL',
        `a state is an object (it is updated in place), not ${typeof value}`,
      );
    }
    // At once, and not at the first update: the mistake belongs to the line that made it.
    serializeValue(value);
    return new State(value, undefined);
  }

  /** The value that another image saved. @throws {LiveUpdateError} EINVAL when the bytes are damaged. */
  static restore(saved: Uint8Array): State {
    return new State(deserializeValue(saved) as object, saved);
  }

  /** Brings a restored value up to date with what was saved last. @throws {LiveUpdateError} EINVAL when damaged. */
  refresh(saved: Uint8Array): void {
    if (saved === this.#saved) return;
    this.#saved = saved;
    reconcile(this.value, deserializeValue(saved));
  }
}

export function stateHandler(handover: Handover): CarriedFileHandler<State, Buffer> {
  const adopt = (handle: number): State =>
    handover.incoming.adopt(handle, () => State.restore(handover.incoming.bytes(handle)));
  return {
    compatible: COMPATIBLE,
    adopt,
    ops: {
      canPreserve: (_handler, file) => file instanceof State,
      preserve(args) {
        args.privateData = serializeValue(args.file!.value);
        args.serializedData = toSerializedData(handover.outgoing.put(args.privateData));
      },
      unpreserve(args) {
        handover.outgoing.drop(handleOf(args.serializedData));
        args.privateData = undefined;
      },
      freeze(args) {
        const bytes = serializeValue(args.file!.value);
        if (bytes.equals(args.privateData!)) return;
        args.privateData = bytes;
        handover.outgoing.update(handleOf(args.serializedData), bytes);
      },
      retrieve(args) {
        const handle = handleOf(args.serializedData);
        const state = adopt(handle);
        state.refresh(handover.incoming.bytes(handle));
        args.file = state;
      },
      finish(args) {
        handover.incoming.drop(handleOf(args.serializedData));
      },
    },
  };
}

/** How the record of a kept child is known: apart from its handler, for luod, which ends children and carries none. */

/** The record's first descriptor is the process's own. */
export const CHILD_COMPATIBLE = 'liveupdate-child-v1';

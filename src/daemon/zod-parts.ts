/**
 * What luod needs of zod. It is published beside the bundles as one file, for the third part of the time and memory that all of zod takes,
 * with sixty languages for its messages and what else it can.
 */
export {
  array,
  boolean,
  custom,
  discriminatedUnion,
  enum,
  literal,
  number,
  object,
  record,
  strictObject,
  string,
  tuple,
  union,
  unknown,
} from 'zod';

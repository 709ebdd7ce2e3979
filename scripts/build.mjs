/** `npm run build`. */
import { build, installMissing } from './install.mjs';

installMissing();
build();

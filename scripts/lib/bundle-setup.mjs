// Before the tests: the programs that they start are bundled as they were built last.
import { bundleIfStale } from '../bundle.mjs';

export default bundleIfStale;

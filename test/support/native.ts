/** The addon as tests find it. */
import { OutputEncoder } from '../../src/infer/encode.ts';
import { nativeEncoder } from '../../src/infer/native-codec.ts';
import { tensorSpec } from '../../src/infer/tensors.ts';
import { loadNative } from '../../src/native.ts';
import { slabLayout } from '../../src/schedule/slab.ts';

export const { native } = loadNative('auto');

/**
 * Standard libraries before that of g++ 11 cannot convert doubles of many digits as JSON.parse does; built
 * with such a one, the addon leaves them to the twin.
 */
export const longNumbers = ((): boolean => {
  if (native === null) return false;
  const spec = tensorSpec('y', 'float64', [1]);
  return nativeEncoder(native, new OutputEncoder([spec], []), slabLayout([], [spec], 1, 64)) !== null;
})();

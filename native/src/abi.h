// The version of what TypeScript and the addon agree on: the names of the exports, their arguments, and the
// layout of the memory that both read. Whoever changes any of it counts this up, here and in src/native.ts.
#pragma once

#include <cstdint>

namespace subito {

constexpr int32_t kAbi = 3;

}  // namespace subito

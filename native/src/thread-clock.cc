// threadCpuUs(): processor time of the calling thread. What Node tells is brought up to date by the kernel's
// tick, every few milliseconds: too seldom for one run of a model.
#include <ctime>

#include "napi.h"

namespace subito {
namespace {

napi_value ThreadCpuUs(napi_env env, napi_callback_info) {
  timespec now;
  if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now) != 0) return Fail(env, "there is no clock of this thread");
  napi_value us;
  const double value = static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) / 1e3;
  if (napi_create_double(env, value, &us) != napi_ok) return Fail(env, "threadCpuUs: no result");
  return us;
}

}  // namespace

napi_status RegisterThreadClock(napi_env env, napi_value exports) {
  return Export(env, exports, "threadCpuUs", ThreadCpuUs);
}

}  // namespace subito

-- Included by scripts (redis/scripts.ts); KEYS and ARGV are theirs. A reply of XINFO by name.
local function info(reply)
  local values = {}
  for i = 1, #reply, 2 do values[reply[i]] = reply[i + 1] end
  return values
end

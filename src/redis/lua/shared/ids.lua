-- Included by scripts (redis/scripts.ts); KEYS and ARGV are theirs.
-- Ids by value: numbers of up to 20 digits, which Lua's own would round.
local function isBefore(a, b)
  local aMs, aSeq = a:match('(%d+)-(%d+)')
  local bMs, bSeq = b:match('(%d+)-(%d+)')
  if aMs == bMs then aMs, bMs = aSeq, bSeq end
  return #aMs < #bMs or (#aMs == #bMs and aMs < bMs)
end

#!lua flags=allow-oom
-- Removes consumers that nobody reads under any more. XGROUP DELCONSUMER drops what is pending for the
-- consumer without a word, so that nothing is pending is checked here, in the same step. A reader that is
-- still waiting under the name loses nothing: Redis makes the consumer again when it is given an entry.
--
-- KEYS[1] input stream   KEYS[2...] heartbeat key of each consumer
-- ARGV[1] group  ARGV[2] milliseconds for which it must not have been given anything
-- ARGV[3...] the consumers, in the order of their keys
-- Returns the names of those that were removed. Called without any: of those that could be, if they have no
-- heartbeat; a key has to be named before a script may look at it.
local found = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])
if found.err then
  if found.err:find('NOGROUP') or found.err:find('no such key') then return {} end
  return found
end
local stale, names = {}, {}
for _, values in ipairs(found) do
  local info = {}
  for i = 1, #values, 2 do info[values[i]] = values[i + 1] end
  if info.pending == 0 and info.idle >= tonumber(ARGV[2]) then
    stale[info.name] = true
    names[#names + 1] = info.name
  end
end
if #KEYS == 1 then return names end
local removed = {}
for i = 2, #KEYS do
  local name = ARGV[i + 1]
  if stale[name] and redis.call('EXISTS', KEYS[i]) == 0 then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], name)
    removed[#removed + 1] = name
  end
end
return removed

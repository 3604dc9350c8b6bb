#!lua flags=allow-oom
-- How many entries were ever added to an input stream, and how many consumers of a group live: those whose
-- heartbeat key is there. A key has to be named before a script may look at it, so the caller names the keys
-- of the consumers that it knows, and asks again when the group has others. Changes nothing.
--
-- KEYS[1] input stream   KEYS[2...] heartbeat key of each known consumer
-- ARGV[1] group  ARGV[2...] the known consumers, in the order of their keys
-- Returns {entries ever added, consumers alive or -1 when it is not known, consumers of the group...}; not
--   known: there is no such group, or it has consumers that were not named
local input, group = KEYS[1], ARGV[1]
local call = redis.call

-- include info

local kind = call('TYPE', input).ok
if kind == 'none' then return { 0, -1 } end
if kind ~= 'stream' then return redis.error_reply('WRONGTYPE input key holds a ' .. kind) end
local added = info(call('XINFO', 'STREAM', input))['entries-added']
local found = false
for _, reply in ipairs(call('XINFO', 'GROUPS', input)) do
  if info(reply).name == group then found = true end
end
if not found then return { added, -1 } end
local alive = {}
for i = 2, #KEYS do alive[ARGV[i]] = call('EXISTS', KEYS[i]) end
local answer, count = { added, 0 }, 0
for _, reply in ipairs(call('XINFO', 'CONSUMERS', input, group)) do
  local name = info(reply).name
  answer[#answer + 1] = name
  if count and alive[name] then count = count + alive[name] else count = nil end
end
answer[2] = count or -1
return answer

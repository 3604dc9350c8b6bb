#!lua flags=no-writes
-- What is known of a stream and of a group that reads it, all of one moment, without its entries.
--
-- KEYS[1] stream
-- ARGV[1] group, '' for none
-- Returns {server's Unix time in ms, entries, entries ever added, last generated id, largest id that was
--   deleted, id of the first entry ('' without entries), last id that the group was given ('' without the
--   group)}; for a stream that does not exist only the time.
local call = redis.call
local time = call('TIME')
local ms = string.format('%d%03d', time[1], math.floor(time[2] / 1000))
-- XINFO calls a key that holds something else by its type, but a missing one an error.
if call('EXISTS', KEYS[1]) == 0 then return { ms } end

local function fields(reply)
  local values = {}
  for i = 1, #reply, 2 do values[reply[i]] = reply[i + 1] end
  return values
end

local stream = fields(call('XINFO', 'STREAM', KEYS[1]))
local delivered = ''
for _, reply in ipairs(call('XINFO', 'GROUPS', KEYS[1])) do
  local group = fields(reply)
  if group.name == ARGV[1] then delivered = group['last-delivered-id'] end
end
local first = stream['first-entry']
return { ms, stream.length, stream['entries-added'], stream['last-generated-id'],
  stream['max-deleted-entry-id'], first and first[1] or '', delivered }

#!lua
-- Settles events that cannot be predicted: acknowledges each and copies it, payload included, to the dead
-- letters. The copy is made here, from the stream, so that an event of any size never has to pass through
-- the engine. An XADD that fails makes its event pending again, as in commit.lua.
--
-- KEYS[1] input stream   KEYS[2] dead-letter stream   KEYS[3] ledger of the input stream
-- ARGV[1] group
-- ARGV[2...] three per row: entry id, reason (invalid or failed), detail
-- Returns how many rows were settled by this call.
local kind = redis.call('TYPE', KEYS[2]).ok
if kind ~= 'stream' and kind ~= 'none' then
  return redis.error_reply('WRONGTYPE dead-letter key holds a ' .. kind)
end
-- Lua's stack holds about 8,000 values; an entry with more fields than this is copied without the rest.
local VALUES_MAX = 7000
local input, deadletters, group = KEYS[1], KEYS[2], ARGV[1]
local settled = 0
for i = 2, #ARGV, 3 do
  local id = ARGV[i]
  local found = redis.pcall('XPENDING', input, group, id, id, 1)
  if found.err then
    -- Without the group nothing is pending: the stream was deleted, and the events with it.
    if found.err:find('^NOGROUP') then return settled end
    return found
  end
  local pending = found[1]
  local entry = pending and redis.call('XRANGE', input, id, id)[1]
  if redis.call('XACK', input, group, id) == 1 then
    local values = entry and entry[2] or {}
    local copy = {}
    for at = 1, math.min(#values, VALUES_MAX) do copy[at] = values[at] end
    for _, value in ipairs({ 'source', id, 'reason', ARGV[i + 1], 'detail', ARGV[i + 2],
      'deliveries', pending[4] }) do
      copy[#copy + 1] = value
    end
    local reply = redis.pcall('XADD', deadletters, '*', unpack(copy))
    if type(reply) == 'table' then
      redis.call('XCLAIM', input, group, pending[2], 0, id, 'FORCE', 'RETRYCOUNT', pending[4], 'JUSTID')
      redis.call('HINCRBY', KEYS[3], group .. ':epoch', 1)
      return reply
    end
    settled = settled + 1
  end
end
return settled

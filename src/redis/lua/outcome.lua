#!lua
-- Settles events that were not put to their model, or were answered in its place: acknowledges each and
-- appends what became of it to the predictions. As in commit.lua, an event that somebody else has settled is
-- skipped, and one whose XADD fails is made pending again.
--
-- KEYS[1] input stream   KEYS[2] predictions stream   KEYS[3] ledger of the input stream
-- ARGV[1] group  ARGV[2] predictions kept (about)  ARGV[3] the consumer
-- ARGV[4...] nine per row: entry id ('' for a request that came over a socket), key, event id or '', model,
--   status, wait_us, infer_us, rung or '', outputs (with a rung only)
-- Returns how many rows were settled by this call.
local kind = redis.call('TYPE', KEYS[2]).ok
if kind ~= 'stream' and kind ~= 'none' then
  return redis.error_reply('WRONGTYPE predictions key holds a ' .. kind)
end
local input, predictions, group = KEYS[1], KEYS[2], ARGV[1]
redis.call('XTRIM', predictions, 'MAXLEN', '~', ARGV[2])
local settled = 0
for i = 4, #ARGV, 9 do
  local id, key, event, model, status = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local rung = ARGV[i + 7]
  if id == '' or redis.call('XACK', input, group, id) == 1 then
    local values = { 'source', id }
    local function put(name, value)
      values[#values + 1] = name
      values[#values + 1] = value
    end
    if event ~= '' then put('event', event) end
    put('key', key)
    put('model', model)
    put('status', status)
    if rung ~= '' then
      put('rung', rung)
      put('outputs', ARGV[i + 8])
    end
    put('wait_us', ARGV[i + 5])
    if rung ~= '' then put('infer_us', ARGV[i + 6]) end
    local reply = redis.pcall('XADD', predictions, '*', unpack(values))
    if type(reply) == 'table' then
      if id ~= '' then
        redis.call('XCLAIM', input, group, ARGV[3], 0, id, 'FORCE', 'RETRYCOUNT', 1, 'JUSTID')
      end
      redis.call('HINCRBY', KEYS[3], group .. ':epoch', 1)
      return reply
    end
    settled = settled + 1
  end
end
return settled

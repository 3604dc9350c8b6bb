#!lua
-- Settles the predicted rows of one batch: acknowledges each event and appends its prediction, in one step.
-- XACK answers 1 to the first caller only, so each event yields one prediction, whoever else was also
-- working on it. What can be checked is checked before the first XACK, and the script as a whole is refused
-- under OOM. Should an XADD fail all the same (a user who may not, a stream that has run out of ids), its
-- event is made pending again, and the error tells the engine to try again.
--
-- KEYS[1] input stream   KEYS[2] predictions stream
-- ARGV[1] group  ARGV[2] model, name@version  ARGV[3] infer_us  ARGV[4] predictions kept (about)
-- ARGV[5] the consumer to which all rows were given for the first time, oldest first; '' when some may have
--   been given out before
-- ARGV[6...] five per row: entry id ('' for a request that came over a socket), key, event id or '', wait_us,
--   outputs
-- Returns how many rows were settled by this call.
local kind = redis.call('TYPE', KEYS[2]).ok
if kind ~= 'stream' and kind ~= 'none' then
  return redis.error_reply('WRONGTYPE predictions key holds a ' .. kind)
end
local call, pcall = redis.call, redis.pcall
local input, predictions, group, model, infer, kept = KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local consumer = ARGV[5]
-- Once a batch is often enough for "about".
call('XTRIM', predictions, 'MAXLEN', '~', kept)

-- One XACK for the whole batch costs a third of one each, but does not say whose rows were settled before.
-- So it is for batches in which there can be none: the oldest row is still this consumer's, given out once,
-- a moment ago. Whoever takes rows over, takes the oldest first, and none as young as this.
local YOUNG_MS = 1000
local acknowledged = false
if consumer ~= '' and ARGV[6] ~= '' then
  local pending = pcall('XPENDING', input, group, ARGV[6], ARGV[6], 1)
  local oldest = not pending.err and pending[1]
  if oldest and oldest[2] == consumer and oldest[3] < YOUNG_MS and oldest[4] == 1 then
    local ids = {}
    for i = 6, #ARGV, 5 do
      if ARGV[i] ~= '' then ids[#ids + 1] = ARGV[i] end
    end
    call('XACK', input, group, unpack(ids))
    acknowledged = true
  end
end

local settled = 0
for i = 6, #ARGV, 5 do
  local id, event = ARGV[i], ARGV[i + 2]
  if acknowledged or id == '' or call('XACK', input, group, id) == 1 then
    local reply
    if event == '' then
      reply = pcall('XADD', predictions, '*', 'source', id, 'key', ARGV[i + 1], 'model', model,
        'status', 'ok', 'outputs', ARGV[i + 4], 'wait_us', ARGV[i + 3], 'infer_us', infer)
    else
      reply = pcall('XADD', predictions, '*', 'source', id, 'event', event, 'key', ARGV[i + 1],
        'model', model, 'status', 'ok', 'outputs', ARGV[i + 4], 'wait_us', ARGV[i + 3], 'infer_us', infer)
    end
    if type(reply) == 'table' then
      for j = i, acknowledged and #ARGV or i, 5 do
        if ARGV[j] ~= '' then
          call('XCLAIM', input, group, 'unsettled', 0, ARGV[j], 'FORCE', 'JUSTID')
        end
      end
      return reply
    end
    settled = settled + 1
  end
end
return settled

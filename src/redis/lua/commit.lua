#!lua
-- Settles the predicted rows of one batch: acknowledges each event and appends its prediction, in one step.
-- XACK answers 1 to the first caller only, so each event yields one prediction, whoever else was also
-- working on it. What can be checked is checked before the first XACK, and the script as a whole is refused
-- under OOM. Should an XADD fail all the same (a user who may not, a stream that has run out of ids), its
-- event is made pending again, and the error tells the engine to try again.
--
-- KEYS[1] input stream   KEYS[2] predictions stream   KEYS[3] ledger of the input stream
-- ARGV[1] group  ARGV[2] model, name@version  ARGV[3] infer_us  ARGV[4] predictions kept (about)
-- ARGV[5] the consumer  ARGV[6] the epoch under which all rows were read from the stream for the first time,
--   oldest first; 0 when some may have been given out before or came over a socket, or this is sent again
-- ARGV[7] the rows: five MessagePack arrays one after the other, each with an element per row: entry ids (''
--   for a request that came over a socket), keys, event ids or '', wait_us in digits, outputs. As arguments
--   of their own they would cost the server a tenth of all its time.
-- Returns how many rows were settled by this call.
local kind = redis.call('TYPE', KEYS[2]).ok
if kind ~= 'stream' and kind ~= 'none' then
  return redis.error_reply('WRONGTYPE predictions key holds a ' .. kind)
end
local call, pcall, type = redis.call, redis.pcall, type
local input, predictions, group, model, infer, kept = KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local consumer, epoch = ARGV[5], group .. ':epoch'
local ids, keys, events, waits, outputs = cmsgpack.unpack(ARGV[7])
-- Once a batch is often enough for "about".
call('XTRIM', predictions, 'MAXLEN', '~', kept)

-- include ids

-- One XACK for the whole batch costs a third of one each, but does not say whose rows were settled before.
-- So it is for batches in which there can be none: nothing has changed hands since its rows were read, the
-- oldest is still this consumer's, and none was in the stream when deliveries were last forgotten
-- (`contested`), or it might have been delivered before, and be settled out of somebody's hands.
local function isOurs()
  if tonumber(ARGV[6]) == 0 then return false end
  local known = call('HMGET', KEYS[3], epoch, group .. ':contested')
  if known[1] ~= ARGV[6] or not known[2] or not isBefore(known[2], ids[1]) then return false end
  local pending = pcall('XPENDING', input, group, ids[1], ids[1], 1)
  local oldest = not pending.err and pending[1]
  return oldest and oldest[2] == consumer
end

local acknowledged = isOurs()
if acknowledged then call('XACK', input, group, unpack(ids)) end

-- Should it have to be made pending again. Suspects come alone.
local deliveries = 1
if not acknowledged and #ids == 1 and ids[1] ~= '' then
  local pending = pcall('XPENDING', input, group, ids[1], ids[1], 1)
  deliveries = not pending.err and pending[1] and pending[1][4] or 1
end

local settled = 0
for i = 1, #ids do
  local id, event = ids[i], events[i]
  if acknowledged or id == '' or call('XACK', input, group, id) == 1 then
    local reply
    if event == '' then
      reply = pcall('XADD', predictions, '*', 'source', id, 'key', keys[i], 'model', model,
        'status', 'ok', 'outputs', outputs[i], 'wait_us', waits[i], 'infer_us', infer)
    else
      reply = pcall('XADD', predictions, '*', 'source', id, 'event', event, 'key', keys[i], 'model', model,
        'status', 'ok', 'outputs', outputs[i], 'wait_us', waits[i], 'infer_us', infer)
    end
    if type(reply) == 'table' then
      for j = i, acknowledged and #ids or i do
        if ids[j] ~= '' then
          call('XCLAIM', input, group, consumer, 0, ids[j], 'FORCE', 'RETRYCOUNT', deliveries, 'JUSTID')
        end
      end
      call('HINCRBY', KEYS[3], epoch, 1)
      return reply
    end
    settled = settled + 1
  end
end
return settled

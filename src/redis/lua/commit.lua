#!lua
-- Settles the predicted rows of one batch: acknowledges each event and appends its prediction, in one step.
-- XACK answers 1 to the first caller only, so each event yields one prediction, whoever else was also
-- working on it. What can be checked is checked before the first XACK, and the script as a whole is refused
-- under OOM. Should an XADD fail all the same (a user who may not, a stream that has run out of ids), its
-- event is made pending again, and the error tells the engine to try again.
--
-- KEYS[1] input stream   KEYS[2] predictions stream
-- ARGV[1] group  ARGV[2] model, name@version  ARGV[3] infer_us  ARGV[4] predictions kept (about)
-- ARGV[5...] five per row: entry id ('' for a request that came over a socket), key, event id or '', wait_us,
--   outputs
-- Returns how many rows were settled by this call.
local kind = redis.call('TYPE', KEYS[2]).ok
if kind ~= 'stream' and kind ~= 'none' then
  return redis.error_reply('WRONGTYPE predictions key holds a ' .. kind)
end
local call, pcall = redis.call, redis.pcall
local input, predictions, group, model, infer, kept = KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
-- Once a batch is often enough for "about".
call('XTRIM', predictions, 'MAXLEN', '~', kept)
local settled = 0
for i = 5, #ARGV, 5 do
  local id, event = ARGV[i], ARGV[i + 2]
  if id == '' or call('XACK', input, group, id) == 1 then
    local reply
    if event == '' then
      reply = pcall('XADD', predictions, '*', 'source', id, 'key', ARGV[i + 1], 'model', model,
        'status', 'ok', 'outputs', ARGV[i + 4], 'wait_us', ARGV[i + 3], 'infer_us', infer)
    else
      reply = pcall('XADD', predictions, '*', 'source', id, 'event', event, 'key', ARGV[i + 1],
        'model', model, 'status', 'ok', 'outputs', ARGV[i + 4], 'wait_us', ARGV[i + 3], 'infer_us', infer)
    end
    if type(reply) == 'table' then
      if id ~= '' then call('XCLAIM', input, group, 'unsettled', 0, id, 'FORCE', 'JUSTID') end
      return reply
    end
    settled = settled + 1
  end
end
return settled

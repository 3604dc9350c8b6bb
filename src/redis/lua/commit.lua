#!lua
-- Settles the predicted rows of one batch: acknowledges each event and appends its prediction, in one step.
-- XACK answers 1 to the first caller only, so each event yields one prediction, whoever else was also
-- working on it. Everything that could fail is checked before the first XACK; the script as a whole is
-- refused under OOM.
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
local call = redis.call
local input, predictions, group, model, infer, kept = KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local settled = 0
for i = 5, #ARGV, 5 do
  local id, event = ARGV[i], ARGV[i + 2]
  if id == '' or call('XACK', input, group, id) == 1 then
    if event == '' then
      call('XADD', predictions, '*', 'source', id, 'key', ARGV[i + 1], 'model', model,
        'status', 'ok', 'outputs', ARGV[i + 4], 'wait_us', ARGV[i + 3], 'infer_us', infer)
    else
      call('XADD', predictions, '*', 'source', id, 'event', event, 'key', ARGV[i + 1],
        'model', model, 'status', 'ok', 'outputs', ARGV[i + 4], 'wait_us', ARGV[i + 3], 'infer_us', infer)
    end
    settled = settled + 1
  end
end
-- Once a batch is often enough for "about".
redis.call('XTRIM', predictions, 'MAXLEN', '~', kept)
return settled

#!lua
-- Makes events of dead letters again: the fields of the input as they came go back into the input stream
-- under a new id, the letter is removed, and a receipt says where it went; for each letter all of it or
-- nothing. Who comes second finds it gone, so a letter becomes one event however often this is repeated.
--
-- Nothing can fail half-way: every key is tried out before the first write with commands that change nothing
-- (0-0 is an id that no entry has and none can get), and the script as a whole is refused under OOM. Only a
-- stream that has run out of ids is found out later; what was written for that letter is then taken back.
--
-- KEYS[1] input stream   KEYS[2] dead-letter stream   KEYS[3] receipts
-- ARGV[1] 'dry': only say what would happen  ARGV[2] receipts kept (about)  ARGV[3...] ids of letters
-- Returns one word per id: the event's new id ('ready' in a dry run), or why not: 'gone', 'foreign', 'cut',
-- 'empty'. Where an XADD failed, '!' and the error, and nothing for the ids after that.
local call, pcall = redis.call, redis.pcall
local input, deadletters, receipts = KEYS[1], KEYS[2], KEYS[3]
local OURS = 8
-- What deadletter.lua keeps of an entry; one that has all of that may have had more.
local VALUES_MAX = 7000

for _, key in ipairs(KEYS) do
  local answer = pcall('XDEL', key, '0-0')
  if type(answer) == 'table' then return redis.error_reply(answer.err .. ' (' .. key .. ')') end
  if key ~= deadletters then
    answer = pcall('XADD', key, '0-0', 'source', '')
    if not answer.err:find('greater than 0-0', 1, true) then
      return redis.error_reply(answer.err .. ' (' .. key .. ')')
    end
  end
end

local function refusal(values)
  local count = #values
  local kept = count - OURS
  if kept < 0 or values[count - 7] ~= 'source' or values[count - 5] ~= 'reason'
    or values[count - 3] ~= 'detail' or values[count - 1] ~= 'deliveries' then
    return 'foreign'
  end
  if kept >= VALUES_MAX then return 'cut' end
  for i = 1, kept, 2 do
    if values[i] == 'data' or values[i] == 'features' then return nil end
  end
  return 'empty'
end

local results = {}
for i = 3, #ARGV do
  local id = ARGV[i]
  local entry = call('XRANGE', deadletters, id, id)[1]
  local result = 'gone'
  if entry then result = refusal(entry[2]) or 'ready' end
  if result == 'ready' and ARGV[1] ~= 'dry' then
    local values = entry[2]
    local source = values[#values - 6]
    for at = #values, #values - OURS + 1, -1 do values[at] = nil end
    result = pcall('XADD', input, '*', unpack(values))
    local failed = type(result) == 'table' and result
    if not failed then
      local receipt = pcall('XADD', receipts, 'MAXLEN', '~', ARGV[2], '*', 'source', source, 'deadletter', id,
        'to', result)
      if type(receipt) == 'table' then
        call('XDEL', input, result)
        failed = receipt
      end
    end
    if failed then
      results[#results + 1] = '!' .. failed.err
      return results
    end
    call('XDEL', deadletters, id)
  end
  results[#results + 1] = result
end
return results

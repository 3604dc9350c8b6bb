#!lua
-- Removes dead letters for good; of each a receipt is kept. As in requeue.lua every key is tried out before
-- the first write, and a letter is removed and receipted or neither.
--
-- KEYS[1] dead-letter stream   KEYS[2] receipts
-- ARGV[1] 'dry': only say what would happen  ARGV[2] receipts kept (about)  ARGV[3...] ids of letters
-- Returns one word per id: 'dropped' ('ready' in a dry run), or 'gone'. Where an XADD failed, '!' and the
-- error, and nothing for the ids after that.
local call, pcall = redis.call, redis.pcall
local deadletters, receipts = KEYS[1], KEYS[2]

for _, key in ipairs(KEYS) do
  local answer = pcall('XDEL', key, '0-0')
  if type(answer) == 'table' then return redis.error_reply(answer.err .. ' (' .. key .. ')') end
end
local answer = pcall('XADD', receipts, '0-0', 'source', '')
if not answer.err:find('greater than 0-0', 1, true) then
  return redis.error_reply(answer.err .. ' (' .. receipts .. ')')
end

local results = {}
for i = 3, #ARGV do
  local id = ARGV[i]
  local entry = call('XRANGE', deadletters, id, id)[1]
  local result = entry and 'ready' or 'gone'
  if entry and ARGV[1] ~= 'dry' then
    local values = entry[2]
    local ours = #values >= 8 and values[#values - 7] == 'source' and values[#values - 1] == 'deliveries'
    local receipt = pcall('XADD', receipts, 'MAXLEN', '~', ARGV[2], '*',
      'source', ours and values[#values - 6] or '', 'deadletter', id, 'to', '')
    if type(receipt) == 'table' then
      results[#results + 1] = '!' .. receipt.err
      return results
    end
    call('XDEL', deadletters, id)
    result = 'dropped'
  end
  results[#results + 1] = result
end
return results
